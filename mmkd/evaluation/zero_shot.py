"""Zero-shot classification, as OpenAI's CLIP does it, with what each score is worth."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mmkd.errors import ConfigError, DataError, ModelError
from mmkd.evaluation.statistics import (
    CONFIDENCE,
    Geometry,
    Score,
    geometry,
    mean_recall_chance,
    mean_recall_interval,
    retention,
    top_k_chance,
    unit_vectors,
    wilson_interval,
)
from mmkd.images import BadImageError, decode_image

if TYPE_CHECKING:
    from PIL.Image import Image

    from mmkd.embeddings import TeacherSpec
    from mmkd.encoders import PairEncoder

SCHEMA = "mmkd.zero-shot"
SCHEMA_VERSION = 1
TOP_1, TOP_5, RECALL = "top-1", "top-5", "mean per-class recall"


class LabelledImages(Protocol):
    """Encoded images with an integer label each."""

    def __len__(self) -> int: ...

    def __getitem__(self, row: int, /) -> tuple[bytes, int]: ...


@dataclass(frozen=True)
class ZeroShotTask:
    """Images, the classes they may belong to, and how a class is put into words.

    Attributes:
        name: what the set is called in tables.
        images: the images, with the data's own labels.
        class_names: names of the K classes.
        templates: sentences with ``{}`` where a class name goes.
        classes: the data's label ``i`` means class ``classes[i]``; ``None``: labels are classes.
        source: where the images came from, to be said aloud.
    """

    name: str
    images: LabelledImages
    class_names: tuple[str, ...]
    templates: tuple[str, ...]
    classes: tuple[int, ...] | None = None
    source: str = ""

    def __post_init__(self) -> None:
        if len(self.class_names) < 2:
            raise DataError(
                f"{self.name} has {len(self.class_names)} class names; expected at least 2 to choose from"
            )
        repeated = [name for name, count in Counter(self.class_names).items() if count > 1]
        if repeated:
            raise DataError(
                f"{self.name} has the class name {repeated[0]!r} more than once; rename or merge the classes"
            )
        check_templates(self.templates, self.name)

    def label(self, row: int, label: int) -> int:
        """The class of a row whose label in the data is ``label``.

        Raises:
            DataError: the label is out of range.
        """
        known = len(self.class_names if self.classes is None else self.classes)
        if not 0 <= label < known:
            raise DataError(
                f"row {row} of {self.name} has label {label}; expected 0 to {known - 1}, one for each of its "
                f"{known} class names"
            )
        return label if self.classes is None else self.classes[label]


@dataclass(frozen=True, slots=True)
class ModelScores:
    """One model on one set.

    Attributes:
        scores: by metric: ``top-1``, ``top-5`` (more than 5 classes only), ``mean per-class recall``.
        image_geometry: of the image embeddings.
        text_geometry: of the K class weights.
    """

    scores: Mapping[str, Score]
    image_geometry: Geometry
    text_geometry: Geometry

    @property
    def at_chance(self) -> bool:
        """Whether top-1 cannot be told from guessing."""
        return self.scores[TOP_1].at_chance

    @property
    def collapsed(self) -> str | None:
        """``collapsed (effective rank 1.3 of 512)``, or ``None`` where neither tower is."""
        if self.image_geometry.collapsed:
            return f"collapsed ({self.image_geometry.describe()})"
        if self.text_geometry.collapsed:
            return f"collapsed text ({self.text_geometry.describe()})"
        return None

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "scores": {name: score.to_json() for name, score in self.scores.items()},
            "at_chance": self.at_chance,
            "collapsed": self.collapsed is not None,
            "image_embeddings": self.image_geometry.to_json(),
            "class_weights": self.text_geometry.to_json(),
        }


@dataclass(frozen=True)
class SetReport:
    """All models on one set.

    Attributes:
        task: what was evaluated.
        labels: int (N,), the class of each image that could be decoded.
        skipped: how many images could not, by reason.
        models: scores by the model's name, in the order of evaluation.
    """

    task: ZeroShotTask
    labels: NDArray[np.int64]
    skipped: Mapping[str, int]
    models: Mapping[str, ModelScores]

    @property
    def notes(self) -> list[str]:
        """What a reader of the scores must know."""
        notes = [f"{count:,} images left out: {reason}" for reason, count in sorted(self.skipped.items())]
        absent = len(self.task.class_names) - len(np.unique(self.labels))
        if absent:
            notes.append(f"{absent} of {len(self.task.class_names)} classes have no image")
        if len(self.task.class_names) <= 5:
            notes.append(f"no top-5: with {len(self.task.class_names)} classes it is always right")
        return notes

    def retention(self, model: str, reference: str | None) -> dict[str, float | None]:
        """What ``model`` kept of ``reference``'s score over chance, by metric."""
        if reference is None or model == reference or reference not in self.models:
            return {}
        scores = self.models[reference].scores
        return {name: retention(score, scores[name]) for name, score in self.models[model].scores.items()}

    def to_json(self, reference: str | None) -> dict[str, Any]:
        """As JSON values."""
        return {
            "name": self.task.name,
            "source": self.task.source,
            "images": len(self.labels),
            "skipped": dict(self.skipped),
            "class_names": list(self.task.class_names),
            "templates": list(self.task.templates),
            "notes": self.notes,
            "models": {
                name: {**scores.to_json(), "retention": self.retention(name, reference)}
                for name, scores in self.models.items()
            },
        }


