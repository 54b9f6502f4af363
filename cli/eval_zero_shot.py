"""``mmkd eval zero-shot``: teacher and student beside one another, against chance."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mmkd.cli.console import console, progress, say
from mmkd.cli.models import TEACHER, Subject, describe, find_students, find_teacher, report_file
from mmkd.cli.options import DEFAULT_WORK, Config, Work
from mmkd.cli.tables import align
from mmkd.cli.workspace import Workspace

if TYPE_CHECKING:
    from mmkd.evaluation.statistics import Score
    from mmkd.evaluation.zero_shot import ZeroShotTask
    from mmkd.evaluation.zero_shot_report import SetReport, ZeroShotReport

DEFAULT_DATA = ("cifar10", "cifar100", "stl10")
REPORT = "zero-shot.json"


def zero_shot(
    *,
    model: Annotated[
        list[str] | None,
        typer.Option(
            help="Run, folder or hub id to judge; may be given several times. Default: the latest run."
        ),
    ] = None,
    teacher: Annotated[
        str | None, typer.Option(help="Hub id or folder to measure against. Default: the run's own teacher.")
    ] = None,
    data: Annotated[
        list[str] | None,
        typer.Option(
            metavar="SPEC",
            help="cifar10, cifar100, stl10; cifar10=FOLDER_OR_FILE for a local copy; or any labelled data "
            "(hub id, file, folder). May be given several times. Default: the three named ones.",
        ),
    ] = None,
    templates: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Templates to use instead, one a line, each with {} for the class."
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="JSON to write. Default: zero-shot.json in the run.")
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Images a forward pass.")] = 256,
    limit: Annotated[
        int | None, typer.Option(min=2, help="Images to take of each set, evenly spread. Default: all.")
    ] = None,
    work: Work = DEFAULT_WORK,
    config: Config = None,  # noqa: ARG001 - read by its callback
) -> None:
    """Classify images by the names of their classes alone: top-1, top-5, mean per-class recall.

    Every score stands beside its 95 % interval and its chance line; a student that knows no more than a
    guesser is called so.

    \b
      mmkd eval zero-shot
      mmkd eval zero-shot --model work/runs/broken --data cifar10
      mmkd eval zero-shot --model openai/clip-vit-base-patch32 --data cifar10=photos/cifar10.parquet
    """
    from mmkd.evaluation.tasks import open_task, read_templates
    from mmkd.files import write_json

    students = find_students(model or [], Workspace(work).runs)
    reference = find_teacher(teacher, students)
    file = report_file(out, students, work, REPORT)
    lines = read_templates(templates) if templates else None
    tasks = [open_task(spec, lines) for spec in data or DEFAULT_DATA]
    subjects = [*([reference] if reference else []), *students]
    report = run_zero_shot(subjects, tasks, batch_size=batch_size, limit=limit)
    for line in table(report):
        console.print(line, markup=False, soft_wrap=True)
    write_json(file, report.to_json())
    say("saved", f"{file} · next: mmkd eval bias")


def run_zero_shot(
    subjects: Sequence[Subject], tasks: "Sequence[ZeroShotTask]", *, batch_size: int, limit: int | None
) -> "ZeroShotReport":
    """Evaluate every model on every set, saying what is done; the one named ``teacher`` is the reference."""
    from mmkd.evaluation.zero_shot import choose_rows, evaluate
    from mmkd.evaluation.zero_shot_report import ZeroShotReport

    encoders = {}
    for subject in subjects:
        encoders[subject.name] = subject.load()
        say(subject.name, describe(encoders[subject.name].spec))
    reports = []
    for task in tasks:
        rows = len(choose_rows(len(task.images), limit))
        say(
            "data",
            f"{task.name} · {task.source} · {rows:,} images · {len(task.class_names)} classes · "
            f"{len(task.templates)} templates",
        )
        with progress("images") as bar:
            bar_id = bar.add_task(task.name, total=rows)
            reports.append(
                evaluate(
                    encoders,
                    task,
                    batch_size=batch_size,
                    limit=limit,
                    progress=lambda done, bar=bar, bar_id=bar_id: bar.advance(bar_id, done),  # type: ignore[misc]
                )
            )
    specs = {name: encoder.spec for name, encoder in encoders.items()}
    return ZeroShotReport(specs, TEACHER if TEACHER in specs else None, tuple(reports))


def table(report: "ZeroShotReport") -> list[str]:
    """The report as lines of text, percent throughout."""
    header = ["", "", "chance"]
    for name in report.models:
        header += [name] if name == report.reference else [name, "kept" if report.reference else ""]
    rows = [header]
    for one in report.sets:
        rows += _rows(one, report.reference)
    notes = [f"{one.task.name}: {note}" for one in report.sets for note in one.notes]
    return [*align(rows), *notes]


def _rows(one: "SetReport", reference: str | None) -> list[list[str]]:
    rows = []
    first = next(iter(one.models.values()))
    for number, (metric, chance) in enumerate((name, score.chance) for name, score in first.scores.items()):
        row = [
            "" if number else one.task.name,
            metric.removeprefix("mean per-class "),
            f"{100 * chance:5.1f}",
        ]
        for name, model in one.models.items():
            cell = _cell(model.scores[metric])
            word = "" if number else ", ".join(filter(None, ["at chance" * model.at_chance, model.collapsed]))
            if name == reference:
                row.append(f"{cell} {word}".rstrip())
                continue
            kept = one.retention(name, reference).get(metric)
            if word or kept is None or model.scores[metric].at_chance:
                row += [cell, word or ("at chance" if model.scores[metric].at_chance else "")]
            else:
                row += [cell, f"{100 * kept:.0f} %"]
        rows.append(row)
    return rows


def _cell(score: "Score") -> str:
    low, high = score.interval.low, score.interval.high
    return f"{100 * score.value:5.1f} [{100 * low:4.1f}, {100 * high:4.1f}]"
