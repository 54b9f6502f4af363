"""Image-text retrieval both ways, with several captions an image, and what each score is worth."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mmkd.errors import DataError
from mmkd.evaluation.captioned import RetrievalTask
from mmkd.evaluation.embedded import BATCH_SIZE, ContentHash, KeptEmbeddings, embed_images, embed_texts
from mmkd.evaluation.resampling import quantiles, resample_median, resample_share
from mmkd.evaluation.retrieval_report import DEPTHS, Found, MedianRank, ModelRetrieval, RetrievalSet
from mmkd.evaluation.statistics import Interval, Score, geometry, wilson_interval
from mmkd.evaluation.zero_shot import choose_rows, similarities, true_ranks

if TYPE_CHECKING:
    from mmkd.encoders import PairEncoder

SHUFFLES = 999
EXAMPLES, NEAREST = 5, 5
_CELLS = 20_000_000  # cosines held at a time


@dataclass(frozen=True)
class Ranks:
    """Where the right answers stand; 0 is first, and a tie counts against.

    Attributes:
        texts: int64 (N,), for each image how many captions of other images score at least as high as its best own.
        images: int64 (M,), for each caption how many other images score at least as high as its own.
        found_texts: for k, int64 (E, 2): rows (i, j) where image i has a caption of image j among its first k.
        found_images: for k, int64 (E, 2): rows (i, j), one a caption of image i that has image j among its first k.
    """

    texts: NDArray[np.int64]
    images: NDArray[np.int64]
    found_texts: Mapping[int, NDArray[np.int64]]
    found_images: Mapping[int, NDArray[np.int64]]


def rank_pairs(
    images: ArrayLike, texts: ArrayLike, owner: NDArray[np.int64], *, cells: int = _CELLS
) -> Ranks:
    """Rank every caption for every image and the other way round, never holding more than ``cells`` cosines.

    Args:
        images: (N, D), unit length.
        texts: (M, D), unit length.
        owner: int (M,), ascending, the image of each caption; each image has at least one.
        cells: at most this many cosines at a time.
    """
    image, text = np.asarray(images, dtype=np.float64), np.asarray(texts, dtype=np.float64)
    rank_texts, found_texts = _find_texts(image, text, owner, max(1, cells // len(text)))
    rank_images, found_images = _find_images(image, text, owner, max(1, cells // len(image)))
    return Ranks(rank_texts, rank_images, found_texts, found_images)


def _find_texts(
    image: NDArray[np.float64], text: NDArray[np.float64], owner: NDArray[np.int64], step: int
) -> tuple[NDArray[np.int64], dict[int, NDArray[np.int64]]]:
    starts = np.searchsorted(owner, np.arange(len(image) + 1))
    ranks: list[NDArray[np.int64]] = []
    found: dict[int, list[NDArray[np.int64]]] = {k: [] for k in DEPTHS}
    for first in range(0, len(image), step):
        scores = similarities(image[first : first + step], text)
        for k in DEPTHS:
            rows, columns = _leading(scores, k)
            found[k].append(np.unique(np.stack([rows + first, owner[columns]], axis=1), axis=0))
        best = np.empty(len(scores), dtype=scores.dtype)
        for i in range(len(scores)):
            own = slice(starts[first + i], starts[first + i + 1])
            best[i] = scores[i, own].max()
            scores[i, own] = -np.inf
        ranks.append((scores >= best[:, None]).sum(axis=1))
    return np.concatenate(ranks), {k: np.concatenate(parts) for k, parts in found.items()}


def _find_images(
    image: NDArray[np.float64], text: NDArray[np.float64], owner: NDArray[np.int64], step: int
) -> tuple[NDArray[np.int64], dict[int, NDArray[np.int64]]]:
    ranks: list[NDArray[np.int64]] = []
    found: dict[int, list[NDArray[np.int64]]] = {k: [] for k in DEPTHS}
    for first in range(0, len(text), step):
        scores, own = similarities(text[first : first + step], image), owner[first : first + step]
        ranks.append(true_ranks(scores, own))
        for k in DEPTHS:
            rows, columns = _leading(scores, k)
            found[k].append(np.stack([own[rows], columns], axis=1))
    return np.concatenate(ranks), {k: np.concatenate(parts) for k, parts in found.items()}


def _leading(scores: NDArray[np.float32], k: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows and columns of what is among its row's first ``k`` alone: above the (k + 1)-th score."""
    if k >= scores.shape[1]:
        every = np.indices(scores.shape)
        return every[0].ravel(), every[1].ravel()
    bar = np.partition(scores, scores.shape[1] - k - 1, axis=1)[:, scores.shape[1] - k - 1]
    found = np.nonzero(scores > bar[:, None])
    return found[0], found[1]


