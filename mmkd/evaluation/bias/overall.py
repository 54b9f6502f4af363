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
    words, left_out = vectors.words, []
    first, second = (vectors.averaged(side) for side in (words.first, words.second))
    targets = vectors.averaged(words.targets)
    controls = vectors.averaged(words.controls) if len(words.controls) > 1 else None
    measures = {}
    for name, (measure, no_bias) in _measures(first, second, words.paired).items():
        try:
            measures[name] = _measure(measure, targets, controls, no_bias, seed)
        except ValueError as error:
            left_out.append(f"{name}: {error}")
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


# A measure gives its value from what each target adds to it, and what each adds.
_Parts = tuple[Callable[[Vectors], NDArray[np.float64]], Callable[[NDArray[np.float64]], float]]


def _measures(first: Vectors, second: Vectors, paired: bool) -> dict[str, tuple[_Parts, float]]:
    def mean(parts: NDArray[np.float64]) -> float:
        return float(parts.mean())

    table: dict[str, tuple[_Parts, float]] = {
        "RND": ((lambda targets: rnd_each(first, second, targets), mean), 0.0),
        "RNSB": ((lambda targets: attribute_probability(first, second, targets), divergence), 0.0),
        "ECT": ((lambda targets: np.column_stack(ect_sides(first, second, targets)), _spearman), 1.0),
        "MAC": ((lambda targets: mac_each(targets, [first, second]), mean), 1.0),
        "SAME": ((lambda targets: direct_bias_each(targets, mean_direction(first, second)), mean), 0.0),
    }
    if paired:
        direction = gender_direction(first, second)
        table["DirectBias"] = ((lambda targets: direct_bias_each(targets, direction), mean), 0.0)
    return table


def _measure(parts: _Parts, targets: Vectors, controls: Vectors | None, no_bias: float, seed: int) -> Measure:
    each, value = parts
    adds = each(targets)
    rows = np.random.default_rng(seed).integers(0, len(adds), (DRAWS, len(adds)))
    draws = np.array([value(adds[row]) for row in rows])
    low, high = np.nanquantile(draws, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    neutral = None if controls is None else value(each(controls))
    return Measure(value(adds), Interval(float(low), float(high)), neutral, no_bias)


def _spearman(columns: NDArray[np.float64]) -> float:
    from scipy.stats import rankdata

    if len(columns) < 2 or (np.ptp(columns, axis=0) == 0).any():
        raise ValueError("all targets have the same cosine with a group's mean; there is nothing to rank")
    ranks = rankdata(columns, axis=0)
    return float(np.corrcoef(ranks.T)[0, 1])


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
