"""What a score is worth: intervals, chance lines, retention, collapse. Plain arrays in, no model needed."""

from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

CONFIDENCE = 0.95
SIGNIFICANCE = (1 - CONFIDENCE) / 2  # of one side, as the lower end of an interval

# An encoder is called collapsed when its vectors span hardly more than one direction, or all but coincide.
# Both are needed: a point cloud of radius 0.1 still has a high rank, a two-valued encoder a low mean cosine.
COLLAPSE_RANK = 2.0
COLLAPSE_COSINE = 0.99
# Fewer vectors than this, healthy ones too, may have an effective rank below 2; then only the cosine speaks.
COLLAPSE_RANK_NEEDS = 5


@dataclass(frozen=True, slots=True)
class Interval:
    """A 95 % confidence interval, ends included."""

    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Score:
    """One score with what it is worth; all four numbers in the same unit, a fraction between 0 and 1.

    Attributes:
        value: the score.
        interval: its 95 % interval.
        chance: what the best guesser reaches without looking at the images.
        p_value: share of the orders of the class names that score as high; ``None``: not asked, or too few classes
            for any order to be rare.
    """

    value: float
    interval: Interval
    chance: float
    p_value: float | None = None

    @property
    def at_chance(self) -> bool:
        """Whether the score cannot be told from guessing, or from the names being shuffled, or is worse."""
        shuffled = self.p_value is not None and self.p_value > SIGNIFICANCE
        return shuffled or is_chance(self.interval, self.chance)

    def to_json(self) -> dict[str, Any]:
        """The numbers and the word, as JSON values."""
        return {
            "value": self.value,
            "low": self.interval.low,
            "high": self.interval.high,
            "chance": self.chance,
            "p_value": self.p_value,
            "at_chance": self.at_chance,
        }


@dataclass(frozen=True, slots=True)
class Geometry:
    """How a set of embeddings lies in its space.

    Attributes:
        effective_rank: between 1 and ``max_rank``; see :func:`effective_rank`.
        max_rank: the smaller of the number of vectors and their width.
        mean_cosine: mean cosine over all pairs of different vectors.
        uniformity: 0 where all coincide, lower the more evenly they fill the sphere; see :func:`uniformity`.
    """

    effective_rank: float
    max_rank: int
    mean_cosine: float
    uniformity: float

    @property
    def _low_rank(self) -> bool:
        return self.max_rank >= COLLAPSE_RANK_NEEDS and self.effective_rank < COLLAPSE_RANK

    @property
    def collapsed(self) -> bool:
        """Effective rank below 2 (of 5 or more possible), or mean pairwise cosine above 0.99."""
        return self._low_rank or self.mean_cosine > COLLAPSE_COSINE

    def describe(self) -> str:
        """Why it is called collapsed, in a few words."""
        if self._low_rank:
            return f"effective rank {self.effective_rank:.1f} of {self.max_rank}"
        return f"mean cosine {self.mean_cosine:.3f} between any two"

    def to_json(self) -> dict[str, Any]:
        """The numbers and the word, as JSON values."""
        return {
            "effective_rank": self.effective_rank,
            "max_rank": self.max_rank,
            "mean_cosine": self.mean_cosine,
            "uniformity": self.uniformity,
            "collapsed": self.collapsed,
        }


def z_value(confidence: float = CONFIDENCE) -> float:
    """Two-sided standard normal quantile (1.96 at 0.95)."""
    return NormalDist().inv_cdf(0.5 + confidence / 2)


