"""The arms of a study in order, and in words what of that order is more than luck."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import combinations
from math import isclose
from statistics import mean

import numpy as np
from numpy.typing import NDArray

from mmkd.errors import ConfigError, MmkdError
from mmkd.evaluation.statistics import Interval, mean_interval
from mmkd.study.arms import Arm
from mmkd.study.comparison import (
    SEEDS_AND_IMAGES,
    Difference,
    Luck,
    difference,
    holm,
    luck_of_seeds,
    luck_of_seeds_and_images,
    luck_of_two,
)
from mmkd.study.design import RECALLS, TOP_1
from mmkd.study.results import RunResult

LEVEL = 0.05  # of the corrected p-value
ROUNDING = 0.005  # of a share: one teacher on another kind of device differs by less


@dataclass(frozen=True)
class MeanScore:
    """A metric of an arm over its seeds; numbers are shares of 1.

    Attributes:
        values: one a seed.
        mean: of the values.
        interval: Student's t over the seeds, 95 %; ``None`` with fewer than 2, or of a student never trained.
        chance: what a guesser reaches without looking.
        teacher: the teacher's score.
        retention: mean of what was kept of the teacher's score over chance; ``None`` where that is at chance.
        retention_interval: over the seeds, likewise.
        at_chance: runs that cannot be told from guessing.
    """

    values: tuple[float, ...]
    mean: float
    interval: Interval | None
    chance: float
    teacher: float
    retention: float | None
    retention_interval: Interval | None
    at_chance: int

    @property
    def all_at_chance(self) -> bool:
        """Whether no run can be told from guessing."""
        return self.at_chance == len(self.values)


@dataclass(frozen=True)
class ArmResult:
    """One arm with its runs.

    Attributes:
        arm: what was trained.
        runs: those that came to an end, by seed.
        failures: in one line each, by seed.
        dropped: why it was not trained to the end; ``None`` for one that was.
    """

    arm: Arm
    runs: tuple[RunResult, ...]
    failures: Mapping[int, str] = field(default_factory=dict)
    dropped: str | None = None

    @cached_property
    def scores(self) -> dict[str, MeanScore]:
        """Every metric over the seeds."""
        return {name: self._mean(name) for name in self.runs[0].scores} if self.runs else {}

    def _mean(self, metric: str) -> MeanScore:
        scores = [run.scores[metric] for run in self.runs]
        values = tuple(score.value for score in scores)
        kept = [score.retention for score in scores if score.retention is not None]
        return MeanScore(
            values,
            mean(values),
            mean_interval(values) if len(values) > 1 else None,
            scores[0].chance,
            scores[0].teacher,
            mean(kept) if kept else None,
            mean_interval(kept) if len(kept) > 1 else None,
            sum(score.at_chance for score in scores),
        )

    @property
    def seconds(self) -> float | None:
        """Mean wall-clock of a training, over those that were not interrupted."""
        known = [run.cost.seconds for run in self.runs if run.cost and run.cost.seconds is not None]
        return mean(known) if known else None

    @property
    def joules(self) -> float | None:
        """Mean energy of a training, where the machine tells it."""
        known = [run.cost.joules for run in self.runs if run.cost and run.cost.joules is not None]
        return mean(known) if known else None

    def collapsed(self, set_name: str) -> list[str]:
        """Why its runs are called collapsed on a set, one a run that is."""
        return [run.collapsed[set_name] for run in self.runs if set_name in run.collapsed]


@dataclass(frozen=True)
class Comparison:
    """Two arms in one metric.

    Attributes:
        first, second: names of the arms.
        difference: the first less the second.
        corrected: Holm's p over all pairs of arms in this metric.
    """

    first: str
    second: str
    difference: Difference
    corrected: float

    @property
    def told_apart(self) -> bool:
        """Whether the difference is more than luck."""
        return self.corrected <= LEVEL


@dataclass(frozen=True)
class Ranking:
    """A study's arms, the best first.

    Attributes:
        results: arms with at least one run in order of ``metric``, then those without.
        metric: that ranks.
        metrics: those that are compared, ``metric`` first.
        comparisons: every pair of arms, by metric.
    """

    results: tuple[ArmResult, ...]
    metric: str
    metrics: tuple[str, ...]
    comparisons: Mapping[str, tuple[Comparison, ...]]

    @property
    def best(self) -> ArmResult | None:
        """As ``best_in``, in the ranking metric."""
        return self.best_in(self.metric)

    def best_in(self, metric: str) -> ArmResult | None:
        """The arm with the highest mean of those that know something; ``None`` where every arm is at chance."""
        ranked = [one for one in self.results if one.scores and not one.scores[metric].all_at_chance]
        return max(ranked, key=lambda one: one.scores[metric].mean, default=None)

    def compare(self, first: str, second: str, metric: str | None = None) -> Comparison | None:
        """Two arms by name, the first less the second; ``None`` where they share fewer than 2 seeds."""
        for one in self.comparisons.get(metric or self.metric, ()):
            if (one.first, one.second) == (first, second):
                return one
            if (one.second, one.first) == (first, second):
                return Comparison(first, second, one.difference.turned(), one.corrected)
        return None

    def verdict(self, result: ArmResult) -> str:
        """What may be said of an arm beside the best, in words."""
        if not result.runs:
            return result.dropped or "no run came to an end"
        score = result.scores[self.metric]
        words = []
        if score.at_chance:
            words.append("at chance" + _share(score.at_chance, len(score.values)))
        if collapsed := result.collapsed(self.metric.rpartition("/")[0]):
            words.append(collapsed[0] + _share(len(collapsed), len(result.runs)))
        if self.best is None:
            return ", ".join(words)
        if result.arm.name == self.best.arm.name:
            words.insert(0, "best" if len(result.runs) > 1 else "highest of one seed")
        elif (found := self.compare(result.arm.name, self.best.arm.name)) is None:
            words.insert(0, "not compared: fewer than 2 seeds in common")
        else:
            apart = "below the best" if found.difference.value < 0 else "above the best"
            words.insert(0, apart if found.told_apart else "not distinguishable from the best")
        if result.failures:
            words.append(f"{len(result.failures)} run{'s' * (len(result.failures) != 1)} failed")
        return ", ".join(words)

    @property
    def undecided(self) -> float | None:
        """How far two arms that were not told apart may differ: the farthest end of their intervals, uncorrected."""
        open_ones = [c.difference.interval for c in self.comparisons.get(self.metric, ()) if not c.told_apart]
        return max((max(-one.low, one.high) for one in open_ones), default=None)

    @property
    def decided(self) -> float | None:
        """The smallest difference of two arms, in the ranking metric, that is more than luck."""
        found = [abs(c.difference.value) for c in self.comparisons.get(self.metric, ()) if c.told_apart]
        return min(found) if found else None


def rank(results: Sequence[ArmResult], *, rank_by: str | None = None) -> Ranking:
    """Put arms in order and compare every two of them.

    The best arm is picked by the very scores that it is then compared by, so the correction is Holm's over all pairs
    of arms: it holds for whichever of them comes first.

    Args:
        results: the arms.
        rank_by: the metric; ``None``: the first headline.

    Raises:
        ConfigError: there is no such metric.
        MmkdError: runs were not judged on the same images, or not beside the same teacher.
    """
    measured = [one for one in results if one.scores]
    _refuse_other_sets([run for one in measured for run in one.runs])
    known = list(measured[0].scores) if measured else []
    metrics = headlines(known)
    metric = rank_by or (metrics[0] if metrics else "")
    if measured and metric not in known:
        raise ConfigError(f"rank-by {metric!r} is not measured; expected one of {', '.join(known)}")
    ordered = sorted(measured, key=lambda one: -one.scores[metric].mean)
    rest = [one for one in results if not one.scores]
    every = tuple(dict.fromkeys([metric, *metrics])) if measured else ()
    return Ranking(
        (*ordered, *rest), metric, every, {name: tuple(_compare_all(ordered, name)) for name in every}
    )


def _refuse_other_sets(runs: Sequence[RunResult]) -> None:
    """Refuse to compare runs of which some were judged by something else."""
    for run in runs:
        first = runs[0]
        found = None
        if run.scores.keys() != first.scores.keys():
            found = "other metrics"
        for name in first.answers.keys() & run.answers.keys():
            if len(run.answers[name]) != len(first.answers[name]):
                found = f"{len(run.answers[name]):,} images of {name}, not {len(first.answers[name]):,}"
        for name in first.scores.keys() & run.scores.keys():
            one, other = run.scores[name], first.scores[name]
            if not isclose(one.chance, other.chance):
                found = found or f"a chance of {one.chance:.4f} in {name}, not {other.chance:.4f}"
            if abs(one.teacher - other.teacher) > ROUNDING:
                found = found or f"a teacher of {one.teacher:.4f} in {name}, not {other.teacher:.4f}"
        if found:
            raise MmkdError(
                f"{run.folder} was judged by {found} as {first.folder} was; delete judged.json in both and run the "
                "study again"
            )


def headlines(metrics: Sequence[str]) -> list[str]:
    """One metric a labelled set, two a captioned one: those that are shown and compared."""
    return [name for name in metrics if name.rpartition("/")[2] in (TOP_1, *RECALLS)]


def _compare_all(results: Sequence[ArmResult], metric: str) -> list[Comparison]:
    alike = _alike(results, metric)
    table, names = [one.runs for one in alike], [one.arm.name for one in alike]
    pooled = _luck(table, metric) if table else None
    found = []
    for first, second in combinations(results, 2):
        pair = _paired(first, second)
        if pair is not None:
            value = _first_less_second(pair, metric)
            own = _luck(pair, metric)
            if pooled is None:
                found.append((first.arm.name, second.arm.name, difference(value, own, own)))
                continue
            if pooled.method == SEEDS_AND_IMAGES:  # most of it is the images', of which all arms tell
                own = replace(own, freedom=max(own.freedom, pooled.freedom))
            elif {first.arm.name, second.arm.name} <= set(names):
                places = names.index(first.arm.name), names.index(second.arm.name)
                own = luck_of_two(_values(table, metric), *places)
            # Luck of a mean shrinks with its seeds; a pair may have fewer than the arms that were pooled.
            found.append((first.arm.name, second.arm.name, difference(value, pooled.over(len(pair[0])), own)))
    # What two guessers differ by is luck, even where their few right answers are the same with every seed.
    guess = {one.arm.name for one in results if one.scores[metric].all_at_chance}
    found = [
        (first, second, replace(one, p_value=1.0) if {first, second} <= guess else one)
        for first, second, one in found
    ]
    corrected = holm([one.p_value for _, _, one in found])
    return [Comparison(*one, p) for one, p in zip(found, corrected, strict=True)]


def _first_less_second(pair: Sequence[Sequence[RunResult]], metric: str) -> float:
    """Mean difference of two arms over the same seeds."""
    own, its = ([run.scores[metric].value for run in runs] for runs in pair)
    return mean(own) - mean(its)


def _alike(results: Sequence[ArmResult], metric: str) -> list[ArmResult]:
    """The arms that tell how much any varies: those that were trained, know something and have the same seeds.

    Arms at chance and the untrained student are left out: they hardly vary, and would make the others look sure.
    """
    arms = [
        one
        for one in results
        if one.arm.role != "untrained" and not one.failures and not one.scores[metric].all_at_chance
    ]
    return arms if len(arms) >= 2 and len(arms[0].runs) >= 2 else []


def _luck(table: Sequence[Sequence[RunResult]], metric: str) -> Luck:
    """Luck of the difference of two of these arms, each with the same seeds."""
    set_name, _, kind = metric.rpartition("/")
    if kind == TOP_1 and all(set_name in run.answers for runs in table for run in runs):
        return luck_of_seeds_and_images(
            np.stack([np.stack([run.answers[set_name] for run in runs]) for runs in table])
        )
    return luck_of_seeds(_values(table, metric))


def _values(table: Sequence[Sequence[RunResult]], metric: str) -> NDArray[np.float64]:
    return np.array([[run.scores[metric].value for run in runs] for runs in table])


def _paired(first: ArmResult, second: ArmResult) -> list[list[RunResult]] | None:
    """Both arms' runs with the seeds that both have; a student that was never trained is the same with every seed."""
    runs = [{run.seed: run for run in one.runs} for one in (first, second)]
    fixed = [one.arm.role == "untrained" for one in (first, second)]
    seeds = [set(found) for found, same in zip(runs, fixed, strict=True) if not same]
    common = sorted(set.intersection(*seeds)) if seeds else []
    if len(common) < 2:
        return None
    return [
        [next(iter(found.values()))] * len(common) if same else [found[seed] for seed in common]
        for found, same in zip(runs, fixed, strict=True)
    ]


def _share(count: int, of: int) -> str:
    return "" if count == of else f" in {count} of {of} runs"
