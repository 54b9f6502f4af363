"""The gap of every target: how much nearer it lies to one attribute's terms than to the other's.

A gap is measured in units of the spread that neutral nouns show in the same model, so that two models can be compared:
0 is a neutral noun's mean gap, 1 a neutral noun's standard deviation.
"""

from dataclasses import dataclass
from itertools import combinations, product
from math import comb
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mmkd.evaluation.bias.inheritance import FEWEST, standardised_gaps
from mmkd.evaluation.statistics import CONFIDENCE, unit_vectors

DRAWS = 1_000  # of the bootstrap
PERMUTATIONS = 9_999
MOST_EXACT = 20_000  # divisions or flips that are all gone through
_BLOCK = 100
_ROUNDING = 1e-10
NO_SPREAD = 1e-6  # of cosines; a model that computes in float32 is no more exact than that


@dataclass(frozen=True)
class TermCosines:
    """Cosines of some words with an attribute's terms, in every template.

    Attributes:
        targets: float64 (T, P, G), the targets with the first attribute's terms, then the second's.
        controls: float64 (T, C, G), the neutral nouns.
        first: how many of the G terms are the first attribute's.
        paired: whether term i of the first and term i of the second are a pair.
    """

    targets: NDArray[np.float64]
    controls: NDArray[np.float64]
    first: int
    paired: bool

    @property
    def signs(self) -> NDArray[np.float64]:
        """(G,): what a term's cosine counts in a gap, 1 / a for the first attribute's and -1 / b for the second's."""
        terms = self.targets.shape[2]
        return np.concatenate(
            [np.full(self.first, 1 / self.first), np.full(terms - self.first, -1 / (terms - self.first))]
        )

    @property
    def gaps(self) -> NDArray[np.float64]:
        """(P,), mean cosine to the first less mean cosine to the second attribute's terms, over all templates.

        Source: s(w, A, B) of Caliskan, Bryson and Narayanan, Science 356 (2017) 183-186.
        """
        return _without_rounding(self.targets.mean(axis=0) @ self.signs)

    @property
    def control_gaps(self) -> NDArray[np.float64]:
        """(C,), as cosines."""
        return _without_rounding(self.controls.mean(axis=0) @ self.signs)

    @property
    def measured(self) -> bool:
        """Whether there are neutral nouns enough, and different enough, to measure by."""
        return len(self.control_gaps) >= FEWEST and float(self.control_gaps.std(ddof=1)) > NO_SPREAD

    def without_term(self, number: int) -> "TermCosines":
        """Without one term of the first attribute, and the one paired with it."""
        drop = [number, self.first + number] if self.paired else [number]
        return TermCosines(
            np.delete(self.targets, drop, axis=2),
            np.delete(self.controls, drop, axis=2),
            self.first - (number < self.first),
            self.paired,
        )

    def without_template(self, number: int) -> "TermCosines":
        """Without one template."""
        targets, controls = (np.delete(side, number, axis=0) for side in (self.targets, self.controls))
        return TermCosines(targets, controls, self.first, self.paired)


@dataclass(frozen=True)
class Gaps:
    """The gap of each of P targets in one model.

    Attributes:
        raw: (P,), as a difference of cosines.
        value: (P,), standardised by the neutral nouns; as ``raw`` where there are too few of them.
        low: (P,), lower end of the 95 % interval of ``value``, by a bootstrap over templates and terms.
        high: (P,), upper end.
        p_value: (P,), two-sided, of the gap being that of a neutral noun, by exchanging the attributes of the terms.
        q_value: (P,), the same after Benjamini and Hochberg over the targets.
        exact: whether every exchange was gone through.
        standardised: whether ``value`` is.
    """

    raw: NDArray[np.float64]
    value: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    p_value: NDArray[np.float64]
    q_value: NDArray[np.float64]
    exact: bool
    standardised: bool


def _without_rounding(gaps: NDArray[np.float64]) -> NDArray[np.float64]:
    """Gaps that are 0 but for rounding as 0, so that a model that tells nothing apart has no order of targets."""
    return np.where(np.abs(gaps) < _ROUNDING, 0.0, gaps)


