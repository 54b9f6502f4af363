"""Correlations of two columns, each with its interval."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mmkd.evaluation.statistics import CONFIDENCE, Interval

FEWEST = 5  # rows; of fewer a correlation says nothing


@dataclass(frozen=True, slots=True)
class Correlation:
    """A correlation of two columns and its 95 % bootstrap interval."""

    value: float
    interval: Interval


def correlate(
    x: ArrayLike, y: ArrayLike, method: str, *, resamples: int = 1000, seed: int = 0
) -> Correlation | None:
    """Pearson's r, Spearman's rho or Kendall's tau-b of two columns, with a percentile bootstrap over their rows.

    Args:
        x: (n,).
        y: (n,).
        method: ``pearson``, ``spearman`` or ``kendall``.
        resamples: bootstrap samples.
        seed: of the bootstrap.

    Returns:
        ``None`` where a column is constant, or of fewer than five rows.
    """
    a, b = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    if len(a) < FEWEST or np.ptp(a) == 0 or np.ptp(b) == 0:
        return None
    rows = np.random.default_rng(seed).integers(0, len(a), size=(resamples, len(a)))
    own = np.arange(len(a))[None]
    value, draws = float(METHODS[method](a, b, own)[0]), METHODS[method](a, b, rows)
    low, high = np.nanquantile(draws, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Correlation(value, Interval(float(low), float(high)))


def _pearson(a: NDArray[np.float64], b: NDArray[np.float64], rows: NDArray[np.int64]) -> NDArray[np.float64]:
    p, q = (side[rows] - side[rows].mean(axis=1, keepdims=True) for side in (a, b))
    return _ratio((p * q).sum(axis=1), (p * p).sum(axis=1) * (q * q).sum(axis=1))


def _spearman(a: NDArray[np.float64], b: NDArray[np.float64], rows: NDArray[np.int64]) -> NDArray[np.float64]:
    from scipy.stats import rankdata

    p, q = (rankdata(side[rows], axis=1) for side in (a, b))
    p, q = (side - side.mean(axis=1, keepdims=True) for side in (p, q))
    return _ratio((p * q).sum(axis=1), (p * p).sum(axis=1) * (q * q).sum(axis=1))


def _kendall(a: NDArray[np.float64], b: NDArray[np.float64], rows: NDArray[np.int64]) -> NDArray[np.float64]:
    # A row drawn w times stands in w pairs with each other row, and ties with itself, so that counts do for pairs.
    weights = np.stack([np.bincount(row, minlength=len(a)) for row in rows]).astype(np.float64)
    p, q = (np.sign(side[:, None] - side[None]) for side in (a, b))
    both, left, right = ((weights @ one * weights).sum(axis=1) for one in (p * q, p * p, q * q))
    return _ratio(both, left * right)


def _ratio(numerator: NDArray[np.float64], squares: NDArray[np.float64]) -> NDArray[np.float64]:
    # A resample may hold one row only, whose correlation is not defined.
    return np.where(squares > 0, numerator / np.sqrt(np.where(squares > 0, squares, 1)), np.nan)


METHODS: dict[
    str, Callable[[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]], NDArray[np.float64]]
] = {"pearson": _pearson, "spearman": _spearman, "kendall": _kendall}
