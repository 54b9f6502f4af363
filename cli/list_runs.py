"""``mmkd runs``: the workspace's runs, how far each is and what it scored."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mmkd.cli.console import console, duration, printable, say
from mmkd.cli.options import DEFAULT_WORK, Work
from mmkd.cli.tables import align
from mmkd.cli.workspace import Workspace

if TYPE_CHECKING:
    from mmkd.report.evaluations import Judged

SCHEMA, SCHEMA_VERSION = "mmkd.runs", 1
_TAIL = 64 << 10  # bytes of metrics.jsonl that surely hold its last line


@dataclass(frozen=True)
class ListedRun:
    """A run as the list has it.

    Attributes:
        name: of its folder.
        folder: where it is.
        state: ``finished``, ``training``, ``interrupted``, ``failed``, or ``unreadable``.
        error: why, where it failed or cannot be read.
        started: ISO 8601.
        step: reached.
        steps: planned.
        recipe: the settings that tell runs apart, in brief.
        scores: by set, the student's top-1 with its interval and chance line.
    """

    name: str
    folder: str
    state: str
    error: str = ""
    started: str = ""
    step: int | None = None
    steps: int | None = None
    recipe: str = ""
    scores: dict[str, dict[str, Any]] | None = None


def runs(
    folders: Annotated[
        list[Path] | None,
        typer.Argument(metavar="[FOLDER...]", help="Folders of runs. Default: the workspace's."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    work: Work = DEFAULT_WORK,
) -> None:
    """List runs, oldest first: state, age, step, recipe and zero-shot top-1.

    A training that was killed is told from one that runs by the lock that it holds on its folder.

    \b
      mmkd runs
      mmkd runs --json
    """
    listed = [found for folder in folders or [Workspace(work).runs] for found in list_folder(folder)]
    if as_json:
        value = {"schema": SCHEMA, "schema_version": SCHEMA_VERSION, "runs": [asdict(one) for one in listed]}
        typer.echo(json.dumps(value, indent=2, ensure_ascii=False))
        return
    for line in table(listed):
        console.print(line, markup=False, soft_wrap=True)
    if not listed:
        where = ", ".join(str(folder) for folder in folders or [Workspace(work).runs])
        say("runs", f"none in {where}; train one with: mmkd train --kd mse+cos")
    for one in listed:
        if one.state in {"interrupted", "failed"}:
            say("go on", f"mmkd train --resume --out {one.folder}")


def list_folder(folder: Path) -> list[ListedRun]:
    """The runs in ``folder``, or itself if it is one, oldest first; one that cannot be read is named so."""
    from mmkd.runs import RUN_FILE

    files = [folder / RUN_FILE] if (folder / RUN_FILE).is_file() else folder.glob(f"*/{RUN_FILE}")
    return sorted((_listed(file.parent) for file in files), key=lambda one: (one.started, one.name))


def table(listed: Sequence[ListedRun]) -> list[str]:
    """A line a run."""
    if not listed:
        return []
    rows = [["run", "state", "age", "step", "recipe", "zero-shot top-1"]]
    for one in listed:
        step = (
            "" if one.step is None else f"{one.step:,}" + ("" if one.steps is None else f" of {one.steps:,}")
        )
        state = f"{one.state}: {one.error}" if one.error else one.state
        rows.append(
            [
                printable(one.name),
                printable(state, limit=60),
                _age(one.started),
                step,
                printable(one.recipe),
                _scores(one),
            ]
        )
    return align(rows)


def _listed(folder: Path) -> ListedRun:
    from mmkd.cli.run_state import state_of
    from mmkd.errors import MmkdError
    from mmkd.report.plain import mapping, text, whole
    from mmkd.runs import read_run

    try:
        run = read_run(folder)
    except MmkdError as error:
        return ListedRun(folder.name, str(folder), "unreadable", text(error))
    recipe, record = mapping(run.record.get("recipe")), run.record
    state = state_of(run)
    return ListedRun(
        folder.name,
        str(folder),
        state,
        text(record.get("error")) if state == "failed" else "",
        text(record.get("started"), limit=40),
        whole(record.get("steps")) if run.finished else _last_step(run.metrics),
        whole(record.get("planned_steps", record.get("steps"))),
        _brief(recipe),
        _read_scores(folder),
    )


def _brief(recipe: dict[str, Any]) -> str:
    """``mse+cos, triplet, seed 1``."""
    from mmkd.report.plain import text

    parts = [text(recipe.get("kd"), limit=60), text(recipe.get("task"), limit=40)]
    usual = {"init": "alternate", "towers": "both", "seed": "0"}
    for name, value in usual.items():
        found = text(recipe.get(name), limit=20)
        if found not in {"", value, "None"}:
            parts.append(found if name == "init" else f"{name} {found}")
    return ", ".join(filter(None, parts))


def _last_step(metrics: Path) -> int | None:
    """The last step that was recorded; 0 before the first."""
    from mmkd.report.plain import mapping, whole

    try:
        with metrics.open("rb") as stream:
            stream.seek(max(0, metrics.stat().st_size - _TAIL))
            lines = stream.read(_TAIL).decode("utf-8", "replace").splitlines()
    except OSError:
        return 0
    for line in reversed(lines):
        try:
            step = whole(mapping(json.loads(line)).get("step"))
        except (ValueError, RecursionError):
            continue
        if step is not None:
            return step
    return 0


def _read_scores(folder: Path) -> dict[str, dict[str, Any]] | None:
    from mmkd.errors import MmkdError
    from mmkd.report.evaluations import read_evaluation
    from mmkd.report.run import own_name

    if not (folder / "zero-shot.json").is_file():
        return None
    try:
        evaluation = read_evaluation(folder / "zero-shot.json", "zero-shot")
    except MmkdError:
        return None
    own = own_name(evaluation, folder)
    return {
        one.name: _score(one.models[own])
        for one in evaluation.sets
        if own in one.models and "top-1" in one.models[own].scores
    }


def _score(model: "Judged") -> dict[str, Any]:
    score = model.scores["top-1"]
    return {
        "value": score.value,
        "low": score.low,
        "high": score.high,
        "chance": score.chance,
        "at_chance": score.at_chance,
        "collapsed": model.collapsed,
    }


def _scores(one: ListedRun) -> str:
    if one.scores is None:
        return "not evaluated" if one.state == "finished" else ""
    parts = []
    for name, score in one.scores.items():
        word = "collapsed" if score["collapsed"] else "at chance" if score["at_chance"] else ""
        around = f"[{100 * score['low']:.1f}, {100 * score['high']:.1f}]"
        parts.append(f"{name} {100 * score['value']:.1f} {word or around}")
    return printable("  ".join(parts))


def _age(started: str) -> str:
    try:
        ago = (datetime.now().astimezone() - datetime.fromisoformat(started)).total_seconds()
    except (ValueError, TypeError):
        return "?"
    days = ago / 86_400
    return f"{days:.0f} days" if days >= 2 else duration(max(0.0, ago))
