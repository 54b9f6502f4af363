"""How a training went: its losses, what drove them, and what it was judged by on its way."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from mmkd.evaluation.zero_shot_plot import COLOURS, MARKERS
from mmkd.report.drawing import CHANCE, DASHES, GRID, SOFT, Plot, legend_below, new_figure, shorten, thin
from mmkd.report.plain import number
from mmkd.report.run import ReportRun

if TYPE_CHECKING:
    from matplotlib.axes import Axes

NOT_TERMS = {"step", "loss", "lr", "grad_norm", "pairs_per_second"}
MOST_TERMS = 8
STYLES = ("-", (0, (5, 1.5)), (0, (1, 1)), (0, (5, 1, 1, 1)))


def curve_plots(run: ReportRun) -> list[Plot]:
    """The plots of a run's training: as many as its ``metrics.jsonl`` has something for."""
    return [plot for plot in (_losses(run), _schedule(run), _checks(run)) if plot is not None]


def _column(lines: Sequence[dict[str, float]], name: str) -> tuple[list[float], list[float]]:
    both = [(line["step"], line[name]) for line in lines if name in line]
    return [step for step, _ in both], [value for _, value in both]


def _names(lines: Sequence[dict[str, float]]) -> list[str]:
    return list(dict.fromkeys(name for line in lines for name in line))


def _losses(run: ReportRun) -> Plot | None:
    terms = [name for name in _names(run.steps) if name not in NOT_TERMS]
    names = ["loss", *terms[:MOST_TERMS]] if len(terms) != 1 else terms
    figure = new_figure(3.1)
    axes, rows, lowest, drawn = figure.add_subplot(), [], float("inf"), 0
    for place, name in enumerate(names):
        steps, values = thin(*_column(run.steps, name))
        if not values:
            continue
        label = "total, weighted" if name == "loss" else shorten(name)
        axes.plot(
            steps,
            values,
            color=COLOURS[place % len(COLOURS)],
            linestyle=STYLES[place % len(STYLES)],
            lw=1.8 if name == "loss" else 1.4,
            label=label,
            marker="o" if len(values) == 1 else "",
        )
        rows += [
            {"run": run.name, "term": name, "step": s, "value": v} for s, v in zip(steps, values, strict=True)
        ]
        lowest, drawn = min(lowest, *values), drawn + 1
    if not rows:
        return None
    if lowest > 0:
        _logarithmic(axes)
    axes.set_ylabel("loss")
    _frame(axes)
    if drawn > 1:
        legend_below(axes)
    else:
        axes.set_ylabel(shorten(names[0]))
    scale = ", on a logarithmic scale" if lowest > 0 else ""
    caption = (
        f"Training loss of {run.name} by step{scale}. Each term is drawn as it is before its weight; the total is "
        "the weighted sum that is minimised. Losses of different names measure different things: their heights say "
        "nothing of which student is better."
        if drawn > 1
        else f"Training loss of {run.name} by step{scale}. Losses of different names measure different things: "
        "their heights say nothing of which student is better."
    )
    return Plot(f"loss-{run.name}", "Loss by term", caption + _thinned(run.steps), figure, rows)


def _schedule(run: ReportRun) -> Plot | None:
    wanted = [("lr", "learning rate"), ("grad_norm", "gradient norm")]
    found = [(name, title) for name, title in wanted if _column(run.steps, name)[1]]
    if not found:
        return None
    figure = new_figure(0.5 + 1.3 * len(found))
    grid, rows = figure.subplots(len(found), 1, sharex=True, squeeze=False)[:, 0], []
    for place, (axes, (name, title)) in enumerate(zip(grid, found, strict=True)):
        steps, values = thin(*_column(run.steps, name))
        axes.plot(steps, values, color=COLOURS[1 + place], lw=1.5, marker="o" if len(values) == 1 else "")
        axes.set_ylim(bottom=0)
        axes.set_ylabel(title)
        _frame(axes, last=place == len(found) - 1)
        rows += [
            {"run": run.name, "what": name, "step": s, "value": v} for s, v in zip(steps, values, strict=True)
        ]
    clip = number(run.recipe.get("clip_grad")) or 0.0
    clipped = clip > 0 and found[-1][0] == "grad_norm"
    if clipped and grid[-1].get_ylim()[1] >= clip:
        grid[-1].axhline(clip, color=SOFT, linestyle=DASHES, lw=1)
    has_norm = found[-1][0] == "grad_norm"
    caption = f"Learning rate of {run.name} by step" + (
        f", and the norm of the gradient before it is clipped{f' at {clip:g}, the dashed line' if clipped else ''}. "
        "Spikes that grow are the first sign of a training that will diverge."
        if has_norm
        else ". The norm of the gradient was not recorded."
    )
    title = "Learning rate and gradient" if has_norm else "Learning rate"
    return Plot(f"schedule-{run.name}", title, caption + _thinned(run.steps), figure, rows)


def _checks(run: ReportRun) -> Plot | None:
    names = [name for name in _names(run.checks) if name != "step"]
    shares = [name for name in names if name.rpartition("/")[2] in {"top-1", "top-5", "recall@1"}]
    if not shares:
        return None
    figure = new_figure(3.1)
    axes, rows = figure.add_subplot(), []
    for place, name in enumerate(shares[:MOST_TERMS]):
        steps, values = _column(run.checks, name)
        colour, marker = COLOURS[(place + 1) % len(COLOURS)], MARKERS[(place + 1) % len(MARKERS)]
        axes.plot(
            steps,
            [100 * value for value in values],
            color=colour,
            marker=marker,
            ms=5,
            lw=1.4,
            label=shorten(name),
        )
        chance = _chance(run, name)
        if chance is not None:
            axes.axhline(100 * chance, color=CHANCE, linestyle=DASHES, lw=1.1)
        rows += [
            {"run": run.name, "metric": name, "step": s, "value": v, "chance": chance}
            for s, v in zip(steps, values, strict=True)
        ]
    axes.set_ylim(bottom=0)
    axes.set_ylabel("% right")
    _frame(axes)
    legend_below(axes, 2)
    dashed = any(row["chance"] is not None for row in rows)
    caption = (
        f"What {run.name} was judged by on its way, by step"
        + ("; the dashed line is chance" if dashed else "")
        + ". A run that keeps its best step by one of these has chosen by it: the score that counts is on other data."
    )
    return Plot(f"checks-{run.name}", "Judged while training", caption, figure, rows)


def _chance(run: ReportRun, metric: str) -> float | None:
    """The chance line of ``SET/top-1``, where the run was evaluated on a set of that name."""
    name, _, which = metric.rpartition("/")
    evaluation = run.evaluations.get("zero-shot")
    for one in () if evaluation is None else evaluation.sets:
        for judged in one.models.values():
            if one.name == name and which in judged.scores:
                return judged.scores[which].chance
    return None


def _frame(axes: "Axes", *, last: bool = True) -> None:
    axes.grid(axis="y", color=GRID)
    axes.margins(x=0.02)
    if last:
        axes.set_xlabel("step")


def _logarithmic(axes: "Axes") -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axes.set_yscale("log")
    low, high = axes.get_ylim()
    few = high / low < 30  # within a decade or so, powers of ten alone would leave one tick
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if few else (1.0,)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())


def _thinned(lines: Sequence[dict[str, float]]) -> str:
    from mmkd.report.drawing import MOST_POINTS

    every = -(-len(lines) // MOST_POINTS)
    return "" if every <= 1 else f" Each point is the mean over {every} lines of metrics.jsonl."
