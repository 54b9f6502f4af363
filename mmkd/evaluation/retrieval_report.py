"""What a retrieval evaluation found, as values, as JSON and as rows of a table."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mmkd.evaluation.resampling import quantiles
from mmkd.evaluation.statistics import CONFIDENCE, Geometry, Interval, Score, retention

if TYPE_CHECKING:
    from mmkd.embeddings import TeacherSpec

SCHEMA = "mmkd.retrieval"
SCHEMA_VERSION = 1
DEPTHS = (1, 5, 10)


@dataclass(frozen=True, slots=True)
class MedianRank:
    """Median rank of the first right answer, from 1, its 95 % interval, and that of a random order."""

    value: float
    interval: Interval
    chance: int


@dataclass(frozen=True, slots=True)
class Beside:
    """A model less the reference in one score, on the same images.

    Attributes:
        difference: the model's score less the reference's.
        interval: of the difference.
        retention: share of the reference's score over chance that was kept; ``None`` where it is at chance.
        retention_interval: of that; ``None`` too where the reference is not above chance in every draw.
    """

    difference: float
    interval: Interval
    retention: float | None
    retention_interval: Interval | None


@dataclass(frozen=True, slots=True)
class ModelRetrieval:
    """One model on one set.

    Attributes:
        scores: by metric, ``image to text R@1`` and so on.
        medians: by way, ``image to text`` and ``text to image``.
        image_geometry: of the images' vectors.
        text_geometry: of the captions' vectors.
        draws: for each metric float64 (2000,), the score in each bootstrap draw of the images.
    """

    scores: Mapping[str, Score]
    medians: Mapping[str, MedianRank]
    image_geometry: Geometry
    text_geometry: Geometry
    draws: Mapping[str, NDArray[np.float64]]

    @property
    def collapsed(self) -> str | None:
        """``collapsed (effective rank 1.3 of 512)``, or ``None`` where neither tower is."""
        if self.image_geometry.collapsed:
            return f"collapsed ({self.image_geometry.describe()})"
        if self.text_geometry.collapsed:
            return f"collapsed text ({self.text_geometry.describe()})"
        return None


@dataclass(frozen=True, slots=True)
class Found:
    """What each model found for one drawn image and for its first caption.

    Attributes:
        row: of the image in the data.
        caption: its first.
        texts: by model, the captions nearest to the image, nearest first, and whether each is its own.
        images: by model, the rows of the images nearest to the caption, nearest first.
    """

    row: int
    caption: str
    texts: Mapping[str, tuple[tuple[str, bool], ...]]
    images: Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class RetrievalSet:
    """All models on one set.

    Attributes:
        name: of the set.
        source: where it came from.
        images: how many were compared.
        captions: how many were compared.
        skipped: images left out, by reason.
        shared_captions: captions whose very words another image has too.
        shared_images: images whose very bytes another row has too.
        models: by name, in the order of evaluation.
        examples: what was found for some images, drawn with a fixed seed.
        content: hash of the images' bytes, in order.
    """

    name: str
    source: str
    images: int
    captions: int
    skipped: Mapping[str, int]
    shared_captions: int
    shared_images: int
    models: Mapping[str, ModelRetrieval]
    examples: tuple[Found, ...] = ()
    content: str = ""

    @property
    def notes(self) -> list[str]:
        """What a reader of the scores must know."""
        notes = [f"{count:,} images left out: {reason}" for reason, count in sorted(self.skipped.items())]
        if self.shared_captions:
            notes.append(
                f"{self.shared_captions:,} of {self.captions:,} captions are word for word another image's too; "
                "only its own counts, and the tie counts against"
            )
        if self.shared_images:
            notes.append(
                f"{self.shared_images:,} images are byte for byte another row's too; only a row's own captions count"
            )
        notes += [
            f"no R@{k}: it takes more than {k} images" for k in DEPTHS if k >= min(self.images, self.captions)
        ]
        return notes

    def beside(self, model: str, reference: str | None, metric: str) -> Beside | None:
        """``model`` less ``reference`` in ``metric``; ``None`` for the reference itself."""
        if reference is None or model == reference or reference not in self.models:
            return None
        one, other = self.models[model], self.models[reference]
        score, base = one.scores[metric], other.scores[metric]
        own, its = one.draws[metric], other.draws[metric]
        kept = None
        if not base.at_chance and (its > base.chance).all():
            kept = quantiles((own - score.chance) / (its - base.chance))
        return Beside(score.value - base.value, quantiles(own - its), retention(score, base), kept)

    def to_json(self, reference: str | None) -> dict[str, Any]:
        """As JSON values."""
        return {
            "name": self.name,
            "source": self.source,
            "images": self.images,
            "captions": self.captions,
            "images_xxh3_128": self.content,
            "skipped": dict(self.skipped),
            "shared_captions": self.shared_captions,
            "shared_images": self.shared_images,
            "notes": self.notes,
            "models": {name: self._model_json(name, reference) for name in self.models},
        }

    def _model_json(self, name: str, reference: str | None) -> dict[str, Any]:
        model = self.models[name]
        beside = {metric: self.beside(name, reference, metric) for metric in model.scores}
        return {
            "scores": {metric: score.to_json() for metric, score in model.scores.items()},
            "median_rank": {way: asdict(median) for way, median in model.medians.items()},
            "beside": {metric: None if one is None else asdict(one) for metric, one in beside.items()},
            "collapsed": model.collapsed is not None,
            "image_embeddings": model.image_geometry.to_json(),
            "text_embeddings": model.text_geometry.to_json(),
        }


@dataclass(frozen=True)
class RetrievalReport:
    """Models beside one another on several sets.

    Attributes:
        models: what identifies each model, by name.
        reference: the name of the teacher, that the others are measured against.
        sets: one report a set.
    """

    models: "Mapping[str, TeacherSpec]"
    reference: str | None
    sets: tuple[RetrievalSet, ...]

    def to_json(self) -> dict[str, Any]:
        """A JSON object; ``schema_version`` changes when a key changes its meaning or goes."""
        return {
            "schema": SCHEMA,
            "schema_version": SCHEMA_VERSION,
            "confidence": CONFIDENCE,
            "reference": self.reference,
            "models": {name: asdict(spec) for name, spec in self.models.items()},
            "sets": [one.to_json(self.reference) for one in self.sets],
        }

    def rows(self) -> list[dict[str, Any]]:
        """One row a set, model and metric, for a CSV file."""
        return [
            {
                "set": one.name,
                "images": one.images,
                "captions": one.captions,
                "model": name,
                "metric": metric,
                **score.to_json(),
                "retention": None
                if (beside := one.beside(name, self.reference, metric)) is None
                else beside.retention,
                "collapsed": model.collapsed is not None,
            }
            for one in self.sets
            for name, model in one.models.items()
            for metric, score in model.scores.items()
        ]
