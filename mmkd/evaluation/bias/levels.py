"""ML-EAT: one association test taken apart into three levels."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mmkd.evaluation.bias.association import Weat, cosines, permutation_p, weat

LEVEL = 0.05


@dataclass(frozen=True, slots=True)
class SingleTarget:
    """Level 2: does one set of targets lean to one attribute?

    Attributes:
        effect_size: of the terms' mean cosines with the set, first attribute less second, over their spread (ddof 1).
        p_value: two-sided, by all divisions of the terms, or drawn ones.
        leans: name of the attribute it leans to at p <= 0.05, or ``neither``.
    """

    effect_size: float
    p_value: float
    leans: str


@dataclass(frozen=True, slots=True)
class Cosines:
    """Level 3: mean and standard deviation (ddof 1) of the cosines of one set of targets with one attribute."""

    mean: float
    deviation: float


@dataclass(frozen=True)
class Levels:
    """An association test at three levels.

    Attributes:
        differential: level 1, the WEAT of the two sets of targets.
        single: level 2, by set of targets.
        cosines: level 3, by set of targets and attribute.
        pattern: where either set leans, one of nine.
    """

    differential: Weat
    single: Mapping[str, SingleTarget]
    cosines: Mapping[str, Mapping[str, Cosines]]
    pattern: str

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self)


def ml_eat(targets: Mapping[str, ArrayLike], attributes: Mapping[str, ArrayLike], *, seed: int = 0) -> Levels:
    """Take the association of two sets of targets with two attributes apart.

    Args:
        targets: two sets by name, (n, D) and (m, D).
        attributes: two sets by name, (a, D) and (b, D).
        seed: of drawn divisions.

    Raises:
        ValueError: as :func:`weat`, or not two sets of each.

    Source: Wolfe, Hiniker and Howe, "ML-EAT: A Multilevel Embedding Association Test for Interpretable and Transparent
    Social Science", AIES 2024, arXiv 2408.01966. Level 2 is the single-category test of Caliskan et al. (2017, WEFAT)
    with the set's mean cosine to each term in the place of a word's; the authors' own code was not compared with.
    """
    if len(targets) != 2 or len(attributes) != 2:
        raise ValueError(
            f"found {len(targets)} sets of targets and {len(attributes)} attributes; expected two of each"
        )
    names, (first, second), (x, y) = tuple(attributes), attributes.values(), targets.values()
    single = {
        name: _single(
            cosines(vectors, first).mean(axis=0), cosines(vectors, second).mean(axis=0), names, seed
        )
        for name, vectors in targets.items()
    }
    return Levels(
        weat(x, y, first, second, seed=seed),
        single,
        {
            name: {attribute: _spread(cosines(vectors, terms)) for attribute, terms in attributes.items()}
            for name, vectors in targets.items()
        },
        "; ".join(f"{name}: {found.leans}" for name, found in single.items()),
    )


def _single(
    first: NDArray[np.float64], second: NDArray[np.float64], names: tuple[str, ...], seed: int
) -> SingleTarget:
    together = np.concatenate([first, second])
    if not np.ptp(together) > 0:
        raise ValueError("all terms are equally near; an effect size measures by their spread")
    effect = float(first.mean() - second.mean()) / float(together.std(ddof=1))
    tails = (permutation_p(sign * together, len(first), seed)[0] for sign in (1.0, -1.0))
    p_value = min(1.0, 2 * min(tails))
    leans = "neither" if p_value > LEVEL else names[0] if effect > 0 else names[1]
    return SingleTarget(effect, p_value, leans)


def _spread(values: NDArray[np.float64]) -> Cosines:
    return Cosines(float(values.mean()), float(values.std(ddof=1)))
