"""The sum of losses that a training minimises, written as an expression: ``triplet + 2000*mse + affinity@0.05``."""

import difflib
import inspect
import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from mmkd.embeddings import Embeddings
from mmkd.errors import ConfigError
from mmkd.losses import features, relations, task
from mmkd.losses.negatives import Bank, Negatives


@dataclass(frozen=True)
class Loss:
    """A line of the menu.

    Attributes:
        function: its parameters say what it needs: student, teacher, negatives, bank, logit_scale, logit_bias, choice,
            margin, temperature.
        weight: what a bare name means.
        temperature: what a bare name means; ``None`` where there is none.
        crosses: whether it compares images with texts.
        needs: the names of the function's parameters.
    """

    function: Callable[..., Tensor]
    weight: float = 1.0
    temperature: float | None = None
    crosses: bool = False
    needs: frozenset[str] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "needs", frozenset(inspect.signature(self.function).parameters))


# `mmkd train --help` says a line about each; a test holds the two together.
KD_LOSSES = {
    "mse": Loss(features.mse, weight=2000.0),  # CLIP-KD's
    "cos": Loss(features.cos),
    "l1": Loss(features.l1, weight=100.0),
    "huber": Loss(features.huber, weight=4000.0),  # where differences are small, half of mse
    "kl": Loss(features.kl, temperature=0.05),
    "nst": Loss(features.nst, weight=50.0),  # its paper's
    "mse-raw": Loss(features.mse_raw, weight=10.0),
    "affinity": Loss(relations.affinity, temperature=0.05, crosses=True),
    "crd": Loss(relations.crd, temperature=0.01, crosses=True),
    "icl": Loss(relations.icl, crosses=True),
    "gd": Loss(relations.gd, weight=0.01, temperature=0.05, crosses=True),
    "rkd": Loss(relations.rkd, weight=25.0),
}
TASK_LOSSES = {
    "triplet": Loss(task.triplet, crosses=True),
    "clip": Loss(task.clip, crosses=True),
    "siglip": Loss(task.siglip, crosses=True),
    "soft-clip": Loss(task.soft_clip, temperature=0.05, crosses=True),
}
LOSSES = {**TASK_LOSSES, **KD_LOSSES}
_MENUS = {"--task": TASK_LOSSES, "--kd": KD_LOSSES}
_KINDS = {"--task": "a task loss", "--kd": "a KD loss"}

_LONGEST = 1000  # characters of an expression
_TERM = re.compile(
    r"(?:(?P<weight>-?\d+(?:\.\d*)?(?:e[+-]?\d+)?|-?\.\d+)\s*\*\s*)?"
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
        negatives: which negative the triplet loss takes: ``semi-hard``, ``hard`` or ``random``.
        margin: of the triplet loss, in cosine distance.

    Raises:
        ConfigError: an unknown or repeated term, a negative weight, a temperature where there is none, no term at all,
            or an unknown choice of negatives.
    """

    def __init__(self, expression: str, *, negatives: str = "semi-hard", margin: float = 0.2) -> None:
        self.expression = expression
        self.terms = parse_terms(expression)
        if not self.terms:
            raise ConfigError(f"{expression!r} leaves nothing to learn; name a --task or a --kd loss")
        check_triplet(negatives, margin)
        self.negatives, self.margin = negatives, margin

    def _need(self, name: str) -> bool:
        return any(name in LOSSES[term.name].needs for term in self.terms)

    @property
    def needs_teacher(self) -> bool:
        """Whether any term compares with the teacher."""
        return self._need("teacher")

    @property
    def uses_logit_scale(self) -> bool:
        """Whether any term has a gradient for the student's logit scale."""
        return self._need("logit_scale")

    @property
    def uses_logit_bias(self) -> bool:
        """Whether any term has a gradient for the student's logit bias."""
        return self._need("logit_bias")

    @property
    def uses_bank(self) -> bool:
        """Whether any term scores the student against a bank, where there is one."""
        return self._need("bank")

    @property
    def crossing(self) -> tuple[str, ...]:
        """The terms that compare images with texts."""
        return tuple(term.name for term in self.terms if LOSSES[term.name].crosses)

    @property
    def crosses(self) -> bool:
        """Whether any term compares images with texts."""
        return bool(self.crossing)

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
        logit_bias: Tensor,
        bank: Bank | None = None,
    ) -> LossReport:
        """Losses of one (global) batch.

        Args:
            student: (B, D).
            teacher: (B, D) of the same rows; ``None`` only where no term needs it.
            negatives: who may be whose negative, in the batch and in the bank.
            logit_scale: scalar, already exponentiated.
            logit_bias: scalar.
            bank: (N, D) the teacher's embeddings of other rows; the one that the negatives were selected with.
        """
        if bank is not negatives.bank:
            raise ValueError("found negatives of another bank; expected those selected with this one")
        given = {
            "student": student,
            "teacher": teacher,
            "negatives": negatives,
            "logit_scale": logit_scale,
            "logit_bias": logit_bias,
            "bank": bank,
            "choice": self.negatives,
            "margin": self.margin,
        }
        total = torch.zeros((), device=student.image.device)
        terms: dict[str, Tensor] = {}
        for term in self.terms:
            loss = LOSSES[term.name]
            value = loss.function(
                **{name: given[name] for name in loss.needs & given.keys()},
                **({} if term.temperature is None else {"temperature": term.temperature}),
            )
            terms[term.name] = value.detach()
            total = total + term.weight * value
        return LossReport(total, terms)


