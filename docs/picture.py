"""Draws docs/images/demo.svg from the workspace that ``mmkd demo`` left: ``make picture``."""

import sys
import textwrap
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from mmkd.cli.demo_result import SET_TITLES, Line, read_lines
from mmkd.cli.demo_workspace import DemoWorkspace
from mmkd.files import atomic_file
from mmkd.parse import read_json
from mmkd.scenes import draw

OUT = Path(__file__).parent / "images" / "demo.svg"
SHOWN = 6
ENLARGED = 8
SPREAD = 1.25
COLOURS = {"teacher": "#5b6770", "student": "#1a73a7", "from scratch": "#d08a2e"}


def show_scenes(figure: Any) -> None:
    """Six scenes of one and of two shapes, with their captions."""
    axes = figure.subplots(2, 3)
    candidates = [draw(0, index, "train") for index in range(60)]
    one = [scene for scene in candidates if len(scene.parts) == 1][: SHOWN // 2]
    two = [scene for scene in candidates if len(scene.parts) == 2][: SHOWN // 2]
    for axis, scene in zip(axes.flat, one + two, strict=True):
        # Enlarged here, so that no viewer smooths the pixels.
        axis.imshow(np.kron(np.asarray(scene.image), np.ones((ENLARGED, ENLARGED, 1), np.uint8)))
        axis.set_xlabel(textwrap.fill(scene.caption, 20), fontsize=7)
        axis.set_xticks([])
        axis.set_yticks([])
    figure.suptitle("scenes", fontsize=10, x=0.02, ha="left")


def show_scores(figure: Any, lines: list[Line]) -> None:
    """Top-1 of the three models on both sets, with 95 % intervals and the chance line."""
    axis = figure.subplots()
    lines = [line for line in lines if line.metric == "top-1"]
    width = 0.26
    for offset, name in zip((-1, 0, 1), COLOURS, strict=True):
        for place, line in enumerate(lines):
            score = {"teacher": line.teacher, "student": line.student, "from scratch": line.scratch}[name]
            value, low, high = (100 * score[key] for key in ("value", "low", "high"))
            x = SPREAD * place + offset * width
            label = name if place == 0 else None
            axis.bar(x, value, width * 0.92, color=COLOURS[name], label=label)
            axis.errorbar(x, value, [[value - low], [high - value]], color="black", lw=0.8, capsize=2)
            axis.annotate(
                f"{value:.1f}", (x, high), (0, 2), textcoords="offset points", ha="center", fontsize=8
            )
    # The best guesser who never looks does better where fewer classes occur.
    for place, line in enumerate(lines):
        chance = 100 * line.teacher["chance"]
        ends = (SPREAD * place - 0.42, SPREAD * place + 0.42)
        axis.plot(ends, (chance, chance), color="white", lw=2.4)
        axis.plot(ends, (chance, chance), color="black", lw=1, ls=":")
        axis.annotate(
            f"chance {chance:.1f}", (ends[1], chance), (0, 3), textcoords="offset points", fontsize=7
        )
    axis.set_xticks(
        [SPREAD * place for place in range(len(lines))], [line.title for line in lines], fontsize=8.5
    )
    axis.set_xlim(-0.5, SPREAD * len(lines) - 0.5)
    axis.set_ylim(0, 112)
    axis.set_yticks(range(0, 101, 20))
    axis.tick_params(axis="y", labelsize=8)
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(fontsize=8, frameon=False, ncols=3, loc="upper right")
    figure.suptitle("named right among 160 classes, %, with 95 % intervals", fontsize=10, x=0.02, ha="left")


def picture(work: Path) -> Figure:
    """The whole picture, of the demo in ``work``."""
    demo = DemoWorkspace(work)
    student = demo.root / read_json(demo.record)["student"]
    lines = read_lines(student / "zero-shot.json", demo.scratch / "zero-shot.json")
    assert {line.title for line in lines} <= set(SET_TITLES.values())
    figure = plt.figure(figsize=(9.6, 3.4), layout="constrained", facecolor="white")
    ((left, right),) = figure.subfigures(1, 2, squeeze=False, width_ratios=(1, 1.45), wspace=0.03)
    show_scenes(left)
    show_scores(right, lines)
    return figure


if __name__ == "__main__":
    mpl.use("svg")
    mpl.rcParams.update({"svg.hashsalt": "mmkd", "font.family": "DejaVu Sans"})
    with atomic_file(OUT) as temporary:
        picture(Path(sys.argv[1] if len(sys.argv) > 1 else "work")).savefig(
            temporary, format="svg", metadata={"Date": None}
        )
    print(OUT)