def hit_chance(right: NDArray[np.integer[Any]], candidates: int, k: int) -> float:
    """Share of queries that find any right answer among the first ``k`` of a random order.

    ``1 - C(M - c, k) / C(M, k)`` for a query with ``c`` right answers among ``M`` candidates, averaged over queries;
    ``k / M`` where each has one.

    Args:
        right: int (Q,), right answers of each query.
        candidates: M.
        k: how many are looked at.
    """
    counts, queries = np.unique(right, return_counts=True)
    drawn = np.arange(min(k, candidates))
    missed = [np.prod(np.clip(candidates - c - drawn, 0, None) / (candidates - drawn)) for c in counts]
    return float(1 - (np.array(missed) * queries).sum() / queries.sum())


def median_chance(right: NDArray[np.integer[Any]], candidates: int) -> int:
    """Median rank, from 1, of the first right answer in a random order: the least k found by half the queries."""
    low, high = 1, candidates
    while low < high:
        middle = (low + high) // 2
        if hit_chance(right, candidates, middle) >= 0.5 - 1e-12:
            high = middle
        else:
            low = middle + 1
    return low


def shuffled_p(found: NDArray[np.int64], images: int, *, seed: int = 0) -> float:
    """Share of the pairings of images with sets of captions that score at least as high as the true one.

    Args:
        found: int (E, 2), as in :class:`Ranks`; the score is the number of rows whose two numbers are equal.
        images: N.
        seed: of the 999 shuffles, beside which the true pairing is counted too.

    Source: Phipson and Smyth, Stat. Appl. Genet. Mol. Biol. 9 (2010).
    """
    generator, own = np.random.default_rng(seed), int((found[:, 0] == found[:, 1]).sum())
    as_good = sum(
        int((generator.permutation(images)[found[:, 0]] == found[:, 1]).sum()) >= own for _ in range(SHUFFLES)
    )
    return (1 + as_good) / (1 + SHUFFLES)


def judge(
    images: ArrayLike, texts: ArrayLike, owner: NDArray[np.int64], *, seed: int = 0, cells: int = _CELLS
) -> ModelRetrieval:
    """Scores of unit vectors (N, D) and (M, D); ``owner`` (M,) ascending, as in :func:`rank_pairs`."""
    ranks = rank_pairs(images, texts, owner, cells=cells)
    count = len(np.asarray(images))
    each = np.bincount(owner, minlength=count)
    scores: dict[str, Score] = {}
    medians: dict[str, MedianRank] = {}
    draws: dict[str, NDArray[np.float64]] = {}
    ways = (
        ("image to text", ranks.texts, np.arange(count), each, len(owner), ranks.found_texts),
        (
            "text to image",
            ranks.images,
            owner,
            np.ones(len(owner), dtype=np.int64),
            count,
            ranks.found_images,
        ),
    )
    for way, rank, cluster, right, candidates, found in ways:
        for k in DEPTHS:
            if k >= candidates:
                continue
            name, hit = f"{way} R@{k}", rank < k
            draws[name] = resample_share(hit, cluster, count, seed=seed)
            scores[name] = Score(
                float(hit.mean()),
                _interval(hit, draws[name], count),
                hit_chance(right, candidates, k),
                shuffled_p(found[k], count, seed=seed),
            )
        medians[way] = MedianRank(
            float(np.median(rank)) + 1,
            quantiles(resample_median(rank + 1, cluster, count, seed=seed)),
            median_chance(right, candidates),
        )
    return ModelRetrieval(scores, medians, geometry(np.asarray(images)), geometry(np.asarray(texts)), draws)


def _interval(hit: NDArray[np.bool_], draws: NDArray[np.float64], images: int) -> Interval:
    # Where all or none are right, every draw is too, and would give an interval without width.
    share = float(hit.mean())
    return wilson_interval(share * images, images) if share in (0.0, 1.0) else quantiles(draws)


