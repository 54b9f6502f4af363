"""What one run of a study came to: its scores, its answers to every image, its time and energy."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmkd.errors import MmkdError
from mmkd.files import atomic_file, write_json
from mmkd.parse import read_json

SCHEMA = "mmkd.study-run"
SCHEMA_VERSION = 1
RESULT_FILE, ANSWERS_FILE, COST_FILE = "judged.json", "answers.safetensors", "cost.json"


@dataclass(frozen=True, slots=True)
class RunScore:
    """One metric of one run; numbers are shares of 1.

    Attributes:
        value: the student's score.
        chance: what a guesser reaches without looking.
        teacher: the teacher's score on the same images.
        retention: the student's score over chance, as a share of the teacher's; ``None`` where that is at chance.
        at_chance: whether the student cannot be told from guessing.
    """

    value: float
    chance: float
    teacher: float
    retention: float | None
    at_chance: bool


@dataclass(frozen=True, slots=True)
class Cost:
    """What a training took.

    Attributes:
        seconds: wall-clock of the training command; ``None`` where it was interrupted and went on later.
        joules: of the whole machine in that time; ``None`` where it is not known.
    """

    seconds: float | None
    joules: float | None


@dataclass(frozen=True)
class RunResult:
    """One run.

    Attributes:
        seed: its seed.
        folder: where it lies.
        scores: by metric, ``cifar10/top-1``.
        collapsed: sets on which an encoder is called collapsed, with why.
        answers: bool (N,) a labelled set, by its name: which images were answered rightly.
        cost: of its training; ``None`` for a student that was never trained.
    """

    seed: int
    folder: Path
    scores: Mapping[str, RunScore]
    collapsed: Mapping[str, str]
    answers: Mapping[str, NDArray[np.bool_]]
    cost: Cost | None = None


def write_result(
    folder: Path,
    evaluation: Mapping[str, Any],
    scores: Mapping[str, RunScore],
    collapsed: Mapping[str, str],
    answers: Mapping[str, NDArray[np.bool_]],
) -> None:
    """Write what a run came to into its folder, the answers first."""
    from safetensors.numpy import save_file

    with atomic_file(folder / ANSWERS_FILE) as temporary:
        save_file({name: right.astype(np.uint8) for name, right in answers.items()}, temporary)
    write_json(
        folder / RESULT_FILE,
        {
            "schema": SCHEMA,
            "schema_version": SCHEMA_VERSION,
            "evaluation": dict(evaluation),
            "scores": [{"metric": name, **asdict(score)} for name, score in scores.items()],
            "collapsed": dict(collapsed),
        },
    )


def is_judged(folder: Path, evaluation: Mapping[str, Any]) -> bool:
    """Whether a run has been judged by this very evaluation."""
    if not ((folder / RESULT_FILE).is_file() and (folder / ANSWERS_FILE).is_file()):
        return False
    record = read_json(folder / RESULT_FILE)
    return record.get("schema_version") == SCHEMA_VERSION and record.get("evaluation") == dict(evaluation)


def read_result(folder: Path, seed: int) -> RunResult:
    """Read what a run came to.

    Raises:
        MmkdError: it has not been judged, or the files do not fit together.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    record = read_json(folder / RESULT_FILE)
    try:
        scores = {values.pop("metric"): RunScore(**values) for values in record["scores"]}
        answers = {name: right.astype(np.bool_) for name, right in load_file(folder / ANSWERS_FILE).items()}
        collapsed = {str(name): str(why) for name, why in record["collapsed"].items()}
    except (KeyError, TypeError, AttributeError, OSError, SafetensorError) as error:
        raise MmkdError(
            f"{folder} holds no results that can be read ({error}); delete its {RESULT_FILE} and run the study again"
        ) from error
    return RunResult(seed, folder, scores, collapsed, answers, read_cost(folder))


def write_cost(folder: Path, cost: Cost) -> None:
    """Keep what a training took with its run."""
    write_json(folder / COST_FILE, asdict(cost))


def read_cost(folder: Path) -> Cost | None:
    """What a training took, if that is known."""
    if not (folder / COST_FILE).is_file():
        return None
    values = read_json(folder / COST_FILE)
    return Cost(values.get("seconds"), values.get("joules"))
