"""How a ranking, such as the images nearest to a query, shares its places among groups."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

_TINY = 1e-12


def skews(
    groups: ArrayLike, k: int, *, desired: ArrayLike | None = None, count: int | None = None
) -> NDArray[np.float64]:
    """Logarithm of each group's share of the first ``k`` places over its desired share: 0 is fair, above it too many.

    Args:
        groups: int (n,), the group at each place, best place first.
        k: places that are looked at.
        desired: (g,), each group's share; default: its share of all n places.
        count: g; default: the highest group and one.

    Returns:
        (g,); minus infinity for a group that is wanted and has no place, 0 for one that is neither wanted nor there.

    Raises:
        ValueError: k is not within the ranking, or the shares are none.

    Source: Geyik, Ambler and Kenthapadi, "Fairness-Aware Ranking in Search & Recommendation Systems", KDD 2019, def. 2.
    """
    found, wanted = _shares(groups, desired, count)
    if not 1 <= k <= len(found):
        raise ValueError(f"found k = {k} in a ranking of {len(found)}; expected 1 to {len(found)}")
    share = np.bincount(found[:k], minlength=len(wanted)) / k
    with np.errstate(divide="ignore", invalid="ignore"):
        logarithms = np.log(share / wanted)
    return np.where((share == 0) & (wanted == 0), 0.0, logarithms)


def max_skew(
    groups: ArrayLike, k: int, *, desired: ArrayLike | None = None, count: int | None = None
) -> float:
    """Skew of the group that has most places too many among the first ``k``; see :func:`skews`."""
    return float(skews(groups, k, desired=desired, count=count).max())


def min_skew(
    groups: ArrayLike, k: int, *, desired: ArrayLike | None = None, count: int | None = None
) -> float:
    """Skew of the group that has most places too few among the first ``k``; see :func:`skews`."""
    return float(skews(groups, k, desired=desired, count=count).min())


def ndkl(
    groups: ArrayLike, *, k: int | None = None, desired: ArrayLike | None = None, count: int | None = None
) -> float:
    """Normalised discounted cumulative Kullback-Leibler divergence of every beginning of the ranking: 0 is fair.

    Args:
        groups: int (n,), the group at each place, best place first.
        k: places that are looked at; default: all.
        desired: (g,), each group's share; default: its share of all n places.
        count: g; default: the highest group and one.

    Raises:
        ValueError: k is not within the ranking, or the shares are none.

    Source: Geyik, Ambler and Kenthapadi, KDD 2019, def. 5; natural logarithm inside, base 2 in the discount.
    """
    found, wanted = _shares(groups, desired, count)
    k = len(found) if k is None else k
    if not 1 <= k <= len(found):
        raise ValueError(f"found k = {k} in a ranking of {len(found)}; expected 1 to {len(found)}")
    places = np.arange(1, k + 1)
    one_hot = found[:k, None] == np.arange(len(wanted))
    shares = one_hot.cumsum(axis=0) / places[:, None]
    with np.errstate(divide="ignore", invalid="ignore"):
        terms = np.where(shares > 0, shares * np.log(shares / wanted), 0.0)
    discount = 1 / np.log2(places + 1)
    return float((terms.sum(axis=1) * discount).sum() / discount.sum())


def _shares(
    groups: ArrayLike, desired: ArrayLike | None, count: int | None
) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    found = np.asarray(groups)
    if found.ndim != 1 or len(found) == 0 or found.dtype.kind not in "iu" or found.min() < 0:
        raise ValueError(
            f"found groups of shape {found.shape} and type {found.dtype}; expected int (n,), 0 and up"
        )
    size = int(found.max()) + 1 if count is None else count
    if desired is None:
        return found.astype(np.intp), np.bincount(found, minlength=size) / len(found)
    wanted = np.asarray(desired, dtype=np.float64)
    if wanted.ndim != 1 or len(wanted) < size or (wanted < 0).any() or abs(wanted.sum() - 1) > _TINY * 1e3:
        raise ValueError(f"found desired shares {wanted.tolist()}; expected one a group, together 1")
    return found.astype(np.intp), wanted
