"""``mmkd eval zero-shot``: teacher and student beside one another, against chance."""

from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mmkd.cli.console import console, progress, say
from mmkd.cli.models import TEACHER, Subject, describe, find_students, find_teacher, report_file
from mmkd.cli.options import DEFAULT_WORK, Config, Work
from mmkd.cli.workspace import Workspace
from mmkd.cli.zero_shot_table import table, template_table

if TYPE_CHECKING:
    from mmkd.evaluation.embedded import KeptEmbeddings
    from mmkd.evaluation.zero_shot import ZeroShotTask
    from mmkd.evaluation.zero_shot_report import ZeroShotReport

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
    by_template: Annotated[
        bool, typer.Option("--by-template", help="Also score each template alone.")
    ] = False,
    html: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write a page with the most confused pairs, in pictures."),
    ] = None,
    keep: Annotated[
        bool, typer.Option(help="Keep the embeddings in --work, so that the next evaluation is quick.")
    ] = True,
    work: Work = DEFAULT_WORK,
    config: Config = None,  # noqa: ARG001 - read by its callback
) -> None:
    """Classify images by the names of their classes alone: top-1, top-5, mean per-class recall.

    Every score stands beside its 95 % interval and its chance line; a student that knows no more than a
    guesser is called so. Embeddings are kept in the workspace: what was embedded once is only counted again.

    \b
      mmkd eval zero-shot
      mmkd eval zero-shot --model work/runs/broken --data cifar10
      mmkd eval zero-shot --by-template --html zero-shot.html
      mmkd eval zero-shot --model openai/clip-vit-base-patch32 --data cifar10=photos/cifar10.parquet
    """
    from mmkd.evaluation.embedded import KeptEmbeddings
    from mmkd.evaluation.tasks import open_task, read_templates

    students = find_students(model or [], Workspace(work).runs)
    reference = find_teacher(teacher, students)
    file = report_file(out, students, work, REPORT)
    lines = read_templates(templates) if templates else None
    tasks = [open_task(spec, lines) for spec in data or DEFAULT_DATA]
    subjects = [*([reference] if reference else []), *students]
    report = run_zero_shot(
        subjects,
        tasks,
        batch_size=batch_size,
        limit=limit,
        by_template=by_template,
        kept=KeptEmbeddings(Workspace(work).embeddings) if keep else None,
    )
    tables = [table(report), *(["", *template_table(one)] for one in report.sets if by_template)]
    for line in chain.from_iterable(tables):
        console.print(line, markup=False, soft_wrap=True)
    _save(report, file, html)


def run_zero_shot(
    subjects: Sequence[Subject],
    tasks: "Sequence[ZeroShotTask]",
    *,
    batch_size: int,
    limit: int | None,
    by_template: bool = False,
    kept: "KeptEmbeddings | None" = None,
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
                    by_template=by_template,
                    kept=kept,
                    progress=lambda done, bar=bar, bar_id=bar_id: bar.advance(bar_id, done),  # type: ignore[misc]
                )
            )
    specs = {name: encoder.spec for name, encoder in encoders.items()}
    return ZeroShotReport(specs, TEACHER if TEACHER in specs else None, tuple(reports))


def _save(report: "ZeroShotReport", file: Path, html: Path | None) -> None:
    """JSON, and beside it the same as CSV and as a figure."""
    from mmkd.evaluation.plots import save_figure
    from mmkd.evaluation.zero_shot_plot import plot_scores
    from mmkd.files import write_csv, write_json

    write_json(file, report.to_json())
    write_csv(file.with_suffix(".csv"), report.rows())
    write_csv(file.with_name(f"{file.stem}-confusion.csv"), report.confusion_rows())
    save_figure(plot_scores(report), file.with_suffix(".png"))
    if html is not None:
        from mmkd.cli.zero_shot_page import write_zero_shot_page

        write_zero_shot_page(html, report)
    others = [
        *(f"{file.stem}{end}" for end in (".csv", "-confusion.csv", ".png")),
        *([str(html)] if html else []),
    ]
    say("saved", f"{file} · {', '.join(others)} · next: mmkd eval bias")
