"""The zero-shot report as a figure: every score with its interval, and the chance line that it must leave behind."""

from typing import TYPE_CHECKING, Any

from mmkd.evaluation.plots import FAINT, INK, as_written
from mmkd.evaluation.zero_shot_report import TOP_1

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from mmkd.evaluation.zero_shot_report import ModelScores, ZeroShotReport

# Okabe and Ito's, without the yellow that vanishes on white; the markers differ too.
COLOURS = ("#222222", "#D55E00", "#0072B2", "#009E73", "#CC79A7", "#56B4E9")
MARKERS = ("D", "o", "s", "^", "v", "P")


@as_written()
def plot_scores(report: "ZeroShotReport") -> "Figure":
    """Top-1 of every model on every set, percent; grey and hollow where a score cannot be told from guessing."""
    from matplotlib.figure import Figure

    names = list(report.models)
    height = 1.5 + len(report.sets) * (0.35 + 0.22 * len(names))
    figure = Figure(figsize=(7.6, height), dpi=160, layout="constrained")
    axes = figure.add_subplot()
    ticks = []
    for row, one in enumerate(report.sets):
        top = -row * (len(names) + 1.2)
        middle = top - (len(names) - 1) / 2
        ticks.append((middle, f"{one.task.name}\n{len(one.labels):,} images"))
        for place, name in enumerate(names):
            _draw_score(axes, one.models[name], top - place, place, label=name if row == 0 else None)
        chance = 100 * one.models[names[0]].scores[TOP_1].chance
        axes.plot(
            [chance, chance],
            [top + 0.6, top - len(names) + 0.4],
            color="#CC3311",
            linestyle=(0, (4, 3)),
            lw=1.2,
        )
        axes.annotate("chance", (chance, top + 0.6), ha="center", va="bottom", fontsize=7.5, color="#CC3311")
    axes.set_yticks([at for at, _ in ticks], [text for _, text in ticks])
    highest = max(model.scores[TOP_1].interval.high for one in report.sets for model in one.models.values())
    axes.set_xlim(0, min(109, 118 * highest + 4))
    axes.set_ylim(ticks[-1][0] - len(names) / 2 - 0.6, len(names) / 2 + 0.5)
    axes.set_xlabel("top-1, % of images, with 95 % intervals", color=INK)
    axes.set_title("Zero-shot classification", loc="left", fontweight="bold", color=INK)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.tick_params(left=False, colors="#555555")
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="outside lower right", frameon=False, ncols=min(4, len(names)), fontsize=9
    )
    return figure


def _draw_score(axes: "Axes", model: "ModelScores", at: float, place: int, *, label: str | None) -> None:
    score = model.scores[TOP_1]
    known = not score.at_chance and model.collapsed is None
    colour = COLOURS[place % len(COLOURS)] if known else FAINT
    style: dict[str, Any] = {
        "fmt": MARKERS[place % len(MARKERS)],
        "color": colour,
        "markerfacecolor": colour if known else "white",
        "capsize": 3,
    }
    spread = [[100 * (score.value - score.interval.low)], [100 * (score.interval.high - score.value)]]
    axes.errorbar(100 * score.value, at, xerr=spread, label=label, **style)
    words = "" if known else "  collapsed" if model.collapsed else "  at chance"
    axes.annotate(
        f"{100 * score.value:.1f}{words}",
        (100 * score.interval.high, at),
        xytext=(7, 0),
        textcoords="offset points",
        va="center",
        fontsize=8.5,
        color=INK if known else "#777777",
    )


@as_written()
def plot_trade(report: "ZeroShotReport") -> "Figure | None":
    """Mean top-1 over the sets against images a second, a point a model; ``None`` where speed was not measured."""
    from matplotlib.figure import Figure

    rates = {
        name: cost.images_per_second
        for name, cost in report.costs.items()
        if cost.images_per_second is not None
    }
    if not rates:
        return None
    figure = Figure(figsize=(6.4, 4.2), dpi=160, layout="constrained")
    axes = figure.add_subplot()
    means = {
        name: 100 * sum(one.models[name].scores[TOP_1].value for one in report.sets) / len(report.sets)
        for name in rates
    }
    for place, (name, rate) in enumerate(rates.items()):
        colour, words = _standing([one.models[name] for one in report.sets], place)
        spread = [[rate.value - rate.low], [rate.high - rate.value]]
        style: dict[str, Any] = {"fmt": MARKERS[place % len(MARKERS)], "color": colour}
        axes.errorbar(rate.value, means[name], xerr=spread, capsize=3, markersize=8, **style)
        axes.annotate(
            f"{name}{words}\n{report.costs[name].parameters / 1e6:.3g} M parameters",
            (rate.value, means[name]),
            xytext=(9, 7),
            textcoords="offset points",
            fontsize=8.5,
            color="#777777" if words else INK,
        )
    chance = (
        100
        * sum(next(iter(one.models.values())).scores[TOP_1].chance for one in report.sets)
        / len(report.sets)
    )
    axes.axhline(chance, color="#CC3311", linestyle=(0, (4, 3)), lw=1.2)
    axes.annotate(
        "chance", (0, chance), xytext=(4, 3), textcoords="offset points", fontsize=8, color="#CC3311"
    )
    axes.set_xlim(0, 1.45 * max(rate.high for rate in rates.values()))
    axes.set_ylim(0, min(105, 1.25 * max(*means.values(), chance) + 2))
    axes.set_xlabel("images a second (median, quartiles)", color=INK)
    axes.set_ylabel(
        f"top-1, mean of {len(report.sets)} sets, %" if len(report.sets) > 1 else "top-1, %", color=INK
    )
    axes.set_title("What a score costs", loc="left", fontweight="bold", color=INK)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.tick_params(colors="#555555")
    return figure


def _standing(models: "Sequence[ModelScores]", place: int) -> tuple[str, str]:
    """A model's colour, and the words beside its name: grey where no score of it can be told from guessing."""
    if any(model.collapsed for model in models):
        return FAINT, ", collapsed"
    if all(model.at_chance for model in models):
        return FAINT, ", at chance"
    return COLOURS[place % len(COLOURS)], ""