def check_triplet(negatives: str, margin: float) -> None:
    """Refuse what the triplet loss cannot be told.

    Raises:
        ConfigError: an unknown choice of negatives, or a margin below 0.
    """
    if negatives not in task.NEGATIVES:
        raise ConfigError(f"--negatives {negatives} is unknown; expected one of {', '.join(task.NEGATIVES)}")
    if margin < 0:
        raise ConfigError(f"--margin {margin:g} is below 0; expected a cosine distance, such as 0.2")


def parse_terms(expression: str, *, option: str | None = None) -> tuple[Term, ...]:
    """Read ``2000*mse + cos + affinity@0.05``.

    Args:
        expression: as it was typed.
        option: ``--kd`` or ``--task``, which have a menu each; ``None``: both menus.

    Raises:
        ConfigError: it cannot be read; the message names the menu and the nearest known loss.
    """
    if expression.strip() == "none":
        return ()
    if len(expression) > _LONGEST:
        raise ConfigError(
            f"{option or 'a sum of losses'} of {len(expression):,} characters; expected at most {_LONGEST}"
        )
    where = f"{option} {expression!r}" if option else repr(expression)
    terms: list[Term] = []
    for part in re.split(r"(?<![\d.]e)\+", expression):  # the + of 1e+3 joins nothing
        term = _parse_term(part.strip(), where, option)
        if term is None:
            continue
        if any(other.name == term.name for other in terms):
            raise ConfigError(f"{term.name!r} stands twice in {where}; give each loss once")
        terms.append(term)
    return tuple(terms)


def _parse_term(part: str, where: str, option: str | None) -> Term | None:
    match = _TERM.fullmatch(part)
    if match is None:
        raise ConfigError(
            f"cannot read {part!r} in {where}; expected [weight*]name[@temperature] joined by '+', "
            "such as '2000*mse + cos + affinity@0.05'"
        )
    name = match["name"]
    if name == "none":
        return None
    loss = _find(name, where, option)
    weight = float(match["weight"]) if match["weight"] else loss.weight
    if weight < 0:
        raise ConfigError(
            f"weight {weight:g} of {name!r} in {where} is negative, which would drive the student away from what the "
            "loss asks for; expected 0 or more"
        )
    if not math.isfinite(weight):
        raise ConfigError(f"weight {match['weight']} of {name!r} in {where} is not finite")
    if not match["temperature"]:
        return Term(name, weight, loss.temperature)
    if loss.temperature is None:
        raise ConfigError(f"{name!r} in {where} has no temperature; leave out '@'")
    temperature = float(match["temperature"])
    if temperature <= 0:
        raise ConfigError(f"temperature {temperature:g} of {name!r} in {where} is not above 0")
    if not math.isfinite(temperature):
        raise ConfigError(f"temperature {match['temperature']} of {name!r} in {where} is not finite")
    return Term(name, weight, temperature)


def _find(name: str, where: str, option: str | None) -> Loss:
    menu = LOSSES if option is None else _MENUS[option]
    if name in menu:
        return menu[name]
    for other, entries in _MENUS.items():
        if name in entries:
            raise ConfigError(f"{name!r} in {where} is {_KINDS[other]}; give it to {other}")
    nearest = difflib.get_close_matches(name, menu, n=1, cutoff=0.5)
    hint = f"; did you mean {nearest[0]!r}?" if nearest else "."
    raise ConfigError(
        f"unknown loss {name!r} in {where}{hint} The menu: {', '.join(menu)} (mmkd train --help)"
    )
