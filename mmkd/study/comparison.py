"""Whether two ways to train differ by more than the luck of their seeds and of the test images."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmkd.evaluation.statistics import CONFIDENCE, Interval

SEEDS_AND_IMAGES = "seeds and images"
SEEDS_ALONE = "seeds alone"


@dataclass(frozen=True, slots=True)
class Difference:
    """One way to train less another, over the same seeds.

    Attributes:
        value: mean difference of the score.
        interval: of that mean, 95 %, not corrected for how many are compared.
        p_value: two-sided, of no difference.
        freedom: degrees of freedom of the t distribution behind both; infinite where the seeds never differ.
        method: what the interval holds the luck of: ``seeds and images``, or ``seeds alone``.
    """

    value: float
    interval: Interval
    p_value: float
    freedom: float
    method: str

    def turned(self) -> "Difference":
        """The second less the first."""
        turned = Interval(-self.interval.high, -self.interval.low)
        return Difference(-self.value, turned, self.p_value, self.freedom, self.method)

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "difference": self.value,
            "low": self.interval.low,
            "high": self.interval.high,
            "p_value": self.p_value,
            "degrees_of_freedom": self.freedom if np.isfinite(self.freedom) else None,
            "method": self.method,
        }


def paired_seeds(first: Sequence[float], second: Sequence[float]) -> Difference:
    """Paired t-test of two arms' scores, seed by seed: would other seeds differ the same way, on these images?

    Args:
        first: (S,) scores, S at least 2.
        second: (S,) scores with the same seeds.

    Raises:
        ValueError: another number of seeds, or fewer than 2.

    Source: Student, Biometrika 6 (1908) 1-25.
    """
    apart = np.asarray(first, dtype=np.float64) - np.asarray(second, dtype=np.float64)
    if len(first) != len(second) or len(apart) < 2:
        raise ValueError(
            f"found {len(first)} and {len(second)} scores; expected the same seeds of both, 2 or more"
        )
    variance = float(apart.var(ddof=1)) / len(apart)
    return _difference(float(apart.mean()), variance, float(len(apart) - 1), SEEDS_ALONE)


def crossed_seeds_and_images(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> Difference:
    """Test two arms whose students, one a seed, answered the same images: would other seeds *and* images agree?

    Seeds and images are both samples, crossed. The variance of the mean difference is that of the two-way table of
    differences, mean squares of seeds and of images less what is counted twice; where the images vary more than
    the seeds, there are more degrees of freedom than seeds. It is the analysis of several readers who judge the
    same cases.

    Args:
        first: bool (S, N), right answers of S seeds to N images; S and N at least 2.
        second: bool (S, N), the same seeds and images.

    Raises:
        ValueError: another shape, or fewer than 2 seeds or images.

    Source: Dorfman, Berbaum and Metz, Investigative Radiology 27 (1992) 723-731; degrees of freedom of Hillis,
    Statistics in Medicine 26 (2007) 596-619, eq. 22.
    """
    if first.shape != second.shape or first.ndim != 2 or min(first.shape) < 2:
        raise ValueError(
            f"found answers of shape {first.shape} and {second.shape}; expected the same seeds and images of both, "
            "2 or more of each"
        )
    table = first.astype(np.float64) - second.astype(np.float64)
    seeds, images = table.shape
    mean, by_seed, by_image = float(table.mean()), table.mean(axis=1), table.mean(axis=0)
    of_seeds = images * float(((by_seed - mean) ** 2).sum()) / (seeds - 1)
    of_images = seeds * float(((by_image - mean) ** 2).sum()) / (images - 1)
    rest = table - by_seed[:, None] - by_image[None, :] + mean
    of_rest = float((rest**2).sum()) / ((seeds - 1) * (images - 1))
    whole = of_seeds + max(of_images - of_rest, 0.0)
    freedom = whole**2 / (of_seeds**2 / (seeds - 1)) if of_seeds > 0 else float("inf")
    return _difference(mean, whole / (seeds * images), freedom, SEEDS_AND_IMAGES)


def _difference(mean: float, variance: float, freedom: float, method: str) -> Difference:
    from scipy.stats import norm, t

    spread = t(freedom) if np.isfinite(freedom) else norm()
    error = variance**0.5
    half = float(spread.ppf(0.5 + CONFIDENCE / 2)) * error
    # Where nothing varies, the difference is certain, or there is none.
    p_value = float(2 * spread.sf(abs(mean) / error)) if error else float(mean == 0)
    return Difference(mean, Interval(mean - half, mean + half), p_value, freedom, method)


def holm(p_values: Sequence[float]) -> list[float]:
    """Corrected for how many they are: rejecting those of at most 0.05 errs anywhere in 5 % of studies at most.

    Source: Holm, Scandinavian Journal of Statistics 6 (1979) 65-70.
    """
    order = sorted(range(len(p_values)), key=lambda place: p_values[place])
    corrected, highest = [0.0] * len(p_values), 0.0
    for rank, place in enumerate(order):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[place]))
        corrected[place] = highest
    return corrected
