"""Association tests of word and sentence vectors: plain arrays in, no model and no word list needed.

Throughout, ``targets`` are what may lean (professions) and ``attributes`` what they may lean to (terms of two groups);
a set of vectors is an array (n, D) of any length. Which is which differs between papers; each docstring says.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from math import comb
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mmkd.evaluation.statistics import unit_vectors

MOST_EXACT = 200_000  # divisions of the targets that are all gone through; 10 against 10 are 184,756
DRAWS = 99_999
_SAME = 1e-12  # of unit vectors that are equal but for rounding


@dataclass(frozen=True, slots=True)
class Weat:
    """A word embedding association test.

    Attributes:
        statistic: T, the sum of the first targets' associations less that of the second.
        effect_size: d with ``ddof=1``, as Caliskan's own code.
        effect_size_population: d with ``ddof=0``, as some other libraries.
        p_value: one-sided; of all divisions of the targets into two sets of these sizes, the share whose T is as high.
        exact: every division was gone through; otherwise 99,999 were drawn, and p is (b + 1) / (n + 1).
    """

    statistic: float
    effect_size: float
    effect_size_population: float
    p_value: float
    exact: bool


def cosines(targets: ArrayLike, attributes: ArrayLike) -> NDArray[np.float64]:
    """Cosine of every target with every attribute: (n, D) and (m, D) to (n, m).

    Raises:
        ValueError: a set is empty, of another width, or holds a vector that is zero or not finite.
    """
    left, right = _set(targets, "targets"), _set(attributes, "attributes")
    _expect_one_width(left, right)
    found: NDArray[np.float64] = left @ right.T
    return found


def association(targets: ArrayLike, first: ArrayLike, second: ArrayLike) -> NDArray[np.float64]:
    """Mean cosine to the first attributes less mean cosine to the second: (n,), positive leans to the first.

    Raises:
        ValueError: as ``cosines``.

    Source: s(w, A, B) of Caliskan, Bryson and Narayanan, Science 356 (2017) 183-186.
    """
    found: NDArray[np.float64] = cosines(targets, first).mean(axis=1) - cosines(targets, second).mean(axis=1)
    return found


def weat(
    first_targets: ArrayLike,
    second_targets: ArrayLike,
    first_attributes: ArrayLike,
    second_attributes: ArrayLike,
    *,
    seed: int = 0,
) -> Weat:
    """Do the first targets lean to the first attributes more than the second targets do?

    With sentences in the place of words it is SEAT (May et al., NAACL 2019).

    Args:
        first_targets: X, (n, D), n at least 2.
        second_targets: Y, (m, D), m at least 2.
        first_attributes: A, (a, D).
        second_attributes: B, (b, D).
        seed: of the drawn divisions, where there are too many to go through.

    Raises:
        ValueError: as ``cosines``; fewer than two targets on a side; the two target sets, or the two attribute sets,
            hold the same vectors; or all targets lean alike, so that there is no spread to measure by.

    Source: Caliskan, Bryson and Narayanan, Science 356 (2017) 183-186. Targets and attributes as there.
    """
    _expect_different(first_targets, second_targets, "target")
    _expect_different(first_attributes, second_attributes, "attribute")
    return weat_of(
        association(first_targets, first_attributes, second_attributes),
        association(second_targets, first_attributes, second_attributes),
        seed=seed,
    )


def weat_of(first: ArrayLike, second: ArrayLike, *, seed: int = 0, draws: int = DRAWS) -> Weat:
    """:func:`weat` from associations (n,) and (m,) that are known already; without p, which is 1, for 0 draws.

    Raises:
        ValueError: fewer than two on a side, or all targets lean alike.
    """
    x, y = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    if min(len(x), len(y)) < 2:
        raise ValueError(f"found {len(x)} and {len(y)} targets; expected at least 2 of each")
    together = np.concatenate([x, y])
    if np.ptp(together) == 0:
        raise ValueError("all targets lean alike; an effect size measures by their spread")
    between = float(x.mean() - y.mean())
    p_value, exact = permutation_p(together, len(x), seed) if draws else (1.0, False)
    return Weat(
        float(x.sum() - y.sum()),
        between / float(together.std(ddof=1)),
        between / float(together.std()),
        p_value,
        exact,
    )


def seat(
    first_targets: ArrayLike,
    second_targets: ArrayLike,
    first_attributes: ArrayLike,
    second_attributes: ArrayLike,
    *,
    seed: int = 0,
) -> Weat:
    """:func:`weat` of sentences: each word stands in T templates, and each sentence is a target.

    The effect size is over sentences, as in the paper. For p, words move with all their sentences: the sentences of
    one word are no independent evidence, and exchanging them one by one would make any p small.

    Args:
        first_targets: (T, n, D), n at least 2.
        second_targets: (T, m, D), m at least 2.
        first_attributes: (T, a, D).
        second_attributes: (T, b, D).
        seed: of the drawn divisions.

    Raises:
        ValueError: as :func:`weat`.

    Source: May, Wang, Bordia, Bowman and Rudinger, "On Measuring Social Biases in Sentence Encoders", NAACL 2019.
    """
    sentences = [
        np.asarray(one, dtype=np.float64)
        for one in (first_targets, second_targets, first_attributes, second_attributes)
    ]
    flat = [one.reshape(-1, one.shape[-1]) for one in sentences]
    x, y = (association(one, flat[2], flat[3]) for one in flat[:2])
    words = (
        values.reshape(one.shape[:2]).mean(axis=0) for values, one in zip((x, y), sentences[:2], strict=True)
    )
    by_sentence, by_word = weat_of(x, y, draws=0), weat_of(*words, seed=seed)
    return Weat(
        by_sentence.statistic,
        by_sentence.effect_size,
        by_sentence.effect_size_population,
        by_word.p_value,
        by_word.exact,
    )


def rnd(first_attributes: ArrayLike, second_attributes: ArrayLike, targets: ArrayLike) -> float:
    """Relative norm distance: how much nearer the targets lie to the first group's mean than to the second's.

    Args:
        first_attributes: vectors of one group, (a, D), as they are: lengths count.
        second_attributes: of the other, (b, D).
        targets: neutral words, (n, D).

    Returns:
        Mean over the targets of ``|t - mean(first)| - |t - mean(second)|``: negative leans to the first group.

    Raises:
        ValueError: a set is empty, or vectors are zero or not finite.

    Source: Garg, Schiebinger, Jurafsky and Zou, PNAS 115 (2018) E3635-E3644; averaged instead of summed, as in wefe.
    """
    return float(rnd_each(first_attributes, second_attributes, targets).mean())


def rnd_each(
    first_attributes: ArrayLike, second_attributes: ArrayLike, targets: ArrayLike
) -> NDArray[np.float64]:
    """What each target adds to :func:`rnd`: (n,)."""
    near, far = (_raw(one, "attributes").mean(axis=0) for one in (first_attributes, second_attributes))
    words = _raw(targets, "targets")
    _expect_one_width(words, near[None])
    _expect_one_width(words, far[None])
    found: NDArray[np.float64] = np.linalg.norm(words - near, axis=1) - np.linalg.norm(words - far, axis=1)
    return found


def ect(first_attributes: ArrayLike, second_attributes: ArrayLike, targets: ArrayLike) -> float:
    """Embedding coherence test: do both groups rank the targets alike?

    Args:
        first_attributes: vectors of one group, (a, D), as they are.
        second_attributes: of the other, (b, D).
        targets: (n, D), n at least 2.

    Returns:
        Spearman correlation of the targets' cosines with the mean of either group: 1 is no bias.

    Raises:
        ValueError: a set is empty, vectors are zero or not finite, there are fewer than two targets, or all have the
            same cosine with a mean, so that there is nothing to rank.

    Source: Dev and Phillips, AISTATS 2019.
    """
    from scipy.stats import spearmanr

    near, far = ect_sides(first_attributes, second_attributes, targets)
    if len(near) < 2:
        raise ValueError(f"found {len(near)} targets; expected at least 2 to rank")
    if np.ptp(near) == 0 or np.ptp(far) == 0:
        raise ValueError("all targets have the same cosine with a group's mean; there is nothing to rank")
    return float(spearmanr(near, far).statistic)


def ect_sides(
    first_attributes: ArrayLike, second_attributes: ArrayLike, targets: ArrayLike
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The two columns that :func:`ect` correlates: each (n,)."""
    near, far = (
        cosines(targets, _raw(one, "attributes").mean(axis=0, keepdims=True))[:, 0]
        for one in (first_attributes, second_attributes)
    )
    return near, far


