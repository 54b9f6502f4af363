"""Figures of evaluations; matplotlib is imported when one is drawn."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mmkd.files import atomic_file

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's palette, told apart by all common kinds of colour vision; the markers differ too.
FEMALE, MALE, INK, FAINT = "#D55E00", "#0072B2", "#222222", "#B5B5B5"
_LABELLED = 8


def plot_gaps(
    names: Sequence[str], teacher: ArrayLike, student: ArrayLike, *, title: str, subtitle: str, withheld: bool
) -> "Figure":
    """Gaps of the teacher (x) against the student (y), with the diagonal on which nothing changed.

    Args:
        names: P professions; the outermost are labelled.
        teacher: (P,) gaps, positive towards the female terms.
        student: (P,).
        title: first line.
        subtitle: second line, smaller.
        withheld: draw in grey, under a stamp that says so.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    x, y = np.asarray(teacher, dtype=np.float64), np.asarray(student, dtype=np.float64)
    figure = Figure(figsize=(7.2, 7.2), dpi=160, layout="constrained")
    canvas: Any = FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    ends = _frame(axes, x, y)
    for mask, colour, marker, label in (
        (x >= 0, FEMALE, "o", "nearer to the female terms in the teacher"),
        (x < 0, MALE, "s", "nearer to the male terms in the teacher"),
    ):
        if mask.any():
            style: dict[str, Any] = {"color": FAINT if withheld else colour, "marker": marker, "label": label}
            axes.scatter(
                x[mask], y[mask], s=34, alpha=0.85, linewidths=0.5, edgecolors="white", zorder=3, **style
            )
    axes.set_xlabel("gap in the teacher  (female − male, mean cosine)", color=INK)
    axes.set_ylabel("gap in the student  (female − male, mean cosine)", color=INK)
    axes.set_title(f"{title}\n", loc="left", fontsize=13, fontweight="bold", color=INK)
    axes.text(0, 1.02, subtitle, transform=axes.transAxes, fontsize=9.5, color="#555555")
    axes.legend(loc="upper left", frameon=False, fontsize=9)
    if withheld:
        stamp: dict[str, Any] = {
            "fontsize": 40,
            "color": "#CC3311",
            "alpha": 0.3,
            "rotation": 30,
            "fontweight": "bold",
        }
        axes.text(0.5, 0.5, "means nothing", transform=axes.transAxes, ha="center", va="center", **stamp)
    # Laid out once: each further layout would move things a little, and with them the bytes of the file.
    canvas.draw()
    figure.set_layout_engine("none")
    if ends and not withheld:
        _label(axes, canvas.get_renderer(), names, x, y)
    return figure


def save_figure(figure: "Figure", path: Path) -> None:
    """Write a figure in the format of its suffix, whole or not at all; the same figure gives the same bytes."""
    import matplotlib as mpl

    metadata: dict[str, Any] = {"Date": None} if path.suffix == ".svg" else {"Software": None}
    # Text stays text in an SVG, to be searched and read aloud.
    with mpl.rc_context({"svg.hashsalt": "mmkd", "svg.fonttype": "none"}), atomic_file(path) as temporary:
        figure.savefig(temporary, format=path.suffix[1:], metadata=metadata)


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
