"""What a zero-shot evaluation found, as values, as JSON and as rows of a table."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mmkd.evaluation.paired import Paired, compare
from mmkd.evaluation.permutation import enough_orders
from mmkd.evaluation.statistics import CONFIDENCE, Geometry, Score, retention

if TYPE_CHECKING:
    from mmkd.embeddings import TeacherSpec
    from mmkd.evaluation.cost import Cost
    from mmkd.evaluation.published import Reproduction
    from mmkd.evaluation.zero_shot_task import ZeroShotTask

SCHEMA = "mmkd.zero-shot"
SCHEMA_VERSION = 1
TOP_1, TOP_5, RECALL = "top-1", "top-5", "mean per-class recall"


@dataclass(frozen=True, slots=True)
class ModelScores:
    """One model on one set.

    Attributes:
        scores: by metric: ``top-1``, ``top-5`` (more than 5 classes only), ``mean per-class recall``.
        image_geometry: of the image embeddings.
        text_geometry: of the K class weights.
        alignment: mean squared distance of an image from the weight of its class.
        calibration_error: expected gap between confidence and accuracy.
        predicted: int (N,), the answer to each image; -1 where several classes tied.
        right: bool (N,).
        leading: int (N, 5), the classes that scored highest, highest first; fewer where there are fewer.
        leading_confidence: as ``leading``, the probability of each.
        templates: top-1 with each template alone; empty where not asked for.
    """

    scores: Mapping[str, Score]
    image_geometry: Geometry
    text_geometry: Geometry
    alignment: float
    calibration_error: float
    predicted: NDArray[np.int64]
    right: NDArray[np.bool_]
    leading: NDArray[np.int64]
    leading_confidence: NDArray[np.float32]
    templates: tuple[Score, ...] = ()

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
            "expected_calibration_error": self.calibration_error,
            "alignment": self.alignment,
            "image_embeddings": self.image_geometry.to_json(),
            "class_weights": self.text_geometry.to_json(),
        }


@dataclass(frozen=True, slots=True)
class Confusion:
    """Images of one class that a model took for another.

    Attributes:
        true: their class.
        predicted: what the model said.
        images: how many.
        share: of the true class's images.
        places: int (images,), which of the set's images.
    """

    true: int
    predicted: int
    images: int
    share: float
    places: NDArray[np.int64]

    def to_json(self, class_names: Sequence[str]) -> dict[str, Any]:
        """As JSON values."""
        return {
            "true": class_names[self.true],
            "predicted": class_names[self.predicted],
            "images": self.images,
            "share": self.share,
        }


@dataclass(frozen=True)
class SetReport:
    """All models on one set.

    Attributes:
        task: what was evaluated.
        labels: int (N,), the class of each image that could be decoded.
        rows: int (N,), which of the set's rows these are.
        skipped: how many images could not be decoded, by reason.
        models: scores by the model's name, in the order of evaluation.
        kept: the models whose scores were there already.
        content: hash of the images' bytes, in order.
    """

    task: "ZeroShotTask"
    labels: NDArray[np.int64]
    rows: NDArray[np.int64]
    skipped: Mapping[str, int]
    models: Mapping[str, ModelScores]
    kept: tuple[str, ...] = ()
    content: str = ""

    @property
    def notes(self) -> list[str]:
        """What a reader of the scores must know."""
        notes = [f"{count:,} images left out: {reason}" for reason, count in sorted(self.skipped.items())]
        classes = len(self.task.class_names)
        absent = classes - len(np.unique(self.labels))
        if absent:
            notes.append(f"{absent} of {classes} classes have no image")
        if shared := self.task.repeated_names:
            images = int(np.isin(self.labels, _places(self.task.class_names, shared)).sum())
            notes.append(
                f"{', '.join(map(repr, shared))} each name several classes: their {images:,} images cannot be right "
                "at top-1, since a tie counts against"
            )
        if classes <= 5:
            notes.append(f"no top-5: with {classes} classes it is always right")
        if not enough_orders(classes, classes - absent):
            of = f", {classes - absent} of them with images," if absent else ""
            notes.append(
                f"no p-value: {classes} class names{of} have too few orders; the interval alone decides"
            )
        return notes

    def retention(self, model: str, reference: str | None) -> dict[str, float | None]:
        """What ``model`` kept of ``reference``'s score over chance, by metric."""
        if reference is None or model == reference or reference not in self.models:
            return {}
        scores = self.models[reference].scores
        return {name: retention(score, scores[name]) for name, score in self.models[model].scores.items()}

    def paired(self, model: str, reference: str | None) -> Paired | None:
        """``model`` beside ``reference`` at top-1, on the same images; ``None`` for the reference itself."""
        if reference is None or model == reference or reference not in self.models:
            return None
        one, other = self.models[model], self.models[reference]
        same = (one.predicted == other.predicted) & (one.predicted >= 0)
        top_1 = other.scores[TOP_1]
        return compare(
            other.right,
            one.right,
            same_answer=float(same.mean()),
            chance=top_1.chance,
            at_chance=top_1.at_chance,
        )

    def confusion(self, model: str) -> NDArray[np.int64]:
        """int (K, K + 1): images by true and predicted class; the last column counts ties."""
        classes = len(self.task.class_names)
        predicted = self.models[model].predicted
        columns = np.where(predicted < 0, classes, predicted)
        flat = np.bincount(self.labels * (classes + 1) + columns, minlength=classes * (classes + 1))
        return flat.reshape(classes, classes + 1)

    def most_confused(self, model: str, most: int = 10) -> list[Confusion]:
        """The pairs of classes that ``model`` confused most often, by share of the true class's images."""
        counts = self.confusion(model)[:, :-1]
        np.fill_diagonal(counts, 0)
        trials = np.bincount(self.labels, minlength=len(counts))
        shares = counts / np.maximum(trials, 1)[:, None]
        order = np.lexsort((-counts.ravel(), -shares.ravel()))[:most]
        found = []
        for place in order.tolist():
            true, predicted = divmod(place, len(counts))
            if counts[true, predicted]:
                here = (self.labels == true) & (self.models[model].predicted == predicted)
                found.append(
                    Confusion(
                        true,
                        predicted,
                        int(counts[true, predicted]),
                        float(shares[true, predicted]),
                        np.flatnonzero(here),
                    )
                )
        return found

    def to_json(self, reference: str | None) -> dict[str, Any]:
        """As JSON values."""
        return {
            "name": self.task.name,
            "source": self.task.source,
            "images": len(self.labels),
            "images_xxh3_128": self.content,
            "skipped": dict(self.skipped),
            "class_names": list(self.task.class_names),
            "templates": list(self.task.templates),
            "notes": self.notes,
            "models": {name: self._model_json(name, reference) for name in self.models},
        }

    def _model_json(self, name: str, reference: str | None) -> dict[str, Any]:
        scores, paired = self.models[name], self.paired(name, reference)
        return {
            **scores.to_json(),
            "retention": self.retention(name, reference),
            "paired": None if paired is None else paired.to_json(),
            "by_template": [score.to_json() for score in scores.templates],
            "most_confused": [pair.to_json(self.task.class_names) for pair in self.most_confused(name, 20)],
        }


