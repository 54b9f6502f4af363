"""``mmkd report``: runs as one page to look at, with a Markdown twin and every plot."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mmkd.cli.completion import complete_runs
from mmkd.cli.console import progress, say, warn
from mmkd.cli.options import DEFAULT_WORK, Work
from mmkd.cli.workspace import Workspace

if TYPE_CHECKING:
    from mmkd.report.ranked import Ranked

PAGE = "report.html"
FEW = 3  # runs of which the terminal says what each lacks


def report(
    runs: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="[RUN...]",
            help="Runs, folders of runs, or a study's folder; several stand side by side. Default: the latest run.",
            autocompletion=complete_runs,
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Page to write, its twin and plots beside it. Default: report.html in the run or the study, or for "
            "several runs in the workspace.",
        ),
    ] = None,
    work: Work = DEFAULT_WORK,
) -> None:
    """Write one self-contained HTML page about a run, or several, with a Markdown twin and every plot.

    Reads what lies in the runs' folders, and computes nothing anew: what was not evaluated yet is named, with the
    command for it. The page loads nothing from anywhere, and shows light or dark as the reader's system does.

    \b
      mmkd report
      mmkd report work/runs/mine work/runs/other --out compared.html
      mmkd report work/runs
      mmkd report work/studies/mine      a study: its ranking first
    """
    from mmkd.cli.report_contents import gather_contents
    from mmkd.cli.report_markdown import write_report_markdown
    from mmkd.cli.report_page import write_report_page
    from mmkd.errors import ConfigError
    from mmkd.files import atomic_folder
    from mmkd.report.ranked import found_studies, read_ranked
    from mmkd.report.run import find_runs, name_runs, read_report_run
    from mmkd.runs import newest_run

    folders = find_runs(runs) if runs else [newest_run(Workspace(work).runs).folder]
    ranked = [read_ranked(file) for file in found_studies(runs or [])]
    folders, ranked = within_bounds(folders, ranked)
    study = [path.parent for path in found_studies(runs or [])]
    file = out or (folders[0] if len(folders) == 1 else study[0] if study else work) / PAGE
    if file.suffix != ".html" or file.is_dir():
        raise ConfigError(
            f"--out {file} is no HTML page; expected the name of a file, such as {file.with_suffix('.html')}"
        )
    read = [read_report_run(folder, name) for folder, name in zip(folders, name_runs(folders), strict=True)]
    contents = gather_contents(read, ranked)
    plots = file.with_name(f"{file.stem}-plots")
    with atomic_folder(plots) as folder, progress("plots") as bar:
        task = bar.add_task("drawing", total=len(contents.plots))
        for plot in contents.plots:
            plot.save(folder)
            bar.advance(task)
    write_report_page(file, contents, folder=plots.name)
    write_report_markdown(file.with_suffix(".md"), contents, folder=plots.name)
    for part in contents.parts:
        for problem in part.problems:
            warn(f"{part.name}: {problem}")
    lacking = [(part.name, *one) for part in contents.parts for one in part.todo]
    for name, what, command in lacking if len(contents.parts) <= FEW else ():
        say("lacks", f"{name}: {what} · {command}")
    if lacking and len(contents.parts) > FEW:
        say(
            "lacks",
            f"{len({name for name, *_ in lacking})} runs lack something; the page says what, and what to type",
        )
    say("saved", f"{file} · {file.stem}.md, {plots.name}/ ({len(contents.plots)} plots, SVG and CSV)")


def within_bounds(folders: list[Path], ranked: "list[Ranked]") -> "tuple[list[Path], list[Ranked]]":
    """As many runs as a page shows, and the rankings, which then say that there are more.

    Raises:
        ConfigError: there are more, and no ranking has them all.
    """
    from mmkd.errors import ConfigError
    from mmkd.report.run import MAX_RUNS

    if len(folders) <= MAX_RUNS:
        return folders, ranked
    if not ranked:
        raise ConfigError(
            f"found {len(folders)} runs; a page shows at most {MAX_RUNS}, so name those to be shown"
        )
    left_out = (
        f"Of {len(folders)} runs the first {MAX_RUNS} are shown one by one; the ranking has them all. A report of "
        "others: mmkd report RUN..."
    )
    warn(left_out)
    return folders[:MAX_RUNS], [replace(one, notes=[*one.notes, left_out]) for one in ranked]
