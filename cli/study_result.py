"""What a study came to, on the terminal and in files."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmkd.cli.console import console, printable, say
from mmkd.cli.tables import align

if TYPE_CHECKING:
    from mmkd.study.design import Study
    from mmkd.study.ranking import ArmResult


def save_and_show(
    study: "Study", results: "Sequence[ArmResult]", folder: Path, record: Mapping[str, Any]
) -> None:
    """Rank the arms, print the table, and write it as JSON, CSV, Markdown and a figure.

    Raises:
        ConfigError: the metric to rank by is not measured.
    """
    from mmkd.evaluation.plots import save_figure
    from mmkd.files import write_csv, write_json, write_text
    from mmkd.study.plot import plot_ranking
    from mmkd.study.ranking import rank
    from mmkd.study.report import markdown, notes, rows, table, to_json

    ranking = rank(results, rank_by=study.rank_by)
    cells = [[printable(cell) for cell in row] for row in table(ranking)]
    keep = [column for column in range(len(cells[0])) if any(row[column] for row in cells[1:])]
    for line in align([[row[column] for column in keep] for row in cells]):
        console.print(line, markup=False, soft_wrap=True)
    console.print()
    for note in notes(study, ranking):
        console.print(note, markup=False, soft_wrap=True)
    write_json(folder / "study.json", to_json(study, ranking, record))
    write_text(folder / "study.md", markdown(study, ranking, record))
    written = ["study.json", "study.md"]
    if ranking.metrics:
        write_csv(folder / "study.csv", rows(ranking))
        figure = plot_ranking(study, ranking)
        save_figure(figure, folder / "study.png")
        save_figure(figure, folder / "study.svg")
        written += ["study.csv", "study.png", "study.svg"]
    say("saved", f"{folder} · {', '.join(written)}")
