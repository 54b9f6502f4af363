"""``mmkd demo``: the whole pipeline, offline, on scenes drawn by code."""

import os
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mmkd.cli.console import duration, say, status
from mmkd.cli.options import DEFAULT_WORK, Work

if TYPE_CHECKING:
    from mmkd.cli.demo_workspace import DemoWorkspace

STAGES = 7
# The demo's models are so small that a second thread costs more than it brings, and threads that spin at every
# barrier collapse to 5 pairs/s beside another program; the other core decodes the images.
_THREADS = {"OMP_NUM_THREADS": "1"}
NEVER_SAW_A_PERSON = (
    "this teacher never saw a person: it knows the words of shapes, colours and sizes and takes every "
    "profession for the same unknown word, so what follows shows how the command works and says nothing of bias"
)


def demo(
    pairs: Annotated[int, typer.Option(min=200, help="Training scenes to draw.")] = 4000,
    epochs: Annotated[int, typer.Option(min=1, help="Passes over them.")] = 5,
    seed: Annotated[int, typer.Option(min=0, help="Of the scenes and of both trainings.")] = 0,
    batch_size: Annotated[int, typer.Option(min=2, hidden=True)] = 64,
    lr: Annotated[float, typer.Option(hidden=True)] = 1e-3,
    seen: Annotated[int, typer.Option(min=1, hidden=True)] = 10,
    unseen: Annotated[int, typer.Option(min=1, hidden=True)] = 40,
    teacher: Annotated[Path | None, typer.Option(hidden=True)] = None,
    work: Work = DEFAULT_WORK,
) -> None:
    """Run the whole pipeline offline, in minutes, on scenes drawn by code and a small teacher of them.

    Draws scenes, caches the teacher, distils a half-depth student, trains the same student from scratch, and
    judges all three against chance. Afterwards `mmkd train --kd mse+cos`, `mmkd eval zero-shot` and
    `mmkd eval bias` run in the same workspace as they are.

    \b
    Examples:
      mmkd demo
      mmkd demo --work demo --pairs 8000 --seed 1
    """
    from mmkd.cli.demo_result import read_lines, show_result
    from mmkd.cli.demo_workspace import (
        DemoSettings,
        DemoWorkspace,
        claim,
        copy_teacher,
        draw_scenes,
        write_settings,
    )
    from mmkd.configs import FOLDER

    started = time.monotonic()
    place = DemoWorkspace(work)
    settings = DemoSettings(pairs, epochs, batch_size, lr, seen, unseen, seed)
    record = claim(place, settings)

    _stage(1, "scenes, a teacher of them, and settings with which the commands need no options")
    draw_scenes(place, settings)
    copy_teacher(place, teacher or FOLDER / "demo" / "teacher")
    write_settings(place, settings)
    if work != DEFAULT_WORK:
        status.print(f"\n$ export MMKD_WORK={shlex.quote(str(work))}", style="bold", markup=False)

    _stage(2, "embed every image and caption once with the teacher")
    _mmkd(place, "cache-teacher")
    _stage(3, "distil a student of half the depth from the cache")
    student = _train_student(place, record)
    _stage(4, "the same student from scratch: same pairs, same steps, no teacher")
    _train_scratch(place)
    _stage(5, "name the shapes: teacher and student against chance")
    _mmkd(place, "eval", "zero-shot", *_unless_latest(place, student))
    _stage(6, "the same for the one from scratch")
    _mmkd(place, "eval", "zero-shot", "--model", str(place.scratch))
    _stage(7, "who is associated with which profession")
    say("note", NEVER_SAW_A_PERSON)
    _mmkd(place, "eval", "bias", *_unless_latest(place, student))

    lines = read_lines(student / "zero-shot.json", place.scratch / "zero-shot.json")
    show_result(place, student, lines, duration(time.monotonic() - started))


def _stage(number: int, what: str) -> None:
    status.print(f"\n{number} of {STAGES} · {what}", style="bold cyan", markup=False)


def _mmkd(place: "DemoWorkspace", *arguments: str) -> None:
    """Run one command as a person would, in a process of its own that writes to the same terminal.

    Raises:
        MmkdError: it failed; what it said is on the terminal.
    """
    from mmkd.errors import MmkdError

    line = shlex.join(["mmkd", *arguments])
    status.print(f"$ {line}", style="bold", markup=False, soft_wrap=True)
    environment = {**_THREADS, **os.environ, "MMKD_WORK": str(place.root), "HF_HUB_OFFLINE": "1"}
    # -P: like the mmkd script, and unlike plain -m, this must not import what lies in the current folder.
    done = subprocess.run([sys.executable, "-P", "-m", "mmkd", *arguments], env=environment, check=False)
    if done.returncode:
        raise MmkdError(
            f"the demo stopped at `{line}` (exit code {done.returncode}); it says why above. Once mended, the "
            "same `mmkd demo` goes on from there"
        )


def _train_student(place: "DemoWorkspace", record: dict[str, object]) -> Path:
    """Train the student unless an earlier start of this demo did; its run."""
    from mmkd.files import write_json
    from mmkd.runs import latest_run

    if isinstance(known := record.get("student"), str) and (place.root / known / "student").is_dir():
        say("student", f"{place.root / known} is there already")
        return place.root / known
    _mmkd(place, "train", "--kd", "mse+cos")
    run = latest_run(place.space.runs).folder
    write_json(place.record, {**record, "student": str(run.relative_to(place.root))})
    return run


def _train_scratch(place: "DemoWorkspace") -> None:
    """Train the baseline unless an earlier start of this demo did."""
    if (place.scratch / "student").is_dir():
        say("student", f"{place.scratch} is there already")
        return
    shutil.rmtree(place.scratch, ignore_errors=True)  # cut off half-way by an earlier start
    options = ("--kd", "none", "--task", "clip", "--init", "random")
    _mmkd(place, "train", *options, "--out", str(place.scratch))


def _unless_latest(place: "DemoWorkspace", student: Path) -> list[str]:
    from mmkd.runs import latest_run

    return [] if latest_run(place.space.runs).folder == student else ["--model", str(student)]
