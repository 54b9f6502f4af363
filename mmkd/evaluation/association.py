"""Association tests of word and sentence vectors: plain arrays in, no model and no word list needed.

Throughout, ``targets`` are what may lean (professions) and ``attributes`` what they may lean to (terms of two groups);
a set of vectors is an array (n, D) of any length. Which is which differs between papers; each docstring says.
"""

from dataclasses import dataclass
from itertools import combinations
from math import comb
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mmkd.evaluation.statistics import unit_vectors

MOST_EXACT = 200_000  # divisions of the targets that are all gone through; 10 against 10 are 184,756
DRAWS = 99_999


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
    if left.shape[1] != right.shape[1]:
        raise ValueError(f"found vectors of widths {left.shape[1]} and {right.shape[1]}; expected one width")
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
    x = association(first_targets, first_attributes, second_attributes)
    y = association(second_targets, first_attributes, second_attributes)
    if min(len(x), len(y)) < 2:
        raise ValueError(f"found {len(x)} and {len(y)} targets; expected at least 2 of each")
    together = np.concatenate([x, y])
    if np.ptp(together) == 0:
        raise ValueError("all targets lean alike; an effect size measures by their spread")
    between = float(x.mean() - y.mean())
    p_value, exact = _permutation_p(together, len(x), seed)
    return Weat(
        float(x.sum() - y.sum()),
        between / float(together.std(ddof=1)),
        between / float(together.std()),
        p_value,
        exact,
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
    near, far = (_raw(one, "attributes").mean(axis=0) for one in (first_attributes, second_attributes))
    words = _raw(targets, "targets")
    return float((np.linalg.norm(words - near, axis=1) - np.linalg.norm(words - far, axis=1)).mean())


def ect(first_attributes: ArrayLike, second_attributes: ArrayLike, targets: ArrayLike) -> float:
    """Embedding coherence test: do both groups rank the targets alike?

    Args:
        first_attributes: vectors of one group, (a, D), as they are.
        second_attributes: of the other, (b, D).
        targets: (n, D), n at least 2.

    Returns:
        Spearman correlation of the targets' cosines with the mean of either group: 1 is no bias.

    Raises:
        ValueError: a set is empty, vectors are zero or not finite, or there are fewer than two targets.

    Source: Dev and Phillips, AISTATS 2019.
    """
    from scipy.stats import spearmanr

    means = [
        _raw(one, "attributes").mean(axis=0, keepdims=True) for one in (first_attributes, second_attributes)
    ]
    near, far = (cosines(targets, mean)[:, 0] for mean in means)
    if len(near) < 2:
        raise ValueError(f"found {len(near)} targets; expected at least 2 to rank")
    return float(spearmanr(near, far).statistic)


def mac(targets: ArrayLike, attribute_sets: "list[ArrayLike] | tuple[ArrayLike, ...]") -> float:
    """Mean average cosine distance of the targets from the attribute sets: the nearer to 1, the less association.

    Args:
        targets: (n, D).
        attribute_sets: each (m, D).

    Raises:
        ValueError: as ``cosines``, or there is no attribute set.

    Source: Manzini, Lim, Tsvetkov and Black, NAACL 2019, eq. 1 and 2.
    """
    if not attribute_sets:
        raise ValueError("found no attribute sets; expected at least one")
    return float(np.mean([(1 - cosines(targets, one)).mean(axis=1).mean() for one in attribute_sets]))


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
    direction = _set(first, "attributes").mean(axis=0) - _set(second, "attributes").mean(axis=0)
    return direct_bias(targets, direction)


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
    along = np.abs(cosines(targets, np.asarray(direction, dtype=np.float64)[None])[:, 0])
    return float((along**strictness).mean())


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
    if not np.abs(halves).max() > 0:
        raise ValueError("the words of every pair have the same vector; they share no direction")
    direction: NDArray[np.float64] = np.linalg.svd(halves, full_matrices=False)[2][0]
    return direction if ((a - b) @ direction).sum() >= 0 else -direction


def _permutation_p(values: NDArray[np.float64], size: int, seed: int) -> tuple[float, bool]:
    """One-sided p of the sum of the first ``size`` values, and whether every division was counted."""
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
