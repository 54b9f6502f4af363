"""``mmkd eval probe``: linear probe and k nearest neighbours on frozen image embeddings."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mmkd.cli.completion import complete_data, complete_runs
from mmkd.cli.console import console, printable, progress, say
from mmkd.cli.models import TEACHER, describe, find_students, find_teacher, refresh_card, report_file
from mmkd.cli.options import DEFAULT_WORK, Config, Work
from mmkd.cli.provenance import provenance
from mmkd.cli.tables import align
from mmkd.cli.workspace import Workspace
from mmkd.cli.zero_shot_table import cell

if TYPE_CHECKING:
    from mmkd.evaluation.probe_report import ProbeReport

REPORT = "probe.json"


def probe(
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
        str,
        typer.Option(
            metavar="SPEC",
            autocompletion=complete_data,
            help="Labelled images to be judged on: a built-in name, hub id, file or folder.",
        ),
    ] = "cifar10",
    train_data: Annotated[
        str | None,
        typer.Option(metavar="SPEC", help="Labelled images to learn from. Default: --data's train split."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="JSON to write. Default: probe.json in the run.")
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Images a forward pass.")] = 256,
    limit: Annotated[
        int | None, typer.Option(min=2, help="Images to take of each side, evenly spread. Default: all.")
    ] = None,
    keep: Annotated[
        bool, typer.Option(help="Keep the embeddings in --work, so that the next evaluation is quick.")
    ] = True,
    work: Work = DEFAULT_WORK,
    config: Config = None,  # noqa: ARG001 - read by its callback
) -> None:
    """Learn the classes from frozen image embeddings: logistic regression, and k nearest neighbours.

    Class names and the text tower play no part. Both are fitted on training images and judged on others.

    \b
      mmkd eval probe
      mmkd eval probe --train-data cifar10/train.parquet --data cifar10/test.parquet
    """
    from mmkd.evaluation.embedded import KeptEmbeddings
    from mmkd.evaluation.plots import save_figure
    from mmkd.evaluation.probe import evaluate_probe
    from mmkd.evaluation.probe_plot import plot_probe
    from mmkd.evaluation.probe_sets import open_probe
    from mmkd.evaluation.zero_shot import choose_rows
    from mmkd.files import write_csv, write_json

    students = find_students(model or [], Workspace(work).runs)
    reference = find_teacher(teacher, students)
    file = report_file(out, students, work, REPORT)
    task = open_probe(data, train_data)
    encoders = {}
    for subject in [*([reference] if reference else []), *students]:
        encoders[subject.name] = subject.load()
        say(subject.name, describe(encoders[subject.name].spec))
    say("data", f"{task.name} · {task.source} · {len(task.class_names)} classes")
    with progress("images") as bar:
        rows = sum(len(choose_rows(len(side), limit)) for side in (task.train, task.test))
        bar_id = bar.add_task(task.name, total=rows)
        report = evaluate_probe(
            encoders,
            task,
            batch_size=batch_size,
            limit=limit,
            kept=KeptEmbeddings(Workspace(work).embeddings) if keep else None,
            progress=lambda done: bar.advance(bar_id, done),
        )
    report = replace(report, reference=TEACHER if TEACHER in encoders else None)
    for line in table(report):
        console.print(line, markup=False, soft_wrap=True)
    write_json(file, {**report.to_json(), **provenance()})
    write_csv(file.with_suffix(".csv"), report.rows())
    save_figure(plot_probe(report), file.with_suffix(".png"))
    say("saved", f"{file} · {file.stem}.csv, {file.stem}.png")
    refresh_card(file, students)


def table(report: "ProbeReport") -> list[str]:
    """One line a probe and depth, then each model less the teacher, then what a reader must know."""
    header = [printable(report.name), "chance"]
    for name in report.models:
        header += [name] if name == report.reference else [name, "kept" if report.reference else ""]
    rows = [header]
    first = next(iter(report.models.values()))
    for metric, score in first.scores.items():
        row = [metric, f"{100 * score.chance:5.1f}"]
        for name, model in report.models.items():
            found = model.scores[metric]
            word = ", ".join(filter(None, ["at chance" if found.at_chance else "", model.collapsed]))
            if name == report.reference:
                row.append(f"{cell(found)} {word}".rstrip())
            else:
                kept = report.retention(name, metric)
                row += [cell(found), word or ("" if kept is None else f"{100 * kept:.0f} %")]
        rows.append(row)
    return [*align(rows), *_differences(report), *report.notes]


def _differences(report: "ProbeReport") -> list[str]:
    rows = []
    for name, model in report.models.items():
        for probed in model.right:
            paired = report.paired(name, probed)
            if paired is not None:
                low, high = paired.interval.low, paired.interval.high
                p = "< 0.001" if paired.p_value < 0.001 else f"= {paired.p_value:.3f}"
                rows.append(
                    [
                        f"{name} less {report.reference}, {probed}",
                        f"{100 * paired.difference:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]",
                        f"McNemar p {p}",
                    ]
                )
    return ["", *align(rows)] if rows else []
