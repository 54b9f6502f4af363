"""A study as a figure: every seed of every arm, with its mean and interval, against chance and the teacher."""

from typing import TYPE_CHECKING, Any

from mmkd.evaluation.plots import FAINT, INK, as_written, label_sides

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from mmkd.study.design import Study
    from mmkd.study.ranking import ArmResult, Ranking

# Okabe and Ito's; the markers differ too.
BEST, LEVEL_WITH_BEST, BELOW, NOT_COMPARED = "#D55E00", "#0072B2", "#555555", "#56B4E9"
MARKERS = {BEST: "D", LEVEL_WITH_BEST: "o", BELOW: "s", NOT_COMPARED: "^", FAINT: "x"}
WORDS = {
    BEST: "highest",
    LEVEL_WITH_BEST: "not distinguishable from it",
    BELOW: "below it",
    NOT_COMPARED: "not compared: one seed",
    FAINT: "at chance",
}
_MOST = 4  # panels


@as_written()
def plot_ranking(study: "Study", ranking: "Ranking") -> "Figure":
    """A panel a compared metric, arms from the best down, percent; grey where a run is at chance."""
    from matplotlib.figure import Figure

    metrics = ranking.metrics[:_MOST]
    results = [one for one in ranking.results if one.scores]
    figure = Figure(
        figsize=(3.4 + 3.1 * len(metrics), 1.7 + 0.34 * len(results)), dpi=160, layout="constrained"
    )
    panels: Any = figure.subplots(1, len(metrics), sharey=True, squeeze=False)
    used = set()
    for axes, metric in zip(panels[0], metrics, strict=True):
        for place, result in enumerate(results):
            colour = _colour(ranking, result, metric)
            used.add(colour)
            _draw(axes, result, metric, -place, colour)
        _lines(axes, results[0], metric)
        axes.set_xlabel(f"{metric}, %", color=INK)
        axes.grid(axis="y", color="#EEEEEE", linewidth=0.8)
        axes.set_axisbelow(True)
        for side in ("top", "right", "left"):
            axes.spines[side].set_visible(False)
        axes.tick_params(left=False, colors="#555555")
    first: Any = panels[0][0]
    first.set_yticks([-place for place in range(len(results))], [one.arm.name for one in results])
    first.tick_params(axis="y", labelcolor=INK)
    _title(figure, study, used)
    return figure


def _title(figure: "Figure", study: "Study", used: set[str]) -> None:
    from matplotlib.lines import Line2D

    seeds = len(study.seeds)
    figure.suptitle(
        f"{study.name}: {seeds} seed{'s' * (seeds != 1)} an arm (ticks), their mean"
        + (" and its 95 % interval" if seeds > 1 else ""),
        x=0.01,
        ha="left",
        fontweight="bold",
        color=INK,
        fontsize=11,
    )
    handles = [
        Line2D([], [], color=colour, marker=MARKERS[colour], linestyle="", label=word)
        for colour, word in WORDS.items()
        if colour in used
    ]
    figure.legend(handles=handles, loc="outside lower right", ncols=5, frameon=False, fontsize=8.5)


def _colour(ranking: "Ranking", result: "ArmResult", metric: str) -> str:
    best = ranking.best_in(metric)
    if best is None or result.scores[metric].all_at_chance:
        return FAINT
    if result.arm.name == best.arm.name:
        return BEST
    found = ranking.compare(result.arm.name, best.arm.name, metric)
    if found is None:
        return NOT_COMPARED
    return BELOW if found.told_apart and found.difference.value < 0 else LEVEL_WITH_BEST


def _draw(axes: "Axes", result: "ArmResult", metric: str, at: float, colour: str) -> None:
    score = result.scores[metric]
    for value in score.values:
        axes.plot(100 * value, at, "|", color=colour, alpha=0.6, markersize=9)
    style: dict[str, Any] = {"color": colour, "marker": MARKERS[colour], "markersize": 5, "capsize": 3}
    spread = None
    if score.interval is not None:
        low, high = max(0.0, score.interval.low), min(1.0, score.interval.high)
        spread = [[100 * (score.mean - low)], [100 * (high - score.mean)]]
    axes.errorbar(100 * score.mean, at, xerr=spread, linewidth=1.2, **style)


def _lines(axes: "Axes", result: "ArmResult", metric: str) -> None:
    score = result.scores[metric]
    lines = ((score.chance, "chance", "#CC3311"), (score.teacher, "teacher", "#222222"))
    for value, _, colour in lines:
        axes.axvline(100 * value, color=colour, linestyle=(0, (4, 3)), linewidth=1.1)
    axes.set_xlim(left=0)  # only now: from here on the axis does not grow
    sides = label_sides(100 * score.chance, 100 * score.teacher, axes.get_xlim()[1])
    for (value, label, colour), side in zip(lines, sides, strict=True):
        axes.annotate(
            f" {label} ",
            (100 * value, 1),
            xycoords=("data", "axes fraction"),
            ha=side,
            va="bottom",
            fontsize=7.5,
            color=colour,
        )