def term_cosines(words: ArrayLike, terms: ArrayLike) -> NDArray[np.float64]:
    """Cosine of every word with every term within each template.

    Args:
        words: (T, P, D), or (P, D) for words without templates; any length.
        terms: (T, G, D) or (G, D).

    Returns:
        float64 (T, P, G).

    Raises:
        ValueError: a vector is zero or not finite.
    """
    left, right = (one[None] if one.ndim == 2 else one for one in (unit_vectors(words), unit_vectors(terms)))
    return left @ right.transpose(0, 2, 1)


def measure_gaps(cosines: TermCosines, *, draws: int = DRAWS, seed: int = 0) -> Gaps:
    """Every target's gap with its interval and p; one seed gives two models the same draws of templates and terms.

    Source: Benjamini and Hochberg, J. R. Stat. Soc. B 57 (1995) 289-300; exchanges of the attribute as the permutation
    test of Caliskan et al. (2017) for a single word, within pairs where the terms are pairs.
    """
    from scipy.stats import false_discovery_control

    value = standardise(cosines.gaps, cosines)
    low, high = _interval(cosines, draws, seed)
    p_value, exact = exchange_p(_term_gaps(cosines), cosines.first, paired=cosines.paired, seed=seed)
    return Gaps(
        cosines.gaps, value, low, high, p_value, false_discovery_control(p_value), exact, cosines.measured
    )


def standardise(gaps: NDArray[np.float64], cosines: TermCosines) -> NDArray[np.float64]:
    """Gaps in units of the neutral nouns' spread; as they are where there are too few neutral nouns."""
    return standardised_gaps(gaps, cosines.control_gaps) if cosines.measured else gaps


