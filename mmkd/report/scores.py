"""Scores of several models against chance, each set for itself, and what size and speed they cost."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mmkd.evaluation.plots import INK
from mmkd.report.drawing import (
    CHANCE,
    DASHES,
    GRID,
    SOFT,
    Plot,
    legend_below,
    mark,
    new_figure,
    shorten,
)
from mmkd.report.evaluations import Judged, JudgedSet, ScoreLine
from mmkd.report.plain import mapping, number
from mmkd.report.run import ReportRun

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TEACHER = "teacher"
NAMED = 8  # models that a legend can tell apart
ROWS = 28  # scores that one figure holds and can be read
TITLES = {
    "zero-shot": "Top-1 of every model on every set",
    "retrieval": "R@1 and R@5, both ways",
    "probe": "Top-1 of every probe",
}


@dataclass(frozen=True)
class Shared:
    """One set with the models of all runs that were judged on it.

    Attributes:
        kind: of evaluation.
        judged: the set, as the first run has it.
        models: by name, the teacher first; a run's student goes by the run's name.
        places: of each model among all of the report: its colour and marker.
    """

    kind: str
    judged: JudgedSet
    models: Mapping[str, Judged]
    places: Mapping[str, int]

    @property
    def metrics(self) -> list[str]:
        """Every metric, in the order of the first model that has it."""
        return list(dict.fromkeys(metric for model in self.models.values() for metric in model.scores))

    def chance(self, metric: str) -> float:
        """The chance line of a metric."""
        return next(model.scores[metric].chance for model in self.models.values() if metric in model.scores)


def shared_sets(runs: Sequence[ReportRun], kind: str) -> list[Shared]:
    """The sets of an evaluation, each with every run's student and the teachers that they were held against.

    Sets of the same name stand together only where their source, images, classes and templates are equal, too.
    """
    sets: dict[tuple[Any, ...], tuple[JudgedSet, dict[str, Judged]]] = {}
    teachers: dict[str, str] = {}
    for run in runs:
        evaluation = run.evaluations.get(kind)
        own = run.student_of(kind)
        for one in () if evaluation is None else evaluation.sets:
            _, models = sets.setdefault(one.key, (one, {}))
            assert evaluation is not None
            if evaluation.reference in one.models:
                judged = one.models[evaluation.reference]
                models.setdefault(_teacher_name(judged, teachers), judged)
            if own in one.models:
                models[run.name] = one.models[own]
    places = {run.name: 1 + place for place, run in enumerate(runs)}
    places |= {name: 0 if place == 0 else len(runs) + place for place, name in enumerate(teachers.values())}
    found = []
    for shared, models in sets.values():
        ordered = dict(sorted(models.items(), key=lambda item: item[0] in places and places[item[0]]))
        found.append(Shared(kind, shared, ordered, places))
    return found


def _teacher_name(judged: Judged, teachers: dict[str, str]) -> str:
    """``teacher``; a second one of other weights is numbered."""
    key = judged.hash or "?"
    if key not in teachers:
        teachers[key] = TEACHER if not teachers else f"{TEACHER} {len(teachers) + 1}"
    return teachers[key]


def score_plots(sets: Sequence[Shared]) -> list[Plot]:
    """Dots with intervals: zero-shot top-1 of every set, and every depth of retrieval and probes."""
    groups: list[tuple[Shared, str]] = []
    for one in sets:
        metrics = [metric for metric in one.metrics if _shown(one.kind, metric)]
        groups += [(one, metric) for metric in metrics]
    plots: list[Plot] = []
    part: list[tuple[Shared, str]] = []
    rows = 0
    for group in groups:
        if part and rows + len(group[0].models) > ROWS:
            plots.append(_dots(part, len(plots)))
            part, rows = [], 0
        part.append(group)
        rows += len(group[0].models)
    return [*plots, _dots(part, len(plots))] if part else plots


def _shown(kind: str, metric: str) -> bool:
    if kind == "zero-shot":
        return metric == "top-1"
    return metric.endswith(("R@1", "R@5")) if kind == "retrieval" else metric.endswith("top-1")


def _dots(groups: Sequence[tuple[Shared, str]], number_of_plot: int) -> Plot:
    kind = groups[0][0].kind
    count = sum(len(one.models) for one, _ in groups)
    figure = new_figure(0.62 + 0.24 * count + 0.42 * len(groups))
    axes, at, ticks, rows = figure.add_subplot(), 0.0, [], []
    for one, metric in groups:
        title = (  # as long as an axis between long names leaves room for
            f"{shorten(one.judged.name, 18)} · {one.judged.images:,} images"
            if kind == "zero-shot"
            else f"{shorten(one.judged.name, 12)} · {metric}"
        )
        axes.annotate(
            title,
            (0, at),
            xycoords=("axes fraction", "data"),
            va="center",
            fontsize=9.5,
            fontweight="bold",
        )
        chance = 100 * one.chance(metric)
        axes.plot(
            [chance] * 2, [at - 0.6, at - 0.6 - len(one.models)], color=CHANCE, linestyle=DASHES, lw=1.2
        )
        for name, model in one.models.items():
            at -= 1.0
            if metric in model.scores:
                _dot(axes, model, metric, at, one.places.get(name, 0))
                rows.append(_row(one, metric, name, model))
            ticks.append((at, shorten(name)))
        at -= 1.55
    axes.set_yticks([place for place, _ in ticks], [name for _, name in ticks], fontsize=9)
    axes.set_ylim(at + 1.0, 0.7)
    axes.set_xlim(0, min(118.0, max(10.0, 1.24 * 100 * max(row["high"] for row in rows))))
    axes.set_xticks([tick for tick in axes.get_xticks() if 0 <= tick <= 100])
    axes.grid(axis="x", color=GRID)
    axes.tick_params(axis="y", length=0, labelcolor=INK)
    axes.spines["left"].set_visible(False)
    axes.set_xlabel("% found" if kind == "retrieval" else "top-1, % of images")
    suffix = "" if number_of_plot == 0 else f"-{number_of_plot + 1}"
    caption = (
        "Each dot is a model's score, the line through it its 95 % interval, the red dashed line what "
        "guessing reaches. Grey and hollow: at chance or collapsed, which is no result. The intervals come from the "
        "number of images alone: they say nothing of another training with another seed, so that runs of one seed "
        "each are not ranked by them."
    )
    return Plot(f"{kind}{suffix}", TITLES[kind], caption, figure, rows)


def _dot(axes: Any, model: Judged, metric: str, at: float, place: int) -> None:
    score = model.scores[metric]
    known = model.knows(metric)
    style = mark(place, known=known)
    spread = [[100 * (score.value - score.low)], [100 * (score.high - score.value)]]
    axes.errorbar(100 * score.value, at, xerr=spread, fmt=style.pop("marker"), capsize=2.5, ms=5.5, **style)
    words = "" if known else "  collapsed" if model.collapsed else "  at chance"
    axes.annotate(
        f"{100 * score.value:.1f}{words}",
        (100 * score.high, at),
        xytext=(6, 0),
        textcoords="offset points",
        va="center",
        fontsize=8.5,
        color=INK if known else SOFT,
    )


def _row(one: Shared, metric: str, name: str, model: Judged) -> dict[str, Any]:
    score = model.scores[metric]
    return {
        "set": one.judged.name,
        "images": one.judged.images,
        "model": name,
        "metric": metric,
        **{key: getattr(score, key) for key in ScoreLine.__slots__},
        "collapsed": model.collapsed,
    }


def trade_plots(
    sets: Sequence[Shared], sizes: Mapping[str, float], what: str, *, name: str, unit: str
) -> list[Plot]:
    """Score against what a model costs, a plot a set.

    Args:
        sets: of the zero-shot evaluation.
        sizes: by model.
        what: they are, as the axis has it.
        name: of the plot's files.
        unit: of a point in the table.
    """
    plots = []
    for one in sets:
        models = {n: model for n, model in one.models.items() if n in sizes and "top-1" in model.scores}
        if len(models) < 2:
            continue
        caption = (
            f"Top-1 on {one.judged.name} with its 95 % interval, against {what}. Up and "
            + ("left" if unit == "parameters" else "right")
            + " is better. Hollow: at chance or collapsed."
            + (
                ""
                if len(models) <= NAMED
                else " The table above has each by name; the black diamond is the teacher."
            )
        )
        rows = [{**_row(one, "top-1", n, model), unit: sizes[n]} for n, model in models.items()]
        title = f"{what[0].upper()}{what[1:]} and score"
        plots.append(
            Plot(f"{name}-{one.judged.name}", title, caption, _draw_trade(one, models, sizes, what), rows)
        )
    return plots


def _draw_trade(one: Shared, models: Mapping[str, Judged], sizes: Mapping[str, float], what: str) -> "Figure":
    figure = new_figure(3.2)
    axes = figure.add_subplot()
    for name, model in models.items():
        score = model.scores["top-1"]
        style = mark(one.places.get(name, 0), known=model.knows("top-1"))
        spread = [[100 * (score.value - score.low)], [100 * (score.high - score.value)]]
        style |= {"fmt": style.pop("marker"), "capsize": 2.5, "ms": 6.5, "label": shorten(name)}
        axes.errorbar(sizes[name], 100 * score.value, yerr=spread, **style)
    chance = 100 * one.chance("top-1")
    axes.axhline(chance, color=CHANCE, linestyle=DASHES, lw=1.2)
    side: dict[str, Any] = {"xycoords": ("axes fraction", "data"), "ha": "right", "va": "bottom"}
    axes.annotate("chance", (1, chance), fontsize=8.5, color=CHANCE, **side)
    axes.set_ylim(bottom=0)
    axes.set_xlim(0, 1.1 * max(sizes[name] for name in models))
    axes.set_xlabel(what)
    axes.set_ylabel(f"{shorten(one.judged.name)}: top-1, %")
    axes.grid(color=GRID)
    if len(models) <= NAMED:
        legend_below(axes, 2)
    return figure


def parameters_of(judged: Judged) -> float | None:
    """Parameters of a model, where its evaluation counted them."""
    return _cost(judged, "parameters")


def speed_of(judged: Judged) -> float | None:
    """Images a second of a model, where its evaluation measured them."""
    return _cost(judged, "images_per_second")


def macs_of(judged: Judged) -> float | None:
    """Multiply-adds of one image, where its evaluation counted them."""
    return _cost(judged, "image_macs")


def _cost(judged: Judged, key: str) -> float | None:
    value = mapping(judged.spec.get("cost")).get(key)
    found = number(value.get("value") if isinstance(value, dict) else value)  # a rate has quartiles, too
    return found if found is not None and found > 0 else None