@dataclass(frozen=True)
class ZeroShotReport:
    """Models beside one another on several sets.

    Attributes:
        models: what identifies each model, by name.
        reference: the name of the teacher, that the others are measured against.
        sets: one report a set.
        costs: parameters, multiply-adds and, where it was measured, speed, by model.
        checks: scores held against published ones; empty where not asked for.
        left_out: sets that could not be opened, with the reason.
    """

    models: "Mapping[str, TeacherSpec]"
    reference: str | None
    sets: tuple[SetReport, ...]
    costs: "Mapping[str, Cost]" = field(default_factory=dict)
    checks: "tuple[Reproduction, ...]" = ()
    left_out: Mapping[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """A JSON object; ``schema_version`` changes when a key changes its meaning or goes."""
        return {
            "schema": SCHEMA,
            "schema_version": SCHEMA_VERSION,
            "confidence": CONFIDENCE,
            "reference": self.reference,
            "models": {name: asdict(spec) for name, spec in self.models.items()},
            "cost": {name: cost.to_json() for name, cost in self.costs.items()},
            "sets": [report.to_json(self.reference) for report in self.sets],
            "left_out": dict(self.left_out),
            "published": [check.to_json() for check in self.checks],
        }

    def rows(self) -> list[dict[str, Any]]:
        """One row a set, model and metric, for a CSV file."""
        return [
            {**row, **_cost_columns(self.costs.get(row["model"]))}
            for report in self.sets
            for row in _csv_rows(report, self.reference)
        ]

    def confusion_rows(self) -> list[dict[str, Any]]:
        """One row for each two classes that any image had as its class and as the answer, right ones included."""
        return [
            {
                "set": one.task.name,
                "model": name,
                "true": names[true],
                "predicted": names[predicted],
                "images": n,
            }
            for one in self.sets
            for names in ([*one.task.class_names, "(several tied)"],)
            for name in one.models
            for counts in (one.confusion(name),)
            for true, predicted in np.argwhere(counts).tolist()
            for n in (int(counts[true, predicted]),)
        ]


def _cost_columns(cost: "Cost | None") -> dict[str, Any]:
    if cost is None:
        return {}
    rates = {"images_per_second": cost.images_per_second, "texts_per_second": cost.texts_per_second}
    return {
        "parameters": cost.parameters,
        "image_macs": cost.image_macs,
        "text_macs": cost.text_macs,
        **{name: rate and rate.value for name, rate in rates.items()},
    }


def _places(names: Sequence[str], wanted: Sequence[str]) -> list[int]:
    return [place for place, name in enumerate(names) if name in wanted]


def _csv_rows(report: SetReport, reference: str | None) -> list[dict[str, Any]]:
    return [
        {
            "set": report.task.name,
            "images": len(report.labels),
            "model": name,
            "metric": metric,
            **score.to_json(),
            "retention": report.retention(name, reference).get(metric),
            "collapsed": model.collapsed is not None,
        }
        for name, model in report.models.items()
        for metric, score in model.scores.items()
    ]
