"""Points of teacher against student about the line on which nothing changed."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from mmkd.report.drawing import GRID, PAPER, SOFT, mark, shorten

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def scatter(
    axes: "Axes",
    x: NDArray[np.float64],
    y: NDArray[np.float64],
    names: Sequence[str],
    *,
    limits: tuple[float, float],
    labelled: int = 6,
    known: bool = True,
) -> None:
    """Points on equal scales about the diagonal on which nothing changed; those farthest from it are named."""
    style = mark(1, known=known)
    axes.plot(limits, limits, color=SOFT, lw=1, linestyle=(0, (4, 3)), zorder=1)
    # Where points coincide, the darker ones are several.
    axes.plot(
        x,
        y,
        linestyle="",
        marker=style["marker"],
        ms=6,
        alpha=0.6,
        color=style["color"],
        markerfacecolor=style["markerfacecolor"],
        markeredgecolor=PAPER if known else style["color"],
        markeredgewidth=0.6,
        zorder=2,
    )
    _name(axes, x, y, names, limits[1] - limits[0], labelled)
    axes.set(xlim=limits, ylim=limits, aspect="equal")
    axes.grid(color=GRID)


def _name(
    axes: "Axes", x: NDArray[np.float64], y: NDArray[np.float64], names: Sequence[str], span: float, most: int
) -> None:
    """Name the points farthest from the diagonal, where a name covers neither a point nor another name."""
    height, letter, gap = 0.045 * span, 0.0165 * span, 0.022 * span
    boxes: list[tuple[float, float, float]] = []
    for row in np.argsort(-np.abs(y - x), kind="stable").tolist():
        if len(boxes) >= most or y[row] == x[row]:
            return
        name = shorten(names[row], 22)
        for side in (1, -1):
            ends = sorted((x[row] + side * gap, x[row] + side * (gap + letter * len(name))))
            box = (ends[0], ends[1], float(y[row]))
            covered = (x > box[0]) & (x < box[1]) & (np.abs(y - box[2]) < height / 2)
            met = any(b[0] < box[1] and box[0] < b[1] and abs(b[2] - box[2]) < height for b in boxes)
            if covered.any() or met or box[0] < min(0.0, x.min()) or box[1] > x.max() + 0.02 * span:
                continue
            boxes.append(box)
            axes.annotate(
                name,
                (float(x[row]), float(y[row])),
                xytext=(7 * side, 0),
                textcoords="offset points",
                ha="left" if side == 1 else "right",
                va="center",
                fontsize=8.5,
                zorder=3,
            )
            break
