"""One run of a study, in a process that does nothing else: train it, or go on with it, and judge it."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmkd.study.design import Evaluation

if TYPE_CHECKING:
    from multiprocessing.queues import Queue

    from mmkd.evaluation.captioned import RetrievalTask
    from mmkd.evaluation.zero_shot_task import ZeroShotTask

INTERRUPTED = 130


@dataclass(frozen=True)
class Order:
    """A run to be made.

    Attributes:
        title: what to call it: arm and seed.
        seed: its seed.
        config: YAML of ``mmkd train``, all but seed and folder.
        folder: the run's folder.
        log: receives what training and evaluation say.
        study: the study's folder, where evaluations keep embeddings.
        evaluation: what the student is judged by; ``None``: it is only trained.
        trains: False for a student that is only put together from the teacher's layers.
        launch: Accelerate's launch file; ``None``: in this process.
        meters_energy: whether nothing else of the study runs at the same time.
        options: further words of ``mmkd train``.
    """

    title: str
    seed: int
    config: Path
    folder: Path
    log: Path
    study: Path
    evaluation: Evaluation | None
    trains: bool = True
    launch: Path | None = None
    meters_energy: bool = True
    options: tuple[str, ...] = ()


@dataclass(frozen=True)
class Outcome:
    """What became of an order; ``failure`` says in one line what went wrong."""

    order: Order
    failure: str | None = None
    interrupted: bool = False


def start_worker(devices: "Queue[str | None]") -> None:
    """Settle this process on its device, before a card is looked for."""
    from mmkd.cli.quiet import hush

    hush()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # ^C concerns a run, not a process that waits for one
    if (device := devices.get()) is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = device


def is_done(order: Order) -> bool:
    """Whether an earlier start left nothing to do."""
    from mmkd.runs import read_run
    from mmkd.study.results import is_judged

    if not (order.folder / "run.json").is_file() or not read_run(order.folder).finished:
        return False
    return order.evaluation is None or is_judged(order.folder, order.evaluation.to_json())


def carry_out(order: Order) -> Outcome:
    """Train and judge; what was done by an earlier start is not done again."""
    order.log.parent.mkdir(parents=True, exist_ok=True)
    earlier = order.log.stat().st_size if order.log.is_file() else 0
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with order.log.open("a", encoding="utf-8") as log:
            code = _make(order, log)
            log.flush()
            if code:
                return Outcome(order, _last_words(order.log, earlier), code == INTERRUPTED)
            if order.evaluation is not None:
                with contextlib.redirect_stdout(log), contextlib.redirect_stderr(log):
                    _judge(order.folder, order.study, order.evaluation)
    except KeyboardInterrupt:
        return Outcome(order, "interrupted", interrupted=True)
    except Exception as error:
        from mmkd.errors import first_line

        return Outcome(order, first_line(error))
    finally:
        signal.signal(signal.SIGINT, before)
    return Outcome(order)


def _make(order: Order, log: Any) -> int:
    """The student, unless it is there; the exit code."""
    from mmkd.runs import read_run

    known = (order.folder / "run.json").is_file()
    if known and read_run(order.folder).finished:
        return 0
    if not order.trains:
        shutil.rmtree(order.folder, ignore_errors=True)  # cut off half-way by an earlier start
        with contextlib.redirect_stdout(log), contextlib.redirect_stderr(log):
            from mmkd.cli.study_untrained import save_untrained

            save_untrained(order.config, order.seed, order.folder)
        return 0
    resumes = known and (order.folder / "config.yaml").is_file()
    if not resumes:
        shutil.rmtree(order.folder, ignore_errors=True)
    words = ["train", "--config", str(order.config), "--seed", str(order.seed), "--out", str(order.folder)]
    words = ["train", "--resume", "--out", str(order.folder)] if resumes else [*words, *order.options]
    code = _train(order, words, log, resumes=resumes)
    if not code:
        shutil.rmtree(order.folder / "checkpoints", ignore_errors=True)
    return code


def _train(order: Order, words: Sequence[str], log: Any, *, resumes: bool) -> int:
    from mmkd.study.energy import EnergyMeter
    from mmkd.study.results import Cost, write_cost

    words = [*words, "--work", str(order.study)]
    started, meter = time.monotonic(), EnergyMeter()
    code = _here(words, log) if order.launch is None else _launched(order.launch, words, log)
    if not code:
        joules = meter.joules() if order.meters_energy and not resumes else None
        write_cost(order.folder, Cost(None if resumes else time.monotonic() - started, joules))
    return code


def _here(words: Sequence[str], log: Any) -> int:
    """Run a command in this process, as the script does; its run records these words as its command."""
    from accelerate.state import AcceleratorState

    from mmkd.cli.app import run

    AcceleratorState._reset_state(reset_partial_state=True)
    before, sys.argv = sys.argv, ["mmkd", *words]
    try:
        with contextlib.redirect_stdout(log), contextlib.redirect_stderr(log):
            run(list(words))
    except SystemExit as end:
        return int(end.code or 0)
    finally:
        sys.argv = before
    return 0


def _launched(launch: Path, words: Sequence[str], log: Any) -> int:
    """Run a command under ``accelerate launch``."""
    command = [sys.executable, "-P", "-m", "accelerate.commands.launch", "--config_file", str(launch), "-m"]
    done = subprocess.run([*command, "mmkd", *words], stdout=log, stderr=log, check=False)
    return INTERRUPTED if done.returncode in {-2, INTERRUPTED} else done.returncode


def _last_words(log: Path, earlier: int) -> str:
    """The error of a command that failed, as it stands in the log after what earlier starts wrote."""
    lines = log.read_bytes()[earlier:].decode("utf-8", errors="replace").splitlines()
    said = [line for line in lines if line.startswith("mmkd") and ": " in line]
    return said[-1].partition(": ")[2] if said else f"failed without a word; see {log}"


def open_tasks(evaluation: Evaluation) -> "tuple[list[ZeroShotTask], list[RetrievalTask]]":
    """Open what students are judged by.

    Raises:
        MmkdError: a set cannot be opened, or two have one name.
    """
    from dataclasses import replace

    from mmkd.errors import ConfigError
    from mmkd.evaluation.builtin_sets import builtin_sets
    from mmkd.evaluation.captioned import builtin_captions, open_captioned
    from mmkd.evaluation.tasks import open_task, read_templates

    templates = read_templates(Path(evaluation.templates)) if evaluation.templates else None
    labelled = []
    for spec in evaluation.zero_shot:
        name, rest = _named(spec, builtin_sets())
        task = open_task(rest, templates)
        labelled.append(task if name is None else replace(task, name=name))
    captioned = []
    for spec in evaluation.retrieval:
        name, rest = _named(spec, builtin_captions())
        found = open_captioned(rest)
        captioned.append(found if name is None else replace(found, name=name))
    names = [*(task.name for task in labelled), *(one.name for one in captioned)]
    if repeated := [name for name in names if names.count(name) > 1]:
        raise ConfigError(
            f"two of the sets to be judged by are called {repeated[0]!r}; name them apart: NAME=SPEC"
        )
    return labelled, captioned


def _named(spec: str, builtin: Any) -> tuple[str | None, str]:
    """``NAME=SPEC`` where the name is no built-in's, which has a meaning of its own."""
    name, given, rest = spec.partition("=")
    if not given or name in builtin or Path(spec).exists() or "/" in name:
        return None, spec
    return name, rest


