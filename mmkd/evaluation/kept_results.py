"""What a model scored on a set that was evaluated before, so that nothing is counted twice."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import xxhash
from numpy.typing import NDArray

from mmkd.evaluation.embedded import KeptEmbeddings, model_hash
from mmkd.evaluation.statistics import Geometry, Interval, Score
from mmkd.evaluation.zero_shot_report import ModelScores

if TYPE_CHECKING:
    from mmkd.encoders import PairEncoder
    from mmkd.evaluation.zero_shot_task import ZeroShotTask

_ARRAYS = ("predicted", "right", "leading", "leading_confidence")  # fields of ``ModelScores``
VERSION = 2  # of how scores are counted; what another counted is counted anew


@dataclass(frozen=True)
class Judged:
    """One model's scores, and which of a set's rows they are of.

    Attributes:
        scores: the scores.
        places: int64 (N,), where each image stands among the rows that were asked for.
        skipped: how many images could not be decoded, by reason.
    """

    scores: ModelScores
    places: NDArray[np.int64]
    skipped: Mapping[str, int]


class KeptResult:
    """The place of one model's scores on one set.

    It is found by the hash of all that they depend on: the model, the images' bytes and labels, the classes' words.

    Args:
        kept: where results are; ``None``: none is looked for or kept.
        encoder: the model.
        task: the set.
        content: hash of the images' bytes, in order.
        labels: int64, the class of each image.
        by_template: each template is scored alone, too.
    """

    def __init__(
        self,
        kept: KeptEmbeddings | None,
        encoder: "PairEncoder",
        task: "ZeroShotTask",
        content: str,
        labels: NDArray[np.int64],
        by_template: bool,
    ) -> None:
        self._kept = kept
        words = [
            list(task.class_names),
            list(task.templates),
            {name: list(more) for name, more in task.synonyms.items()},
        ]
        whole = [VERSION, model_hash(encoder), content, labels.tolist(), words, by_template, "zero-shot"]
        self._key = xxhash.xxh3_128_hexdigest(json.dumps(whole).encode()) if kept else ""

    def read(self) -> Judged | None:
        """What was kept; ``None``: there is nothing, or it cannot be read."""
        arrays = self._kept.read(self._key) if self._kept else None
        try:
            return None if arrays is None else _judged(arrays)
        except (KeyError, TypeError, ValueError):
            return None

    def keep(self, judged: Judged) -> None:
        """Keep the scores, whole or not at all."""
        if self._kept:
            scores = judged.scores
            numbers = {
                "scores": {name: asdict(score) for name, score in scores.scores.items()},
                "templates": [asdict(score) for score in scores.templates],
                "images": asdict(scores.image_geometry),
                "texts": asdict(scores.text_geometry),
                "alignment": scores.alignment,
                "calibration_error": scores.calibration_error,
                "skipped": dict(judged.skipped),
            }
            arrays = {"places": judged.places} | {name: getattr(scores, name) for name in _ARRAYS}
            text = np.frombuffer(json.dumps(numbers).encode(), dtype=np.uint8)
            self._kept.keep(self._key, {**arrays, "numbers": text})


def _judged(arrays: Mapping[str, NDArray[Any]]) -> Judged:
    numbers = json.loads(bytes(arrays["numbers"]))
    scores = ModelScores(
        {name: _score(values) for name, values in numbers["scores"].items()},
        Geometry(**numbers["images"]),
        Geometry(**numbers["texts"]),
        numbers["alignment"],
        numbers["calibration_error"],
        arrays["predicted"],
        arrays["right"],
        arrays["leading"],
        arrays["leading_confidence"],
        tuple(_score(values) for values in numbers["templates"]),
    )
    return Judged(scores, arrays["places"], numbers["skipped"])


def _score(values: dict[str, Any]) -> Score:
    return Score(**{**values, "interval": Interval(**values["interval"])})
