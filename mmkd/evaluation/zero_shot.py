"""Zero-shot classification, as OpenAI's CLIP does it, with what each score is worth."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mmkd.errors import DataError
from mmkd.evaluation.calibration import confidences, expected_calibration_error
from mmkd.evaluation.embedded import (
    BATCH_SIZE,
    ContentHash,
    EmbeddedImages,
    KeptEmbeddings,
    directions,
    embed_images,
    embed_texts,
)
from mmkd.evaluation.examples import leading
from mmkd.evaluation.kept_results import Judged, KeptResult
from mmkd.evaluation.permutation import class_permutation_p, enough_orders
from mmkd.evaluation.statistics import (
    Score,
    alignment,
    geometry,
    mean_recall_chance,
    mean_recall_interval,
    top_k_chance,
    wilson_interval,
)
from mmkd.evaluation.zero_shot_report import RECALL, TOP_1, TOP_5, ModelScores, SetReport
from mmkd.evaluation.zero_shot_task import ZeroShotTask

if TYPE_CHECKING:
    from mmkd.encoders import PairEncoder

_CHUNK = 4_096  # images whose cosines with all classes are held at a time


def class_sentences(
    encoder: "PairEncoder",
    class_names: Sequence[str],
    templates: Sequence[str],
    *,
    synonyms: Mapping[str, tuple[str, ...]] | None = None,
    batch_size: int = BATCH_SIZE,
    kept: KeptEmbeddings | None = None,
) -> NDArray[np.float64]:
    """Vectors (K, T, D) of each class in each template: unit, or the mean of unit vectors over a class's names.

    Raises:
        ModelError: an embedding is zero or not finite.
    """
    names = [(name, *(synonyms or {}).get(name, ())) for name in class_names]
    sentences = [template.replace("{}", one) for own in names for template in templates for one in own]
    vectors = embed_texts(encoder, sentences, batch_size=batch_size, kept=kept)
    counts = np.repeat([len(own) for own in names], len(templates))
    if counts.max() > 1:
        starts = np.cumsum(counts) - counts
        vectors = np.add.reduceat(vectors, starts, axis=0) / counts[:, None]
    return vectors.reshape(len(class_names), len(templates), -1)


def class_weights(
    encoder: "PairEncoder",
    class_names: Sequence[str],
    templates: Sequence[str],
    *,
    batch_size: int = BATCH_SIZE,
) -> NDArray[np.float64]:
    """One unit vector a class: the normalised mean of its templates' normalised embeddings.

    Returns:
        float64 (K, D).

    Raises:
        ModelError: an embedding is zero or not finite.

    Source: openai/CLIP, notebooks/Prompt_Engineering_for_ImageNet.ipynb.
    """
    sentences = class_sentences(encoder, class_names, templates, batch_size=batch_size)
    return directions(encoder, sentences.mean(axis=1))


def similarities(images: ArrayLike, weights: ArrayLike) -> NDArray[np.float32]:
    """Cosines (N, K) of unit images (N, D) with unit class weights (K, D).

    Computed in float64 and rounded to float32, so that equal weights tie instead of differing by rounding
    noise.
    """
    product = np.asarray(images, dtype=np.float64) @ np.asarray(weights, dtype=np.float64).T
    return product.astype(np.float32)


def true_ranks(scores: NDArray[np.floating[Any]], labels: NDArray[np.integer[Any]]) -> NDArray[np.int64]:
    """How many other classes score at least as high as the true one: 0 is a hit, and a tie counts against.

    Args:
        scores: (N, K).
        labels: int (N,), each in ``[0, K)``.

    Returns:
        int64 (N,); an image is right at top-k where its rank is below k.
    """
    own = np.take_along_axis(scores, labels[:, None], axis=1)
    ranks: NDArray[np.int64] = (scores >= own).sum(axis=1) - 1
    return ranks


@dataclass(frozen=True)
class Answers:
    """What a model answered to each image.

    Attributes:
        ranks: int64 (N,), how many other classes scored at least as high as the true one.
        predicted: int64 (N,), the class that scored highest alone; -1 where several did.
        confidence: float64 (N,), the probability that the model gave its answer.
        credit: for k, int64 (K, K): how many images of class i would be right at top-k if class j were theirs.
        leading: int64 (N, 5), the classes that scored highest, highest first; (N, K) where there are fewer.
        leading_confidence: float32, as ``leading``, the probability of each.
    """

    ranks: NDArray[np.int64]
    predicted: NDArray[np.int64]
    confidence: NDArray[np.float64]
    credit: Mapping[int, NDArray[np.int64]]
    leading: NDArray[np.int64]
    leading_confidence: NDArray[np.float32]

    @classmethod
    def of(
        cls, scores: NDArray[np.floating[Any]], labels: NDArray[np.integer[Any]], *, logit_scale: float = 1.0
    ) -> "Answers":
        """The answers that lie in ``scores`` (N, K), cosines of images with classes."""
        classes = scores.shape[1]
        credit = {}
        for k in (1, 5):
            if k < classes:
                # Only what scores above the (k + 1)-th is among the first k alone: a tie counts against.
                bar = np.partition(scores, classes - k - 1, axis=1)[:, classes - k - 1]
                image, answer = np.nonzero(scores > bar[:, None])
                flat = np.bincount(labels[image] * classes + answer, minlength=classes * classes)
                credit[k] = flat.reshape(classes, classes)
        best = scores.argmax(axis=1)
        alone = (scores == scores.max(axis=1, keepdims=True)).sum(axis=1) == 1
        return cls(
            true_ranks(scores, labels),
            np.where(alone, best, -1),
            confidences(scores, logit_scale),
            credit,
            *leading(scores, logit_scale),
        )

    @classmethod
    def join(cls, parts: "Sequence[Answers]") -> "Answers":
        """Those of several sets of images in one."""
        return cls(
            np.concatenate([part.ranks for part in parts]),
            np.concatenate([part.predicted for part in parts]),
            np.concatenate([part.confidence for part in parts]),
            {k: np.sum([part.credit[k] for part in parts], axis=0) for k in parts[0].credit},
            np.concatenate([part.leading for part in parts]),
            np.concatenate([part.leading_confidence for part in parts]),
        )


def scores_of(answers: Answers, labels: NDArray[np.integer[Any]], classes: int) -> dict[str, Score]:
    """Top-1, top-5 (with more than 5 classes) and mean per-class recall, each with interval, chance line and p.

    Args:
        answers: to N images.
        labels: int (N,).
        classes: K.
    """
    ranks, scores = answers.ranks, {}
    present, inverse, trials = np.unique(labels, return_inverse=True, return_counts=True)

    def p_value(credit: NDArray[Any]) -> float | None:
        return class_permutation_p(credit) if enough_orders(classes, len(present)) else None

    for name, k in ((TOP_1, 1), (TOP_5, 5)):
        if k < classes or k == 1:
            right = int((ranks < k).sum())
            interval = wilson_interval(right, len(ranks))
            chance = top_k_chance(labels, k, classes)
            scores[name] = Score(right / len(ranks), interval, chance, p_value(answers.credit[k]))
    correct = np.bincount(inverse[ranks == 0], minlength=len(present))
    weighted = np.zeros((classes, classes))
    weighted[present] = answers.credit[1][present] / trials[:, None]
    scores[RECALL] = Score(
        float((correct / trials).mean()),
        mean_recall_interval(correct, trials),
        mean_recall_chance(labels),
        p_value(weighted),
    )
    return scores


def choose_rows(rows: int, limit: int | None) -> NDArray[np.int64]:
    """At most ``limit`` rows, evenly spread, since many sets are sorted by class."""
    if limit is None or limit >= rows:
        return np.arange(rows)
    return np.arange(limit) * rows // limit


def evaluate(
    encoders: "Mapping[str, PairEncoder]",
    task: ZeroShotTask,
    *,
    batch_size: int = BATCH_SIZE,
    limit: int | None = None,
    by_template: bool = False,
    kept: KeptEmbeddings | None = None,
    progress: Callable[[int], None] | None = None,
    on_read: Callable[[int], None] | None = None,
) -> SetReport:
    """Classify one set with every model; each image is decoded once, and encoded once a model.

    Args:
        encoders: models by name, at least one.
        task: the set.
        batch_size: images, or sentences, a forward pass.
        limit: images to take, evenly spread; ``None``: all.
        by_template: also score each template alone.
        kept: embeddings of earlier evaluations, and where those of this one are kept.
        progress: called with the number of images of each batch done.
        on_read: called with 1 for each image whose bytes were read and hashed, which comes first.

    Raises:
        DataError: fewer than 2 images can be decoded, or a label is out of range.
        ModelError: a model's embeddings are zero or not finite.
    """
    rows = choose_rows(len(task.images), limit)
    labels, content = _survey(task, rows, on_read)
    results = {
        name: KeptResult(kept, encoder, task, content, labels, by_template)
        for name, encoder in encoders.items()
    }
    found = {name: known for name, result in results.items() if (known := result.read()) is not None}
    missing = {name: encoder for name, encoder in encoders.items() if name not in found}
    if missing:
        embedded = embed_images(
            missing,
            _Bytes(task),
            rows.tolist(),
            batch_size=batch_size,
            kept=kept,
            content=content,
            progress=progress,
        )
    elif progress is not None:
        progress(len(rows))
    for name, encoder in missing.items():
        places = embedded[name].places
        if len(places) < 2:
            raise DataError(f"{task.name} has {len(places)} images that can be decoded; expected at least 2")
        sentences = class_sentences(
            encoder,
            task.class_names,
            task.templates,
            synonyms=task.synonyms,
            batch_size=batch_size,
            kept=kept,
        )
        scores = _judge(encoder, embedded[name], sentences, labels[places], by_template)
        found[name] = Judged(scores, places, embedded[name].skipped)
        results[name].keep(found[name])
    models = {name: found[name].scores for name in encoders}
    first = next(iter(found.values()))
    return SetReport(
        task,
        labels[first.places],
        rows[first.places],
        first.skipped,
        models,
        tuple(name for name in encoders if name not in missing),
        content,
    )


def _judge(
    encoder: "PairEncoder",
    embedded: EmbeddedImages,
    sentences: NDArray[np.float64],
    labels: NDArray[np.int64],
    by_template: bool,
) -> ModelScores:
    weights = directions(encoder, sentences.mean(axis=1))
    answers = answer(embedded.vectors, weights, labels, logit_scale=encoder.spec.logit_scale or 1.0)
    return ModelScores(
        scores_of(answers, labels, len(weights)),
        geometry(embedded.vectors),
        geometry(weights),
        alignment(embedded.vectors, weights[labels]),
        expected_calibration_error(answers.confidence, answers.ranks == 0),
        answers.predicted,
        answers.ranks == 0,
        answers.leading,
        answers.leading_confidence,
        tuple(
            _template_score(embedded.vectors, directions(encoder, sentences[:, i]), labels)
            for i in range(sentences.shape[1])
        )
        if by_template
        else (),
    )


def answer(
    images: ArrayLike, weights: ArrayLike, labels: NDArray[np.int64], *, logit_scale: float = 1.0
) -> Answers:
    """What the class weights (K, D) answer to images (N, D), some thousands of images at a time."""
    vectors = np.asarray(images)
    parts = [slice(first, first + _CHUNK) for first in range(0, len(vectors), _CHUNK)]
    return Answers.join(
        [
            Answers.of(similarities(vectors[part], weights), labels[part], logit_scale=logit_scale)
            for part in parts
        ]
    )


def _template_score(images: ArrayLike, weights: ArrayLike, labels: NDArray[np.int64]) -> Score:
    answers = answer(images, weights, labels)
    right, classes = int((answers.ranks == 0).sum()), len(np.asarray(weights))
    return Score(right / len(labels), wilson_interval(right, len(labels)), top_k_chance(labels, 1, classes))


class _Bytes:
    """A task's images without their labels."""

    def __init__(self, task: ZeroShotTask) -> None:
        self._images = task.images

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, row: int) -> bytes:
        return self._images[row][0]


def _survey(
    task: ZeroShotTask, rows: NDArray[np.int64], on_read: Callable[[int], None] | None
) -> tuple[NDArray[np.int64], str]:
    """The classes of ``rows``, and the hash of their images."""
    content, labels = ContentHash(), np.empty(len(rows), dtype=np.int64)
    for place, row in enumerate(rows.tolist()):
        data, label = task.images[row]
        content.add(data)
        labels[place] = task.label(row, label)
        if on_read is not None:
            on_read(1)
    return labels, content.hexdigest()
