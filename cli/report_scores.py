"""A report's scores in words and tables: each beside its interval and chance, and what is missing named."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmkd.errors import MmkdError
from mmkd.report.evaluations import Judged, ScoreLine
from mmkd.report.plain import mapping, number, text
from mmkd.report.ranked import Arm, Ranked
from mmkd.report.run import ReportRun, count_parameters
from mmkd.report.scores import Shared, macs_of, parameters_of, speed_of

if TYPE_CHECKING:
    from collections.abc import Callable

WIDEST = 6  # columns


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

    @property
    def readable(self) -> "Table":
        """The table, or itself turned where it is wider than it can be read."""
        if len(self.columns) <= max(WIDEST, len(self.rows)):
            return self
        rows = [(name, [cells[at] for _, cells in self.rows]) for at, name in enumerate(self.columns)]
        return replace(self, columns=[label for label, _ in self.rows], rows=rows)


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


def measured(sets: Sequence[Shared], what: "Callable[[Judged], float | None]") -> dict[str, float]:
    """A cost by model, where an evaluation measured it."""
    found: dict[str, float] = {}
    for one in sets:
        for name, model in one.models.items():
            if (cost := what(model)) is not None:
                found.setdefault(name, cost)
    return found


def size_table(runs: Sequence[ReportRun], sets: Sequence[Shared]) -> Table | None:
    """Size and speed of each model, and how much of the teacher's that is."""
    sizes, macs, speeds = sizes_of(runs, sets), measured(sets, macs_of), measured(sets, speed_of)
    if not sizes:
        return None
    kinds = [
        ("parameters", sizes, lambda value: f"{value / 1e6:.2f} M"),
        ("multiply-adds an image", macs, lambda value: f"{value / 1e6:,.0f} M"),
        ("images a second", speeds, lambda value: f"{value:,.0f}"),
    ]
    kinds = [kind for kind in kinds if kind[1]]
    order = ["teacher", *(run.name for run in runs), *sizes]
    rows = [
        (name, [_cost_cell(name, values, shown) for _, values, shown in kinds])
        for name in dict.fromkeys(one for one in order if one in sizes)
    ]
    return Table("", "", [title for title, _, _ in kinds], rows, [])


def _cost_cell(name: str, values: dict[str, float], shown: "Callable[[float], str]") -> Cell:
    if name not in values:
        return Cell("–")
    beside = values[name] / values["teacher"] if "teacher" in values and name != "teacher" else None
    return Cell(shown(values[name]), "" if beside is None else f"{100 * beside:.0f} % of the teacher's")


def ranked_table(study: Ranked) -> Table:
    """A line an arm, best first; a column a metric, and what may be said beside the best."""
    metrics = study.metrics
    lines = [
        (name, [Cell(percent(known[metric]) if metric in known else "–") for metric in metrics] + [Cell("")])
        for name, known in (("chance", study.chance), ("teacher", study.teacher))
    ]
    lines += [
        (arm.name, [*(_mean(arm, metric) for metric in metrics), Cell(arm.verdict)]) for arm in study.arms
    ]
    return Table("", "", [*metrics, "beside the best"], lines, study.notes)


def _mean(arm: Arm, metric: str) -> Cell:
    score = arm.scores.get(metric)
    if score is None:
        return Cell("–")
    around = (
        ""
        if score.low is None or score.high is None
        else f" [{percent(max(0.0, score.low))},\u00a0{percent(min(1.0, score.high))}]"
    )
    if score.at_chance:
        how = (
            "at chance" if not score.known else f"at chance in {score.at_chance} of {len(score.values)} runs"
        )
        return Cell(percent(score.mean) + around, how, "at chance")
    return Cell(percent(score.mean) + around, "" if score.kept is None else f"keeps {100 * score.kept:.0f} %")
