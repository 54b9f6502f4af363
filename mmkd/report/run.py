"""A run as a report shows it: all that lies in its folder, each file read within bounds or named as unreadable."""

import base64
import binascii
import csv
import io
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any

from mmkd.errors import ConfigError, MmkdError
from mmkd.parse import read_json, read_text
from mmkd.report.evaluations import KINDS, Evaluation, JudgedSet, read_evaluation
from mmkd.report.plain import listing, mapping, number, text, whole
from mmkd.runs import RUN_FILE, Run, read_run

MAX_RUNS = 64
MAX_METRICS, MAX_CONFUSION, MAX_EXAMPLES, MAX_PICTURE = 64 << 20, 64 << 20, 24 << 20, 96 << 10
_NAMES = 40  # of losses and metrics in metrics.jsonl

Confusion = Mapping[tuple[str, str], int]
"""Images by true class and answer."""


@dataclass(frozen=True)
class ReportRun:
    """A run's folder, read.

    Attributes:
        run: the folder and what ``run.json`` says; nothing in it has been checked.
        name: what to call it: the folder's name, numbered where two have the same.
        steps: lines of ``metrics.jsonl`` about the training, each with ``step``.
        checks: its lines about evaluations on the way.
        evaluations: by kind; absent where there was none.
        confusion: of the zero-shot evaluation, by set and model.
        examples: pictures with answers, by kind of evaluation, as JSON that was not checked.
        bias: what ``mmkd eval bias`` wrote; ``None``: nothing.
        config: the text of ``config.yaml``.
        parameters: of the student; ``None``: there is none yet.
        weights_hash: of the student.
        layers: of the student's image and text tower, as ``6 + 6``; empty where it is not said.
        problems: what could not be read, and what does not belong to this student.
    """

    run: Run
    name: str
    steps: list[dict[str, float]]
    checks: list[dict[str, float]]
    evaluations: Mapping[str, Evaluation]
    confusion: Mapping[tuple[str, str], Confusion]
    examples: Mapping[str, list[dict[str, Any]]]
    bias: dict[str, Any] | None
    config: str
    parameters: int | None
    weights_hash: str
    layers: str
    problems: list[str] = field(default_factory=list)

    @property
    def recipe(self) -> dict[str, Any]:
        """The settings it was trained with."""
        return mapping(self.run.record.get("recipe"))

    @property
    def teacher(self) -> dict[str, Any]:
        """What identifies its teacher; empty where there is none."""
        return mapping(self.run.record.get("teacher"))

    def student_of(self, kind: str) -> str:
        """What the run's own student is called in an evaluation; empty where it is not in there."""
        found = self.evaluations.get(kind)
        return "" if found is None else own_name(found, self.run.folder, self.weights_hash)


def find_runs(paths: list[Path]) -> list[Path]:
    """The runs in ``paths``: each is one, or a folder of runs, such as a study's or a workspace's.

    Raises:
        ConfigError: one is neither.
    """
    found: list[Path] = []
    for path in paths:
        if (path / RUN_FILE).is_file():
            found.append(path)
            continue
        inside = sorted(file.parent for at in ("*", "runs/*") for file in path.glob(f"{at}/{RUN_FILE}"))
        if not inside:
            raise ConfigError(
                f"{path} holds no {RUN_FILE}, and no folder in it does; expected a run, or a folder of runs such as "
                "work/runs"
            )
        found += inside
    return list(dict.fromkeys(found))


def name_runs(folders: list[Path]) -> list[str]:
    """What to call each: its folder's name without the day, as far as that tells them apart."""
    short = [re.sub(r"^\d{4}-\d\d-\d\d-", "", folder.name) or folder.name for folder in folders]
    names: list[str] = []
    for folder, name in zip(folders, short, strict=True):
        stem = text(name if short.count(name) == 1 else folder.name, limit=60) or "run"
        if stem.startswith("teacher"):  # that name is the teacher's
            stem = f"run {stem}"
        called, number_of_it = stem, 2
        while called in names:
            called, number_of_it = f"{stem} ({number_of_it})", number_of_it + 1
        names.append(called)
    return names


def read_report_run(folder: Path, name: str) -> ReportRun:
    """Read a run; what cannot be read is left out, and named in ``problems``.

    Raises:
        ModelError, MmkdError: there is no readable ``run.json``.
    """
    run, problems = read_run(folder), []

    def attempt(file: str, read: Callable[[Path], Any], otherwise: Any) -> Any:
        if not (folder / file).exists():
            return otherwise
        try:
            return read(folder / file)
        except (MmkdError, OSError, ValueError) as error:
            problems.append(text(f"{file} is left out: {error}"))
            return otherwise

    lines = attempt("metrics.jsonl", _metrics, [])
    evaluations = {}
    for kind in KINDS:
        found = attempt(f"{kind}.json", lambda file, kind=kind: read_evaluation(file, kind), None)  # type: ignore[misc]
        if found is not None:
            evaluations[kind] = found
    parameters = attempt("student", count_parameters, None)
    read = ReportRun(
        run,
        name,
        [line for line in lines if "loss" in line],
        [line for line in lines if "loss" not in line],
        evaluations,
        attempt("zero-shot-confusion.csv", _confusion, {}),
        {kind: attempt(f"{kind}-examples.json", _examples, []) for kind in ("zero-shot", "retrieval")},
        attempt("bias.json", _bias, None),
        attempt("config.yaml", read_text, ""),
        parameters,
        attempt("student", _hash, "") if parameters else "",
        attempt("student/config.json", _layers, ""),
        problems,
    )
    problems += stale(read)
    return read


