"""All published measures of one model in one place, each with its interval and with its value for neutral nouns."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmkd.evaluation.bias.association import (
    Weat,
    direct_bias_each,
    ect_sides,
    gender_direction,
    mac_each,
    mean_direction,
    rnd_each,
    seat,
    weat,
)
from mmkd.evaluation.bias.classifier import attribute_probability, divergence
from mmkd.evaluation.bias.correlations import FEWEST, Correlation, correlate
from mmkd.evaluation.bias.levels import Levels, ml_eat
from mmkd.evaluation.bias.vectors import WordVectors
from mmkd.evaluation.bias.words import BiasWords
from mmkd.evaluation.statistics import CONFIDENCE, Interval

DRAWS = 1_000
METHODS = ("pearson", "spearman", "kendall")

Vectors = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Measure:
    """A published measure over the targets.

    Attributes:
        value: over the targets.
        interval: its 95 % interval, by a bootstrap over the targets.
        neutral: the same measure over the neutral nouns; ``None`` where there are none.
        no_bias: what it would be without any bias.
    """

    value: float
    interval: Interval
    neutral: float | None
    no_bias: float


@dataclass(frozen=True, slots=True)
class Reference:
    """Correlations of the gaps with a table's numbers.

    Attributes:
        targets: how many are in the table and were asked.
        correlations: by method; ``None`` where it is not defined.
    """

    targets: int
    correlations: Mapping[str, Correlation | None]


@dataclass(frozen=True)
class Overall:
    """What the published measures say of one model.

    Attributes:
        measures: RND, RNSB, ECT, MAC, SAME and, for paired terms, DirectBias.
        associations: WEAT of the words alone and SEAT of the sentences; empty without two groups of targets.
        levels: ML-EAT; ``None`` without two groups of targets.
        left_out: why something is not there.
    """

    measures: Mapping[str, Measure]
    associations: Mapping[str, Weat]
    levels: Levels | None
    left_out: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "measures": {name: asdict(one) for name, one in self.measures.items()},
            "associations": {name: asdict(one) for name, one in self.associations.items()},
            "ml_eat": None if self.levels is None else self.levels.to_json(),
            "left_out": list(self.left_out),
        }


def overall(vectors: WordVectors, *, seed: int = 0) -> Overall:
    """Every published measure that the words allow for.

    RND, RNSB, ECT, MAC, SAME and DirectBias are of the mean of each word's sentence vectors, WEAT of the words alone,
    SEAT and ML-EAT of the sentences.
    """
    words = vectors.words
    first, second = (vectors.averaged(side) for side in (words.first, words.second))
    targets = vectors.averaged(words.targets)
    controls = vectors.averaged(words.controls) if len(words.controls) > 1 else None
    try:
        measures, left_out = _measures(first, second, targets, controls, words.paired, seed)
    except ValueError as error:  # the terms of both attributes have the same vectors
        measures, left_out = {}, [f"RND, MAC, SAME, DirectBias, RNSB and ECT: {error}"]
    associations: dict[str, Weat] = {}
    levels = None
    groups = {name: group for name, group in words.groups.items() if len(group) > 1}
    if len(groups) == 2:
        try:
            associations, levels = _two_groups(vectors, groups, seed)
        except ValueError as error:
            left_out.append(f"WEAT, SEAT and ML-EAT: {error}")
    else:
        left_out.append("WEAT, SEAT and ML-EAT: they need two groups of targets of at least 2 words each")
    return Overall(measures, associations, levels, tuple(left_out))


def references(words: BiasWords, gaps: Vectors, *, seed: int = 0) -> dict[str, Reference]:
    """Correlations of the targets' gaps (P,) with every table that has at least five of the targets."""
    found = {}
    for table in words.references:
        rows = [row for row, word in enumerate(words.targets) if word in table.values]
        if len(rows) >= FEWEST:
            numbers = [table.values[words.targets[row]] for row in rows]
            found[table.name] = Reference(
                len(rows), {method: correlate(gaps[rows], numbers, method, seed=seed) for method in METHODS}
            )
    return found


_Each = Callable[[Vectors], NDArray[np.float64]]


def _means(first: Vectors, second: Vectors, paired: bool) -> dict[str, tuple[_Each, float]]:
    """Measures that are the mean of what each target adds, and their value without bias."""
    table: dict[str, tuple[_Each, float]] = {
        "RND": (lambda targets: rnd_each(first, second, targets), 0.0),
        "MAC": (lambda targets: mac_each(targets, [first, second]), 1.0),
        "SAME": (lambda targets: direct_bias_each(targets, mean_direction(first, second)), 0.0),
    }
    if paired:
        direction = gender_direction(first, second)
        table["DirectBias"] = (lambda targets: direct_bias_each(targets, direction), 0.0)
    return table


def _measures(
    first: Vectors, second: Vectors, targets: Vectors, controls: Vectors | None, paired: bool, seed: int
) -> tuple[dict[str, Measure], list[str]]:
    found: dict[str, Measure] = {}
    left_out: list[str] = []
    rows = np.random.default_rng(seed).integers(0, len(targets), (DRAWS, len(targets)))
    for name, (each, no_bias) in _means(first, second, paired).items():
        adds = each(targets)
        neutral = None if controls is None else float(each(controls).mean())
        found[name] = Measure(float(adds.mean()), _interval(adds[rows].mean(axis=1)), neutral, no_bias)
    share = attribute_probability(first, second, targets)
    found["RNSB"] = Measure(
        divergence(share),
        _interval(np.array([divergence(share[row]) for row in rows])),
        None if controls is None else divergence(attribute_probability(first, second, controls)),
        0.0,
    )
    coherence = correlate(*ect_sides(first, second, targets), "spearman", resamples=DRAWS, seed=seed)
    if coherence is None:
        left_out.append("ECT: it needs at least five targets that are not all alike")
    else:
        sides = (
            None
            if controls is None
            else correlate(*ect_sides(first, second, controls), "spearman", resamples=1)
        )
        found["ECT"] = Measure(
            coherence.value, coherence.interval, None if sides is None else sides.value, 1.0
        )
    return found, left_out


def _interval(draws: NDArray[np.float64]) -> Interval:
    low, high = np.quantile(draws, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Interval(float(low), float(high))


def _two_groups(
    vectors: WordVectors, groups: Mapping[str, tuple[str, ...]], seed: int
) -> tuple[dict[str, Weat], Levels]:
    words = vectors.words
    sets = (*groups.values(), words.first, words.second)
    associations = {"WEAT": weat(*(vectors.alone(one) for one in sets), seed=seed)}
    if len(vectors.sentences) > 1:
        associations["SEAT"] = seat(*(vectors.of(one) for one in sets), seed=seed)
    levels = ml_eat(
        {name: vectors.averaged(group) for name, group in groups.items()},
        dict(
            zip(
                words.attributes, (vectors.averaged(words.first), vectors.averaged(words.second)), strict=True
            )
        ),
        seed=seed,
    )
    return associations, levels
