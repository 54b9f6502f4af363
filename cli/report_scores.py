"""A report's scores in words and tables: each beside its interval and chance, and what is missing named."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmkd.errors import MmkdError
from mmkd.report.evaluations import Judged, ScoreLine
from mmkd.report.plain import mapping, number, text
from mmkd.report.run import ReportRun, count_parameters
from mmkd.report.scores import Shared, parameters_of, speed_of


@dataclass(frozen=True, slots=True)
class Cell:
    """A cell of a table.

    Attributes:
        text: what it says.
        note: smaller, below it.
        state: ``at chance`` or ``collapsed``, where the note says so; it is then no result.
    """

    text: str
    note: str = ""
    state: str = ""


@dataclass(frozen=True)
class Table:
    """A table.

    Attributes:
        title: above it.
        source: what it is of, smaller.
        columns: their headings; the first column has none.
        rows: a label and a cell a column.
        notes: below it.
    """

    title: str
    source: str
    columns: list[str]
    rows: list[tuple[str, list[Cell]]]
    notes: list[str]


def percent(share: float) -> str:
    """``89.9``."""
    return f"{100 * share:.1f}"


def interval(score: ScoreLine) -> str:
    """``[88.2, 91.3]``."""
    return f"[{percent(score.low)}, {percent(score.high)}]"


def state(judged: Judged, metric: str) -> str:
    """``collapsed``, ``at chance`` or nothing."""
    return "collapsed" if judged.collapsed else "at chance" if judged.scores[metric].at_chance else ""


def kept(score: ScoreLine) -> str:
    """``keeps 94 % [91, 97]``, or nothing."""
    if score.kept is None:
        return ""
    around = (
        ""
        if score.kept_low is None or score.kept_high is None
        else (f" [{100 * score.kept_low:.0f}, {100 * score.kept_high:.0f}]")
    )
    return f"keeps {100 * score.kept:.0f} %{around}"


def score_tables(sets: Sequence[Shared]) -> list[Table]:
    """A table a set: metrics down, chance and models across."""
    return [
        Table(
            one.judged.name,
            " · ".join(filter(None, (one.judged.source, f"{one.judged.images:,} images"))),
            ["chance", *one.models],
            [
                (
                    metric,
                    [
                        Cell(percent(one.chance(metric))),
                        *(_cell(model, metric) for model in one.models.values()),
                    ],
                )
                for metric in one.metrics
            ],
            [*one.judged.notes, *_paired(one)],
        )
        for one in sets
    ]


def _cell(model: Judged, metric: str) -> Cell:
    if metric not in model.scores:
        return Cell("–")
    score, word = model.scores[metric], state(model, metric)
    return Cell(f"{percent(score.value)} {interval(score)}", word or kept(score), word)


def _paired(one: Shared) -> list[str]:
    """Student less teacher, on the same images."""
    lines = []
    for name, model in one.models.items():
        paired = mapping(model.raw.get("paired"))
        around = mapping(paired.get("interval"))
        values = [number(paired.get("difference")), *(number(around.get(end)) for end in ("low", "high"))]
        same, p = number(paired.get("same_answer")), number(paired.get("p_value"))
        if None in values or p is None:
            continue
        difference, low, high = (100 * value for value in values if value is not None)
        said = f"{name} less teacher at top-1: {difference:+.1f} [{low:+.1f}, {high:+.1f}]"
        said += f", McNemar p {'< 0.001' if p < 0.001 else f'= {p:.3f}'}"
        lines.append(
            said + ("" if same is None else f"; the same answer to {100 * same:.0f} % of the images")
        )
    return lines


def headlines(run: ReportRun) -> list[dict[str, Any]]:
    """Top-1 of the run's student on each zero-shot set, large."""
    evaluation, own = run.evaluations.get("zero-shot"), run.student_of("zero-shot")
    found = []
    for one in () if evaluation is None else evaluation.sets:
        model = one.models.get(own)
        if model is None or "top-1" not in model.scores:
            continue
        assert evaluation is not None
        score = model.scores["top-1"]
        teacher = one.models.get(evaluation.reference)
        beside = ""
        if teacher is not None and "top-1" in teacher.scores:
            beside = f"teacher {percent(teacher.scores['top-1'].value)}"
        found.append(
            {
                "run": run.name,
                "set": one.name,
                "value": percent(score.value),
                "interval": interval(score),
                "chance": percent(score.chance),
                "teacher": beside,
                "kept": kept(score),
                "state": state(model, "top-1"),
            }
        )
    return found