def wilson_interval(successes: float, trials: float, *, confidence: float = CONFIDENCE) -> Interval:
    """Score interval of a binomial proportion; sensible at 0, at 1 and for few trials.

    Raises:
        ValueError: no trials, or more successes than trials.

    Source: Wilson, JASA 22 (1927) 209-212; without continuity correction, as Brown, Cai and DasGupta,
    Statistical Science 16 (2001) 101-133, recommend.
    """
    if trials <= 0 or not 0 <= successes <= trials:
        raise ValueError(
            f"found {successes} successes in {trials} trials; expected 0 <= successes <= trials > 0"
        )
    z = z_value(confidence)
    p = successes / trials
    centre = (p + z * z / (2 * trials)) / (1 + z * z / trials)
    half = z / (1 + z * z / trials) * float(np.sqrt(p * (1 - p) / trials + z * z / (4 * trials * trials)))
    low = 0.0 if successes == 0 else max(0.0, centre - half)
    high = 1.0 if successes == trials else min(1.0, centre + half)
    return Interval(low, high)


def top_k_chance(labels: NDArray[np.integer[Any]], k: int, classes: int) -> float:
    """Top-k accuracy of the best guesser that never looks: the ``k`` most frequent classes, every time.

    With classes of equal size this is ``k / classes``.

    Args:
        labels: int (N,), each in ``[0, classes)``.
        k: how many guesses are allowed.
        classes: number of candidate classes.
    """
    counts = np.bincount(labels, minlength=classes)
    return float(np.sort(counts)[::-1][:k].sum() / counts.sum())


def mean_recall_chance(labels: NDArray[np.integer[Any]]) -> float:
    """Mean per-class recall of any guesser that never looks: one over the number of classes with an image.

    Answering class c with probability q(c) gives recall q(c) in class c, so the mean over the classes present
    is at most ``1 / present``, whatever the class frequencies.
    """
    return 1.0 / len(np.unique(labels))


def mean_recall_interval(
    correct: NDArray[np.integer[Any]], trials: NDArray[np.integer[Any]], *, confidence: float = CONFIDENCE
) -> Interval:
    """Interval of the mean of independent per-class recalls.

    Wilson's, of as many images as would give the mean's variance if they were of one class: the classes' own
    variances are added, so that classes known well or not at all, which vary little, make it narrow. Unlike the
    normal interval it stays inside [0, 1] and keeps a width where all recalls are 0 or 1; unlike combined Wilson
    limits of each class it is not shifted where many recalls are near 0 or 1.

    Args:
        correct: int (K,), correct answers of each class.
        trials: int (K,), images of each class, all positive.
        confidence: coverage aimed at.

    Source: Franco, Little, Louis and Slud, Journal of Survey Statistics and Methodology 7 (2019) 334-364, the Wilson
    interval with effective sample size.
    """
    recalls, classes = correct / trials, len(trials)
    mean = float(recalls.mean())
    if mean in (0.0, 1.0):
        images = classes**2 / float((1 / trials).sum())
        return wilson_interval(mean * images, images, confidence=confidence)
    # A class of one image says nothing of its own variance; the mean's is at least as large.
    within = np.where(trials > 1, recalls * (1 - recalls) / np.maximum(trials - 1, 1), mean * (1 - mean))
    # No surer than if one image of the largest class had been answered otherwise.
    variance = max(float(within.sum()) / classes**2, (1 / (classes * float(trials.max()))) ** 2)
    images = mean * (1 - mean) / variance
    return wilson_interval(mean * images, images, confidence=confidence)


def mean_interval(values: ArrayLike, *, confidence: float = CONFIDENCE) -> Interval:
    """Interval of the mean of independent, roughly normal measurements, such as one score over several seeds.

    Args:
        values: (N,), N at least 2.
        confidence: coverage aimed at.

    Raises:
        ValueError: fewer than two values, which say nothing of how they vary.

    Source: Student, "The Probable Error of a Mean", Biometrika 6 (1908) 1-25.
    """
    from scipy.special import stdtrit

    samples = np.asarray(values, dtype=np.float64)
    if samples.ndim != 1 or len(samples) < 2:
        raise ValueError(f"found values of shape {samples.shape}; expected one axis of at least 2")
    quantile = float(stdtrit(len(samples) - 1, 0.5 + confidence / 2))
    half = quantile * float(samples.std(ddof=1)) / len(samples) ** 0.5
    return Interval(float(samples.mean()) - half, float(samples.mean()) + half)


