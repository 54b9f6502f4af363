"""Successive halving: arms that are hopeless after a part of the training are not trained to its end."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from mmkd.errors import ConfigError

PARTS = (4, 2)  # a quarter of the epochs, then a half; those that are left are trained to the end
FEWEST = 3  # arms that there is anything to halve among


@dataclass(frozen=True)
class Rung:
    """A shorter training that all arms still in the race are given.

    Attributes:
        epochs: passes over the pairs; the schedule ends there, too, so that arms are compared at their best.
        keeps: how many arms go on.
    """

    epochs: int
    keeps: int


def rungs(arms: int, epochs: int) -> tuple[Rung, ...]:
    """The shorter trainings before the whole one; each keeps the better half.

    Args:
        arms: that start.
        epochs: of the whole training.

    Raises:
        ConfigError: too few arms or epochs for it to save anything.

    Source: Karnin, Koren and Somekh, ICML 2013; for training, Jamieson and Talwalkar, AISTATS 2016.
    """
    if arms < FEWEST:
        raise ConfigError(
            f"--halving drops the worse half, and the study has {arms} arms; expected {FEWEST} or more"
        )
    if epochs < PARTS[0]:
        raise ConfigError(
            f"--halving begins with a quarter of the epochs, and these are {epochs}; expected {PARTS[0]} or more"
        )
    found, left = [], arms
    for part in PARTS:
        left = math.ceil(left / 2)
        found.append(Rung(epochs // part, left))
        if left == 1:
            break
    return tuple(found)


def survivors(scores: Sequence[float], keeps: int) -> list[int]:
    """Places of the ``keeps`` highest scores, in their own order; arms as good as the last kept are kept, too."""
    bar = sorted(scores, reverse=True)[keeps - 1]
    return [place for place, score in enumerate(scores) if score >= bar]
