"""``mmkd eval zero-shot``: teacher and student beside one another, against chance."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mmkd.cli.completion import complete_data, complete_runs
from mmkd.cli.console import console, progress, say, warn
from mmkd.cli.models import TEACHER, Subject, describe, find_students, find_teacher, refresh_card, report_file
from mmkd.cli.options import DEFAULT_WORK, Config, Work
from mmkd.cli.provenance import provenance
from mmkd.cli.workspace import Workspace
from mmkd.cli.zero_shot_sets import check_options, choose_sets, open_sets, report_checks
from mmkd.cli.zero_shot_table import cost_table, table, template_table
from mmkd.errors import DataError

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from mmkd.encoders import PairEncoder
    from mmkd.evaluation.embedded import KeptEmbeddings
    from mmkd.evaluation.zero_shot_report import SetReport, ZeroShotReport
    from mmkd.evaluation.zero_shot_task import ZeroShotTask

REPORT, CHECK_REPORT = "zero-shot.json", "zero-shot-check.json"


def zero_shot(
    *,
    model: Annotated[
        list[str] | None,
        typer.Option(
            help="Run, folder or hub id to judge; may be given several times. Default: the latest run.",
            autocompletion=complete_runs,
        ),
    ] = None,
    teacher: Annotated[
        str | None, typer.Option(help="Hub id or folder to measure against. Default: the run's own teacher.")
    ] = None,
    data: Annotated[
        list[str] | None,
        typer.Option(
            metavar="SPEC",
            autocompletion=complete_data,
            help="A built-in set (cifar10, imagenet, food101, ...); cifar10=FOLDER_OR_FILE for a local copy; or any "
            "labelled data (hub id, file, folder). May be given several times. Default: cifar10, cifar100, stl10.",
        ),
    ] = None,
    every: Annotated[
        bool,
        typer.Option(
            "--all", help="All built-in sets, beside --data; what cannot be opened is named and left out."
        ),
    ] = False,
    check: Annotated[
        bool,
        typer.Option(
            "--check",
            help="Hold top-1 against published scores; leaves with 1 where one is not reproduced. "
            "Default model: openai/clip-vit-base-patch32.",
        ),
    ] = False,
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
    speed: Annotated[
        bool, typer.Option("--speed", help="Also time images and texts a second, of all models by turns.")
    ] = False,
    html: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write a page with the most confused pairs, in pictures."),
    ] = None,
    keep: Annotated[
        bool,
        typer.Option(
            help="Keep embeddings and scores in --work, and take those of the same model, images and words from there."
        ),
    ] = True,
    work: Work = DEFAULT_WORK,
    config: Config = None,  # noqa: ARG001 - read by its callback
) -> None:
    """Classify images by the names of their classes alone: top-1, top-5, mean per-class recall.

    Every score stands beside its 95 % interval and its chance line; a student that knows no more than a
    guesser is called so. Embeddings and scores are kept in the workspace: nothing is computed twice.

    \b
      mmkd eval zero-shot
      mmkd eval zero-shot --model work/runs/broken --data cifar10
      mmkd eval zero-shot --by-template --html zero-shot.html
      mmkd eval zero-shot --all --speed
      mmkd eval zero-shot --check
      mmkd eval zero-shot --model openai/clip-vit-base-patch32 --data cifar10=photos/cifar10.parquet
    """
    from mmkd.evaluation.embedded import KeptEmbeddings
    from mmkd.evaluation.published import DEFAULT_MODEL, check_published
    from mmkd.evaluation.tasks import read_templates

    if check:
        check_options(limit, templates)
        model = model or [DEFAULT_MODEL]
    students = find_students(model or [], Workspace(work).runs)
    reference = find_teacher(teacher, students)
    file = report_file(out, students, work, CHECK_REPORT if check else REPORT)
    lines = read_templates(templates) if templates else None
    subjects = [*([reference] if reference else []), *students]
    sources = {subject.name: subject.source for subject in subjects}
    specs = choose_sets(data, every=every, check=check, models=list(sources.values()))
    tasks, left_out = open_sets(specs, lines, lenient=every)
    report = run_zero_shot(
        subjects,
        tasks,
        batch_size=batch_size,
        limit=limit,
        by_template=by_template,
        speed=speed,
        kept=KeptEmbeddings(Workspace(work).embeddings) if keep else None,
        lenient=every,
    )
    checks = check_published(report.sets, sources) if check else []
    report = replace(report, checks=tuple(checks), left_out={**left_out, **report.left_out})
    tables = [table(report), *(["", *template_table(one)] for one in report.sets if by_template)]
    for line in chain.from_iterable([*tables, ["", *cost_table(report)]]):
        console.print(line, markup=False, soft_wrap=True)
    save_zero_shot(report, file, students, html=html)
    if check:
        report_checks(checks, [*(one.task.name for one in report.sets), *report.left_out])


def run_zero_shot(
    subjects: Sequence[Subject],
    tasks: "Sequence[ZeroShotTask]",
    *,
    batch_size: int,
    limit: int | None,
    by_template: bool = False,
    speed: bool = False,
    kept: "KeptEmbeddings | None" = None,
    lenient: bool = False,
) -> "ZeroShotReport":
    """Evaluate every model on every set, saying what is done; the one named ``teacher`` is the reference.

    Raises:
        DataError: a set cannot be evaluated, or, where ``lenient``, none can; others are then left out.
    """
    from mmkd.evaluation.cost import count_cost, measure_rates
    from mmkd.evaluation.zero_shot_report import ZeroShotReport

    encoders = {}
    for subject in subjects:
        encoders[subject.name] = subject.load()
        say(subject.name, describe(encoders[subject.name].spec))
    settings = {"batch_size": batch_size, "limit": limit, "by_template": by_template, "kept": kept}
    reports, left_out = [], {}
    for task in tasks:
        try:
            reports.append(_evaluate(encoders, task, settings))
        except DataError as error:
            if not lenient:
                raise
            left_out[task.name] = str(error)
            warn(f"{task.name} is left out: {error}")
    if not reports:
        first, reason = next(iter(left_out.items()))
        raise DataError(f"none of {len(left_out)} data sets can be evaluated; of {first}: {reason}")
    specs = {name: encoder.spec for name, encoder in encoders.items()}
    costs = {name: count_cost(encoder) for name, encoder in encoders.items()}
    if speed:
        say("speed", "forward passes of all models by turns")
        costs = measure_rates(encoders, costs)
    return ZeroShotReport(
        specs, TEACHER if TEACHER in specs else None, tuple(reports), costs, left_out=left_out
    )


def _evaluate(
    encoders: "Mapping[str, PairEncoder]", task: "ZeroShotTask", settings: dict[str, Any]
) -> "SetReport":
    from mmkd.evaluation.zero_shot import choose_rows, evaluate

    rows = len(choose_rows(len(task.images), settings["limit"]))
    say(
        "data",
        f"{task.name} · {task.source} · {rows:,} images · {len(task.class_names)} classes · "
        f"{len(task.templates)} templates",
    )
    with progress("images") as bar:
        read_id = bar.add_task("reading", total=rows)
        bar_id = bar.add_task(task.name, total=rows, start=False)
        found = evaluate(
            encoders,
            task,
            progress=partial(_advance, bar, bar_id),
            on_read=partial(bar.advance, read_id),
            **settings,
        )
    if found.kept:
        say("kept", f"the scores of {', '.join(found.kept)} on {task.name} were there already")
    return found


def _advance(bar: "Progress", task: "TaskID", done: int) -> None:
    bar.start_task(task)  # its clock runs from the first batch on
    bar.advance(task, done)


def save_zero_shot(
    report: "ZeroShotReport", file: Path, students: Sequence[Subject], *, html: Path | None = None
) -> None:
    """JSON, beside it the same as CSV and as a figure, and some images with what was answered; then the card."""
    from mmkd.cli.evaluation_examples import examples_file, write_zero_shot_examples
    from mmkd.evaluation.plots import save_figure
    from mmkd.evaluation.zero_shot_plot import plot_scores, plot_trade
    from mmkd.files import write_csv, write_json

    endings = [".csv", "-confusion.csv", "-examples.json", ".png"]
    write_json(file, {**report.to_json(), **provenance()})
    write_csv(file.with_suffix(".csv"), report.rows())
    write_csv(file.with_name(f"{file.stem}-confusion.csv"), report.confusion_rows())
    save_figure(plot_scores(report), file.with_suffix(".png"))
    if (figure := plot_trade(report)) is not None:
        save_figure(figure, file.with_name(f"{file.stem}-speed.png"))
        endings.append("-speed.png")
    write_zero_shot_examples(examples_file(file), report)
    if html is not None:
        from mmkd.cli.zero_shot_page import write_zero_shot_page

        write_zero_shot_page(html, report)
    others = [
        *(f"{file.stem}{end}" for end in endings),
        *([str(html)] if html else []),
    ]
    say("saved", f"{file} · {', '.join(others)} · next: mmkd eval bias")
    refresh_card(file, students)
