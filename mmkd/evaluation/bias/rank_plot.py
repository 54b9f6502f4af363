"""The targets whose place by gap changed most from teacher to student."""

from typing import TYPE_CHECKING, Any

import numpy as np

from mmkd.evaluation.plots import FAINT, FEMALE, INK, MALE, as_written

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from mmkd.evaluation.bias.compare import Comparison
    from mmkd.evaluation.bias.report import BiasReport

_SHOWN = 12
_APART = 0.035  # of the axis, between two labels


@as_written()
def plot_ranks(report: "BiasReport") -> "Figure":
    """One panel a student: the largest rank changes as lines from the teacher's place to the student's.

    Raises:
        ValueError: the report compares nothing.
    """
    from matplotlib.figure import Figure

    if not report.comparisons:
        raise ValueError("the report has one model; ranks are drawn of a teacher and its students")
    figure = Figure(figsize=(5.6 * len(report.comparisons), 6.6), dpi=160, layout="constrained")
    panels = figure.subplots(1, len(report.comparisons), squeeze=False)[0]
    for axes, (name, beside) in zip(panels, report.comparisons.items(), strict=True):
        _draw(axes, name, beside, report.words.attributes)
    figure.suptitle(
        f"Largest changes of place among {len(report.words.targets)} targets (grey: all others)",
        x=0.01,
        ha="left",
        fontsize=11,
        color="#555555",
    )
    return figure


def _draw(axes: "Axes", name: str, beside: "Comparison", attributes: tuple[str, str]) -> None:
    count = len(beside.targets)
    axes.plot([0, 1], beside.ranks, color=FAINT, linewidth=0.4, alpha=0.35, zorder=1)
    moved = beside.rank_changes(min(_SHOWN, count))
    for side, at in ((0, -0.12), (1, 0.12)):
        places = [one.teacher if side == 0 else one.student for one in moved]
        for one, place, where in zip(moved, places, spread(places, _APART * count, 1, count), strict=True):
            axes.plot([side, side + at], [place, where], color=INK, linewidth=0.4, zorder=2)
            text = f"{one.target} {place}" if side == 0 else f"{place} {one.target}"
            style: dict[str, Any] = {"ha": "right" if side == 0 else "left", "va": "center", "color": INK}
            axes.text(side + 1.25 * at, where, text, fontsize=7.5, **style)
    for one in moved:
        up = one.student < one.teacher
        colour = FAINT if beside.withheld else FEMALE if up else MALE
        axes.plot(
            [0, 1],
            [one.teacher, one.student],
            color=colour,
            linewidth=1.5,
            marker="o",
            markersize=3,
            zorder=3,
        )
    axes.set(xlim=(-0.9, 1.9), ylim=(count + 1, 0), xticks=[0, 1], yticks=[])
    axes.set_xticklabels(["teacher", name])
    axes.set_ylabel(f"nearest to {attributes[1]}  ←  place by gap  →  nearest to {attributes[0]}", color=INK)
    word = " (conclusion withheld)" if beside.withheld else ""
    axes.set_title(f"{name}{word}", loc="left", fontweight="bold", color=INK)
    for side_name in ("top", "right", "left", "bottom"):
        axes.spines[side_name].set_visible(False)


def spread(places: list[int], apart: float, low: float, high: float) -> list[float]:
    """Where labels go so that none lies nearer than ``apart`` to another, in their order, ``low`` to ``high``."""
    order = np.argsort(places, kind="stable")
    found = np.array(places, dtype=np.float64)[order]
    for row in range(1, len(found)):
        found[row] = max(found[row], found[row - 1] + apart)
    if len(found):
        found[-1] = min(found[-1], max(high, low + apart * (len(found) - 1)))
    for row in range(len(found) - 2, -1, -1):
        found[row] = min(found[row], found[row + 1] - apart)
    back = np.empty_like(found)
    back[order] = found
    return [float(one) for one in back]
