"""A report as Markdown: the same sentences and tables, with links to the plots."""

from pathlib import Path
from urllib.parse import quote

from mmkd.cli.report_contents import Contents, RunPart
from mmkd.cli.report_scores import Cell, Table
from mmkd.files import write_text
from mmkd.report.drawing import Plot


def write_report_markdown(file: Path, report: Contents, *, folder: str) -> None:
    """Write the Markdown twin of the page.

    Args:
        file: to write.
        report: what it says.
        folder: name of the folder with the plots.
    """
    lines = [f"# {escape(report.title)}", ""]
    for name, sentence in report.lead:
        lines += [
            f"**{escape(name)}** · {escape(sentence)}" if len(report.lead) > 1 else escape(sentence),
            "",
        ]
    for study, ranking, plots in report.studies:
        lines += [
            f"## Ranked over seeds: {escape(study.name)}",
            "",
            *(escape(line) for line in study.about),
            "",
        ]
        lines += [
            *_table(ranking),
            "",
            *(f"- {escape(note)}" for note in ranking.notes),
            "",
            *_plots(plots, folder),
        ]
    lines += ["## What was trained", "", *_table(report.facts), ""]
    lines += [*_table(report.alike), ""] if report.alike else []
    for part in report.parts:
        lines += _shortcomings(part)
    if report.scores:
        lines += ["## Scores", "", "In percent, with 95 % intervals.", ""]
    for title, plots, tables in report.scores:
        lines += [f"### {title}", "", *_plots(plots, folder)]
        for one in tables:
            lines += [f"**{escape(one.title)}** ({escape(one.source)})", "", *_table(one), ""]
            lines += [*(f"- {escape(note)}" for note in one.notes), ""] if one.notes else []
    if report.sizes:
        lines += [
            "## Size and speed against score",
            "",
            *_table(report.sizes),
            "",
            *_plots(report.trade, folder),
        ]
    for part in report.parts:
        lines += _part(part, folder, alone=len(report.parts) == 1)
    lines += ["## Versions and hashes", ""]
    lines += [*_table(report.hashes_alike), ""] if report.hashes_alike else []
    lines += [*_table(report.hashes), "", f"Written {escape(report.written)}."]
    write_text(file, "\n".join(lines) + "\n")


def escape(text: str) -> str:
    """Text that Markdown shows as it is."""
    for one in "\\`*_[]<>|#$":
        text = text.replace(one, "&lt;" if one == "<" else "&gt;" if one == ">" else f"\\{one}")
    return text


def _shortcomings(part: RunPart) -> list[str]:
    lines = [f"- {escape(part.name)}: {escape(problem)}" for problem in part.problems]
    lines += [f"- {escape(part.name)} lacks {escape(what)}: {_code(command)}" for what, command in part.todo]
    return [*lines, ""] if lines else []


def _part(part: RunPart, folder: str, *, alone: bool) -> list[str]:
    lines = [] if alone else [f"## {escape(part.name)}", ""]
    level = "##" if alone else "###"
    if part.curves:
        lines += [f"{level} Training", "", *_plots(part.curves, folder)]
    if part.confusions:
        lines += [f"{level} What is taken for what", ""]
        for _, plots in part.confusions:
            lines += _plots(plots, folder)
    if part.bias:
        lines += [f"{level} Bias", "", escape(part.bias.headline), ""]
        lines += [*(f"- {escape(reason)}" for reason in part.bias.withheld), ""] if part.bias.withheld else []
        if not part.bias.withheld:
            lines += [*(f"- {escape(name)}: {escape(value)}" for name, value in part.bias.correlations), ""]
        lines += [*(escape(limit) for limit in part.bias.limits), ""]
        lines += _plots([part.bias_plot] if part.bias_plot else [], folder)
    if part.commands:
        lines += [f"{level} To do it again", "", *(f"    {command}" for command in part.commands), ""]
    return lines


def _plots(plots: list[Plot], folder: str) -> list[str]:
    lines = []
    for plot in plots:
        path = quote(f"{folder}/{plot.name}.svg")
        lines += [f"![{escape(plot.title)}]({path})", "", f"*{escape(plot.caption)}*", ""]
    return lines


def _table(table: Table) -> list[str]:
    table = table.readable
    head = "| | " + " | ".join(escape(column) for column in table.columns) + " |"
    rows = [
        f"| {escape(label)} | "
        + " | ".join(" ".join(filter(None, (escape(cell.text), _note(cell)))) for cell in cells)
        + " |"
        for label, cells in table.rows
    ]
    return [head, "|---" * (len(table.columns) + 1) + "|", *rows]


def _note(cell: Cell) -> str:
    note = escape(cell.note)
    return f"**{note}**" if cell.state else f"({note})" if note else ""


def _code(command: str) -> str:
    return f"`{command.replace('`', '')}`"