def missing(run: ReportRun) -> list[tuple[str, str]]:
    """What the run lacks, and what to type for it."""
    folder = shlex.quote(str(run.run.folder))
    if run.parameters is None:
        return [("the student: its training has not come to its end", f"mmkd train --resume --out {folder}")]
    wanted = [
        ("zero-shot scores", "zero-shot.json", f"mmkd eval zero-shot --model {folder}"),
        ("pictures with answers", "zero-shot-examples.json", f"mmkd eval zero-shot --model {folder}"),
        ("retrieval", "retrieval.json", f"mmkd eval retrieval --model {folder}"),
        ("a probe of its embeddings", "probe.json", f"mmkd eval probe --model {folder}"),
        ("the bias analysis", "bias.json", f"mmkd eval bias --model {folder}"),
    ]
    lacking = [(what, command) for what, file, command in wanted if not (run.run.folder / file).is_file()]
    if lacking and lacking[0][0] == "zero-shot scores":
        lacking = [
            one for one in lacking if one[0] != "pictures with answers"
        ]  # the same command brings both
    return lacking


def sizes_of(runs: Sequence[ReportRun], sets: Sequence[Shared]) -> dict[str, float]:
    """Parameters by model: counted in the students' files, and for teachers where they lie here."""
    sizes = {run.name: float(run.parameters) for run in runs if run.parameters}
    for one in sets:
        for name, model in one.models.items():
            found = parameters_of(model) or (None if name in sizes else _of_folder(model))
            if found is not None and name not in sizes:
                sizes[name] = found
    return sizes


def _of_folder(model: Judged) -> float | None:
    """Of a model that lies in a folder here, or in the Hub's cache; nothing is fetched."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    name = text(model.spec.get("model"))
    folder = Path(name)
    try:
        if not folder.is_dir():
            revision = text(model.spec.get("revision")) or None
            found = try_to_load_from_cache(name, "model.safetensors", revision=revision)
            if not isinstance(found, str):
                return None
            folder = Path(found).parent
        return count_parameters(folder)
    except (MmkdError, HFValidationError, OSError, ValueError):
        return None


def speeds_of(sets: Sequence[Shared]) -> dict[str, float]:
    """Images a second by model, where an evaluation measured them."""
    found: dict[str, float] = {}
    for one in sets:
        for name, model in one.models.items():
            speed = speed_of(model)
            if speed is not None:
                found.setdefault(name, speed)
    return found


def size_table(runs: Sequence[ReportRun], sizes: dict[str, float], speeds: dict[str, float]) -> Table | None:
    """Size and speed of each model, and of the teacher's how much that is."""
    if not sizes:
        return None
    teacher = sizes.get("teacher")
    columns = [
        "parameters",
        *(["of the teacher's"] if teacher else []),
        *(["images a second"] if speeds else []),
    ]
    order = ["teacher", *(run.name for run in runs), *sizes]
    rows = []
    for name in dict.fromkeys(one for one in order if one in sizes):
        cells = [Cell(f"{sizes[name] / 1e6:.2f} M")]
        if teacher:
            cells.append(Cell(f"{100 * sizes[name] / teacher:.0f} %"))
        if speeds:
            cells.append(Cell(f"{speeds[name]:,.0f}" if name in speeds else "–"))
        rows.append((name, cells))
    return Table("", "", columns, rows, [])
