"""Bias where images are ranked and classified: who is shown for a neutral query, and who is taken for what."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mmkd.errors import DataError
from mmkd.evaluation.bias.image_sets import GroupedImages
from mmkd.evaluation.bias.words import BiasWords
from mmkd.evaluation.embedded import BATCH_SIZE, KeptEmbeddings, embed_images, embed_texts
from mmkd.evaluation.statistics import CONFIDENCE, Interval, unit_vectors, wilson_interval

if TYPE_CHECKING:
    from mmkd.encoders import PairEncoder

TOP = 100
DRAWS = 499
_HALF = 0.5  # places that a group without any counts as, since the logarithm of none is minus infinity


@dataclass(frozen=True, slots=True)
class RankingScore:
    """A measure of rankings, averaged over queries.

    Attributes:
        value: mean over the queries.
        interval: 95 %, by a bootstrap over the queries.
        chance: its mean when the images' groups are shuffled, within occupations where they are known.
        p_value: share of shuffles whose mean lies as far from ``chance``.
    """

    value: float
    interval: Interval
    chance: float
    p_value: float


@dataclass(frozen=True, slots=True)
class GroupErrors:
    """How often the images of one group are taken for something else.

    Attributes:
        images: of the group.
        errors: among them.
        share: of errors.
        interval: 95 %, Wilson's.
    """

    images: int
    errors: int
    share: float
    interval: Interval


@dataclass(frozen=True)
class Misclassification:
    """Errors by group.

    Attributes:
        groups: by name.
        difference: share of the first attribute's group less that of the second's; ``None`` where one has no image.
        p_value: two-sided, by shuffling the groups, within occupations where they are known.
    """

    groups: Mapping[str, GroupErrors]
    difference: float | None
    p_value: float | None


@dataclass(frozen=True)
class ModelImages:
    """One model's rankings and mistakes.

    Attributes:
        rankings: ``MaxSkew``, ``MinSkew``, ``NDKL`` and ``Bias`` at k.
        thing_for_person: images of people whose nearest word is a neutral noun instead of one for a person.
        occupation: images whose nearest occupation is another; ``None`` without occupations.
    """

    rankings: Mapping[str, RankingScore]
    thing_for_person: Misclassification | None
    occupation: Misclassification | None


@dataclass(frozen=True)
class ImageBias:
    """All models on one set of images.

    Attributes:
        name: of the set.
        source: where it came from.
        images: how many were compared.
        groups: images by group.
        queries: how many neutral queries were ranked by.
        k: places of each ranking that were looked at.
        skipped: images left out, by reason.
        models: by name.
        within_occupations: groups were shuffled within occupations; otherwise what the set is made of, such as more
            women among its nurses, is in every distance from chance.
    """

    name: str
    source: str
    images: int
    groups: Mapping[str, int]
    queries: int
    k: int
    skipped: Mapping[str, int]
    models: Mapping[str, ModelImages]
    within_occupations: bool = False

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self)


def evaluate_images(
    encoders: "Mapping[str, PairEncoder]",
    images: GroupedImages,
    words: BiasWords,
    *,
    top: int = TOP,
    batch_size: int = BATCH_SIZE,
    kept: KeptEmbeddings | None = None,
    progress: Callable[[int], None] | None = None,
    seed: int = 0,
) -> ImageBias:
    """Rank the images by neutral queries and classify them, with every model.

    Queries are the set's occupations, or the probe's targets where it has none, in all templates.

    Args:
        encoders: models by name.
        images: with a group each.
        words: attributes, targets, neutral nouns and templates.
        top: places of a ranking that are looked at; at most half of the images.
        batch_size: images, or sentences, a forward pass.
        kept: where embeddings are looked for, and kept.
        progress: called with the number of images of each batch done.
        seed: of all draws.

    Raises:
        DataError: fewer than two groups, or than four images, could be read.
        ModelError: a model's embeddings are zero or not finite.
    """
    rows = images.rows
    embedded = embed_images(
        encoders, images, rows, batch_size=batch_size, kept=kept, content=images.content, progress=progress
    )
    places = next(iter(embedded.values())).places
    group = images.groups[places]
    occupation = None if images.occupations is None else images.occupations[places]
    if len(places) < 4 or len(np.unique(group)) < 2:
        raise DataError(
            f"{images.source}: {len(places)} images of {len(np.unique(group))} groups; expected 2 groups"
        )
    k = min(top, len(places) // 2)
    queries = images.occupation_names or words.targets
    found = {}
    for name, encoder in encoders.items():
        vectors = unit_vectors(embedded[name].vectors)

        def weigh(nouns: tuple[str, ...], encoder: "PairEncoder" = encoder) -> NDArray[np.float64]:
            return _weights(encoder, nouns, words, batch_size, kept)

        found[name] = _judge(vectors, weigh, queries, k, images.group_names, group, occupation, words, seed)
    counts = {name: int((group == number).sum()) for number, name in enumerate(images.group_names)}
    skipped = next(iter(embedded.values())).skipped
    return ImageBias(
        images.name,
        images.source,
        len(places),
        counts,
        len(queries),
        k,
        skipped,
        found,
        occupation is not None,
    )


def _judge(
    vectors: NDArray[np.float64],
    weigh: Callable[[tuple[str, ...]], NDArray[np.float64]],
    queries: tuple[str, ...],
    k: int,
    names: tuple[str, ...],
    group: NDArray[np.int64],
    occupation: NDArray[np.int64] | None,
    words: BiasWords,
    seed: int,
) -> ModelImages:
    """One model's images (N, D), ranked by the queries and classified; ``weigh`` gives nouns their vectors."""
    asked = weigh(queries)
    order = np.argsort(-(asked @ vectors.T), axis=1, kind="stable")[:, :k]
    rankings = _rankings(order, group, names, words.attributes, k, seed, occupation)
    things = jobs = None
    persons = (*words.terms, *words.neutral)
    if words.controls:
        nearest = (vectors @ weigh((*persons, *words.controls)).T).argmax(axis=1)
        things = _mistakes(nearest >= len(persons), group, names, words, occupation, seed)
    if occupation is not None:
        nearest = (vectors @ asked.T).argmax(axis=1)
        jobs = _mistakes(nearest != occupation, group, names, words, occupation, seed)
    return ModelImages(rankings, things, jobs)


