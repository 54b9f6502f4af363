"""Gaps of teacher against student, with the diagonal on which nothing changed."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mmkd.evaluation.bias.gaps import Gaps
from mmkd.evaluation.plots import FAINT, FEMALE, INK, MALE, as_written

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from mmkd.evaluation.bias.report import BiasReport

SIDE = 6.6  # inches of one panel
_LABELLED = 7
STAMP = "#CC3311"


@as_written()
def plot_gaps(report: "BiasReport") -> "Figure":
    """One panel a student: every target's gap in teacher (x) and student (y), with both 95 % intervals.

    Points whose difference holds after Benjamini and Hochberg at 0.05 are filled. A panel whose conclusion is withheld
    is grey, under a stamp that says so.

    Raises:
        ValueError: the report compares nothing.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    if not report.comparisons:
        raise ValueError("the report has one model; gaps are drawn of a teacher and its students")
    figure = Figure(figsize=(SIDE * len(report.comparisons), SIDE + 0.7), dpi=160, layout="constrained")
    canvas: Any = FigureCanvasAgg(figure)
    panels = figure.subplots(1, len(report.comparisons), squeeze=False)[0]
    teacher = report.models[str(report.reference)].gaps
    labelled = []
    for axes, (name, beside) in zip(panels, report.comparisons.items(), strict=True):
        student, withheld = report.models[name].gaps, bool(beside.withheld)
        ends = draw_gaps(axes, teacher, student, report.words.attributes, beside.q_value, withheld=withheld)
        unit = "neutral nouns' spread" if teacher.standardised else "mean cosine"
        first, second = report.words.attributes
        axes.set_xlabel(f"gap in the teacher  ({first} − {second}, {unit})", color=INK)
        axes.set_ylabel(f"gap in {name}  ({first} − {second}, {unit})", color=INK)
        axes.set_title(
            f"{name}: {beside.verdict}",
            loc="left",
            fontsize=13,
            fontweight="bold",
            color=STAMP if withheld else INK,
        )
        if ends and not withheld:
            labelled.append((axes, student))
    figure.suptitle(
        f"{report.words.name.capitalize()} gap of {len(report.words.targets)} targets, teacher against student",
        x=0.01,
        ha="left",
        fontsize=11,
        color="#555555",
    )
    # Laid out once: each further layout would move things a little, and with them the bytes of the file.
    canvas.draw()
    figure.set_layout_engine("none")
    for axes, student in labelled:
        _label(axes, canvas.get_renderer(), report.words.targets, teacher.value, student.value)
    return figure


def draw_gaps(
    axes: "Axes",
    teacher: Gaps,
    student: Gaps,
    attributes: tuple[str, str],
    q_value: ArrayLike,
    *,
    withheld: bool,
) -> bool:
    """Draw one panel; False where all points coincide."""
    x, y = teacher.value, student.value
    ends = _frame(axes, x, y)
    changed = np.asarray(q_value) <= 0.05
    bars: dict[str, Any] = {"color": FAINT, "alpha": 0.35, "linewidth": 0.7, "zorder": 2}
    axes.hlines(y, teacher.low, teacher.high, **bars)
    axes.vlines(x, student.low, student.high, **bars)
    for mask, colour, marker, attribute in (
        (x >= 0, FEMALE, "o", attributes[0]),
        (x < 0, MALE, "s", attributes[1]),
    ):
        for filled in (True, False):
            chosen = mask & (changed == filled)
            if not chosen.any():
                continue
            ink = FAINT if withheld else colour
            style: dict[str, Any] = {
                "marker": marker,
                "facecolors": ink if filled else "white",
                "edgecolors": ink,
                "label": f"to {attribute} in the teacher, {'changed' if filled else 'not clearly changed'}",
            }
            axes.scatter(x[chosen], y[chosen], s=22, alpha=0.9, linewidths=0.9, zorder=3, **style)
    axes.legend(loc="upper left", frameon=False, fontsize=8)
    if withheld:
        stamp: dict[str, Any] = {
            "fontsize": 36,
            "color": STAMP,
            "alpha": 0.3,
            "rotation": 30,
            "fontweight": "bold",
        }
        axes.text(0.5, 0.5, "means nothing", transform=axes.transAxes, ha="center", va="center", **stamp)
    return ends


def _frame(axes: "Axes", x: NDArray[np.float64], y: NDArray[np.float64]) -> bool:
    """Equal scales, zero lines and the diagonal; False where all points coincide."""
    low, high = min(x.min(), y.min(), 0.0), max(x.max(), y.max(), 0.0)
    spread = high - low
    margin = 0.12 * spread or 0.01
    limits = (low - margin, high + margin)
    axes.set(xlim=limits, ylim=limits, aspect="equal")
    axes.axhline(0, color=FAINT, linewidth=0.8, zorder=1)
    axes.axvline(0, color=FAINT, linewidth=0.8, zorder=1)
    axes.plot(limits, limits, color="#777777", linewidth=1, linestyle=(0, (5, 4)), zorder=2)
    at = limits[1] - 0.16 * (limits[1] - limits[0])
    axes.text(
        at,
        at,
        "nothing changed",
        rotation=45,
        ha="center",
        va="bottom",
        fontsize=8.5,
        color="#777777",
        zorder=2,
    )
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.tick_params(colors="#555555")
    return bool(spread)


def _label(
    axes: "Axes", renderer: Any, names: Sequence[str], x: NDArray[np.float64], y: NDArray[np.float64]
) -> None:
    """Name the outermost points and those farthest from the diagonal, where there is room."""
    order = np.argsort(x)
    picked = [*order[:_LABELLED], *order[::-1][:_LABELLED], *np.argsort(-np.abs(y - x))[:_LABELLED]]
    points = axes.transData.transform(np.column_stack([x, y]))
    boxes: list[Any] = []
    for row in dict.fromkeys(int(row) for row in picked):
        for (dx, dy), ha in (
            ((6, -3), "left"),
            ((-6, -3), "right"),
            ((0, 7), "center"),
            ((0, -13), "center"),
        ):
            text = axes.annotate(
                names[row],
                (float(x[row]), float(y[row])),
                xytext=(dx, dy),
                textcoords="offset points",
                ha=ha,
                fontsize=8,
                color=INK,
                zorder=4,
            )
            text.set_in_layout(False)
            box = text.get_window_extent(renderer)
            inside = axes.bbox.contains(box.x0, box.y0) and axes.bbox.contains(box.x1, box.y1)
            covers = any(box.contains(*point) for i, point in enumerate(points) if i != row)
            if inside and not covers and not any(box.overlaps(other) for other in boxes):
                boxes.append(box)
                break
            text.remove()