@dataclass(frozen=True)
class ZeroShotReport:
    """Models beside one another on several sets.

    Attributes:
        models: what identifies each model, by name.
        reference: the name of the teacher, that the others are measured against.
        sets: one report a set.
    """

    models: Mapping[str, "TeacherSpec"]
    reference: str | None
    sets: tuple[SetReport, ...]

    def to_json(self) -> dict[str, Any]:
        """A JSON object; ``schema_version`` changes when a key changes its meaning or goes."""
        return {
            "schema": SCHEMA,
            "schema_version": SCHEMA_VERSION,
            "confidence": CONFIDENCE,
            "reference": self.reference,
            "models": {name: asdict(spec) for name, spec in self.models.items()},
            "sets": [report.to_json(self.reference) for report in self.sets],
        }


def check_templates(templates: Sequence[str], where: str) -> None:
    """Refuse what is no list of templates.

    Raises:
        ConfigError: there is none, or one lacks its ``{}``.
    """
    if not templates:
        raise ConfigError(f"{where} has no templates; expected at least one, such as 'a photo of a {{}}.'")
    for template in templates:
        if template.count("{}") != 1:
            raise ConfigError(f"template {template!r} of {where} has no single {{}} to put the class name in")


def class_weights(
    encoder: "PairEncoder", class_names: Sequence[str], templates: Sequence[str], *, batch_size: int = 256
) -> NDArray[np.float64]:
    """One unit vector a class: the normalised mean of its templates' normalised embeddings.

    Returns:
        float64 (K, D).

    Raises:
        ModelError: an embedding is zero or not finite.

    Source: openai/CLIP, notebooks/Prompt_Engineering_for_ImageNet.ipynb.
    """
    sentences = [template.replace("{}", name) for name in class_names for template in templates]
    batches = [sentences[i : i + batch_size] for i in range(0, len(sentences), batch_size)]
    vectors = np.concatenate([encoder.encode_texts(batch).numpy() for batch in batches])
    by_class = _directions(encoder, vectors).reshape(len(class_names), len(templates), -1)
    return _directions(encoder, by_class.mean(axis=1))


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


def scores_from_ranks(
    ranks: NDArray[np.integer[Any]], labels: NDArray[np.integer[Any]], classes: int
) -> dict[str, Score]:
    """Top-1, top-5 (with more than 5 classes) and mean per-class recall, each with interval and chance line.

    Args:
        ranks: int (N,), from :func:`true_ranks`.
        labels: int (N,).
        classes: K.
    """
    scores = {}
    for name, k in ((TOP_1, 1), (TOP_5, 5)):
        if k < classes or k == 1:
            right = int((ranks < k).sum())
            interval = wilson_interval(right, len(ranks))
            scores[name] = Score(right / len(ranks), interval, top_k_chance(labels, k, classes))
    present, inverse, trials = np.unique(labels, return_inverse=True, return_counts=True)
    correct = np.bincount(inverse[ranks == 0], minlength=len(present))
    interval = mean_recall_interval(correct, trials)
    scores[RECALL] = Score(float((correct / trials).mean()), interval, mean_recall_chance(labels))
    return scores


