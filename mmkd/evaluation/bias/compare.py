"""A student beside its teacher: what became of the bias, by stated rules, and how far to believe it."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmkd.errors import ConfigError
from mmkd.evaluation.bias.correlations import Correlation, correlate
from mmkd.evaluation.bias.gaps import TermCosines, difference_p, least_flip_p
from mmkd.evaluation.bias.inheritance import FEWEST, Inheritance, inheritance
from mmkd.evaluation.bias.model import ModelBias

WITHHELD = "withheld"
SENSITIVITY_DRAWS = 400
LARGEST = 10


@dataclass(frozen=True, slots=True)
class Variant:
    """The verdict when one thing is done otherwise.

    Attributes:
        name: what is done otherwise.
        verdict: by the same rules.
        ratio: the student's size over the teacher's.
        order: Spearman correlation of the gaps.
    """

    name: str
    verdict: str
    ratio: float
    order: float


@dataclass(frozen=True, slots=True)
class RankChange:
    """A target's place by gap, 1 the nearest to the first attribute, in teacher and student."""

    target: str
    teacher: int
    student: int


@dataclass(frozen=True)
class Comparison:
    """A student beside its teacher.

    Attributes:
        targets: P words that may lean.
        inheritance: sizes, ratio, slope, order, and what the rules say of them; ``None``: too few words.
        spearman: rank correlation of the gaps.
        kendall: of the gaps.
        p_value: float64 (P,), of a target's gap differing between the two.
        q_value: float64 (P,), the same after Benjamini and Hochberg.
        ranks: float64 (2, P), each target's place by gap, teacher first.
        sensitivity: the verdict when a term or a template is left out, and so on.
        withheld: why nothing can be concluded; empty where something can.
        least_p_value: the smallest that ``p_value``, and so ``q_value``, can be with these terms.
    """

    targets: tuple[str, ...]
    inheritance: Inheritance | None
    spearman: Correlation | None
    kendall: Correlation | None
    p_value: NDArray[np.float64]
    q_value: NDArray[np.float64]
    ranks: NDArray[np.int64]
    sensitivity: tuple[Variant, ...]
    withheld: tuple[str, ...]
    least_p_value: float = 0.0

    @property
    def verdict(self) -> str:
        """``preserved``, ``reduced``, ``amplified``, ``reshaped``, ``inconclusive`` or ``withheld``."""
        return WITHHELD if self.withheld or self.inheritance is None else self.inheritance.verdict

    @property
    def reason(self) -> str:
        """What the verdict rests on."""
        if self.withheld or self.inheritance is None:
            return "; ".join(self.withheld)
        return self.inheritance.reason

    def rank_changes(self, count: int = LARGEST) -> list[RankChange]:
        """The targets whose place changed most, the largest change first."""
        moved = np.abs(self.ranks[1] - self.ranks[0])
        return [
            RankChange(self.targets[row], int(self.ranks[0, row]), int(self.ranks[1, row]))
            for row in np.argsort(-moved, kind="stable")[:count]
        ]

    def to_json(self) -> dict[str, Any]:
        """As JSON values; where the verdict is withheld, none stands anywhere."""
        found = None if self.inheritance is None else self.inheritance.to_json()
        if found is not None and self.withheld:
            found = {key: value for key, value in found.items() if key not in ("verdict", "reason")}
        return {
            "verdict": self.verdict,
            "reason": self.reason,
            "withheld": list(self.withheld),
            "inheritance": found,
            "spearman": None if self.spearman is None else asdict(self.spearman),
            "kendall": None if self.kendall is None else asdict(self.kendall),
            "differences": {
                target: {"p_value": float(self.p_value[row]), "q_value": float(self.q_value[row])}
                for row, target in enumerate(self.targets)
            },
            "rank_changes": [asdict(one) for one in self.rank_changes()],
            "sensitivity": [] if self.withheld else [asdict(one) for one in self.sensitivity],
        }


