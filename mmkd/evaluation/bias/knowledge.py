"""Does a model know its words at all? What must hold before anything is concluded from small gaps."""

from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mmkd.evaluation.bias.gaps import divisions, least_exchange_p, term_cosines
from mmkd.evaluation.permutation import class_permutation_p
from mmkd.evaluation.statistics import CONFIDENCE, Interval, Score, unit_vectors

FEWEST_KNOWN = 10  # pairs of words; of fewer the share of right choices says little
_EXACT_PAIRS = range(6, 17)  # of five, no p could come below 0.0625


@dataclass(frozen=True, slots=True)
class DirectionTest:
    """Whether a model tells two attributes apart.

    Attributes:
        method: ``pairs``: the differences within pairs share a direction; ``sets``: terms lie nearer to their own set.
        value: mean cosine of the pairs' differences; or mean cosine within the sets less that between them.
        p_value: share of all flips of pairs, or of all divisions of the terms, that do as well.
    """

    method: str
    value: float
    p_value: float


def knowledge_score(
    words: ArrayLike, things: ArrayLike, *, draws: int = 2_000, seed: int = 0
) -> Score | None:
    """Of two things, how often is the one that belongs to a word the nearer?

    Each word is asked for its own thing against that of each other word; ties count against the model.

    Args:
        words: (T, K, D), such as professions.
        things: (T, K, D); ``things[:, i]`` belongs to ``words[:, i]``.
        draws: of the bootstrap over words.
        seed: of the draws.

    Returns:
        Share of right choices, chance 0.5, with the p of the things being shuffled; ``None`` for fewer than ten words.
    """
    near = term_cosines(words, things).mean(axis=0)
    count = len(near)
    if count < FEWEST_KNOWN:
        return None
    # credit[i, j]: how many other things thing j beats, for word i.
    credit = (near[:, :, None] > near[:, None, :]).sum(axis=2) / (count - 1)
    right = np.diag(credit)
    rows = np.random.default_rng(seed).integers(0, count, (draws, count))
    low, high = np.quantile(right[rows].mean(axis=1), [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    p_value = class_permutation_p(credit, seed=seed)
    return Score(float(right.mean()), Interval(float(low), float(high)), 0.5, p_value)


def direction_test(first: ArrayLike, second: ArrayLike) -> DirectionTest | None:
    """Do the differences ``first[i] - second[i]`` point the same way, more than under any flip of their signs?

    Args:
        first: (T, n, D) or (n, D), 6 to 16 pairs.
        second: the same shape.

    Returns:
        The exact test over all ``2 ** (n - 1)`` different flips; ``None`` where a difference is zero.

    Source: the gender direction of Bolukbasi et al., arXiv 1607.06520, tested by a sign-flip permutation.
    """
    a, b = _by_template(first), _by_template(second)
    if a.shape != b.shape or a.shape[1] not in _EXACT_PAIRS:
        raise ValueError(f"found {a.shape[1]} and {b.shape[1]} terms; expected 6 to 16 pairs")
    differences = a.mean(axis=0) - b.mean(axis=0)
    if (np.linalg.norm(differences, axis=1) < 1e-6).any():
        return None
    cosines = (unit := unit_vectors(differences)) @ unit.T
    n = len(unit)
    signs = np.array([(1, *rest) for rest in product((1, -1), repeat=n - 1)], dtype=np.float64)
    aligned = (((signs @ cosines) * signs).sum(axis=1) - n) / (n * (n - 1))
    return DirectionTest("pairs", float(aligned[0]), float((aligned >= aligned[0] - 1e-12).mean()))


def separation_test(first: ArrayLike, second: ArrayLike, *, seed: int = 0) -> DirectionTest | None:
    """Do the terms lie nearer to their own set than to the other, more than under other divisions of the terms?

    Args:
        first: (T, a, D) or (a, D), a at least 2.
        second: (T, b, D) or (b, D), b at least 2.
        seed: of drawn divisions, where there are more than 20,000.

    Returns:
        ``None`` where all terms lie in one place.
    """
    a, b = _by_template(first), _by_template(second)
    together = np.concatenate([a, b], axis=1)
    near = term_cosines(together, together).mean(axis=0)
    n, size = len(near), a.shape[1]
    if float(np.ptp(near)) < 1e-9:
        return None
    own = _separation(near, np.arange(size)[None], n)[0]
    chosen, exact = divisions(n, size, seed)
    as_far = int((_separation(near, chosen, n) >= own - 1e-12).sum())
    p_value = as_far / len(chosen) if exact else (as_far + 1) / (len(chosen) + 1)
    return DirectionTest("sets", float(own), p_value)


def tells_apart(first: ArrayLike, second: ArrayLike, *, paired: bool, seed: int = 0) -> DirectionTest | None:
    """:func:`direction_test` for 6 to 16 pairs, :func:`separation_test` for anything else."""
    if paired and np.shape(first)[-2] in _EXACT_PAIRS:
        return direction_test(first, second)
    return separation_test(first, second, seed=seed)


def least_told_apart_p(first: int, second: int, *, paired: bool) -> float:
    """The smallest p that :func:`tells_apart` can give for so many terms: with three of each it is 0.1."""
    return least_exchange_p(first, second, paired=paired and first in _EXACT_PAIRS)


def _separation(near: NDArray[np.float64], chosen: NDArray[np.intp], n: int) -> NDArray[np.float64]:
    """Mean cosine within the two sets less that between them, for each division (B, size) of n terms."""
    member = np.zeros((len(chosen), n))
    np.put_along_axis(member, chosen, 1.0, axis=1)
    a, b, off = chosen.shape[1], n - chosen.shape[1], near - np.diag(np.diag(near))
    inside = [((one @ off) * one).sum(axis=1) for one in (member, 1 - member)]
    across = ((member @ off) * (1 - member)).sum(axis=1) / (a * b)
    found: NDArray[np.float64] = (inside[0] + inside[1]) / (a * (a - 1) + b * (b - 1)) - across
    return found


def _by_template(vectors: ArrayLike) -> NDArray[np.float64]:
    values = unit_vectors(vectors)
    return values[None] if values.ndim == 2 else values
