"""What a study is to do: arms, seeds, one cache, and what every student is judged by."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from mmkd.study.arms import Arm

TOP_1 = "top-1"
RECALLS = ("image to text R@1", "text to image R@1")


@dataclass(frozen=True)
class Evaluation:
    """What every student is judged by.

    Attributes:
        zero_shot: labelled sets, as ``mmkd eval zero-shot --data`` has them, or ``NAME=SPEC``.
        retrieval: captioned sets, as ``mmkd eval retrieval --data`` has them, or ``NAME=SPEC``.
        templates: file of templates for the labelled sets; ``None``: each set's own.
        limit: images to take of each set, evenly spread; ``None``: all.
        hashes: what each set held when students were judged, by its name.
    """

    zero_shot: tuple[str, ...] = ()
    retrieval: tuple[str, ...] = ()
    templates: str | None = None
    limit: int | None = None
    hashes: Mapping[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        return {**asdict(self), "zero_shot": list(self.zero_shot), "retrieval": list(self.retrieval)}


@dataclass(frozen=True)
class Study:
    """All that a study is told.

    Attributes:
        name: what it is called.
        base: the settings that all arms share.
        arms: those varied, then the baselines.
        seeds: each arm is run with each of them.
        cache: the teacher's cache; one for all.
        evaluation: what every student is judged by.
        rank_by: the metric that ranks, such as ``cifar10/top-1``; ``None``: the first.
        teacher: hub id or folder, where it moved since it was cached, or to make the cache with.
        data: the pairs, where they moved since they were cached, or to make the cache from.
        template: that makes captions of class labels, to make the cache with.
        workers: loader processes of a training.
    """

    name: str
    base: Mapping[str, Any]
    arms: tuple[Arm, ...]
    seeds: tuple[int, ...]
    cache: Path
    evaluation: Evaluation
    rank_by: str | None = None
    teacher: str | None = None
    data: tuple[str, ...] = ()
    template: str | None = None
    workers: int | None = None
    notes: tuple[str, ...] = field(default=())
