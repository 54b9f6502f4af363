"""What a caching and a training will take, worked out from a few seconds of each."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

PARTS = 5  # of a probe; the quickest and the slowest of them are the range


@dataclass(frozen=True)
class Seconds:
    """A time as it was measured, or what follows from it.

    Attributes:
        mean: over the whole probe.
        low: of its quickest part.
        high: of its slowest part.
    """

    mean: float
    low: float
    high: float

    def __add__(self, other: "Seconds | float") -> "Seconds":
        more = other if isinstance(other, Seconds) else Seconds(other, other, other)
        return Seconds(self.mean + more.mean, self.low + more.low, self.high + more.high)

    def __mul__(self, times: float) -> "Seconds":
        return Seconds(self.mean * times, self.low * times, self.high * times)


NOTHING = Seconds(0.0, 0.0, 0.0)


def measured(stamps: Sequence[tuple[float, int]]) -> Seconds:
    """Seconds a unit, from the moments at which so many units were done.

    Args:
        stamps: (second, units done by then), ascending, at least two; the first is where measuring starts.
    """
    (start, none), (end, all_of_them) = stamps[0], stamps[-1]
    parts = min(PARTS, len(stamps) - 1)
    borders = [round(number * (len(stamps) - 1) / parts) for number in range(parts + 1)]
    each = [
        (stamps[right][0] - stamps[left][0]) / (stamps[right][1] - stamps[left][1])
        for left, right in pairwise(borders)
    ]
    return Seconds((end - start) / (all_of_them - none), min(each), max(each))


@dataclass(frozen=True)
class CachingProbe:
    """What was measured of a caching.

    Attributes:
        row: seconds a row: read, decoded, every view through the teacher.
        caption: seconds a distinct caption of a shard.
        byte: seconds a byte, written and hashed.
        usable: share of the rows that are not masked.
        rows: rows that were embedded to find out.
    """

    row: Seconds
    caption: float
    byte: float
    usable: float
    rows: int


@dataclass(frozen=True)
class TrainingProbe:
    """What was measured of a training.

    Attributes:
        pair: seconds a pair of a step.
        start: seconds until an epoch's first batch is there.
        save: seconds a checkpoint.
        checkpoint: bytes of one.
        student: bytes of the saved student.
        batch: pairs of the steps that were measured.
        steps: how many.
    """

    pair: Seconds
    start: float
    save: float
    checkpoint: int
    student: int
    batch: int
    steps: int


@dataclass(frozen=True)
class Cost:
    """Seconds and bytes of one thing to do."""

    seconds: Seconds
    bytes: int

    def to_json(self) -> dict[str, Any]:
        """As a JSON object."""
        return {"seconds": asdict(self.seconds), "bytes": self.bytes}


def caching_cost(probe: CachingProbe, *, rows: int, captions: int, size: int) -> Cost:
    """Of embedding ``rows`` rows with ``captions`` captions, distinct within their shards, into ``size`` bytes."""
    return Cost(probe.row * rows + probe.caption * captions + probe.byte * size, size)


@dataclass(frozen=True)
class TrainingSize:
    """How long a training is.

    Attributes:
        epochs: passes.
        steps: steps an epoch.
        batch: pairs a step.
        save_every: steps between two checkpoints.
        keep: checkpoints kept.
        neighbours: bytes of the mined negatives.
        refreshes: how often negatives are mined again, each a forward pass over the pairs.
        mining: seconds of one mining; 0 for none.
    """

    epochs: int
    steps: int
    batch: int
    save_every: int
    keep: int
    neighbours: int = 0
    refreshes: int = 0
    mining: float = 0.0

    @property
    def saves(self) -> int:
        """Checkpoints written: one after so many steps, and the last."""
        return math.ceil(self.epochs * self.steps / self.save_every)

    @property
    def pairs(self) -> int:
        """Pairs of all steps."""
        return self.epochs * self.steps * self.batch


FORWARD_SHARE = 1 / 3  # of a step: the backward pass costs twice the forward pass


def training_cost(probe: TrainingProbe, size: TrainingSize) -> Cost:
    """Of a training: its steps, the start of each epoch, checkpoints and mining.

    One checkpoint more than is kept lies on the disk while it is written.
    """
    again = probe.pair * (size.refreshes * size.steps * size.batch * FORWARD_SHARE)
    fixed = size.epochs * probe.start + size.saves * probe.save + (1 + size.refreshes) * size.mining
    kept = min(size.keep + 1, size.saves)
    return Cost(
        probe.pair * size.pairs + again + fixed,
        kept * probe.checkpoint + probe.student + size.neighbours * (1 + size.refreshes),
    )