def mac(targets: ArrayLike, attribute_sets: Sequence[ArrayLike]) -> float:
    """Mean average cosine distance of the targets from the attribute sets: the nearer to 1, the less association.

    Args:
        targets: (n, D).
        attribute_sets: each (m, D).

    Raises:
        ValueError: as ``cosines``, or there is no attribute set.

    Source: Manzini, Lim, Tsvetkov and Black, NAACL 2019, eq. 1 and 2.
    """
    return float(mac_each(targets, attribute_sets).mean())


def mac_each(targets: ArrayLike, attribute_sets: Sequence[ArrayLike]) -> NDArray[np.float64]:
    """What each target adds to :func:`mac`: (n,)."""
    if not attribute_sets:
        raise ValueError("found no attribute sets; expected at least one")
    found: NDArray[np.float64] = np.mean(
        [(1 - cosines(targets, one)).mean(axis=1) for one in attribute_sets], axis=0
    )
    return found


def same(targets: ArrayLike, first: ArrayLike, second: ArrayLike) -> float:
    """Mean size of the targets' cosine with the direction from one group's mean to the other's: 0 is no bias.

    Args:
        targets: (n, D).
        first: attributes of one group, (a, D); their unit vectors are averaged.
        second: of the other, (b, D).

    Raises:
        ValueError: as ``cosines``, or the groups' means coincide.

    Source: Schröder, Schulz, Kenneweg, Feldhans, Hinder and Hammer, "Evaluating metrics for bias in word embeddings",
    arXiv 2111.07864, section 4.1, for two groups.
    """
    return direct_bias(targets, mean_direction(first, second))


