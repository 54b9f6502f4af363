"""The zero-shot report as a table in the terminal, percent throughout."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from mmkd.cli.console import printable
from mmkd.cli.tables import align

if TYPE_CHECKING:
    from mmkd.evaluation.statistics import Score
    from mmkd.evaluation.zero_shot_report import ModelScores, SetReport, ZeroShotReport


def table(report: "ZeroShotReport") -> list[str]:
    """One line a set and metric, then what a reader must know."""
    header = ["", "", "chance"]
    for name in report.models:
        header += [name] if name == report.reference else [name, "kept" if report.reference else ""]
    rows = [header]
    for one in report.sets:
        rows += _rows(one, report.reference)
    notes = [f"{one.task.name}: {note}" for one in report.sets for note in one.notes]
    return [*align(rows), *_beside(report), *notes]


def template_table(one: "SetReport") -> list[str]:
    """Top-1 with each template alone, the best of the first model first."""
    models = list(one.models.values())
    order = sorted(range(len(one.task.templates)), key=lambda i: -models[0].templates[i].value)
    rows = [[f"{one.task.name}, top-1 by template", *one.models]]
    for i in order:
        rows.append(
            [f"  {printable(one.task.templates[i])}", *(cell(model.templates[i]) for model in models)]
        )
    rows.append(["  all of them, averaged", *(cell(model.scores["top-1"]) for model in models)])
    return align(rows)


def verdict(model: "ModelScores") -> str:
    """The words that take the place of a conclusion: ``at chance``, ``collapsed (...)``; empty where neither."""
    return ", ".join(filter(None, [_chance(model.scores["top-1"]), model.collapsed]))


def cell(score: "Score") -> str:
    """``50.6 [49.6, 51.6]``."""
    low, high = score.interval.low, score.interval.high
    return f"{100 * score.value:5.1f} [{100 * low:4.1f}, {100 * high:4.1f}]"


def _chance(score: "Score") -> str:
    if not score.at_chance:
        return ""
    # Where the interval alone would have called it better than chance, say what did not.
    shuffled = score.interval.low > score.chance and score.p_value is not None
    return f"at chance (p {score.p_value:.2f})" if shuffled else "at chance"


def _rows(one: "SetReport", reference: str | None) -> list[list[str]]:
    rows = []
    first = next(iter(one.models.values()))
    for number, (metric, chance) in enumerate((name, score.chance) for name, score in first.scores.items()):
        row = [
            "" if number else printable(one.task.name),
            metric.removeprefix("mean per-class "),
            f"{100 * chance:5.1f}",
        ]
        for name, model in one.models.items():
            word = _chance(model.scores[metric]) if number else verdict(model)
            if name == reference:
                row.append(f"{cell(model.scores[metric])} {word}".rstrip())
                continue
            row += [cell(model.scores[metric]), word or _kept(one, name, reference, metric)]
        rows.append(row)
    errors: list[str] = []
    for name, model in one.models.items():
        errors += [f"{100 * model.calibration_error:5.1f}", *([""] if name != reference else [])]
    rows.append(["", "calibration error", "", *errors])
    return rows


def _kept(one: "SetReport", name: str, reference: str | None, metric: str) -> str:
    kept = one.retention(name, reference).get(metric)
    if kept is None:
        return ""
    paired = one.paired(name, reference)
    if metric == "top-1" and paired is not None and paired.retention_interval is not None:
        low, high = paired.retention_interval.low, paired.retention_interval.high
        return f"{100 * kept:.0f} % [{100 * low:.0f}, {100 * high:.0f}]"
    return f"{100 * kept:.0f} %"


def _beside(report: "ZeroShotReport") -> Sequence[str]:
    """Each model less the reference on the same images."""
    rows = []
    for one in report.sets:
        for name in one.models:
            paired = one.paired(name, report.reference)
            if paired is not None:
                low, high = paired.interval.low, paired.interval.high
                p = "< 0.001" if paired.p_value < 0.001 else f"= {paired.p_value:.3f}"
                rows.append(
                    [
                        f"{one.task.name}: {name} less {report.reference}",
                        f"{100 * paired.difference:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]",
                        f"McNemar p {p}",
                        f"same answer to {100 * paired.same_answer:.0f} %",
                    ]
                )
    return ["", *align(rows)] if rows else []