def is_chance(interval: Interval, chance: float) -> bool:
    """Whether a score says no more than guessing: its interval contains the chance line or lies below it."""
    return interval.low <= chance


def retention(student: Score, teacher: Score) -> float | None:
    """How much of the teacher's knowledge the student kept: both scores counted from the chance line.

    1 is all of it, 0 none, above 1 more than the teacher knew.

    Returns:
        ``(student - chance) / (teacher - chance)``; ``None`` where the teacher itself is at chance.
    """
    if teacher.at_chance:
        return None
    return (student.value - student.chance) / (teacher.value - teacher.chance)


def unit_vectors(vectors: ArrayLike) -> NDArray[np.float64]:
    """Vectors at length 1, float64, over the last axis.

    Raises:
        ValueError: a vector is zero or not finite.
    """
    values = np.asarray(vectors, dtype=np.float64)
    lengths = np.linalg.norm(values, axis=-1, keepdims=True)
    if not np.isfinite(lengths).all() or (lengths == 0).any():
        raise ValueError(
            "found vectors that are zero or not finite; expected finite vectors with a direction"
        )
    unit: NDArray[np.float64] = values / lengths
    return unit


def effective_rank(vectors: ArrayLike) -> float:
    """Dimensions that the vectors really use: the exponential of the entropy of their singular values.

    Not centred: a constant encoder has rank 1, where centring would leave only rounding noise, of full rank.

    Args:
        vectors: (N, D), unit length for comparable numbers.

    Source: Roy and Vetterli, "The effective rank", EUSIPCO 2007, definition 1.
    """
    values = np.asarray(vectors, dtype=np.float64)
    gram = values.T @ values if values.shape[0] >= values.shape[1] else values @ values.T
    singular = np.sqrt(np.clip(np.linalg.eigvalsh(gram), 0, None))
    shares = singular / singular.sum()
    shares = shares[shares > 0]
    return float(np.exp(-(shares * np.log(shares)).sum()))


def mean_pairwise_cosine(unit: ArrayLike) -> float:
    """Mean cosine over all ordered pairs of different rows; 1 for a constant encoder.

    Args:
        unit: (N, D), unit length, N at least 2.
    """
    values = np.asarray(unit, dtype=np.float64)
    n = len(values)
    total = float((values.sum(axis=0) ** 2).sum())
    return (total - n) / (n * (n - 1))


def uniformity(unit: ArrayLike, *, most: int = 2_048) -> float:
    """Logarithm of the mean Gaussian potential of all pairs of different rows, exp(-2 d^2).

    Args:
        unit: (N, D), unit length, N at least 2.
        most: rows to take, evenly spread; their pairs are what costs.

    Source: Wang and Isola, "Understanding Contrastive Representation Learning through Alignment and Uniformity on
    the Hypersphere", ICML 2020, eq. 5, t = 2.
    """
    values = np.asarray(unit, dtype=np.float64)
    if len(values) > most:
        values = values[np.arange(most) * len(values) // most]
    potential = np.exp(-4 * (1 - values @ values.T))
    n = len(values)
    return float(np.log((potential.sum() - np.trace(potential)) / (n * (n - 1))))


def alignment(first: ArrayLike, second: ArrayLike) -> float:
    """Mean squared distance of two unit vectors that belong together: 0 where they coincide, 4 at most.

    Args:
        first: (N, D), unit length, such as images.
        second: (N, D), unit length, such as the weights of their classes.

    Source: Wang and Isola, ICML 2020, eq. 4, alpha = 2.
    """
    cosines = (np.asarray(first, dtype=np.float64) * np.asarray(second, dtype=np.float64)).sum(axis=1)
    return float((2 - 2 * cosines).mean())


def geometry(unit: ArrayLike) -> Geometry:
    """Effective rank, mean pairwise cosine and uniformity of unit vectors (N, D), N at least 2."""
    values = np.asarray(unit, dtype=np.float64)
    return Geometry(
        effective_rank(values), min(values.shape), mean_pairwise_cosine(values), uniformity(values)
    )
