"""The scores that lie in a run: zero-shot, retrieval and probe, read into one shape."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmkd.errors import MmkdError
from mmkd.parse import read_json
from mmkd.report.plain import listing, mapping, number, text, texts, whole

MAX_SETS, MAX_MODELS, MAX_METRICS, MAX_CLASSES = 50, 50, 50, 20_000
KINDS = {"zero-shot": "mmkd.zero-shot", "retrieval": "mmkd.retrieval", "probe": "mmkd.probe"}


@dataclass(frozen=True, slots=True)
class ScoreLine:
    """One score, all numbers fractions of 1.

    Attributes:
        value: the score.
        low, high: its 95 % interval.
        chance: what a guesser reaches.
        at_chance: whether it says no more than guessing.
        kept: share of the teacher's score over chance; ``None``: not said.
        kept_low, kept_high: the interval of that, where it is said.
    """

    value: float
    low: float
    high: float
    chance: float
    at_chance: bool
    kept: float | None = None
    kept_low: float | None = None
    kept_high: float | None = None


@dataclass(frozen=True)
class Judged:
    """A model on a set.

    Attributes:
        spec: what identifies the model, as the evaluation wrote it.
        scores: by metric.
        collapsed: whether its embeddings all but coincide.
        raw: all that the evaluation says of it.
    """

    spec: Mapping[str, Any]
    scores: Mapping[str, ScoreLine]
    collapsed: bool
    raw: Mapping[str, Any]

    @property
    def hash(self) -> str:
        """Of its weights; empty where it is not said."""
        return text(self.spec.get("weights_hash"), limit=64)

    def knows(self, metric: str) -> bool:
        """Whether the score says anything."""
        return not self.collapsed and not self.scores[metric].at_chance


@dataclass(frozen=True)
class JudgedSet:
    """All models of an evaluation on one set."""

    name: str
    source: str
    images: int
    class_names: tuple[str, ...]
    notes: tuple[str, ...]
    models: Mapping[str, Judged]
    content: str = ""
    templates: tuple[str, ...] = ()

    @property
    def key(self) -> tuple[str, str, int, str, tuple[str, ...], tuple[str, ...]]:
        """Equal for equal sets, asked in the same words: only then may scores stand beside one another."""
        return self.name, self.source, self.images, self.content, self.class_names, self.templates


@dataclass(frozen=True)
class Evaluation:
    """One report file of a run.

    Attributes:
        kind: ``zero-shot``, ``retrieval`` or ``probe``.
        reference: the teacher's name among the models; empty where there is none.
        sets: as they were evaluated.
        command: that made it, if it says so.
    """

    kind: str
    reference: str
    sets: tuple[JudgedSet, ...]
    command: tuple[str, ...] = ()


def read_evaluation(file: Path, kind: str) -> Evaluation:
    """Read a report of ``mmkd eval``.

    Raises:
        MmkdError: it is no readable report of this kind.
    """
    value = read_json(file)
    if value.get("schema") != KINDS[kind]:
        raise MmkdError(f"{file} says schema {text(value.get('schema'))!r}; expected {KINDS[kind]!r}")
    cost = mapping(value.get("cost"))  # what each model takes, where that was measured
    specs = {name: {**mapping(spec), "cost": cost.get(name)} for name, spec in _items(value.get("models"))}
    reference = text(value.get("reference"))
    if kind == "probe":  # one set, whose models are the file's
        sets = [{**mapping(value.get("set")), "models": value.get("models")}]
    else:
        sets = [mapping(one) for one in listing(value.get("sets"), limit=MAX_SETS)]
    read = tuple(_set(one, specs) for one in sets)
    if not any(judged.scores for one in read for judged in one.models.values()):
        raise MmkdError(f"{file} holds no scores")
    return Evaluation(kind, reference, read, tuple(texts(value.get("command"))))


def _items(value: Any) -> list[tuple[str, Any]]:
    return [(text(name), one) for name, one in list(mapping(value).items())[:MAX_MODELS]]


def _set(one: dict[str, Any], specs: Mapping[str, dict[str, Any]]) -> JudgedSet:
    models = {}
    for name, raw in _items(one.get("models")):
        judged = mapping(raw)
        models[name] = Judged(specs.get(name, {}), _scores(judged), judged.get("collapsed") is True, judged)
    return JudgedSet(
        text(one.get("name"), limit=60) or "(unnamed)",
        text(one.get("source")),
        whole(one.get("images", one.get("test_images"))) or 0,
        tuple(texts(one.get("class_names"), limit=MAX_CLASSES)),
        tuple(texts(one.get("notes"))),
        {name: judged for name, judged in models.items() if judged.scores},
        text(one.get("images_xxh3_128"), limit=64),
        tuple(texts(one.get("templates"))),
    )


def _in_order(metric: str) -> tuple[bool, list[str]]:
    """Numbers by their size, and the mean over classes last: JSON has them by the alphabet."""
    return metric.startswith("mean"), [
        part.zfill(4) if part.isdigit() else part for part in re.split(r"(\d+)", metric)
    ]


def _scores(judged: dict[str, Any]) -> dict[str, ScoreLine]:
    found = {}
    scores = mapping(judged.get("scores"))
    for metric in sorted(scores, key=_in_order)[:MAX_METRICS]:
        score = mapping(scores[metric])
        value, low, high, chance = (number(score.get(key)) for key in ("value", "low", "high", "chance"))
        if value is None or low is None or high is None or chance is None:
            continue
        if not all(-1e-9 <= one <= 1 + 1e-9 for one in (value, low, high, chance)):
            continue
        # Both must say so: what cannot be told from chance is never shown as a result.
        at_chance = score.get("at_chance") is not False or low <= chance
        found[text(metric, limit=60)] = ScoreLine(
            value, min(low, value), max(high, value), chance, at_chance, *_kept(judged, metric)
        )
    return found


def _kept(judged: dict[str, Any], metric: str) -> tuple[float | None, float | None, float | None]:
    """Retention and its interval, which each kind of evaluation keeps elsewhere."""
    beside = mapping(mapping(judged.get("beside")).get(metric))
    kept = number(mapping(judged.get("retention")).get(metric, beside.get("retention")))
    around = mapping(beside.get("retention_interval"))
    if metric == "top-1" and not around:
        around = mapping(mapping(judged.get("paired")).get("retention_interval"))
    return kept, number(around.get("low")), number(around.get("high"))
