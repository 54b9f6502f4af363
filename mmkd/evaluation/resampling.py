"""Bootstrap over clusters, such as images with their captions; one seed gives two models the same draws."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from mmkd.evaluation.statistics import CONFIDENCE, Interval

DRAWS = 2_000
_CELLS = 4_000_000  # numbers held at a time


def quantiles(draws: NDArray[np.float64], *, confidence: float = CONFIDENCE) -> Interval:
    """Percentile interval. Source: Efron, Annals of Statistics 7 (1979) 1-26."""
    low, high = np.quantile(draws, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(float(low), float(high))


def resample_share(
    hit: NDArray[np.bool_], cluster: NDArray[np.int64], clusters: int, *, seed: int = 0
) -> NDArray[np.float64]:
    """Share of hits in each of 2,000 draws of whole clusters, with replacement.

    Args:
        hit: bool (Q,).
        cluster: int (Q,), which of ``clusters`` each belongs to; none is empty.
        clusters: how many are drawn.
        seed: of the draws.

    Returns:
        float64 (2000,).
    """
    hits = np.bincount(cluster, weights=hit, minlength=clusters)
    sizes = np.bincount(cluster, minlength=clusters).astype(np.float64)
    return np.concatenate([(w @ hits) / (w @ sizes) for w in _weights(clusters, clusters, seed)])


def resample_median(
    values: NDArray[np.int64], cluster: NDArray[np.int64], clusters: int, *, seed: int = 0
) -> NDArray[np.float64]:
    """The (lower) median of ``values`` (Q,) in each of 2,000 draws of whole clusters; as :func:`resample_share`."""
    order = np.argsort(values, kind="stable")
    ordered, owners = values[order].astype(np.float64), cluster[order]
    found = []
    for weights in _weights(clusters, len(values), seed):
        reached = np.cumsum(weights[:, owners], axis=1)
        found.append(ordered[(2 * reached < reached[:, -1:]).sum(axis=1)])
    return np.concatenate(found)


def _weights(clusters: int, width: int, seed: int) -> Iterator[NDArray[np.float64]]:
    """How often each cluster is drawn, (some draws, clusters); the same whatever the block's size."""
    generator = np.random.default_rng(seed)
    block = max(1, _CELLS // max(width, clusters))
    for first in range(0, DRAWS, block):
        chosen = generator.integers(clusters, size=(min(block, DRAWS - first), clusters))
        yield np.stack([np.bincount(row, minlength=clusters) for row in chosen]).astype(np.float64)
