"""The probes' report as a figure: top-1 of each probe and model, with intervals and the chance line."""

from typing import TYPE_CHECKING, Any

from mmkd.evaluation.plots import FAINT, INK, as_written
from mmkd.evaluation.zero_shot_plot import COLOURS, MARKERS

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from mmkd.evaluation.probe_report import ProbeReport


@as_written()
def plot_probe(report: "ProbeReport") -> "Figure":
    """Top-1, percent; grey and hollow where a score says no more than guessing."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.6, 4.2), dpi=160, layout="constrained")
    axes = figure.add_subplot()
    probes = list(next(iter(report.models.values())).right)
    for place, (name, model) in enumerate(report.models.items()):
        for at, probe in enumerate(probes):
            score = model.scores[f"{probe} top-1"]
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
                at + 0.16 * (place - (len(report.models) - 1) / 2),
                100 * score.value,
                yerr=[[100 * (score.value - low)], [100 * (high - score.value)]],
                label=name if at == 0 else None,
                **style,
            )
    chance = 100 * next(iter(report.models.values())).scores[f"{probes[0]} top-1"].chance
    axes.axhline(chance, color="#CC3311", linestyle=(0, (4, 3)), lw=1.2, label="chance")
    axes.set_xticks(range(len(probes)), probes)
    axes.set_ylim(bottom=0)
    axes.set_ylabel(f"top-1, % of {report.test_images:,} images", color=INK)
    title = f"{report.name}: frozen image embeddings, {report.train_images:,} labelled"
    axes.set_title(title, loc="left", fontweight="bold", color=INK)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.tick_params(colors="#555555")
    figure.legend(loc="outside lower right", frameon=False, ncols=5, fontsize=9)
    return figure