def choose_rows(rows: int, limit: int | None) -> NDArray[np.int64]:
    """At most ``limit`` rows, evenly spread, since many sets are sorted by class."""
    if limit is None or limit >= rows:
        return np.arange(rows)
    return np.arange(limit) * rows // limit


def evaluate(
    encoders: Mapping[str, "PairEncoder"],
    task: ZeroShotTask,
    *,
    batch_size: int = 256,
    limit: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> SetReport:
    """Classify one set with every model; each image is decoded once, and encoded once a model.

    Args:
        encoders: models by name.
        task: the set.
        batch_size: images, or sentences, a forward pass.
        limit: images to take, evenly spread; ``None``: all.
        progress: called with the number of images of each batch done.

    Raises:
        DataError: fewer than 2 images can be decoded, or a label is out of range.
        ModelError: a model's embeddings are zero or not finite.
    """
    weights = {
        name: class_weights(encoder, task.class_names, task.templates, batch_size=batch_size)
        for name, encoder in encoders.items()
    }
    skipped: Counter[str] = Counter()
    labels: list[int] = []
    vectors: dict[str, list[NDArray[np.float64]]] = {name: [] for name in encoders}
    for rows, images, batch_labels in _batches(
        task, choose_rows(len(task.images), limit), batch_size, skipped
    ):
        if images:
            labels += batch_labels
            for name, unit in _encode(encoders, images).items():
                vectors[name].append(unit)
        if progress is not None:
            progress(rows)
    if len(labels) < 2:
        raise DataError(f"{task.name} has {len(labels)} images that can be decoded; expected at least 2")
    truth = np.array(labels)
    return SetReport(
        task,
        truth,
        dict(skipped),
        {name: _judge(np.concatenate(vectors[name]), weights[name], truth) for name in encoders},
    )


def _judge(
    images: NDArray[np.float64], weights: NDArray[np.float64], labels: NDArray[np.int64]
) -> ModelScores:
    ranks = true_ranks(similarities(images, weights), labels)
    scores = scores_from_ranks(ranks, labels, len(weights))
    return ModelScores(scores, geometry(images), geometry(weights))


def _batches(
    task: ZeroShotTask, rows: NDArray[np.int64], batch_size: int, skipped: Counter[str]
) -> Iterator[tuple[int, "list[Image]", list[int]]]:
    for start in range(0, len(rows), batch_size):
        images, labels = [], []
        batch = rows[start : start + batch_size]
        for row in batch.tolist():
            data, label = task.images[row]
            labels.append(task.label(row, label))
            try:
                images.append(decode_image(data))
            except BadImageError as error:
                labels.pop()
                skipped[error.reason] += 1
        yield len(batch), images, labels


def _encode(
    encoders: Mapping[str, "PairEncoder"], images: "Sequence[Image]"
) -> dict[str, NDArray[np.float64]]:
    # A student has its teacher's preprocessing, which on small images costs as much as the model.
    pixels: dict[str, Any] = {}
    found = {}
    for name, encoder in encoders.items():
        key = encoder.spec.preprocess_hash
        if key not in pixels:
            pixels[key] = encoder.preprocess(images)
        found[name] = _directions(encoder, encoder.encode_pixels(pixels[key]).numpy())
    return found


def _directions(encoder: "PairEncoder", vectors: ArrayLike) -> NDArray[np.float64]:
    try:
        return unit_vectors(vectors)
    except ValueError as error:
        raise ModelError(
            f"{encoder.spec.model} gives embeddings that are zero or not finite; expected a trained CLIP"
        ) from error
