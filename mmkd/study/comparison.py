"""Whether two ways to train differ by more than the luck of their seeds and of the test images."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
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


@dataclass(frozen=True, slots=True)
class Luck:
    """How much a difference of two arms varies by luck.

    Attributes:
        variance: of the mean difference.
        freedom: degrees of freedom that the variance was estimated with.
        method: what it holds the luck of.
        seeds: that the means are over.
    """

    variance: float
    freedom: float
    method: str
    seeds: int

    def over(self, seeds: int) -> "Luck":
        """That of means over so many seeds, as if all of it were the seeds' luck."""
        return replace(self, variance=self.variance * max(1.0, self.seeds / seeds), seeds=seeds)


def luck_of_seeds(scores: NDArray[np.float64]) -> Luck:
    """What arms that do not differ would differ by, if other seeds had been drawn, on these images.

    Seeds are blocks: what a seed does to all arms alike is no luck of their difference.

    Args:
        scores: (K, S), K arms with S seeds, 2 or more of each.

    Raises:
        ValueError: another shape, or fewer.

    Source: Fisher's randomised blocks; with K = 2 it is the paired t-test.
    """
    arms, seeds = _shape(scores, 2)
    rest = scores - scores.mean(axis=1, keepdims=True) - scores.mean(axis=0) + scores.mean()
    freedom = (arms - 1) * (seeds - 1)
    return Luck(2 * float((rest**2).sum()) / freedom / seeds, freedom, SEEDS_ALONE, seeds)


def luck_of_two(scores: NDArray[np.float64], first: int, second: int) -> Luck:
    """As ``luck_of_seeds``, of two of the arms, each of which varies as it does by itself.

    Args:
        scores: (K, S), K arms with S seeds, 2 or more of each.
        first, second: which of the arms.

    Raises:
        ValueError: another shape, or fewer.

    Source: degrees of freedom of Welch, Biometrika 34 (1947) 28-35.
    """
    arms, seeds = _shape(scores, 2)
    rest = scores - scores.mean(axis=1, keepdims=True) - scores.mean(axis=0) + scores.mean()
    of_mean = (rest[[first, second]] ** 2).sum(axis=1) / ((seeds - 1) * (1 - 1 / arms)) / seeds
    squares = float((of_mean**2).sum())
    freedom = (seeds - 1) * float(of_mean.sum()) ** 2 / squares if squares else float("inf")
    return Luck(float(of_mean.sum()), freedom, SEEDS_ALONE, seeds)


def luck_of_seeds_and_images(answers: NDArray[np.bool_]) -> Luck:
    """What arms that do not differ would differ by, if other seeds *and* other images had been drawn.

    Seeds and images are both samples, crossed with the arms: the analysis of several readers who judge the same
    cases by several methods.

    Args:
        answers: bool (K, S, N), right answers of K arms with S seeds to N images, 2 or more of each.

    Raises:
        ValueError: another shape, or fewer.

    Source: Dorfman, Berbaum and Metz, Investigative Radiology 27 (1992) 723-731; degrees of freedom of Hillis,
    Statistics in Medicine 26 (2007) 596-619.
    """
    arms, seeds, images = _shape(answers, 3)
    table = answers.astype(np.float64)
    by_seed, by_image = table.mean(axis=2), table.mean(axis=1)  # (K, S), (K, N)
    rest = table - by_seed[:, :, None] - by_image[:, None, :] + table.mean(axis=(1, 2))[:, None, None]
    rest -= rest.mean(axis=0)  # what seed and image do to all arms alike
    of_seeds = images * _interaction(by_seed) / ((arms - 1) * (seeds - 1))
    of_images = seeds * _interaction(by_image) / ((arms - 1) * (images - 1))
    of_rest = float((rest**2).sum()) / ((arms - 1) * (seeds - 1) * (images - 1))
    whole = of_seeds + max(of_images - of_rest, 0.0)
    freedom = (arms - 1) * (seeds - 1) * (whole / of_seeds) ** 2 if of_seeds > 0 else float("inf")
    return Luck(2 * whole / (seeds * images), freedom, SEEDS_AND_IMAGES, seeds)


def _interaction(table: NDArray[np.float64]) -> float:
    """Sum of squares of what is neither the row's nor the column's."""
    rest = table - table.mean(axis=1, keepdims=True) - table.mean(axis=0) + table.mean()
    return float((rest**2).sum())


def _shape(table: NDArray[Any], axes: int) -> tuple[int, ...]:
    if table.ndim != axes or min(table.shape) < 2:
        raise ValueError(
            f"found a table of shape {table.shape}; expected {axes} axes (arms, seeds"
            f"{', images' if axes == 3 else ''}) of 2 or more"
        )
    return table.shape


def difference(value: float, pooled: Luck, own: Luck) -> Difference:
    """A difference of two arms beside what luck makes of such differences.

    A few seeds say little of how much these two arms vary, so the luck is that of all arms, as if they all varied
    alike. Where these two vary more than that, theirs counts instead, known as poorly as it is, so that a restless
    arm is not called better or worse for it.

    Args:
        value: the mean difference.
        pooled: of all arms.
        own: of these two alone.
    """
    from scipy.stats import t

    variance, freedom = pooled.variance, pooled.freedom
    if own.variance > variance:
        variance, freedom = own.variance, min(own.freedom, freedom)
    error = variance**0.5
    half = float(t.ppf(0.5 + CONFIDENCE / 2, freedom)) * error
    # Where nothing varies, the difference is certain, or there is none.
    p_value = float(2 * t.sf(abs(value) / error, freedom)) if error else float(value == 0)
    return Difference(value, Interval(value - half, value + half), p_value, freedom, pooled.method)


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
