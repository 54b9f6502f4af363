"""A study's ranking, as ``study.json`` has it: means over seeds, and what may be said of them."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmkd.errors import MmkdError
from mmkd.evaluation.plots import INK, label_sides
from mmkd.parse import read_json
from mmkd.report.drawing import CHANCE, DASHES, GRID, SOFT, Plot, mark, new_figure, shorten
from mmkd.report.plain import listing, mapping, number, text, whole
from mmkd.study.ranking import headlines

STUDY_FILE = "study.json"
MAX_ARMS, MAX_METRICS = 64, 24


@dataclass(frozen=True, slots=True)
class SeedMean:
    """One arm in one metric, all numbers fractions of 1.

    Attributes:
        values: of each seed.
        seeds: which seeds those are, where the study says so.
        mean: of them.
        low, high: the interval over seeds; ``None``: one seed has none.
        kept: share of the teacher's score over chance; ``None``: not said.
        at_chance: how many of the runs are at chance.
    """

    values: tuple[float, ...]
    seeds: tuple[int | None, ...]
    mean: float
    low: float | None
    high: float | None
    kept: float | None
    at_chance: int

    @property
    def known(self) -> bool:
        """Whether any of its runs can be told from chance."""
        return self.at_chance < len(self.values)


@dataclass(frozen=True)
class Arm:
    """One arm, in the order of the ranking.

    Attributes:
        name: as the study calls it.
        verdict: beside the best, in words.
        loss: with every weight written out.
        scores: by metric.
    """

    name: str
    verdict: str
    loss: str
    scores: Mapping[str, SeedMean]


@dataclass(frozen=True)
class Ranked:
    """A study.

    Attributes:
        name: of it.
        about: what it asks.
        metric: that it is ranked by.
        chance: by metric.
        teacher: by metric.
        arms: best first.
        notes: what a reader must know.
    """

    name: str
    about: list[str]
    metric: str
    chance: Mapping[str, float]
    teacher: Mapping[str, float]
    arms: list[Arm]
    notes: list[str]

    @property
    def metrics(self) -> list[str]:
        """One a labelled set and two a captioned one, that of the ranking first; the study's own files have all."""
        found = list(dict.fromkeys(name for arm in self.arms for name in arm.scores))
        return [name for name in dict.fromkeys([self.metric, *headlines(found)]) if name in found]


def read_ranked(file: Path) -> Ranked:
    """Read a study's result.

    Raises:
        MmkdError: it is none, or ranks nothing.
    """
    value = read_json(file)
    if value.get("schema") != "mmkd.study":
        raise MmkdError(f"{file} says schema {text(value.get('schema'))!r}; expected 'mmkd.study'")
    chance: dict[str, float] = {}
    teacher: dict[str, float] = {}
    arms = [_arm(mapping(one), chance, teacher) for one in listing(value.get("arms"), limit=MAX_ARMS)]
    if not any(arm.scores for arm in arms):
        raise MmkdError(f"{file} ranks nothing")
    return Ranked(
        text(value.get("name"), limit=60) or file.parent.name,
        [text(one, limit=1_000) for one in listing(value.get("about"), limit=5)],
        text(value.get("ranked_by"), limit=60),
        chance,
        teacher,
        arms,
        [text(one, limit=1_000) for one in listing(value.get("notes"), limit=20)],
    )


def _arm(one: dict[str, Any], chance: dict[str, float], teacher: dict[str, float]) -> Arm:
    scores = {}
    seeds = [whole(mapping(run).get("seed")) for run in listing(one.get("runs"), limit=100)]
    for name, raw in list(mapping(one.get("scores")).items())[:MAX_METRICS]:
        score, metric = mapping(raw), text(name, limit=60)
        values = tuple(
            known for value in listing(score.get("values"), limit=100) if (known := number(value)) is not None
        )
        mean, low, high, kept = (number(score.get(key)) for key in ("mean", "low", "high", "retention"))
        if mean is None or not values or not 0 <= mean <= 1:
            continue
        known_seeds = seeds if len(seeds) == len(values) else [None] * len(values)
        scores[metric] = SeedMean(
            values, tuple(known_seeds), mean, low, high, kept, whole(score.get("runs_at_chance")) or 0
        )
        for found, key in ((chance, "chance"), (teacher, "teacher")):
            if (known := number(score.get(key))) is not None:
                found[metric] = known
    verdict = text(one.get("verdict"), limit=120)  # it names failures and why an arm was dropped
    return Arm(text(one.get("name"), limit=60), verdict, text(one.get("loss")), scores)


def ranked_plots(study: Ranked) -> list[Plot]:
    """A plot a metric: every seed as a dot, the mean with its interval, chance and teacher as lines."""
    return [_plot(study, metric) for metric in study.metrics[:6]]


def _plot(study: Ranked, metric: str) -> Plot:
    arms = [arm for arm in study.arms if metric in arm.scores]
    figure = new_figure(0.9 + 0.26 * len(arms))
    axes, rows = figure.add_subplot(), []
    for at, arm in enumerate(arms):
        score = arm.scores[metric]
        style = mark(1 if at else 2, known=score.known)
        low, high = (end if end is not None else score.mean for end in (score.low, score.high))
        axes.plot(
            [100 * max(0.0, low), 100 * min(1.0, high)], [-at] * 2, color=style["color"], lw=1.4, zorder=2
        )
        axes.plot(
            [100 * value for value in score.values],
            [-at] * len(score.values),
            ".",
            color=SOFT,
            ms=4,
            zorder=3,
        )
        axes.plot(100 * score.mean, -at, linestyle="", ms=6, zorder=4, **style)
        rows += [
            {"arm": arm.name, "metric": metric, "seed": seed, "value": value, "mean": score.mean, "low": score.low,
             "high": score.high, "verdict": arm.verdict}
            for seed, value in zip(score.seeds, score.values, strict=True)
        ]  # fmt: skip
    lines = ((study.chance, CHANCE, "chance"), (study.teacher, INK, "teacher"))
    for known, colour, _ in lines:
        if metric in known:
            axes.axvline(100 * known[metric], color=colour, linestyle=DASHES, lw=1.1, zorder=1)
    axes.set_xlim(left=0)  # only now: from here on the axis does not grow
    at_left, at_right = (100 * known.get(metric, 0.0) for known, _, _ in lines)
    sides = label_sides(at_left, at_right, axes.get_xlim()[1])
    for (known, colour, name), side in zip(lines, sides, strict=True):
        if metric in known:
            place: tuple[float, float] = (100 * known[metric], 0.75)
            axes.annotate(f" {name} ", place, ha=side, fontsize=8.5, color=colour, annotation_clip=False)
    axes.set_yticks([-at for at in range(len(arms))], [shorten(arm.name, 26) for arm in arms], fontsize=8.5)
    axes.set_ylim(-len(arms) + 0.4, 0.7)
    axes.tick_params(axis="y", length=0, labelcolor=INK)
    axes.spines["left"].set_visible(False)
    axes.grid(axis="x", color=GRID)
    axes.set_xlabel(f"{shorten(metric, 40)}, %")
    caption = (
        f"{metric}: small dots are seeds, the large one their mean, the line its 95 % interval over seeds. Grey and "
        "hollow: every run at chance. Intervals that overlap do not decide: the words beside each arm in the table do, "
        "from differences on the same seeds and images."
    )
    return Plot(f"ranked-{metric}", f"Arms by {metric}", caption, figure, rows)


def found_studies(paths: list[Path]) -> list[Path]:
    """The study files of those of ``paths`` that are a study's folder."""
    return [path / STUDY_FILE for path in paths if (path / STUDY_FILE).is_file()]
