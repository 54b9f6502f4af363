"""What may be tuned of an arm: the learning rate, the weights of its losses beside each other, their temperatures."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mmkd.objective import Term, parse_terms
from mmkd.study.arms import Arm

RATE_TIMES = 5.0  # lr from a fifth to five times the arm's own
WEIGHT_TIMES = 10.0
TEMPERATURE_TIMES = 4.0
SEARCHED = ("lr", "kd")  # settings that a search decides


@dataclass(frozen=True)
class SearchSpace:
    """Factors of an arm's own values, each from 1 / times to times, evenly in their logarithm.

    Attributes:
        rate: the arm's learning rate.
        terms: its KD losses.
        factors: how far each name may go: ``lr``, ``mse weight``, ``kl temperature``.
    """

    rate: float
    terms: tuple[Term, ...]
    factors: Mapping[str, float]

    @property
    def fields(self) -> tuple[str, ...]:
        """The settings that it decides."""
        return SEARCHED if self.terms else SEARCHED[:1]

    @property
    def start(self) -> dict[str, float]:
        """The arm as it is."""
        return dict.fromkeys(self.factors, 1.0)

    def distributions(self) -> dict[str, Any]:
        """For Optuna."""
        from optuna.distributions import FloatDistribution

        return {name: FloatDistribution(1 / times, times, log=True) for name, times in self.factors.items()}

    def settings(self, drawn: Mapping[str, float]) -> dict[str, Any]:
        """The settings that factors stand for, rounded to four digits, as a person would type them."""
        found: dict[str, Any] = {"lr": _rounded(self.rate * drawn["lr"])}
        if self.terms:
            found["kd"] = " + ".join(self._typed(term, drawn) for term in self.terms)
        return found

    def _typed(self, term: Term, drawn: Mapping[str, float]) -> str:
        weight = term.weight * drawn.get(f"{term.name} weight", 1.0)
        if term.temperature is None:
            return f"{_rounded(weight):g}*{term.name}"
        temperature = term.temperature * drawn[f"{term.name} temperature"]
        return f"{_rounded(weight):g}*{term.name}@{_rounded(temperature):g}"


def _rounded(value: float) -> float:
    return float(f"{value:.4g}")


def space_of(arm: Arm) -> SearchSpace:
    """What may be tuned of an arm.

    The first loss of all keeps its weight: AdamW hardly minds by how much all are multiplied.
    """
    recipe = arm.recipe
    terms = parse_terms(recipe.kd)
    factors = {"lr": RATE_TIMES}
    first = recipe.objective.terms[0].name
    for term in terms:
        if term.name != first:
            factors[f"{term.name} weight"] = WEIGHT_TIMES
        if term.temperature is not None:
            factors[f"{term.name} temperature"] = TEMPERATURE_TIMES
    return SearchSpace(recipe.lr, terms, factors)
