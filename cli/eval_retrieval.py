"""``mmkd eval retrieval``: images and captions that find each other, against chance."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mmkd.cli.completion import complete_captioned, complete_runs
from mmkd.cli.console import console, harmless, printable, progress, say
from mmkd.cli.models import (
    TEACHER,
    Subject,
    describe,
    distinct_names,
    find_students,
    find_teacher,
    refresh_card,
    report_file,
)
from mmkd.cli.options import DEFAULT_WORK, Config, Work
from mmkd.cli.provenance import provenance
from mmkd.cli.tables import align
from mmkd.cli.workspace import Workspace
from mmkd.cli.zero_shot_table import cell

if TYPE_CHECKING:
    from mmkd.evaluation.captioned import RetrievalTask
    from mmkd.evaluation.embedded import KeptEmbeddings
    from mmkd.evaluation.retrieval_report import ModelRetrieval, RetrievalReport, RetrievalSet

DEFAULT_DATA = ("flickr30k",)
REPORT = "retrieval.json"


def retrieval(
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
            autocompletion=complete_captioned,
            help="flickr30k, coco; flickr30k=FOLDER_OR_FILE for a local copy; or any captioned data (hub id, "
            "file, folder). May be given several times. Default: flickr30k.",
        ),
    ] = None,
    split: Annotated[str | None, typer.Option(help="Split of the data.")] = None,
    image_column: Annotated[str | None, typer.Option(help="Column of the images.")] = None,
    caption_column: Annotated[str | None, typer.Option(help="Column of the captions.")] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="JSON to write. Default: retrieval.json in the run.")
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Images a forward pass.")] = 256,
    limit: Annotated[
        int | None, typer.Option(min=2, help="Images to take of each set, evenly spread. Default: all.")
    ] = None,
    keep: Annotated[
        bool, typer.Option(help="Keep the embeddings in --work, so that the next evaluation is quick.")
    ] = True,
    work: Work = DEFAULT_WORK,
    config: Config = None,  # noqa: ARG001 - read by its callback
) -> None:
    """Find captions by images and images by captions: R@1, R@5, R@10 and median rank, both ways.

    An image has found its text when any of its captions is among the first k; each caption looks for its image
    alone. Every score stands beside its 95 % interval and its chance line.

    \b
      mmkd eval retrieval
      mmkd eval retrieval --data coco --data photos.parquet --limit 1000
      mmkd eval retrieval --model openai/clip-vit-base-patch32 --data flickr30k=flickr30k.parquet
    """
    from mmkd.evaluation.captioned import open_captioned
    from mmkd.evaluation.embedded import KeptEmbeddings

    students = find_students(model or [], Workspace(work).runs)
    reference = find_teacher(teacher, students)
    file = report_file(out, students, work, REPORT)
    tasks = [
        open_captioned(spec, split=split, image_column=image_column, caption_column=caption_column)
        for spec in data or DEFAULT_DATA
    ]
    names = distinct_names([task.name for task in tasks], reserved=None)
    tasks = [replace(task, name=name) for task, name in zip(tasks, names, strict=True)]
    report = run_retrieval(
        [*([reference] if reference else []), *students],
        tasks,
        batch_size=batch_size,
        limit=limit,
        kept=KeptEmbeddings(Workspace(work).embeddings) if keep else None,
    )
    for line in table(report):
        console.print(line, markup=False, soft_wrap=True)
    save_retrieval(report, tasks, file, students)


def run_retrieval(
    subjects: Sequence[Subject],
    tasks: "Sequence[RetrievalTask]",
    *,
    batch_size: int,
    limit: int | None,
    kept: "KeptEmbeddings | None" = None,
) -> "RetrievalReport":
    """Evaluate every model on every set, saying what is done; the one named ``teacher`` is the reference."""
    from mmkd.evaluation.retrieval import evaluate_retrieval
    from mmkd.evaluation.retrieval_report import RetrievalReport
    from mmkd.evaluation.zero_shot import choose_rows

    encoders = {}
    for subject in subjects:
        encoders[subject.name] = subject.load()
        say(subject.name, describe(encoders[subject.name].spec))
    sets = []
    for task in tasks:
        rows = len(choose_rows(len(task.pairs), limit))
        say("data", f"{task.name} · {task.source}" + ("" if limit is None else f" · {rows:,} taken"))
        with progress("images") as bar:
            bar_id = bar.add_task(task.name, total=rows)
            sets.append(
                evaluate_retrieval(
                    encoders,
                    task,
                    batch_size=batch_size,
                    limit=limit,
                    kept=kept,
                    progress=lambda done, bar=bar, bar_id=bar_id: bar.advance(bar_id, done),  # type: ignore[misc]
                )
            )
    specs = {name: encoder.spec for name, encoder in encoders.items()}
    return RetrievalReport(specs, TEACHER if TEACHER in specs else None, tuple(sets))


def save_retrieval(
    report: "RetrievalReport", tasks: "Sequence[RetrievalTask]", file: Path, students: Sequence[Subject]
) -> None:
    """JSON, beside it the same as CSV and as a figure, and some pairs with what was found; then the card."""
    from mmkd.cli.evaluation_examples import examples_file, write_retrieval_examples
    from mmkd.evaluation.plots import save_figure
    from mmkd.evaluation.retrieval_plot import plot_retrieval
    from mmkd.files import write_csv, write_json

    write_json(file, {**report.to_json(), **provenance()})
    write_csv(file.with_suffix(".csv"), report.rows())
    save_figure(plot_retrieval(report), file.with_suffix(".png"))
    write_retrieval_examples(examples_file(file), report, tasks)
    say("saved", f"{file} · {file.stem}.csv, {file.stem}-examples.json, {file.stem}.png")
    refresh_card(file, students)


def table(report: "RetrievalReport") -> list[str]:
    """One line a set, way and metric, then what a reader must know."""
    header = ["", "", "chance"]
    for name in report.models:
        header += [name] if name == report.reference else [name, "kept" if report.reference else ""]
    rows, notes = [header], []
    for one in report.sets:
        rows += _rows(one, report.reference)
        notes += [f"{one.name}: {note}" for note in one.notes]
    return [harmless(line) for line in (*align(rows), *_differences(report), *notes)]


def _rows(one: "RetrievalSet", reference: str | None) -> list[list[str]]:
    rows = []
    first = next(iter(one.models.values()))
    for number, (metric, score) in enumerate(first.scores.items()):
        row = [printable(one.name) if number == 0 else "", metric, f"{100 * score.chance:5.1f}"]
        for name, model in one.models.items():
            word = _verdict(model, metric)
            if name == reference:
                row.append(f"{cell(model.scores[metric])} {word}".rstrip())
            else:
                row += [cell(model.scores[metric]), word or _kept(one, name, reference, metric)]
        rows.append(row)
    for way, median in first.medians.items():
        row = ["", f"{way} median rank", f"{median.chance:5d}"]
        for name, model in one.models.items():
            found = model.medians[way]
            row.append(f"{found.value:5.1f} [{found.interval.low:4.0f}, {found.interval.high:4.0f}]")
            row += [] if name == reference else [""]
        rows.append(row)
    return rows


def _verdict(model: "ModelRetrieval", metric: str) -> str:
    score = model.scores[metric]
    return ", ".join(filter(None, ["at chance" if score.at_chance else "", model.collapsed]))


def _kept(one: "RetrievalSet", name: str, reference: str | None, metric: str) -> str:
    beside = one.beside(name, reference, metric)
    if beside is None or beside.retention is None:
        return ""
    around = beside.retention_interval
    spread = "" if around is None else f" [{100 * around.low:.0f}, {100 * around.high:.0f}]"
    return f"{100 * beside.retention:.0f} %{spread}"


def _differences(report: "RetrievalReport") -> Sequence[str]:
    """Each model less the reference on the same images."""
    rows = []
    for one in report.sets:
        for name, model in one.models.items():
            for metric in model.scores:
                beside = one.beside(name, report.reference, metric)
                if beside is not None and metric.endswith("R@1"):
                    low, high = beside.interval.low, beside.interval.high
                    rows.append(
                        [
                            f"{one.name}: {name} less {report.reference}, {metric}",
                            f"{100 * beside.difference:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]",
                        ]
                    )
    return ["", *align(rows)] if rows else []