def own_name(evaluation: Evaluation, folder: Path, weights_hash: str = "") -> str:
    """The student of the run in ``folder`` among the models of an evaluation: by its weights, else by its name."""
    models: dict[str, str] = {}
    for one in evaluation.sets:
        for name, judged in one.models.items():
            if name != evaluation.reference:
                models.setdefault(name, judged.hash)
    for name, found in models.items():
        if found and found == weights_hash:
            return name
    for name in ("student", folder.name):
        if name in models:
            return name
    return next(iter(models), "")


def stale(run: ReportRun) -> list[str]:
    """What is said of another student than the one that lies here."""
    found = []
    for kind, evaluation in run.evaluations.items():
        name = own_name(evaluation, run.run.folder, run.weights_hash)
        hashes = {one.models[name].hash for one in evaluation.sets if name in one.models} - {""}
        if run.weights_hash and hashes and run.weights_hash not in hashes:
            found.append(
                f"{kind}.json was made of other weights than the student's that lie here; run mmkd eval {kind} again"
            )
    judged = bias_weights(mapping(run.bias))
    teacher = text(run.teacher.get("weights_hash"))
    if run.weights_hash and judged - {teacher} and run.weights_hash not in judged:
        found.append(
            "bias.json was made of other weights than the student's that lie here; run mmkd eval bias again"
        )
    return found


def bias_weights(bias: dict[str, Any]) -> set[str]:
    """Hashes of the weights that a bias report is about."""
    models = mapping(bias.get("models")).values()
    return {text(mapping(mapping(model).get("model")).get("weights_hash")) for model in models} - {""}


def count_parameters(folder: Path) -> int | None:
    """Numbers in the weights of a model's folder, from the headers alone; ``None``: there are no weights.

    Raises:
        MmkdError: a file is damaged.
    """
    from safetensors import SafetensorError, safe_open

    total = 0
    for file in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(file, framework="numpy") as weights:
                total += sum(prod(weights.get_slice(name).get_shape()) for name in weights.keys())  # noqa: SIM118
        except (SafetensorError, OSError) as error:
            raise MmkdError(f"{file.name} cannot be read: {error}") from error
    return total or None


def _hash(folder: Path) -> str:
    from mmkd.weights import hash_weights

    return hash_weights(folder)


def _layers(file: Path) -> str:
    config = read_json(file)
    towers = [mapping(config.get(f"{side}_config")).get("num_hidden_layers") for side in ("vision", "text")]
    counts = [whole(layers) for layers in towers]
    return "" if None in counts else f"{counts[0]} + {counts[1]}"


def _metrics(file: Path) -> list[dict[str, float]]:
    """Lines of numbers by name, in the order of their steps; a line that a kill cut off is left out."""
    found = []
    for line in read_text(file, MAX_METRICS).splitlines():
        try:
            values = mapping(json.loads(line))
        except (ValueError, RecursionError):
            continue
        numbers = {
            text(name, limit=60): known
            for name, value in list(values.items())[:_NAMES]
            if (known := number(value)) is not None
        }
        if numbers.get("step", -1.0) >= 0:
            found.append(numbers)
    return sorted(found, key=lambda line: line["step"])


def _confusion(file: Path) -> dict[tuple[str, str], dict[tuple[str, str], int]]:
    found: dict[tuple[str, str], dict[tuple[str, str], int]] = {}
    for row in csv.DictReader(io.StringIO(read_text(file, MAX_CONFUSION))):
        images = row.get("images") or ""
        if images.isdecimal() and len(images) < 12:
            one = found.setdefault((text(row.get("set"), limit=60), text(row.get("model"))), {})
            one[text(row.get("true")), text(row.get("predicted"))] = int(images)
    return found


def _examples(file: Path) -> list[dict[str, Any]]:
    return [mapping(one) for one in listing(read_json(file, limit=MAX_EXAMPLES).get("sets"), limit=50)]


def _bias(file: Path) -> dict[str, Any]:
    value = read_json(file)
    if value.get("schema") != "mmkd.bias":
        raise MmkdError(f"it says schema {text(value.get('schema'))!r}; expected 'mmkd.bias'")
    return value


def picture(value: Any) -> str:
    """A JPEG in base64 that a page may hold; empty for anything else."""
    if not isinstance(value, str) or not value.startswith("/9j/") or len(value) > MAX_PICTURE:
        return ""
    try:
        base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError):
        return ""
    return value


def images_right(judged_set: JudgedSet, confusion: Confusion) -> dict[str, tuple[int, int]]:
    """For each class that has images: how many were named rightly, of how many."""
    found: dict[str, tuple[int, int]] = {}
    for (true, predicted), images in confusion.items():
        right, total = found.get(true, (0, 0))
        found[true] = right + (images if true == predicted else 0), total + images
    return {name: found[name] for name in judged_set.class_names if name in found}


def finished(run: ReportRun) -> bool:
    """Whether its training came to its end."""
    return run.run.finished and whole(run.run.record.get("steps")) is not None
