"""What `mmkd plan` says beside what then happens: seconds of both, and their ratio.

    python benchmarks/plan.py
    python benchmarks/plan.py --pairs 8000 --epochs 10 --repeats 3

On the demo's scenes and its teacher. Plan, caching, training, and training with the teacher in the loop follow each
other at once, since what else the machine does disturbs all of them. Times of the real runs are from the first batch to
the last, mining and checkpoints included, as the plan's are; the start of a program is in neither.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

PLANNED = {"caching": ("caching",), "cached": ("training", "cached"), "in_loop": ("training", "in_loop")}


def timed(function: Callable[..., Any], seconds: list[float]) -> Callable[..., Any]:
    """The same function, each call's seconds noted."""

    @wraps(function)
    def call(*values: Any, **named: Any) -> Any:
        start = time.perf_counter()
        found = function(*values, **named)
        seconds.append(time.perf_counter() - start)
        return found

    return call


def run_timed(what: str, file: Path, command: list[str]) -> None:
    """Run a command in this process with a clock around its work, and write the seconds."""
    from mmkd.cache import build
    from mmkd.cli import app, plan_probe, training_inputs, training_loop
    from mmkd.encoders import load_encoder

    seconds: list[float] = []
    changeable: Any = build, training_loop, training_inputs.Inputs, training_loop.TrainingLoop
    building, loop, inputs, steps = changeable
    building.run_build = timed(building.run_build, seconds)
    loop.fit = timed(loop.fit, seconds)
    if what == "in_loop":
        encoder = load_encoder(os.environ["MMKD_PLAN_TEACHER"])
        stream = steps.stream
        steps.stream = lambda self, *rest: plan_probe.Clocked(stream(self, *rest), encoder)
    else:
        inputs.mine = timed(inputs.mine, seconds)
    try:
        app.run(command)
    finally:
        file.write_text(json.dumps(seconds), encoding="utf-8")


def in_process(work: Path, what: str, command: list[str], *, teacher: Path) -> float:
    """Seconds of a command's work, in a process of its own."""
    file = work / "seconds.json"
    arguments = [sys.executable, __file__, "--inside", what, str(file), *command]
    environment = {**os.environ, "MMKD_PLAN_TEACHER": str(teacher)}
    subprocess.run(arguments, check=True, env=environment, stderr=subprocess.DEVNULL)
    return float(sum(json.loads(file.read_text(encoding="utf-8"))))


def compare(folder: Path, pairs: int, epochs: int, seconds: float) -> dict[str, Any]:
    """Plan, then do it."""
    from mmkd.cache.manifest import read_manifest
    from mmkd.cli.demo_workspace import (
        DemoSettings,
        DemoWorkspace,
        claim,
        copy_teacher,
        draw_scenes,
        write_settings,
    )
    from mmkd.configs import FOLDER

    work, settings = folder / "work", DemoSettings(pairs, epochs, 64, 1e-3, 10, 10, 0)
    place = DemoWorkspace(work)
    claim(place, settings)
    draw_scenes(place, settings)
    copy_teacher(place, FOLDER / "demo" / "teacher")
    write_settings(place, settings)
    said = work / "plan.json"
    plan = ["plan", "--work", str(work), "--seconds", str(seconds), "--json", str(said)]
    subprocess.run([sys.executable, "-m", "mmkd", *plan], check=True, stderr=subprocess.DEVNULL)
    train = ["train", "--work", str(work), "--out"]
    run = {"teacher": place.teacher}
    happened = {
        "caching": in_process(work, "caching", ["cache-teacher", "--work", str(work)], **run),
        "cached": in_process(work, "cached", [*train, str(folder / "run")], **run),
        "in_loop": in_process(work, "in_loop", [*train, str(folder / "loop")], **run),
    }
    planned = json.loads(said.read_text(encoding="utf-8"))
    return {
        "planned": planned,
        "happened": happened,
        "bytes": (planned["caching"]["bytes"], read_manifest(work / "cache").bytes),
    }


def main() -> None:
    """Repeat, and print a line for each of the three."""
    if sys.argv[1:2] == ["--inside"]:
        run_timed(sys.argv[2], Path(sys.argv[3]), sys.argv[4:])
        return
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pairs", type=int, default=4000)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=15)
    parser.add_argument("--repeats", type=int, default=1)
    options = parser.parse_args()
    for turn in range(options.repeats):
        with tempfile.TemporaryDirectory() as name:
            found = compare(Path(name), options.pairs, options.epochs, options.seconds)
        for what, path in PLANNED.items():
            said = found["planned"]
            for key in path:
                said = said[key]
            planned, real = said["seconds"], found["happened"][what]
            print(
                f"turn {turn}: {what:<8} planned {planned['mean']:6.1f} s ({planned['low']:.1f} to "
                f"{planned['high']:.1f}), took {real:6.1f} s: {real / planned['mean']:.2f} times as long",
                flush=True,
            )
        print(f"turn {turn}: bytes planned {found['bytes'][0]:,}, written {found['bytes'][1]:,}", flush=True)


if __name__ == "__main__":
    main()