def compare_models(
    teacher: ModelBias,
    student: ModelBias,
    *,
    doubts: Sequence[str] = (),
    name: str = "student",
    seed: int = 0,
) -> Comparison:
    """Set a student's gaps beside its teacher's.

    Args:
        teacher: from ``measure_model``.
        student: from ``measure_model``, with the same words.
        doubts: further reasons to conclude nothing, such as a student at chance.
        name: what the student is called.
        seed: of all draws.

    Raises:
        ConfigError: the two were not asked the same.
    """
    words = teacher.words
    if words != student.words:
        raise ConfigError("the two models were not asked the same words; expected the same lists for both")
    reasons = [
        f"{who}: {doubt}" for who, model in (("teacher", teacher), (name, student)) for doubt in model.doubts
    ]
    p_value, q_value = difference_p(teacher.cosines, student.cosines, seed=seed)
    gaps = teacher.gaps.value, student.gaps.value
    ranks = np.stack([np.argsort(np.argsort(-one, kind="stable"), kind="stable") + 1 for one in gaps])
    return Comparison(
        words.targets,
        _inherited(teacher.cosines, student.cosines, seed=seed),
        correlate(*gaps, "spearman", seed=seed),
        correlate(*gaps, "kendall", seed=seed),
        p_value,
        q_value,
        ranks,
        sensitivity(teacher, student, seed=seed),
        (*reasons, *doubts),
        least_flip_p(len(words.first) if words.paired else len(words.terms)),
    )


def sensitivity(teacher: ModelBias, student: ModelBias, *, seed: int = 0) -> tuple[Variant, ...]:
    """The verdict without each term and each template, for mean-centred vectors, and by the targets' token counts."""
    words, both = teacher.words, (teacher.cosines, student.cosines)
    variants: dict[str, tuple[TermCosines, TermCosines]] = {}
    if len(words.first) > 2:
        for number, term in enumerate(words.first):
            pair = f" and {words.second[number]}" if words.paired else ""
            variants[f"without {term}{pair}"] = _each(both, lambda one, n=number: one.without_term(n))
    if not words.paired and len(words.second) > 2:
        for number, term in enumerate(words.second, len(words.first)):
            variants[f"without {term}"] = _each(both, lambda one, n=number: one.without_term(n))
    if len(words.templates) > 1 and len(teacher.cosines.targets) > 1:
        for number, template in enumerate(words.templates):
            variants[f"without {template!r}"] = _each(both, lambda one, n=number: one.without_template(n))
    variants["mean-centred vectors"] = (teacher.centred, student.centred)
    variants |= _by_tokens(words.targets, teacher.vectors.tokens, both)
    found = []
    for name, (one, other) in variants.items():
        judged = _inherited(one, other, draws=SENSITIVITY_DRAWS, seed=seed)
        if judged is not None:
            found.append(Variant(name, judged.verdict, judged.ratio.value, judged.order.value))
    return tuple(found)


def _each(both: tuple[TermCosines, TermCosines], change: Any) -> tuple[TermCosines, TermCosines]:
    return change(both[0]), change(both[1])


def _by_tokens(
    targets: Sequence[str], tokens: Mapping[str, int] | None, both: tuple[TermCosines, TermCosines]
) -> dict[str, tuple[TermCosines, TermCosines]]:
    if tokens is None:
        return {}
    single = np.array([tokens[word] == 1 for word in targets])
    return {
        f"targets of {name}, {mask.sum()}": _each(
            both, lambda one, m=mask: TermCosines(one.targets[:, m], one.controls, one.first, one.paired)
        )
        for name, mask in (("one token", single), ("several tokens", ~single))
        if mask.sum() >= FEWEST
    }


def _inherited(
    teacher: TermCosines, student: TermCosines, *, seed: int, draws: int | None = None
) -> Inheritance | None:
    if not (teacher.measured and student.measured) or len(teacher.gaps) < FEWEST:
        return None
    columns = (teacher.gaps, student.gaps, teacher.control_gaps, student.control_gaps)
    if np.ptp(teacher.gaps) == 0 or np.ptp(student.gaps) == 0:
        return None
    return (
        inheritance(*columns, seed=seed) if draws is None else inheritance(*columns, seed=seed, draws=draws)
    )
