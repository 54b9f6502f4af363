"""The EAT map: where two groups of targets lean, in four quadrants."""

from typing import TYPE_CHECKING, Any

from mmkd.evaluation.plots import FAINT, INK, as_written
from mmkd.evaluation.zero_shot_plot import COLOURS, MARKERS

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from mmkd.evaluation.bias.report import BiasReport


@as_written()
def plot_eat_map(report: "BiasReport") -> "Figure | None":
    """Each model at the level-2 effect sizes of the two groups of targets; ``None`` without two groups.

    Above and to the right a group leans to the first attribute. Off the diagonal, towards the lower right, the groups
    differ as the first attribute's stereotype has it; a point in a corner with both leaning one way shows what a single
    WEAT effect size hides. Hollow: at least one of the two does not lean at p <= 0.05.

    Source: Wolfe, Hiniker and Howe, arXiv 2408.01966.
    """
    from matplotlib.figure import Figure

    levels = {name: model.overall.levels for name, model in report.models.items()}
    known = {name: one for name, one in levels.items() if one is not None}
    if not known:
        return None
    groups, (first, second) = tuple(report.words.groups), report.words.attributes
    figure = Figure(figsize=(6.2, 6.4), dpi=160, layout="constrained")
    axes = figure.add_subplot()
    most = 2.15
    axes.set(xlim=(-most, most), ylim=(-most, most), aspect="equal")
    axes.axhline(0, color=INK, linewidth=0.8)
    axes.axvline(0, color=INK, linewidth=0.8)
    axes.plot([-most, most], [-most, most], color=FAINT, linewidth=1, linestyle=(0, (5, 4)))
    for x, y, text in (
        (1, 1, f"both to {first}"),
        (-1, -1, f"both to {second}"),
        (1, -1, f"{groups[0]}: {first}\n{groups[1]}: {second}"),
        (-1, 1, f"{groups[0]}: {second}\n{groups[1]}: {first}"),
    ):
        # Beside the horizontal axis: points that lean gather in the corners.
        style: dict[str, Any] = {"ha": "center", "va": "bottom" if y > 0 else "top", "color": "#777777"}
        axes.text(x * most / 2, 0.06 * y, text, fontsize=8.5, **style)
    for place, (name, one) in enumerate(known.items()):
        effect = [one.single[group].effect_size for group in groups]
        leans = all(one.single[group].leans != "neither" for group in groups)
        colour = COLOURS[place % len(COLOURS)]
        beside = report.comparisons.get(name)
        doubt = " (means nothing)" if report.models[name].doubts or (beside and beside.withheld) else ""
        weat = f"WEAT d {one.differential.effect_size:.2f}, p {one.differential.p_value:.2g}"
        style = {"facecolors": colour if leans else "white", "edgecolors": colour}
        axes.scatter(
            effect[:1],
            effect[1:],
            s=90,
            marker=MARKERS[place % len(MARKERS)],
            linewidths=1.6,
            zorder=3,
            label=f"{name}{doubt}: {weat}",
            **style,
        )
    axes.set_xlabel(f"{groups[0]}: effect size towards {first}", color=INK)
    axes.set_ylabel(f"{groups[1]}: effect size towards {first}", color=INK)
    figure.suptitle("EAT map", x=0.01, ha="left", fontweight="bold", color=INK)
    figure.legend(loc="outside lower left", frameon=False, fontsize=8.5)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.tick_params(colors="#555555")
    return figure
