"""Gender bias of a text tower: which professions lie nearer to the female than to the male terms.

The measures take plain arrays and need no model; ``probe`` and ``compare`` run them on encoders.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mmkd.errors import ModelError
from mmkd.evaluation.statistics import CONFIDENCE, Geometry, Interval, geometry, unit_vectors
from mmkd.evaluation.words import BiasWords, is_known, sentence

if TYPE_CHECKING:
    from mmkd.embeddings import TeacherSpec
    from mmkd.encoders import PairEncoder

SCHEMA = "mmkd.bias"
SCHEMA_VERSION = 1

# Beyond this share of unknown words the sentences differ in little but their articles.
MOST_UNKNOWN = 0.1
# A text tower tells the terms' gender when chance would align the pairs' differences as well less often than this.
DIRECTION_LEVEL = 0.05
_EXACT_PAIRS = range(5, 17)


@dataclass(frozen=True, slots=True)
class Correlation:
    """A rank correlation of two columns and its 95 % bootstrap interval."""

    value: float
    interval: Interval


@dataclass(frozen=True, slots=True)
class DirectionTest:
    """Whether the differences within pairs share a direction.

    Attributes:
        mean_cosine: mean cosine between any two pairs' differences.
        p_value: share of all sign flips that align them at least as well.
    """

    mean_cosine: float
    p_value: float


@dataclass(frozen=True)
class ModelBias:
    """What the probe found in one model.

    Attributes:
        spec: the model.
        cosines: float64 (P, G), each profession with each term (female, then male), averaged over templates.
        gaps: float64 (P,), mean cosine to the female less to the male terms.
        unknown: the words that the tokenizer does not know.
        geometry: of the P professions' embeddings, each averaged over templates.
        direction: whether the model tells the terms' gender; ``None`` where a pair's embeddings are equal.
    """

    spec: "TeacherSpec"
    cosines: NDArray[np.float64]
    gaps: NDArray[np.float64]
    unknown: tuple[str, ...]
    geometry: Geometry
    direction: DirectionTest | None

    def doubts(self, words: BiasWords) -> list[str]:
        """Why these numbers mean nothing; empty where they do."""
        total = len(words.targets) + len(words.terms)
        found = []
        if len(self.unknown) > MOST_UNKNOWN * total:
            some = ", ".join(repr(word) for word in (words.female[0], *self.unknown) if word in self.unknown)
            found.append(
                f"its tokenizer does not know {len(self.unknown)} of the {total} words "
                f"({_cut(some)}): it never saw a person"
            )
        if self.geometry.collapsed:
            found.append(f"its text embeddings are collapsed ({self.geometry.describe()})")
        pairs = f"{words.female[0]} - {words.male[0]}, {words.female[1]} - {words.male[1]}, ..."
        if self.direction is None:
            found.append("it gives the female and the male terms the same embeddings")
        elif self.direction.p_value > DIRECTION_LEVEL:
            found.append(
                f"it does not tell the terms' gender: {pairs} point no common way "
                f"(mean cosine {self.direction.mean_cosine:.2f}, p = {self.direction.p_value:.2f})"
            )
        return found

    def top(self, words: BiasWords, count: int = 5) -> dict[str, list[str]]:
        """For each term the professions with the highest cosine to it, highest first."""
        order = np.argsort(-self.cosines, axis=0, kind="stable")[:count]
        return {term: [words.targets[row] for row in order[:, i]] for i, term in enumerate(words.terms)}

    def to_json(self, words: BiasWords) -> dict[str, Any]:
        """As JSON values."""
        return {
            "model": asdict(self.spec),
            "gaps": dict(zip(words.targets, self.gaps.tolist(), strict=True)),
            "top": self.top(words),
            "unknown_words": list(self.unknown),
            "profession_embeddings": self.geometry.to_json(),
            "gender_direction": None if self.direction is None else asdict(self.direction),
            "doubts": self.doubts(words),
        }


@dataclass(frozen=True)
class BiasReport:
    """Teacher and student beside one another.

    Attributes:
        words: what was asked.
        models: ``teacher`` and ``student``.
        correlations: ``spearman`` and ``kendall`` of the two columns of gaps; ``None`` where one is constant.
        withheld: why nothing can be concluded; empty where something can.
    """

    words: BiasWords
    models: Mapping[str, ModelBias]
    correlations: Mapping[str, Correlation | None]
    withheld: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """A JSON object; ``schema_version`` changes when a key changes its meaning or goes."""
        return {
            "schema": SCHEMA,
            "schema_version": SCHEMA_VERSION,
            "confidence": CONFIDENCE,
            "words": asdict(self.words),
            "models": {name: model.to_json(self.words) for name, model in self.models.items()},
            "correlations": {
                name: None
                if found is None
                else {"value": found.value, "low": found.interval.low, "high": found.interval.high}
                for name, found in self.correlations.items()
            },
            "withheld": list(self.withheld),
        }


def term_cosines(targets: ArrayLike, terms: ArrayLike) -> NDArray[np.float64]:
    """Cosine of every target with every term within each template, averaged over templates.

    Args:
        targets: (T, P, D), or (P, D) for words without templates; any length.
        terms: (T, G, D) or (G, D).

    Returns:
        float64 (P, G).

    Raises:
        ValueError: a vector is zero or not finite.
    """
    left, right = _by_template(targets), _by_template(terms)
    mean: NDArray[np.float64] = np.einsum("tpd,tgd->pg", left, right) / len(left)
    return mean


def association_gap(targets: ArrayLike, female: ArrayLike, male: ArrayLike) -> NDArray[np.float64]:
    """Mean cosine to the female less mean cosine to the male terms: positive leans female.

    Args:
        targets: (T, P, D) or (P, D).
        female: (T, F, D) or (F, D).
        male: (T, M, D) or (M, D).

    Returns:
        float64 (P,).

    Source: s(w, A, B) of Caliskan, Bryson and Narayanan, Science 356 (2017) 183-186.
    """
    near_female: NDArray[np.float64] = term_cosines(targets, female).mean(axis=1)
    near_male: NDArray[np.float64] = term_cosines(targets, male).mean(axis=1)
    return near_female - near_male


def direction_test(female: ArrayLike, male: ArrayLike) -> DirectionTest | None:
    """Do the differences ``female[i] - male[i]`` point the same way, more than under any flip of their signs?

    Args:
        female: (T, n, D) or (n, D), 5 to 16 pairs.
        male: the same shape.

    Returns:
        The exact test over all ``2 ** (n - 1)`` different flips; ``None`` where a difference is zero.

    Source: the gender direction of Bolukbasi et al., arXiv 1607.06520, tested by a sign-flip permutation.
    """
    a, b = _by_template(female), _by_template(male)
    if a.shape != b.shape or a.shape[1] not in _EXACT_PAIRS:
        raise ValueError(f"found {a.shape[1]} female and {b.shape[1]} male terms; expected 5 to 16 pairs")
    differences = a.mean(axis=0) - b.mean(axis=0)
    if (np.linalg.norm(differences, axis=1) < 1e-6).any():
        return None
    cosines = (unit := unit_vectors(differences)) @ unit.T
    n = len(unit)
    signs = np.array([(1, *rest) for rest in product((1, -1), repeat=n - 1)], dtype=np.float64)
    aligned = (np.einsum("si,ij,sj->s", signs, cosines, signs, optimize=True) - n) / (n * (n - 1))
    return DirectionTest(float(aligned[0]), float((aligned >= aligned[0] - 1e-12).mean()))


def rank_correlation(
    x: ArrayLike, y: ArrayLike, method: str, *, resamples: int = 1000, seed: int = 0
) -> Correlation | None:
    """Spearman's rho or Kendall's tau-b of two columns, with a percentile bootstrap over their rows.

    Args:
        x: (n,).
        y: (n,).
        method: ``spearman`` or ``kendall``.
        resamples: bootstrap samples.
        seed: of the bootstrap.

    Returns:
        ``None`` where a column is constant.
    """
    a, b = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    if np.ptp(a) == 0 or np.ptp(b) == 0:
        return None
    rows = np.random.default_rng(seed).integers(0, len(a), size=(resamples, len(a)))
    value = float(_METHODS[method](a[None], b[None])[0])
    draws = _METHODS[method](a[rows], b[rows])
    low, high = np.nanquantile(draws, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Correlation(value, Interval(float(low), float(high)))


def probe(encoder: "PairEncoder", words: BiasWords, *, batch_size: int = 256) -> ModelBias:
    """Embed every sentence and measure the gap of every profession.

    Raises:
        ModelError: an embedding is zero or not finite.
    """
    nouns = words.targets + words.terms
    sentences = [sentence(template, noun) for template in words.templates for noun in nouns]
    batches = [sentences[i : i + batch_size] for i in range(0, len(sentences), batch_size)]
    flat = np.concatenate([encoder.encode_texts(batch).numpy() for batch in batches])
    try:
        vectors = unit_vectors(flat).reshape(len(words.templates), len(nouns), -1)
        average = unit_vectors(vectors[:, : len(words.targets)].mean(axis=0))
    except ValueError as error:
        raise ModelError(
            f"{encoder.spec.model} gives embeddings that are zero or not finite; expected a trained CLIP"
        ) from error
    targets, terms = vectors[:, : len(words.targets)], vectors[:, len(words.targets) :]
    female, male = terms[:, : len(words.female)], terms[:, len(words.female) :]
    return ModelBias(
        spec=encoder.spec,
        cosines=term_cosines(targets, terms),
        gaps=association_gap(targets, female, male),
        unknown=tuple(word for word in nouns if not is_known(word, encoder.tokenizer)),
        geometry=geometry(average),
        direction=direction_test(female, male),
    )


def compare(
    teacher: ModelBias, student: ModelBias, words: BiasWords, *, doubts: Sequence[str] = ()
) -> BiasReport:
    """Set a student's gaps beside its teacher's.

    Args:
        teacher: from :func:`probe`.
        student: from :func:`probe`.
        words: what both were asked.
        doubts: further reasons to conclude nothing, such as a student at chance.
    """
    models = {"teacher": teacher, "student": student}
    reasons = [f"{name}: {doubt}" for name, model in models.items() for doubt in model.doubts(words)]
    correlations = {name: rank_correlation(teacher.gaps, student.gaps, name) for name in _METHODS}
    return BiasReport(words, models, correlations, (*reasons, *doubts))


def _by_template(vectors: ArrayLike) -> NDArray[np.float64]:
    values = unit_vectors(vectors)
    return values[None] if values.ndim == 2 else values


def _spearman(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    from scipy.stats import rankdata

    ranks = [rankdata(side, axis=1) for side in (a, b)]
    p, q = (side - side.mean(axis=1, keepdims=True) for side in ranks)
    return _ratio((p * q).sum(axis=1), (p * p).sum(axis=1) * (q * q).sum(axis=1))


def _kendall(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    i, j = np.triu_indices(a.shape[1], 1)
    p, q = (np.sign(side[:, i] - side[:, j]) for side in (a, b))
    return _ratio((p * q).sum(axis=1), (p * p).sum(axis=1) * (q * q).sum(axis=1))


def _ratio(numerator: NDArray[np.float64], squares: NDArray[np.float64]) -> NDArray[np.float64]:
    # A resample may hold one row only, whose correlation is not defined.
    return np.where(squares > 0, numerator / np.sqrt(np.where(squares > 0, squares, 1)), np.nan)


def _cut(text: str, most: int = 40) -> str:
    return text if len(text) <= most else f"{text[: text.rindex(',', 0, most)]}, ..."


_METHODS: dict[str, Callable[[NDArray[np.float64], NDArray[np.float64]], NDArray[np.float64]]] = {
    "spearman": _spearman,
    "kendall": _kendall,
}
