"""The retrieval report as a figure: both ways beside each other, every score with its interval and chance line."""

from typing import TYPE_CHECKING, Any

from mmkd.evaluation.plots import FAINT, INK, as_written
from mmkd.evaluation.zero_shot_plot import COLOURS, MARKERS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from mmkd.evaluation.retrieval_report import RetrievalReport, RetrievalSet


@as_written()
def plot_retrieval(report: "RetrievalReport") -> "Figure":
    """R@k of every model, percent, a row of axes a set; grey and hollow where a score says no more than guessing."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.4, 0.7 + 2.9 * len(report.sets)), dpi=160, layout="constrained")
    grid = figure.subplots(len(report.sets), 2, squeeze=False, sharey=True)
    for row, one in zip(grid, report.sets, strict=True):
        for axes, way in zip(row, ("image to text", "text to image"), strict=True):
            _draw(axes, one, way)
        row[0].set_ylabel(f"{one.name}\n{one.images:,} images, {one.captions:,} captions\n% found", color=INK)
    handles: dict[str, Any] = {}
    for axes in grid.ravel():
        marks, labels = axes.get_legend_handles_labels()
        handles |= dict(zip(labels, marks, strict=True))
    figure.suptitle(
        "Retrieval, with 95 % intervals (hollow: at chance or collapsed)",
        x=0.01,
        ha="left",
        fontweight="bold",
        color=INK,
    )
    figure.legend(
        list(handles.values()),
        list(handles),
        loc="outside lower right",
        frameon=False,
        ncols=min(5, len(handles)),
        fontsize=9,
    )
    return figure


def _draw(axes: "Axes", one: "RetrievalSet", way: str) -> None:
    metrics = [metric for metric in next(iter(one.models.values())).scores if metric.startswith(way)]
    for place, (name, model) in enumerate(one.models.items()):
        for at, metric in enumerate(metrics):
            score = model.scores[metric]
            known = not score.at_chance and model.collapsed is None
            colour = COLOURS[place % len(COLOURS)] if known else FAINT
            style: dict[str, Any] = {
                "fmt": MARKERS[place % len(MARKERS)],
                "color": colour,
                "markerfacecolor": colour if known else "white",
                "capsize": 3,
            }
            low, high = score.interval.low, score.interval.high
            axes.errorbar(
                at + 0.18 * (place - (len(one.models) - 1) / 2),
                100 * score.value,
                yerr=[[100 * max(0.0, score.value - low)], [100 * max(0.0, high - score.value)]],
                label=name,
                **style,
            )
    for at, metric in enumerate(metrics):
        chance = 100 * next(iter(one.models.values())).scores[metric].chance
        axes.plot(
            [at - 0.4, at + 0.4],
            [chance, chance],
            color="#CC3311",
            linestyle=(0, (4, 3)),
            lw=1.2,
            label="chance",
        )
    axes.set_xticks(range(len(metrics)), [metric.removeprefix(f"{way} ") for metric in metrics])
    axes.set_xlim(-0.6, len(metrics) - 0.4)
    axes.set_ylim(bottom=0)
    axes.set_title(way, loc="left", fontsize=10, color=INK)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.tick_params(colors="#555555")
