"""The sum of losses that a training minimises, written as an expression: ``triplet + 2000*mse + affinity@0.05``."""

import difflib
import re
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from mmkd.embeddings import Embeddings
from mmkd.errors import ConfigError
from mmkd.losses import kd, task
from mmkd.losses.negatives import Negatives


@dataclass(frozen=True)
class KdLoss:
    """A line of the menu: the function, and the weight and temperature that a bare name means."""

    function: Callable[..., Tensor]
    weight: float = 1.0
    temperature: float | None = None


@dataclass(frozen=True)
class TaskLoss:
    """A task loss: the function, and whether it learns the logit scale."""

    function: Callable[..., Tensor]
    uses_logit_scale: bool = False


# `mmkd train --help` says a line about each; a test holds the two together.
KD_LOSSES = {
    "mse": KdLoss(kd.mse, weight=2000.0),  # CLIP-KD's
    "cos": KdLoss(kd.cos),
    "l1": KdLoss(kd.l1, weight=10.0),
    "affinity": KdLoss(kd.affinity, temperature=0.05),
}
TASK_LOSSES = {
    "triplet": TaskLoss(task.triplet),
    "clip": TaskLoss(task.clip, uses_logit_scale=True),
}

_TERM = re.compile(
    r"(?:(?P<weight>\d+(?:\.\d*)?(?:e[+-]?\d+)?|\.\d+)\s*\*\s*)?"
    r"(?P<name>[a-z][a-z0-9-]*)(?:\s*@\s*(?P<temperature>\d+(?:\.\d*)?|\.\d+))?"
)


@dataclass(frozen=True)
class Term:
    """One loss of an objective with its weight and, where it has one, its temperature."""

    name: str
    weight: float
    temperature: float | None


@dataclass(frozen=True)
class LossReport:
    """What one step's losses came to.

    Attributes:
        total: scalar with a gradient: the weighted sum.
        terms: each term's scalar, unweighted and without gradient.
    """

    total: Tensor
    terms: dict[str, Tensor]


class Objective:
    """A weighted sum of task and KD losses.

    Args:
        expression: terms joined by ``+``, each ``[weight*]name[@temperature]``; ``none`` stands for no term.

    Raises:
        ConfigError: an unknown or repeated term, a temperature where there is none, or no term at all.
    """

    def __init__(self, expression: str) -> None:
        self.expression = expression
        self.terms = parse_terms(expression)
        if not self.terms:
            raise ConfigError(f"{expression!r} leaves nothing to learn; name a --task or a --kd loss")

    @property
    def needs_teacher(self) -> bool:
        """Whether any term compares with the teacher."""
        return any(term.name in KD_LOSSES for term in self.terms)

    @property
    def uses_logit_scale(self) -> bool:
        """Whether any term has a gradient for the student's logit scale."""
        return any(
            term.name in TASK_LOSSES and TASK_LOSSES[term.name].uses_logit_scale for term in self.terms
        )

    def describe(self) -> str:
        """The terms with every weight and temperature written out."""
        return " + ".join(
            f"{term.weight:g}*{term.name}" + (f"@{term.temperature:g}" if term.temperature else "")
            for term in self.terms
        )

    def __call__(
        self,
        student: Embeddings,
        teacher: Embeddings | None,
        negatives: Negatives,
        logit_scale: Tensor,
    ) -> LossReport:
        """Losses of one (global) batch.

        Args:
            student: (B, D).
            teacher: (B, D) of the same rows; ``None`` only where no term needs it.
            negatives: which pairs of the batch may be each other's negatives.
            logit_scale: scalar, already exponentiated.
        """
        total = torch.zeros((), device=student.image.device)
        terms: dict[str, Tensor] = {}
        for term in self.terms:
            if term.name in TASK_LOSSES:
                entry = TASK_LOSSES[term.name]
                scale = {"logit_scale": logit_scale} if entry.uses_logit_scale else {}
                value = entry.function(student, negatives, **scale)
            else:
                options = {} if term.temperature is None else {"temperature": term.temperature}
                value = KD_LOSSES[term.name].function(student, teacher, **options)
            terms[term.name] = value.detach()
            total = total + term.weight * value
        return LossReport(total, terms)


def parse_terms(expression: str, *, option: str = "--kd") -> tuple[Term, ...]:
    """Read ``2000*mse + cos + affinity@0.05``.

    Raises:
        ConfigError: it cannot be read; the message names the menu and the nearest known loss.
    """
    if expression.strip() == "none":
        return ()
    terms: list[Term] = []
    for part in expression.split("+"):
        term = _parse_term(part.strip(), expression, option)
        if term is None:
            continue
        if any(other.name == term.name for other in terms):
            raise ConfigError(f"{term.name!r} stands twice in {option} {expression!r}; give each loss once")
        terms.append(term)
    return tuple(terms)


def _parse_term(part: str, expression: str, option: str) -> Term | None:
    match = _TERM.fullmatch(part)
    if match is None:
        raise ConfigError(
            f"cannot read {part!r} in {option} {expression!r}; expected [weight*]name[@temperature] joined by '+', "
            "such as '2000*mse + cos + affinity@0.05'"
        )
    name = match["name"]
    if name == "none":
        return None
    known = {**TASK_LOSSES, **KD_LOSSES}
    if name not in known:
        nearest = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
        hint = f"; did you mean {nearest[0]!r}?" if nearest else "."
        raise ConfigError(
            f"unknown loss {name!r} in {option} {expression!r}{hint} "
            f"The menu: {', '.join(KD_LOSSES)} (mmkd train --help)"
        )
    entry = KD_LOSSES.get(name)
    temperature = None if entry is None else entry.temperature
    if match["temperature"]:
        if temperature is None:
            raise ConfigError(f"{name!r} in {option} {expression!r} has no temperature; leave out '@'")
        temperature = float(match["temperature"])
        if temperature <= 0:
            raise ConfigError(f"temperature {temperature:g} of {name!r} in {option} is not above 0")
    weight = float(match["weight"]) if match["weight"] else (entry.weight if entry else 1.0)
    return Term(name, weight, temperature)