def _weights(
    encoder: "PairEncoder",
    nouns: tuple[str, ...],
    words: BiasWords,
    batch_size: int,
    kept: KeptEmbeddings | None,
) -> NDArray[np.float64]:
    """Each noun's sentences averaged over the templates, at unit length: (n, D)."""
    sentences = [words.sentence(template, noun) for template in words.templates for noun in nouns]
    vectors = embed_texts(encoder, sentences, batch_size=batch_size, kept=kept)
    return unit_vectors(vectors.reshape(len(words.templates), len(nouns), -1).mean(axis=0))


def _rankings(
    order: NDArray[np.intp],
    group: NDArray[np.int64],
    names: tuple[str, ...],
    attributes: tuple[str, str],
    k: int,
    seed: int,
    strata: NDArray[np.int64] | None = None,
) -> dict[str, RankingScore]:
    """Measures of the rankings (Q, k) with their null: the same rankings, the images' groups shuffled within strata."""
    generator = np.random.default_rng(seed)
    own = ranking_measures(order, group, len(names), _two(names, attributes))
    shuffled: dict[str, list[float]] = {name: [] for name in own}
    for _ in range(DRAWS):
        labels = _shuffled(group, np.arange(len(group)), strata, generator)
        null = ranking_measures(order, labels, len(names), _two(names, attributes))
        for name, values in null.items():
            shuffled[name].append(float(values.mean()))
    found = {}
    for name, values in own.items():
        rows = generator.integers(0, len(values), (DRAWS, len(values)))
        low, high = np.quantile(values[rows].mean(axis=1), [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
        null_values = np.array(shuffled[name])
        chance, value = float(null_values.mean()), float(values.mean())
        as_far = int((np.abs(null_values - chance) >= abs(value - chance) - 1e-12).sum())
        found[f"{name}@{k}"] = RankingScore(
            value, Interval(float(low), float(high)), chance, (as_far + 1) / (DRAWS + 1)
        )
    return found


def ranking_measures(
    order: NDArray[np.intp], group: NDArray[np.int64], count: int, two: tuple[int, int] | None
) -> dict[str, NDArray[np.float64]]:
    """MaxSkew, MinSkew, NDKL and, for two groups, Bias of each query's first k places: each (Q,).

    As ``max_skew``, ``min_skew`` and ``ndkl`` against the groups' shares of all images, for many rankings at once, but
    that a group without a place counts as half a place. Bias is the share of the first group less that of the second
    among the places that either has, 0 where neither has one.

    Args:
        order: (Q, k), images by place.
        group: (N,), of each image, 0 to ``count`` - 1.
        count: groups.
        two: which groups are the first and the second attribute's.

    Source: Geyik, Ambler and Kenthapadi, KDD 2019; Bias@K of Wang, Liu and Wang, EMNLP 2021, with our sign.
    """
    k = order.shape[1]
    share = np.bincount(group, minlength=count) / len(group)
    seen = share > 0
    hits = (group[order][:, :, None] == np.arange(count)[seen]).cumsum(axis=1).astype(np.float64)
    skew = np.log(np.maximum(hits[:, -1], _HALF) / k / share[seen])
    parts = hits / np.arange(1, k + 1)[:, None]
    with np.errstate(divide="ignore", invalid="ignore"):
        divergence = np.where(parts > 0, parts * np.log(parts / share[seen]), 0.0).sum(axis=2)
    discount = 1 / np.log2(np.arange(2, k + 2))
    found = {
        "MaxSkew": skew.max(axis=1),
        "MinSkew": skew.min(axis=1),
        "NDKL": divergence @ discount / discount.sum(),
    }
    if two is not None:
        first, second = ((group[order] == one).sum(axis=1).astype(np.float64) for one in two)
        found["Bias"] = (first - second) / np.maximum(first + second, 1)
    return found


def _two(names: tuple[str, ...], attributes: tuple[str, str]) -> tuple[int, int] | None:
    return (names.index(attributes[0]), names.index(attributes[1])) if set(attributes) <= set(names) else None


def _mistakes(
    wrong: NDArray[np.bool_],
    group: NDArray[np.int64],
    names: tuple[str, ...],
    words: BiasWords,
    strata: NDArray[np.int64] | None,
    seed: int,
) -> Misclassification:
    errors = {}
    for number, name in enumerate(names):
        inside = wrong[group == number]
        if len(inside):
            count = int(inside.sum())
            errors[name] = GroupErrors(
                len(inside), count, count / len(inside), wilson_interval(count, len(inside))
            )
    two = _two(tuple(errors), words.attributes)
    if two is None:
        return Misclassification(errors, None, None)
    first, second = (names.index(name) for name in words.attributes)

    def difference(labels: NDArray[np.int64]) -> float:
        return float(wrong[labels == first].mean() - wrong[labels == second].mean())

    generator, own, as_far = np.random.default_rng(seed), difference(group), 0
    among = np.flatnonzero((group == first) | (group == second))
    for _ in range(DRAWS):
        labels = _shuffled(group, among, strata, generator)
        as_far += abs(difference(labels)) >= abs(own) - 1e-12
    return Misclassification(errors, own, (as_far + 1) / (DRAWS + 1))


def _shuffled(
    group: NDArray[np.int64],
    among: NDArray[np.intp],
    strata: NDArray[np.int64] | None,
    generator: np.random.Generator,
) -> NDArray[np.int64]:
    """The images' groups, those of ``among`` exchanged within their stratum."""
    labels = group.copy()
    layers = np.zeros(len(group), dtype=np.int64) if strata is None else strata
    for layer in np.unique(layers[among]):
        inside = among[layers[among] == layer]
        labels[inside] = generator.permutation(group[inside])
    return labels
