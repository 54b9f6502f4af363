"""What a probe finds in one model."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmkd.evaluation.bias.gaps import Gaps, TermCosines, gap_rows, measure_gaps, standardise, term_cosines
from mmkd.evaluation.bias.inheritance import FEWEST
from mmkd.evaluation.bias.knowledge import (
    FEWEST_KNOWN,
    DirectionTest,
    knowledge_score,
    least_told_apart_p,
    tells_apart,
)
from mmkd.evaluation.bias.overall import Overall, Reference, overall, references
from mmkd.evaluation.bias.vectors import WordVectors
from mmkd.evaluation.bias.words import BiasWords, some
from mmkd.evaluation.statistics import Geometry, Score, geometry, unit_vectors

# Beyond this share of unknown words the sentences differ in little but their articles.
MOST_UNKNOWN = 0.1
# A model tells the attributes apart when chance would do as well less often than this.
DIRECTION_LEVEL = 0.05


@dataclass(frozen=True)
class ModelBias:
    """What the probe found in one model.

    Attributes:
        vectors: of all words.
        cosines: of targets and neutral nouns with the terms.
        centred: the same for vectors less their mean.
        gaps: of the targets.
        neutral_terms: float64 (N,), the standardised gaps of the terms of neither attribute.
        overall: the published measures.
        references: correlations of the gaps with the tables of numbers, by name.
        geometry: of the targets' embeddings, each averaged over templates.
        direction: whether the model tells the attributes apart; ``None`` where it gives terms the same embeddings.
        knowledge: whether it knows what words mean; ``None``: it could not be asked.
    """

    vectors: WordVectors
    cosines: TermCosines
    centred: TermCosines
    gaps: Gaps
    neutral_terms: NDArray[np.float64]
    overall: Overall
    references: Mapping[str, Reference]
    geometry: Geometry
    direction: DirectionTest | None
    knowledge: Score | None

    @property
    def words(self) -> BiasWords:
        """What was asked."""
        return self.vectors.words

    @property
    def doubts(self) -> list[str]:
        """Why nothing can be concluded from these numbers; empty where something can."""
        return [*self._unmeasured(), *self._ignorant()]

    def top(self, count: int = 5) -> dict[str, list[str]]:
        """For each term, of either attribute or of none, the targets with the highest cosine to it, highest first."""
        words, found = self.words, {}
        terms = (*words.terms, *words.neutral)
        near = term_cosines(self.vectors.of(words.targets), self.vectors.of(terms)).mean(axis=0)
        for column, term in enumerate(terms):
            order = np.argsort(-near[:, column], kind="stable")[:count]
            found[term] = [words.targets[row] for row in order]
        return found

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        vectors, words = self.vectors, self.words
        tokens = {} if vectors.tokens is None else {word: vectors.tokens[word] for word in words.all}
        return {
            "model": None if vectors.spec is None else asdict(vectors.spec),
            "source": vectors.source,
            "missing_words": list(vectors.missing),
            "unknown_words": list(vectors.unknown),
            "tokens": tokens,
            "gaps": gap_rows(words.targets, self.gaps),
            "gaps_standardised": self.gaps.standardised,
            "gaps_p_exact": self.gaps.exact,
            "control_gaps": dict(zip(words.controls, self.cosines.control_gaps.tolist(), strict=True)),
            "neutral_term_gaps": dict(zip(words.neutral, self.neutral_terms.tolist(), strict=True)),
            "top": self.top(),
            "overall": self.overall.to_json(),
            "references": {name: asdict(one) for name, one in self.references.items()},
            "target_embeddings": self.geometry.to_json(),
            "attributes_told_apart": None if self.direction is None else asdict(self.direction),
            "knowledge": None if self.knowledge is None else self.knowledge.to_json(),
            "doubts": self.doubts,
        }

    def _unmeasured(self) -> list[str]:
        words, found = self.words, []
        if not self.gaps.standardised:
            found.append(
                f"{len(words.controls)} neutral nouns among its words; at least {FEWEST}, not all alike, are needed to "
                "measure gaps by"
            )
        if len(words.targets) < FEWEST:
            found.append(f"{len(words.targets)} targets; at least {FEWEST} are needed")
        if self.knowledge is None:
            found.append(
                f"{len(words.knowledge)} of the pairs of words that show whether a model knows anything (nurse and "
                f"hospital, ...) are among its words; at least {FEWEST_KNOWN} are needed"
            )
        if not self._can_be_told_apart:
            sides = " and ".join(
                f"{len(side)} {name}"
                for name, side in zip(words.attributes, (words.first, words.second), strict=True)
            )
            found.append(
                f"{sides} terms are too few to ask whether it tells them apart; 4 of each are enough"
            )
        return found

    @property
    def _can_be_told_apart(self) -> bool:
        words = self.words
        sizes = len(words.first), len(words.second)
        return least_told_apart_p(*sizes, paired=words.paired) <= DIRECTION_LEVEL

    def _ignorant(self) -> list[str]:
        words, found = self.words, []
        total, unknown = len(words.all), self.vectors.unknown
        if len(unknown) > MOST_UNKNOWN * total:
            found.append(
                f"its tokenizer does not know {len(unknown)} of the {total} words ({some(unknown, 3)}): it "
                "never saw them"
            )
        if self.geometry.collapsed:
            found.append(f"its text embeddings are collapsed ({self.geometry.describe()})")
        if self.direction is None:
            found.append("it gives terms of both attributes the same embeddings")
        elif self._can_be_told_apart and self.direction.p_value > DIRECTION_LEVEL:
            what = (
                "mean cosine of the pairs' differences" if self.direction.method == "pairs" else "separation"
            )
            found.append(
                f"it does not tell {words.attributes[0]} from {words.attributes[1]} terms ({what} "
                f"{self.direction.value:.2f}, p = {self.direction.p_value:.2f})"
            )
        if self.knowledge is not None and self.knowledge.at_chance:
            low, high = self.knowledge.interval.low, self.knowledge.interval.high
            found.append(
                f"it does not know whether a {words.knowledge[0][0]} is nearer to a {words.knowledge[0][1]} than to a "
                f"{words.knowledge[1][1]}, and so on: right {100 * self.knowledge.value:.0f} % [{100 * low:.0f}, "
                f"{100 * high:.0f}] of the time, chance 50 (p = {self.knowledge.p_value:.2f})"
            )
        return found


def measure_model(vectors: WordVectors, *, seed: int = 0) -> ModelBias:
    """Measure everything that the words allow for; the same seed gives two models the same draws."""
    words = vectors.words
    cosines = _term_cosines(vectors)
    gaps = measure_gaps(cosines, seed=seed)
    pairs = tuple(zip(*words.knowledge, strict=True)) or ((), ())
    terms = vectors.of(words.first), vectors.of(words.second)
    return ModelBias(
        vectors,
        cosines,
        _centred(vectors, cosines),
        gaps,
        _neutral_terms(vectors, cosines),
        overall(vectors, seed=seed),
        references(words, gaps.value, seed=seed),
        _geometry(vectors),
        tells_apart(*terms, paired=words.paired, seed=seed),
        knowledge_score(*(vectors.of(side) for side in pairs), seed=seed) if pairs[0] else None,
    )


def _geometry(vectors: WordVectors) -> Geometry:
    targets = unit_vectors(vectors.of(vectors.words.targets).mean(axis=0))
    return geometry(targets) if len(targets) > 1 else Geometry(1.0, 1, 0.0, 0.0)


def _term_cosines(vectors: WordVectors) -> TermCosines:
    words, terms = vectors.words, vectors.of(vectors.words.terms)
    controls = vectors.of(words.controls)
    return TermCosines(
        term_cosines(vectors.of(words.targets), terms),
        term_cosines(controls, terms) if words.controls else np.zeros((len(terms), 0, terms.shape[1])),
        len(words.first),
        words.paired,
    )


def _centred(vectors: WordVectors, cosines: TermCosines) -> TermCosines:
    try:
        return _term_cosines(vectors.centred())
    except ValueError:  # all words in one place
        return cosines


def _neutral_terms(vectors: WordVectors, cosines: TermCosines) -> NDArray[np.float64]:
    words = vectors.words
    if not words.neutral:
        return np.zeros(0)
    near = term_cosines(vectors.of(words.neutral), vectors.of(words.terms)).mean(axis=0)
    return standardise(near @ cosines.signs, cosines)
