"""Did a student inherit its teacher's bias? A verdict by stated rules, from gaps alone.

A gap is how much nearer a word lies to one group's terms than to the other's. Gaps are measured in units of the spread
that neutral nouns show in the same model, so that two models' gaps can be compared; neutral nouns have size 1 by
definition. What a student knows must be judged elsewhere: one that knows nothing has gaps too.
"""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mmkd.evaluation.statistics import CONFIDENCE, Interval

EQUIVALENT = (0.9, 1.1)  # the ratio of sizes within which a bias is called preserved
SAME_ORDER = 0.8  # rank correlation, of the interval's lower end
OTHER_ORDER = 0.5  # of its upper end
DRAWS = 2_000
FEWEST = 10
_LEAST = 0.1  # agreement, or slope, that is divided by

PRESERVED, REDUCED, AMPLIFIED, RESHAPED = "preserved", "reduced", "amplified", "reshaped"
INCONCLUSIVE = "inconclusive"


@dataclass(frozen=True, slots=True)
class Estimate:
    """A quantity and its 95 % bootstrap interval."""

    value: float
    interval: Interval


@dataclass(frozen=True, slots=True)
class Inheritance:
    """A student's gaps beside its teacher's.

    Attributes:
        verdict: ``preserved``, ``reduced``, ``amplified``, ``reshaped`` or ``inconclusive``.
        reason: what it rests on, in a sentence.
        teacher_size: root mean square of the teacher's gaps, where neutral nouns have 1.
        student_size: of the student's.
        ratio: the student's size over the teacher's.
        slope: of the student's gaps on the teacher's, through the origin.
        order: Spearman correlation of the two.
        agreement: Pearson correlation of the neutral nouns' gaps in the two models.
        at_most: the ratio as the student's own noise cannot lower it: the slope over the agreement.
        at_least: the ratio as the teacher's own noise cannot raise it: the agreement over the slope the other way.
    """

    verdict: str
    reason: str
    teacher_size: Estimate
    student_size: Estimate
    ratio: Estimate
    slope: Estimate
    order: Estimate
    agreement: Estimate
    at_most: Estimate
    at_least: Estimate

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self)


def standardised_gaps(gaps: ArrayLike, controls: ArrayLike) -> NDArray[np.float64]:
    """Gaps less the mean, and over the standard deviation, of the neutral nouns' gaps in the same model.

    Args:
        gaps: (P,) of the targets.
        controls: (C,) of the neutral nouns, C at least 10.

    Raises:
        ValueError: too few controls, or they do not differ, so that nothing can be measured by them.
    """
    neutral = np.asarray(controls, dtype=np.float64)
    if neutral.ndim != 1 or len(neutral) < FEWEST:
        raise ValueError(f"found controls of shape {neutral.shape}; expected at least {FEWEST}")
    spread = neutral.std(ddof=1)
    if not spread > 0:
        raise ValueError("all neutral nouns have the same gap; there is no spread to measure by")
    found: NDArray[np.float64] = (np.asarray(gaps, dtype=np.float64) - neutral.mean()) / spread
    return found


def inheritance(
    teacher: ArrayLike,
    student: ArrayLike,
    teacher_controls: ArrayLike,
    student_controls: ArrayLike,
    *,
    seed: int = 0,
    draws: int = DRAWS,
) -> Inheritance:
    """Judge by these rules, in this order; intervals are percentile bootstraps over targets and over controls, paired.

    - *inconclusive* where the teacher's gaps are not larger than those of neutral nouns: nothing to inherit;
    - *preserved* where the whole interval of the ratio lies within 0.9 to 1.1, and that of the order above 0.8: a test
      of equivalence, which many words are needed to pass;
    - *reshaped* where the student's gaps are larger than those of neutral nouns, and the interval of the order lies
      below 0.5: it leans as well, but elsewhere;
    - *reduced* or *amplified* where the interval of the ratio lies on one side of 1, and the ratio outside 0.9 to 1.1,
      and the same holds without the noise that may look like it: of ``at_most`` for *reduced*, of ``at_least`` for
      *amplified*, where the neutral nouns agree at all;
    - *inconclusive* otherwise.

    Noise in all words of one model widens the unit of its gaps more than the gaps, so that its ratio shrinks though no
    leaning changed. A slope does not know the noise of what it explains: over that of the neutral nouns, which is their
    agreement in these units, it compares the leanings that both models have. What noise the other model has errs
    towards *inconclusive*.

    Args:
        teacher: (P,) gaps of the targets, P at least 10.
        student: (P,) of the same.
        teacher_controls: (C,) gaps of the neutral nouns, C at least 10.
        student_controls: (C,) of the same.
        seed: of the draws.
        draws: of the bootstrap.

    Raises:
        ValueError: unequal sizes, too few, or controls without spread.

    Source: two one-sided tests of equivalence, Schuirmann, J. Pharmacokinet. Biopharm. 15 (1987) 657-680, by the
    interval's inclusion. The slopes: Spearman, "The Proof and Measurement of Association between Two Things", Am. J.
    Psychol. 15 (1904) 72-101, with the neutral nouns for the repeated measurement.
    """
    gaps = np.stack([_column(teacher, "targets"), _column(student, "targets")])
    controls = np.stack([_column(teacher_controls, "controls"), _column(student_controls, "controls")])
    for one, other in zip(gaps, controls, strict=True):
        standardised_gaps(one, other)
    own = _measure(gaps[:, None], controls[:, None])
    generator = np.random.default_rng(seed)
    targets = generator.integers(0, gaps.shape[1], (draws, gaps.shape[1]))
    nouns = generator.integers(0, controls.shape[1], (draws, controls.shape[1]))
    drawn = _measure(gaps[:, targets], controls[:, nouns])
    levels = [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2]
    found = {
        name: Estimate(
            float(own[name][0]), Interval(*(float(q) for q in np.nanquantile(drawn[name], levels)))
        )
        for name in own
    }
    verdict, reason = _judge(**found)
    return Inheritance(verdict, reason, **found)


