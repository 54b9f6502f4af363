"""What probes of frozen embeddings found, as values, as JSON and as rows of a table."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mmkd.evaluation.paired import Paired, compare
from mmkd.evaluation.statistics import CONFIDENCE, Geometry, Score, retention

if TYPE_CHECKING:
    from mmkd.embeddings import TeacherSpec

SCHEMA = "mmkd.probe"
SCHEMA_VERSION = 1


@dataclass(frozen=True, slots=True)
class ModelProbe:
    """One model's probes.

    Attributes:
        scores: by metric, ``linear probe top-1``, ``20-NN top-5`` and so on.
        right: by probe, bool (M,), whether its first answer to each test image was right.
        predicted: by probe, int (M,), its first answer.
        c: the inverse regularisation that was chosen for the linear probe.
        image_geometry: of the test images' vectors.
    """

    scores: Mapping[str, Score]
    right: Mapping[str, NDArray[np.bool_]]
    predicted: Mapping[str, NDArray[np.int64]]
    c: float
    image_geometry: Geometry

    @property
    def collapsed(self) -> str | None:
        """``collapsed (effective rank 1.3 of 512)``, or ``None``."""
        return f"collapsed ({self.image_geometry.describe()})" if self.image_geometry.collapsed else None


@dataclass(frozen=True)
class ProbeReport:
    """Models beside one another on one set.

    Attributes:
        name: of the set.
        source: where it came from.
        class_names: names of the classes.
        train_images: how many were learnt from.
        test_images: how many were judged on.
        skipped: images that could not be decoded, by side.
        specs: what identifies each model, by name.
        models: by name, in the order of evaluation; one named ``teacher`` is the reference.
        reference: the name of the teacher, that the others are measured against.
        unlearnt: classes without a training image.
    """

    name: str
    source: str
    class_names: tuple[str, ...]
    train_images: int
    test_images: int
    skipped: Mapping[str, int]
    specs: "Mapping[str, TeacherSpec]"
    models: Mapping[str, ModelProbe]
    reference: str | None = None
    unlearnt: int = 0

    @property
    def notes(self) -> list[str]:
        """What a reader of the scores must know."""
        notes = [
            f"{count:,} {side} images left out: they cannot be decoded"
            for side, count in self.skipped.items()
            if count
        ]
        if self.unlearnt:
            notes.append(
                f"{self.unlearnt} of {len(self.class_names)} classes have no training image, so theirs cannot be right"
            )
        return notes

    def retention(self, model: str, metric: str) -> float | None:
        """What ``model`` kept of the reference's score over chance; ``None`` for the reference, or at chance."""
        if self.reference is None or model == self.reference:
            return None
        return retention(self.models[model].scores[metric], self.models[self.reference].scores[metric])

    def paired(self, model: str, probe: str) -> Paired | None:
        """``model`` beside the reference at top-1 of ``probe``, on the same images."""
        if self.reference is None or model == self.reference:
            return None
        one, other = self.models[model], self.models[self.reference]
        top_1 = other.scores[f"{probe} top-1"]
        return compare(
            other.right[probe],
            one.right[probe],
            same_answer=float((one.predicted[probe] == other.predicted[probe]).mean()),
            chance=top_1.chance,
            at_chance=top_1.at_chance,
        )

    def to_json(self) -> dict[str, Any]:
        """A JSON object; ``schema_version`` changes when a key changes its meaning or goes."""
        return {
            "schema": SCHEMA,
            "schema_version": SCHEMA_VERSION,
            "confidence": CONFIDENCE,
            "reference": self.reference,
            "set": {
                "name": self.name,
                "source": self.source,
                "class_names": list(self.class_names),
                "train_images": self.train_images,
                "test_images": self.test_images,
                "skipped": dict(self.skipped),
                "notes": self.notes,
            },
            "models": {name: self._model_json(name) for name in self.models},
        }

    def _model_json(self, name: str) -> dict[str, Any]:
        model = self.models[name]
        paired = {probe: self.paired(name, probe) for probe in model.right}
        return {
            **asdict(self.specs[name]),
            "scores": {metric: score.to_json() for metric, score in model.scores.items()},
            "retention": {metric: self.retention(name, metric) for metric in model.scores},
            "paired": {probe: None if one is None else one.to_json() for probe, one in paired.items()},
            "c": model.c,
            "collapsed": model.collapsed is not None,
            "image_embeddings": model.image_geometry.to_json(),
        }

    def rows(self) -> list[dict[str, Any]]:
        """One row a model and metric, for a CSV file."""
        return [
            {
                "set": self.name,
                "train_images": self.train_images,
                "test_images": self.test_images,
                "model": name,
                "metric": metric,
                **score.to_json(),
                "retention": self.retention(name, metric),
                "collapsed": model.collapsed is not None,
            }
            for name, model in self.models.items()
            for metric, score in model.scores.items()
        ]
