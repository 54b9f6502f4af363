"""What a student takes for what: its confusions beside its teacher's, and each class for itself."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mmkd.evaluation.plots import INK
from mmkd.report.drawing import GRID, SOFT, Plot, legend_below, mark, new_figure, shorten
from mmkd.report.evaluations import JudgedSet
from mmkd.report.run import Confusion, ReportRun, images_right
from mmkd.report.scatter import scatter

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MATRIX = 20  # classes; a larger matrix cannot be read on a telephone
PAIRS = 12


def confusion_plots(run: ReportRun) -> list[tuple[str, list[Plot]]]:
    """For each set of the run's zero-shot evaluation: a matrix where it can be read, worst pairs, and classes."""
    evaluation, own = run.evaluations.get("zero-shot"), run.student_of("zero-shot")
    found = []
    for one in () if evaluation is None else evaluation.sets:
        student = run.confusion.get((one.name, own))
        assert evaluation is not None
        teacher = run.confusion.get((one.name, evaluation.reference))
        if student:
            plots = [
                _matrix(run, one, student) if len(one.class_names) <= MATRIX else None,
                _pairs(run, one, student, teacher),
                _classes(run, one, student, teacher) if teacher else None,
            ]
            found.append((one.name, [plot for plot in plots if plot is not None]))
    return found


def _shares(names: Sequence[str], answers: Confusion) -> NDArray[np.float64]:
    """Percent of each class's images that were called each class, (K, K)."""
    place = {name: i for i, name in enumerate(names)}
    counts = np.zeros((len(names), len(names)))
    totals = np.zeros(len(names))
    for (true, predicted), images in answers.items():
        if true in place:
            totals[place[true]] += images
            if predicted in place:
                counts[place[true], place[predicted]] += images
    shares: NDArray[np.float64] = 100 * counts / np.maximum(totals, 1)[:, None]
    return shares


def _matrix(run: ReportRun, one: JudgedSet, student: Confusion) -> Plot:
    names = one.class_names
    shares = _shares(names, student)
    figure = new_figure(1.4 + 0.22 * len(names))
    axes = figure.add_subplot()
    # The blue of the palette, ever denser, lies on either ground.
    for i, j in np.argwhere(shares >= 0.5).tolist():
        axes.fill_between(
            [j - 0.5, j + 0.5], i - 0.5, i + 0.5, color="#0072B2", alpha=float(shares[i, j]) / 100, lw=0
        )
        if len(names) <= 12:
            dark = shares[i, j] > 55
            axes.text(
                j,
                i,
                f"{shares[i, j]:.0f}",
                ha="center",
                va="center",
                fontsize=8,
                color="#fefefe" if dark else INK,
            )
    axes.set(xlim=(-0.5, len(names) - 0.5), ylim=(len(names) - 0.5, -0.5))
    axes.set_xticks(range(len(names)), [shorten(name, 14) for name in names], rotation=90, fontsize=8.5)
    axes.set_yticks(range(len(names)), [shorten(name, 14) for name in names], fontsize=8.5)
    axes.tick_params(length=0, labelcolor=INK)
    axes.set_ylabel("is")
    axes.set_xlabel("called")
    axes.spines[:].set_visible(False)
    rows = [
        {
            "run": run.name,
            "set": one.name,
            "true": names[i],
            "predicted": names[j],
            "share": shares[i, j] / 100,
        }
        for i, j in np.ndindex(shares.shape)
    ]
    caption = (
        f"What {run.name} calls the images of each class of {one.name}, in percent of the class's images; the diagonal "
        "is right, shares below 0.5 % are left blank."
    )
    return Plot(f"confusion-{run.name}-{one.name}", f"Confusion on {one.name}", caption, figure, rows)


def _pairs(run: ReportRun, one: JudgedSet, student: Confusion, teacher: Confusion | None) -> Plot | None:
    totals = {name: total for name, (_, total) in images_right(one, student).items()}
    known = set(one.class_names)
    wrong = [pair for pair in student if pair[0] != pair[1] and known.issuperset(pair)]

    def share(confusion: Confusion, pair: tuple[str, str]) -> float:
        return confusion.get(pair, 0) / max(1, totals.get(pair[0], 1))

    worst = sorted(wrong, key=lambda pair: (-share(student, pair), -student[pair], pair))[:PAIRS]
    if not worst:
        return None
    found = [
        (pair, {run.name: share(student, pair)} | ({"teacher": share(teacher, pair)} if teacher else {}))
        for pair in worst
    ]
    rows = [
        {"set": one.name, "model": name, "true": pair[0], "predicted": pair[1], "share": value}
        for pair, shares in found
        for name, value in shares.items()
    ]
    caption = (
        f"The {len(worst)} confusions on {one.name} that {run.name} makes most often (true class → answer), by the "
        "share of the class's images"
        + (
            ", and how often its teacher makes the same. Far apart: the student's own mistakes."
            if teacher
            else "."
        )
    )
    title = f"Most confused on {one.name}"
    return Plot(f"confused-{run.name}-{one.name}", title, caption, _draw_pairs(found), rows)


def _draw_pairs(found: Sequence[tuple[tuple[str, str], dict[str, float]]]) -> "Figure":
    figure = new_figure(0.9 + 0.27 * len(found))
    axes = figure.add_subplot()
    for at, (_, shares) in enumerate(found):
        ends = [100 * min(shares.values()), 100 * max(shares.values())]
        axes.plot(ends, [-at] * 2, color=SOFT, lw=1, zorder=1)
        for name, value in reversed(shares.items()):
            style = mark(0 if name == "teacher" else 1)
            label = shorten(name) if at == 0 else None
            axes.plot(100 * value, -at, linestyle="", ms=6, label=label, zorder=2, **style)
    labels = [f"{shorten(true, 20)} → {shorten(predicted, 20)}" for (true, predicted), _ in found]
    axes.set_yticks([-at for at in range(len(found))], labels, fontsize=8.5)
    axes.tick_params(axis="y", length=0, labelcolor=INK)
    axes.spines["left"].set_visible(False)
    axes.set_xlim(left=0)
    axes.set_ylim(-len(found) + 0.4, 0.6)
    axes.set_xlabel("% of the class's images")
    axes.grid(axis="x", color=GRID)
    legend_below(axes, 2)
    return figure


def _classes(run: ReportRun, one: JudgedSet, student: Confusion, teacher: Confusion) -> Plot | None:
    own, its = images_right(one, student), images_right(one, teacher)
    names = [name for name in one.class_names if name in own and name in its]
    if len(names) < 3:
        return None
    x, y = (
        np.array([100 * found[name][0] / max(1, found[name][1]) for name in names]) for found in (its, own)
    )
    figure = new_figure(4.3)
    axes = figure.add_subplot()
    scatter(axes, x, y, names, limits=(-4.0, 104.0))
    axes.set_xlabel("teacher: % of the class's images right")
    axes.set_ylabel(f"{shorten(run.name, 30)}: % right")
    rows: list[dict[str, Any]] = [
        {
            "set": one.name,
            "class": name,
            "images": own[name][1],
            "teacher": its[name][0] / max(1, its[name][1]),
            run.name: own[name][0] / max(1, own[name][1]),
        }
        for name in names
    ]
    few = min(own[name][1] for name in names)
    caption = (
        f"Each of the {len(names)} classes of {one.name} that have images, by how many of them teacher and student "
        "name rightly. Below the dashed line the student lost something. The names are those of the classes that "
        f"changed most; with {few} images a class or more, single classes are uncertain."
    )
    return Plot(f"classes-{run.name}-{one.name}", f"Class by class on {one.name}", caption, figure, rows)
