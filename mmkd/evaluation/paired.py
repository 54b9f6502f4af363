"""Two models on the same images: what is between them, and whether it is more than luck."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmkd.evaluation.statistics import CONFIDENCE, Interval, wilson_interval

DRAWS = 2_000


@dataclass(frozen=True, slots=True)
class Paired:
    """A model beside the reference, image by image.

    Attributes:
        both, only_reference, only_model, neither: images that each answered rightly.
        same_answer: share of images to which both gave the same class, right or wrong.
        difference: the model's share of right answers less the reference's.
        interval: of the difference.
        p_value: McNemar's, exact: that images answered rightly by one alone fall to either with equal chance.
        retention_interval: of the share of the reference's score over chance that the model kept; ``None`` where
            the reference is at chance.
    """

    both: int
    only_reference: int
    only_model: int
    neither: int
    same_answer: float
    difference: float
    interval: Interval
    p_value: float
    retention_interval: Interval | None

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self)


def compare(
    reference: NDArray[np.bool_],
    model: NDArray[np.bool_],
    *,
    same_answer: float,
    chance: float,
    at_chance: bool = False,
    seed: int = 0,
) -> Paired:
    """Hold a model's right answers against the reference's.

    Args:
        reference: bool (N,): the reference was right.
        model: bool (N,): the model was right, on the same images.
        same_answer: share of images to which both gave the same class.
        chance: the chance line of both.
        at_chance: the reference cannot be told from guessing, so that nothing can be kept of it.
        seed: of the bootstrap of what was kept.

    Raises:
        ValueError: another number of images, or none.
    """
    from scipy.stats import binomtest

    if reference.shape != model.shape or reference.ndim != 1 or len(reference) == 0:
        raise ValueError(
            f"found {reference.shape} and {model.shape} answers; expected the same images of both"
        )
    both = int((reference & model).sum())
    only_reference, only_model = int((reference & ~model).sum()), int((~reference & model).sum())
    neither = len(reference) - both - only_reference - only_model
    apart = only_reference + only_model
    return Paired(
        both,
        only_reference,
        only_model,
        neither,
        same_answer,
        (only_model - only_reference) / len(reference),
        paired_interval(both, only_model, only_reference, neither),
        float(binomtest(only_model, apart).pvalue) if apart else 1.0,
        None
        if at_chance
        else retention_interval((both, only_model, only_reference, neither), chance, seed=seed),
    )


def paired_interval(
    both: int, only_first: int, only_second: int, neither: int, *, confidence: float = CONFIDENCE
) -> Interval:
    """Interval of the first's share of right answers less the second's, on the same images.

    Args:
        both, only_first, only_second, neither: images answered rightly by both, by one alone, by none.
        confidence: coverage aimed at.

    Source: Newcombe, Statistics in Medicine 17 (1998) 2635-2650, method 10.
    """
    a, b, c, d = both, only_first, only_second, neither
    n = a + b + c + d
    first, second = (
        wilson_interval(a + b, n, confidence=confidence),
        wilson_interval(a + c, n, confidence=confidence),
    )
    p, q = (a + b) / n, (a + c) / n
    margins = float(a + b) * (c + d) * (a + c) * (b + d)
    product = float(a) * d - float(b) * c
    numerator = max(product - n / 2, 0.0) if product > 0 else product
    phi = 0.0 if margins == 0 else numerator / margins**0.5
    below, above = p - first.low, second.high - q
    low = (p - q) - max(0.0, below**2 - 2 * phi * below * above + above**2) ** 0.5
    below, above = first.high - p, q - second.low
    high = (p - q) + max(0.0, below**2 - 2 * phi * below * above + above**2) ** 0.5
    return Interval(max(-1.0, low), min(1.0, high))


def retention_interval(
    counts: tuple[int, int, int, int], chance: float, *, confidence: float = CONFIDENCE, seed: int = 0
) -> Interval | None:
    """Percentile bootstrap over images of what the model kept: (model - chance) / (reference - chance).

    Args:
        counts: images answered rightly by both, by the model alone, by the reference alone, by none.
        chance: the chance line of both.
        confidence: coverage aimed at.
        seed: of the draws.

    Returns:
        ``None`` where the reference is not above chance in every draw: the quotient then says nothing.

    Source: Efron, "Bootstrap methods", Annals of Statistics 7 (1979) 1-26.
    """
    n = sum(counts)
    draws = np.random.default_rng(seed).multinomial(n, np.array(counts) / n, size=DRAWS)
    model, reference = draws[:, [0, 1]].sum(axis=1) / n - chance, draws[:, [0, 2]].sum(axis=1) / n - chance
    if (reference <= 0).any():
        return None
    low, high = np.quantile(model / reference, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(float(low), float(high))