def difference_p(
    one: TermCosines, other: TermCosines, *, seed: int = 0
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Does a target's standardised gap differ between two models? A paired permutation over the terms.

    For each term, or pair of terms, the two models' contributions to the gap may be exchanged.

    Returns:
        Two-sided p of each target (P,), and the same after Benjamini and Hochberg over the targets.
    """
    from scipy.stats import false_discovery_control

    units = [_contributions(cosines) for cosines in (one, other)]
    difference = units[0] - units[1]
    difference[np.abs(difference) < _ROUNDING * np.abs(units[0]).max()] = 0.0
    p_value = _flip_p(difference, seed)[0]
    return p_value, false_discovery_control(p_value)


def exchange_p(
    values: NDArray[np.float64], first: int, *, paired: bool, seed: int = 0
) -> tuple[NDArray[np.float64], bool]:
    """Two-sided p of each row's mean over the first columns less that over the others, by exchanging columns.

    Args:
        values: (P, G).
        first: columns of the first attribute.
        paired: exchange within pairs only: column i with column ``first + i``.
        seed: of drawn exchanges.

    Returns:
        p (P,), and whether every exchange was gone through; drawn ones give (b + 1) / (n + 1).
    """
    if paired:
        return _flip_p((values[:, :first] - values[:, first:]) / first, seed)
    terms = values.shape[1]
    chosen, exact = divisions(terms, first, seed)
    weights = np.full((len(chosen), terms), -1 / (terms - first))
    np.put_along_axis(weights, chosen, 1 / first, axis=1)
    own = np.concatenate([np.full(first, 1 / first), np.full(terms - first, -1 / (terms - first))])
    return _tail(values @ own, values, weights, exact), exact


def least_exchange_p(first: int, second: int, *, paired: bool) -> float:
    """The smallest p that :func:`exchange_p` can give; with few terms no gap can be told from a neutral noun's."""
    if paired:
        return least_flip_p(first)
    count = comb(first + second, first)
    # Of two sets of one size each division stands there twice, with the sides exchanged.
    return (2 if first == second else 1) / count if count <= MOST_EXACT else 1 / (PERMUTATIONS + 1)


def least_flip_p(n: int) -> float:
    """The smallest p by flipping the signs of ``n`` columns."""
    return 2.0 ** (1 - n) if 2 ** (n - 1) <= MOST_EXACT else 1 / (PERMUTATIONS + 1)


def divisions(n: int, size: int, seed: int) -> tuple[NDArray[np.intp], bool]:
    """All sets of ``size`` of n, (B, size), or 9,999 drawn ones where there are over 20,000; and whether it is all."""
    if comb(n, size) <= MOST_EXACT:
        return np.array(list(combinations(range(n), size)), dtype=np.intp), True
    drawn = np.random.default_rng(seed).permuted(np.tile(np.arange(n), (PERMUTATIONS, 1)), axis=1)
    return drawn[:, :size], False


def _flip_p(units: NDArray[np.float64], seed: int) -> tuple[NDArray[np.float64], bool]:
    """Two-sided p of each row's sum by flipping the signs of its columns: (P, n) to (P,)."""
    n = units.shape[1]
    exact = 2 ** (n - 1) <= MOST_EXACT
    if exact:  # a flip of all signs changes nothing two-sided
        signs = np.array([(1, *rest) for rest in product((1, -1), repeat=n - 1)], dtype=np.float64)
    else:
        signs = np.random.default_rng(seed).choice([-1.0, 1.0], size=(PERMUTATIONS, n))
    return _tail(units.sum(axis=1), units, signs, exact), exact


def _tail(
    own: NDArray[np.float64], values: NDArray[np.float64], weights: NDArray[np.float64], exact: bool
) -> NDArray[np.float64]:
    # Equal sums in another order may differ in the last bits.
    least = np.abs(own) - 1e-12 * np.abs(values).sum(axis=1) * np.abs(weights).max()
    found = np.array(
        [(np.abs(weights @ row) >= bound).sum() for row, bound in zip(values, least, strict=True)],
        dtype=np.float64,
    )
    return found / len(weights) if exact else (found + 1) / (len(weights) + 1)


def _term_gaps(cosines: TermCosines) -> NDArray[np.float64]:
    """Each target's mean cosine with each term, (P, G), less the neutral nouns', where there are any to measure by."""
    found: NDArray[np.float64] = cosines.targets.mean(axis=0)
    return found - cosines.controls.mean(axis=(0, 1)) if cosines.measured else found


def _contributions(cosines: TermCosines) -> NDArray[np.float64]:
    """What each pair of terms, or each term, adds to a standardised gap: (P, n)."""
    spread = float(cosines.control_gaps.std(ddof=1)) if cosines.measured else 1.0
    found = _term_gaps(cosines) * cosines.signs / spread
    return found[:, : cosines.first] + found[:, cosines.first :] if cosines.paired else found


def _interval(cosines: TermCosines, draws: int, seed: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Percentile bootstrap of the standardised gaps over templates and over terms: two columns (P,).

    The unit, the neutral nouns' spread, stays the model's own: within a draw the repeated terms' noise would widen it,
    and pull every gap towards 0.
    """
    generator = np.random.default_rng(seed)
    templates, _, terms = cosines.targets.shape
    both = np.concatenate([cosines.targets, cosines.controls], axis=1)
    split, found = cosines.targets.shape[1], []
    spread = float(cosines.control_gaps.std(ddof=1)) if cosines.measured else 1.0
    for start in range(0, draws, _BLOCK):
        size = min(_BLOCK, draws - start)
        weights = _counts(generator, size, templates) / templates
        near = _counts(generator, size, cosines.first)
        far = near if cosines.paired else _counts(generator, size, terms - cosines.first)
        signs = np.concatenate([near / cosines.first, -far / (terms - cosines.first)], axis=1)
        gaps = np.einsum("tpb,bt->bp", both @ signs.T, weights, optimize=True)
        if cosines.measured:
            controls = gaps[:, split:]
            gaps = (gaps - controls.mean(axis=1, keepdims=True)) / spread
        found.append(gaps[:, :split])
    low, high = np.quantile(np.concatenate(found), [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2], axis=0)
    return low, high


def _counts(generator: np.random.Generator, size: int, n: int) -> NDArray[np.float64]:
    """How often each of n is drawn in ``size`` draws of n with replacement: (size, n)."""
    rows = generator.integers(0, n, size=(size, n))
    return np.stack([np.bincount(row, minlength=n) for row in rows]).astype(np.float64)


def gap_rows(names: tuple[str, ...], gaps: Gaps) -> dict[str, dict[str, Any]]:
    """Each target's numbers as JSON values, by target."""
    columns = ("raw", "value", "low", "high", "p_value", "q_value")
    return {
        name: {column: float(getattr(gaps, column)[row]) for column in columns}
        for row, name in enumerate(names)
    }