def evaluate_retrieval(
    encoders: "Mapping[str, PairEncoder]",
    task: RetrievalTask,
    *,
    batch_size: int = BATCH_SIZE,
    limit: int | None = None,
    kept: KeptEmbeddings | None = None,
    progress: Callable[[int], None] | None = None,
    seed: int = 0,
) -> RetrievalSet:
    """Let images and captions find each other with every model; rows without a caption are left out.

    Args:
        encoders: models by name, at least one.
        task: the set.
        batch_size: images, or captions, a forward pass.
        limit: images to take, evenly spread; ``None``: all.
        kept: embeddings of earlier evaluations, and where those of this one are kept.
        progress: called with the number of images of each batch done.
        seed: of resampling and shuffling.

    Raises:
        DataError: fewer than 2 images can be decoded and have captions.
        ModelError: a model's embeddings are zero or not finite.
    """
    rows, captions, content, same_image = _survey(task, limit)
    uncaptioned = sum(not texts for texts in captions)
    captioned = [i for i, texts in enumerate(captions) if texts]
    embedded = embed_images(
        encoders,
        _Bytes(task),
        [int(rows[i]) for i in captioned],
        batch_size=batch_size,
        kept=kept,
        content=content,
        progress=progress,
    )
    first = next(iter(embedded.values()))
    if len(first.places) < 2:
        raise DataError(
            f"{task.name} has {len(first.places)} images with captions that can be decoded; expected at least 2"
        )
    texts = [captions[captioned[place]] for place in first.places.tolist()]
    owner = np.repeat(np.arange(len(texts)), [len(own) for own in texts])
    flat = [text for own in texts for text in own]
    owners: dict[str, set[int]] = {}
    for text, image in zip(flat, owner.tolist(), strict=True):
        owners.setdefault(text, set()).add(image)
    shared = sum(len(owners[text]) > 1 for text in flat)
    vectors = {
        name: (embedded[name].vectors, embed_texts(encoder, flat, batch_size=batch_size, kept=kept))
        for name, encoder in encoders.items()
    }
    models = {name: judge(*both, owner, seed=seed) for name, both in vectors.items()}
    used = rows[np.array(captioned)[first.places]]
    return RetrievalSet(
        task.name,
        task.source,
        len(texts),
        len(flat),
        {**first.skipped, **({"no caption": uncaptioned} if uncaptioned else {})},
        shared,
        same_image,
        models,
        draw_examples(vectors, used, flat, owner),
        content,
    )


def draw_examples(
    vectors: Mapping[str, tuple[ArrayLike, ArrayLike]],
    rows: NDArray[np.int64],
    captions: Sequence[str],
    owner: NDArray[np.int64],
    *,
    count: int = EXAMPLES,
    seed: int = 0,
) -> tuple[Found, ...]:
    """Draw images, not looking at how they were ranked, and give what each model found nearest to them.

    Args:
        vectors: by model, unit vectors (N, D) of the images and (M, D) of the captions.
        rows: int (N,), of the images in the data.
        captions: M texts.
        owner: int (M,), ascending, the image of each caption.
        count: images to draw.
        seed: of the draw.
    """
    drawn = np.sort(np.random.default_rng(seed).permutation(len(rows))[:count])
    first = np.searchsorted(owner, drawn)
    near: dict[str, tuple[NDArray[np.int64], NDArray[np.int64]]] = {}
    for name, (images, texts) in vectors.items():
        image, text = np.asarray(images), np.asarray(texts)
        to_texts, to_images = similarities(image[drawn], text), similarities(text[first], image)
        near[name] = (_nearest(to_texts), _nearest(to_images))
    return tuple(
        Found(
            int(rows[place]),
            captions[start],
            {
                name: tuple((captions[j], bool(owner[j] == place)) for j in texts[i].tolist())
                for name, (texts, _) in near.items()
            },
            {name: tuple(int(rows[j]) for j in images[i].tolist()) for name, (_, images) in near.items()},
        )
        for i, (place, start) in enumerate(zip(drawn.tolist(), first.tolist(), strict=True))
    )


def _nearest(scores: NDArray[np.float32]) -> NDArray[np.int64]:
    return np.argsort(-scores, axis=1, kind="stable")[:, :NEAREST]


class _Bytes:
    """A task's images without their captions."""

    def __init__(self, task: RetrievalTask) -> None:
        self._pairs = task.pairs

    def __len__(self) -> int:
        return len(self._pairs)

    def __getitem__(self, row: int) -> bytes:
        return self._pairs[row].image


def _survey(
    task: RetrievalTask, limit: int | None
) -> tuple[NDArray[np.int64], list[tuple[str, ...]], str, int]:
    """Rows, their captions, the hash of the captioned images, and how many rows repeat another's image."""
    rows = choose_rows(len(task.pairs), limit)
    content, captions, seen = ContentHash(), [], Counter[str]()
    for row in rows.tolist():
        pair = task.pairs[row]
        captions.append(pair.captions[: task.captions])
        if pair.captions:
            content.add(pair.image)
            alone = ContentHash()
            alone.add(pair.image)
            seen[alone.hexdigest()] += 1
    return rows, captions, content.hexdigest(), sum(count for count in seen.values() if count > 1)