def _judge(folder: Path, study: Path, evaluation: Evaluation) -> None:
    from mmkd.study.results import is_judged

    if is_judged(folder, evaluation.to_json()):
        return
    from mmkd.cli.eval_retrieval import REPORT as RETRIEVAL_REPORT
    from mmkd.cli.eval_retrieval import run_retrieval, save_retrieval
    from mmkd.cli.eval_zero_shot import REPORT as ZERO_SHOT_REPORT
    from mmkd.cli.eval_zero_shot import run_zero_shot, save_zero_shot
    from mmkd.cli.models import find_students, find_teacher
    from mmkd.evaluation.embedded import KeptEmbeddings
    from mmkd.study.results import RunScore, write_result

    students = find_students([str(folder)], folder.parent)
    teacher = find_teacher(None, students)
    assert teacher is not None  # the cache has one
    labelled, captioned = open_tasks(evaluation)
    kept = KeptEmbeddings(study / "embeddings")
    settings: dict[str, Any] = {"batch_size": 256, "limit": evaluation.limit, "kept": kept}
    scores, collapsed, answers = {}, {}, {}

    def take(name: str, models: Any, metrics: Sequence[str]) -> None:
        from mmkd.evaluation.statistics import retention

        for metric in metrics:
            own, its = models["student"].scores[metric], models["teacher"].scores[metric]
            kept_of_it = retention(own, its)
            scores[f"{name}/{metric}"] = RunScore(own.value, own.chance, its.value, kept_of_it, own.at_chance)
        if models["student"].collapsed is not None:
            collapsed[name] = models["student"].collapsed

    if labelled:
        report = run_zero_shot([teacher, *students], labelled, **settings)
        save_zero_shot(report, folder / ZERO_SHOT_REPORT, students)
        for one in report.sets:
            take(one.task.name, one.models, list(one.models["student"].scores))
            answers[one.task.name] = one.models["student"].right
    if captioned:
        found = run_retrieval([teacher, *students], captioned, **settings)
        save_retrieval(found, captioned, folder / RETRIEVAL_REPORT, students)
        for each in found.sets:
            take(each.name, each.models, list(each.models["student"].scores))
    write_result(folder, evaluation.to_json(), scores, collapsed, answers)