def _judge(
    *,
    teacher_size: Estimate,
    student_size: Estimate,
    ratio: Estimate,
    order: Estimate,
    agreement: Estimate,
    at_most: Estimate,
    at_least: Estimate,
    **_: Estimate,
) -> tuple[str, str]:
    low, high = ratio.interval.low, ratio.interval.high
    sizes = f"the student's gaps are {_shown(ratio)} times the teacher's"
    ranks = f"their order agrees by {_shown(order)}"
    own = f"the teacher's own gaps are {_shown(teacher_size)} times those of neutral nouns"
    noise = (
        f"{sizes}, but so they may be by noise in all words of one model: its neutral nouns agree with the other's by "
        f"{_shown(agreement)}, and without that noise the ratio is at "
    )
    alike = EQUIVALENT[0] <= low and high <= EQUIVALENT[1] and order.interval.low >= SAME_ORDER
    elsewhere = student_size.interval.low > 1 and order.interval.high < OTHER_ORDER
    agree = agreement.interval.low > 0
    smaller, larger = _smaller(ratio), _larger(ratio)
    rules = (
        (teacher_size.interval.low <= 1, INCONCLUSIVE, f"{own}: there is no bias to inherit"),
        (alike, PRESERVED, f"{sizes}, and {ranks}"),
        (elsewhere, RESHAPED, f"{ranks}, while {sizes}"),
        (smaller and agree and _smaller(at_most), REDUCED, f"{sizes}; {ranks}"),
        (larger and agree and _larger(at_least), AMPLIFIED, f"{sizes}; {ranks}"),
        (smaller, INCONCLUSIVE, f"{noise}most {_shown(at_most)}"),
        (larger, INCONCLUSIVE, f"{noise}least {_shown(at_least)}"),
        (True, INCONCLUSIVE, f"{sizes}, and {ranks}: too few words, or too small a difference, to say more"),
    )
    return next((verdict, reason) for holds, verdict, reason in rules if holds)


def _smaller(ratio: Estimate) -> bool:
    return ratio.interval.high < 1 and ratio.value < EQUIVALENT[0]


def _larger(ratio: Estimate) -> bool:
    return ratio.interval.low > 1 and ratio.value > EQUIVALENT[1]


def _shown(one: Estimate) -> str:
    return f"{one.value:.2f} [{one.interval.low:.2f}, {one.interval.high:.2f}]"


def _measure(gaps: NDArray[np.float64], controls: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
    """Every quantity for each of N draws: gaps (2, N, P), controls (2, N, C), teacher first."""
    from scipy.stats import rankdata

    spread = controls.std(axis=2, ddof=1, keepdims=True)
    with np.errstate(divide="ignore", invalid="ignore"):
        teacher, student = (gaps - controls.mean(axis=2, keepdims=True)) / spread
        squares = [(one**2).mean(axis=1) for one in (teacher, student)]
        together = (teacher * student).mean(axis=1)
        agreement = _correlation(*controls)
        sizes = [np.sqrt(one) for one in squares]
        # Where the two hardly agree nothing is known; the bounds stay finite.
        agreeing, leaning = np.maximum(agreement, _LEAST), np.maximum(together, _LEAST * squares[1])
        return {
            "teacher_size": sizes[0],
            "student_size": sizes[1],
            "ratio": sizes[1] / sizes[0],
            "slope": together / squares[0],
            "order": _correlation(*(rankdata(one, axis=1) for one in (teacher, student))),
            "agreement": agreement,
            "at_most": together / squares[0] / agreeing,
            "at_least": agreeing * squares[1] / leaning,
        }


def _correlation(one: NDArray[np.float64], other: NDArray[np.float64]) -> NDArray[np.float64]:
    """Pearson's, row by row: (N, P) twice to (N,)."""
    p, q = (side - side.mean(axis=1, keepdims=True) for side in (one, other))
    found: NDArray[np.float64] = (p * q).sum(axis=1) / np.sqrt((p**2).sum(axis=1) * (q**2).sum(axis=1))
    return found


def _column(values: ArrayLike, name: str) -> NDArray[np.float64]:
    found = np.asarray(values, dtype=np.float64)
    if found.ndim != 1 or len(found) < FEWEST or not np.isfinite(found).all():
        raise ValueError(
            f"found {name} of shape {found.shape}; expected at least {FEWEST} finite numbers, (n,)"
        )
    return found
