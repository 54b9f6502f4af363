"""The options of ``mmkd study``, in the groups that its ``--help`` shows."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from typer import Option


@dataclass(frozen=True)
class DesignOptions:
    """What is compared."""

    kd: Annotated[
        list[str] | None,
        Option(help="An arm with these KD losses; may be given several times. Without a FILE: the arms."),
    ] = None
    set: Annotated[
        list[str] | None,
        Option(
            metavar="NAME=VALUE",
            help="A setting of `mmkd train` for all arms, as epochs=4; beats the file's base. May be given several "
            "times.",
        ),
    ] = None
    seeds: Annotated[
        int | None, Option(help="Runs of each arm, with the seeds 0, 1, 2, ... Default: the file's, or 3.")
    ] = None
    rank_by: Annotated[
        str | None, Option(metavar="METRIC", help="As cifar10/top-1; default: the first that is measured.")
    ] = None


@dataclass(frozen=True)
class StudyDataOptions:
    """What is read."""

    cache: Annotated[
        Path | None, Option(help="The teacher's cache, for every arm; default: the workspace's.")
    ] = None
    data: Annotated[
        list[str] | None,
        Option(
            metavar="SPEC", help="The pairs: where they moved, or to make the cache from, if there is none."
        ),
    ] = None
    teacher: Annotated[
        str | None, Option(help="The teacher: where it moved, or to make the cache with, if there is none.")
    ] = None
    template: Annotated[
        str | None, Option(help="Makes captions of class labels, to make the cache with.")
    ] = None


@dataclass(frozen=True)
class JudgeOptions:
    """What every student is judged by."""

    eval_data: Annotated[
        list[str] | None,
        Option(
            metavar="SPEC",
            help="Labelled set, as `mmkd eval zero-shot --data` has it, or NAME=SPEC. May be given several times. "
            "Default: the file's, or cifar10, cifar100 and stl10.",
        ),
    ] = None
    retrieval_data: Annotated[
        list[str] | None,
        Option(metavar="SPEC", help="Captioned set, as `mmkd eval retrieval --data` has it, or NAME=SPEC."),
    ] = None
    templates: Annotated[
        Path | None, Option(metavar="FILE", help="Templates for the labelled sets, one a line.")
    ] = None
    eval_limit: Annotated[int | None, Option(min=2, help="Images to take of each set; default: all.")] = None


@dataclass(frozen=True)
class HowOptions:
    """How it is run."""

    out: Annotated[
        Path | None,
        Option(help="The study's folder; default: studies/<name> in --work. Given again, it goes on."),
    ] = None
    jobs: Annotated[
        int, Option(min=1, help="Runs at a time, each in a process of its own, cards in turn.")
    ] = 1
    launch: Annotated[
        Path | None,
        Option(metavar="FILE", help="Train each run by `accelerate launch --config_file FILE` instead."),
    ] = None
    workers: Annotated[int | None, Option(min=0, help="Loader processes of a training.")] = None
    halving: Annotated[
        bool,
        Option(
            "--halving",
            help="Train all arms for a quarter of the epochs and the better half for a half, and only what is left to "
            "the end; judged on pairs held out of training.",
        ),
    ] = False
    search: Annotated[
        int,
        Option(
            min=0,
            metavar="N",
            help="First tune weights, temperatures and learning rate of each arm in N trials (Optuna), judged on pairs "
            "held out of training.",
        ),
    ] = 0
