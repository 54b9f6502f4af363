"""The zero-shot report as a table in the terminal, percent throughout."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from mmkd.cli.console import harmless, printable
from mmkd.cli.tables import align

if TYPE_CHECKING:
    from collections.abc import Callable

    from mmkd.evaluation.cost import Cost, Rate
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
    notes += [f"{name}: left out, {reason}" for name, reason in report.left_out.items()]
    return [harmless(line) for line in (*align(rows), *_beside(report), *notes)]


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


def cost_table(report: "ZeroShotReport") -> list[str]:
    """Parameters, multiply-adds and, where it was measured, speed of each model, with its share of the teacher's."""
    if not report.costs:
        return []
    first = next(iter(report.costs.values()))
    rows = [["", *report.costs]]
    for label, read in _COSTS.items():
        reference = None if report.reference is None else read(report.costs[report.reference])
        cells = []
        for name, cost in report.costs.items():
            value = read(cost)
            share = (
                ""
                if name == report.reference or not reference or not value
                else f"  x {value / reference:.2f}"
            )
            cells.append("" if value is None else f"{_short(value)}{share}")
        if any(cells):
            rows.append([label, *cells])
    notes = []
    if first.images_per_second is not None:
        threads = "" if first.threads is None else f", threads: {first.threads}"
        notes.append(
            f"speed: forward passes of {first.batch_size} in float32 on {first.device}{threads}, the median of "
            f"{first.images_per_second.rounds}; texts of {first.text_tokens} tokens"
        )
    return [*align(rows), *notes]


def cost_words(cost: "Cost | None") -> list[str]:
    """``11.2 M parameters``, ``41.4 M multiply-adds an image``, and what else is known."""
    values = {} if cost is None else {label: read(cost) for label, read in _COSTS.items() if label[0] != " "}
    return [f"{_short(value)} {label}" for label, value in values.items() if value is not None]


def verdict(model: "ModelScores") -> str:
    """The words that take the place of a conclusion: ``at chance``, ``collapsed (...)``; empty where neither."""
    return ", ".join(filter(None, [_chance(model.scores["top-1"]), model.collapsed]))


def cell(score: "Score") -> str:
    """``50.6 [49.6, 51.6]``."""
    low, high = score.interval.low, score.interval.high
    return f"{100 * score.value:5.1f} [{100 * low:4.1f}, {100 * high:4.1f}]"


_COSTS: "dict[str, Callable[[Cost], float | None]]" = {
    "parameters": lambda cost: cost.parameters,
    "  of the image tower": lambda cost: cost.image_parameters,
    "  of the text tower": lambda cost: cost.text_parameters,
    "multiply-adds an image": lambda cost: cost.image_macs,
    "multiply-adds a text": lambda cost: cost.text_macs,
    "images a second": lambda cost: _median(cost.images_per_second),
    "texts a second": lambda cost: _median(cost.texts_per_second),
}


def _median(rate: "Rate | None") -> float | None:
    return None if rate is None else rate.value


def _short(value: float) -> str:
    """``89.8 M``."""
    for size, unit in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if value >= size:
            return f"{value / size:.3g}{unit}"
    return f"{value:.3g}"


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
            word = verdict(model) if number == 0 else _chance(model.scores[metric])
            if number and not word and model.collapsed:
                word = "collapsed"
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