def mean_direction(first: ArrayLike, second: ArrayLike) -> NDArray[np.float64]:
    """From the mean of the second group's unit vectors to that of the first's: (D,).

    Raises:
        ValueError: a set is empty, vectors are zero or not finite, or the groups' means coincide.
    """
    a, b = _set(first, "attributes"), _set(second, "attributes")
    _expect_one_width(a, b)
    direction: NDArray[np.float64] = a.mean(axis=0) - b.mean(axis=0)
    if not np.abs(direction).max() > _SAME:
        raise ValueError(
            "the means of the two attribute sets coincide; there is no direction from one to the other"
        )
    return direction


def direct_bias(targets: ArrayLike, direction: ArrayLike, *, strictness: float = 1.0) -> float:
    """Mean of ``|cos(target, direction)| ** strictness``.

    Args:
        targets: neutral words, (n, D).
        direction: (D,), such as the first principal component of the pairs' differences.
        strictness: c; 0 counts any deviation in full.

    Raises:
        ValueError: as ``cosines``.

    Source: Bolukbasi, Chang, Zou, Saligrama and Kalai, NeurIPS 2016, section 5.
    """
    return float(direct_bias_each(targets, direction, strictness=strictness).mean())


def direct_bias_each(
    targets: ArrayLike, direction: ArrayLike, *, strictness: float = 1.0
) -> NDArray[np.float64]:
    """What each target adds to :func:`direct_bias`: (n,)."""
    along = np.abs(cosines(targets, np.asarray(direction, dtype=np.float64)[None])[:, 0])
    found: NDArray[np.float64] = along**strictness
    return found


def gender_direction(first: ArrayLike, second: ArrayLike) -> NDArray[np.float64]:
    """The direction (D,) that pairs of words share: the first principal component of their halves about the middle.

    Its sign is such that the first words lie on its positive side.

    Args:
        first: (n, D), ``first[i]`` and ``second[i]`` a pair.
        second: (n, D).

    Raises:
        ValueError: unequal sizes, zero vectors, or all pairs coincide.

    Source: Bolukbasi et al., NeurIPS 2016, section 5.1.
    """
    a, b = _set(first, "attributes"), _set(second, "attributes")
    if a.shape != b.shape:
        raise ValueError(f"found sets of {len(a)} and {len(b)}; expected pairs")
    halves = np.concatenate([a - (a + b) / 2, b - (a + b) / 2])
    if not np.abs(halves).max() > _SAME:
        raise ValueError("the words of every pair have the same vector; they share no direction")
    direction: NDArray[np.float64] = np.linalg.svd(halves, full_matrices=False)[2][0]
    return direction if ((a - b) @ direction).sum() >= 0 else -direction


def permutation_p(values: NDArray[np.float64], size: int, seed: int) -> tuple[float, bool]:
    """One-sided p of the sum of the first ``size`` values, and whether every division was counted.

    Drawn divisions give (b + 1) / (n + 1), after Phipson and Smyth, Stat. Appl. Genet. Mol. Biol. 9 (2010).
    """
    n = len(values)
    # Equal sums in another order may differ in the last bit.
    own = values[:size].sum() - 1e-12 * np.abs(values).sum()
    if comb(n, size) <= MOST_EXACT:
        chosen = np.array(list(combinations(range(n), size)), dtype=np.intp)
        return float((values[chosen].sum(axis=1) >= own).mean()), True
    generator, as_high, block = np.random.default_rng(seed), 0, max(1, 2_000_000 // n)
    for first in range(0, DRAWS, block):
        drawn = generator.permuted(np.tile(values, (min(block, DRAWS - first), 1)), axis=1)
        as_high += int((drawn[:, :size].sum(axis=1) >= own).sum())
    return (as_high + 1) / (DRAWS + 1), False


def _expect_one_width(left: NDArray[np.float64], right: NDArray[np.float64]) -> None:
    if left.shape[1] != right.shape[1]:
        raise ValueError(f"found vectors of widths {left.shape[1]} and {right.shape[1]}; expected one width")


def _expect_different(first: ArrayLike, second: ArrayLike, kind: str) -> None:
    a, b = np.asarray(first), np.asarray(second)
    if a.shape == b.shape and np.array_equal(a, b):
        raise ValueError(f"the two {kind} sets hold the same vectors; expected two sets to tell apart")


def _set(vectors: ArrayLike, name: str) -> NDArray[np.float64]:
    return unit_vectors(_raw(vectors, name))


def _raw(vectors: ArrayLike, name: str) -> NDArray[Any]:
    values = np.asarray(vectors, dtype=np.float64)
    if values.ndim != 2 or len(values) == 0:
        raise ValueError(f"found {name} of shape {values.shape}; expected at least one vector, (n, D)")
    unit_vectors(values)  # refuses what has no direction
    return values
