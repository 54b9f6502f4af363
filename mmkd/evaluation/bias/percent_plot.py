"""Gaps against percent women: one row a model, one column a table, since the tables disagree."""

from typing import TYPE_CHECKING, Any

import numpy as np

from mmkd.evaluation.plots import FAINT, FEMALE, INK, MALE, as_written

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from mmkd.evaluation.bias.model import ModelBias
    from mmkd.evaluation.bias.report import BiasReport

_NAMED = 2  # targets named at either end


@as_written()
def plot_references(report: "BiasReport") -> "Figure | None":
    """Every model's gaps against every table's numbers, with both correlations; ``None`` where no table fits."""
    from matplotlib.figure import Figure

    tables = [table.name for table in report.words.references]
    used = [name for name in tables if any(name in model.references for model in report.models.values())]
    if not used:
        return None
    figure = Figure(
        figsize=(1 + 3.6 * len(used), 0.9 + 3.1 * len(report.models)), dpi=160, layout="constrained"
    )
    grid = figure.subplots(len(report.models), len(used), squeeze=False, sharex="col", sharey="row")
    for row, (name, model) in zip(grid, report.models.items(), strict=True):
        beside = report.comparisons.get(name)
        for axes, table in zip(row, used, strict=True):
            _draw(axes, model, table, grey=bool(model.doubts or (beside and beside.withheld)))
        row[0].set_ylabel(f"{name}\ngap towards {report.words.attributes[0]}", color=INK)
    for axes, table in zip(grid[0], used, strict=True):
        axes.set_title(axes.get_title(loc="left"), loc="left", fontsize=9, color=INK)
        axes.annotate(table, (0, 1.14), xycoords="axes fraction", fontsize=11, fontweight="bold", color=INK)
    units = {table.name: table.unit for table in report.words.references}
    for axes, table in zip(grid[-1], used, strict=True):
        axes.set_xlabel(units[table], color=INK)
    figure.suptitle(
        "Gaps against published numbers (grey: a model of which nothing can be concluded)",
        x=0.01,
        ha="left",
        fontsize=11,
        color="#555555",
    )
    return figure


def _draw(axes: "Axes", model: "ModelBias", table: str, *, grey: bool) -> None:
    words = model.words
    values = next(one.values for one in words.references if one.name == table)
    rows = [row for row, word in enumerate(words.targets) if word in values]
    x = np.array([values[words.targets[row]] for row in rows])
    y = model.gaps.value[rows]
    bars: dict[str, Any] = {"color": FAINT, "alpha": 0.5, "linewidth": 0.8, "zorder": 1}
    axes.vlines(x, model.gaps.low[rows], model.gaps.high[rows], **bars)
    axes.axhline(0, color=FAINT, linewidth=0.8, zorder=1)
    colours = [FAINT if grey else FEMALE if gap >= 0 else MALE for gap in y]
    axes.scatter(x, y, s=16, c=colours, zorder=3)
    if len(x) > 2 and np.ptp(x) > 0:
        slope, intercept = np.polyfit(x, y, 1)
        ends = np.array([x.min(), x.max()])
        axes.plot(
            ends, slope * ends + intercept, color="#777777", linewidth=1, linestyle=(0, (5, 4)), zorder=2
        )
    order = np.argsort(y)
    for place in {*order[:_NAMED].tolist(), *order[-_NAMED:].tolist()}:
        right = x[place] > (x.min() + x.max()) / 2
        axes.annotate(
            words.targets[rows[place]],
            (float(x[place]), float(y[place])),
            xytext=(-4 if right else 4, 2),
            textcoords="offset points",
            ha="right" if right else "left",
            fontsize=6.5,
            color=INK,
            zorder=4,
        )
    found = model.references.get(table)
    parts = []
    for method, sign in (("pearson", "r"), ("spearman", "ρ"), ("kendall", "τ")):
        one = None if found is None else found.correlations[method]
        if one is not None:
            parts.append(f"{sign} {one.value:.2f} [{one.interval.low:.2f}, {one.interval.high:.2f}]")
    axes.set_title("\n".join([" ".join(parts[:2]), *parts[2:]]), loc="left", fontsize=7.5, color=INK)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.tick_params(colors="#555555", labelsize=8)
