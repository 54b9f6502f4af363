"""A study's outcome as JSON, as rows of a table, and as Markdown."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from mmkd.evaluation.statistics import CONFIDENCE, Interval
from mmkd.study.design import Study
from mmkd.study.ranking import ArmResult, MeanScore, Ranking

SCHEMA = "mmkd.study"
SCHEMA_VERSION = 2


def to_json(study: Study, ranking: Ranking, record: Mapping[str, Any]) -> dict[str, Any]:
    """A JSON object; ``schema_version`` changes when a key changes its meaning or goes.

    Args:
        study: what was asked.
        ranking: what came of it.
        record: cache, command and versions.
    """
    best = ranking.best
    return {
        "schema": SCHEMA,
        "schema_version": SCHEMA_VERSION,
        "confidence": CONFIDENCE,
        **record,
        "name": study.name,
        "about": list(study.notes),
        "base": dict(study.base),
        "seeds": list(study.seeds),
        "evaluation": study.evaluation.to_json(),
        "ranked_by": ranking.metric,
        "best": None if best is None else best.arm.name,
        "smallest_difference_told_apart": ranking.decided,
        "undecided_may_differ_by": ranking.undecided,
        "notes": notes(study, ranking),
        "arms": [_arm(one, ranking) for one in ranking.results],
        "comparisons": {
            metric: [
                {
                    "first": one.first,
                    "second": one.second,
                    **one.difference.to_json(),
                    "p_holm": one.corrected,
                    "told_apart": one.told_apart,
                }
                for one in found
            ]
            for metric, found in ranking.comparisons.items()
        },
    }


def _arm(result: ArmResult, ranking: Ranking) -> dict[str, Any]:
    return {
        "name": result.arm.name,
        "role": result.arm.role,
        "settings": dict(result.arm.settings),
        "loss": _loss(result),
        "verdict": ranking.verdict(result),
        "seconds": result.seconds,
        "joules": result.joules,
        "scores": {name: _score(score) for name, score in result.scores.items()},
        "runs": [
            {
                "seed": run.seed,
                "folder": run.folder.name,
                "collapsed": dict(run.collapsed),
                "cost": None if run.cost is None else asdict(run.cost),
                "scores": {name: asdict(score) for name, score in run.scores.items()},
            }
            for run in result.runs
        ],
        "failures": {str(seed): why for seed, why in result.failures.items()},
        "dropped": result.dropped,
    }


def _loss(result: ArmResult) -> str | None:
    return None if result.arm.role == "untrained" else result.arm.recipe.objective.describe()


def _score(score: MeanScore) -> dict[str, Any]:
    return {
        "values": list(score.values),
        "mean": score.mean,
        **_ends(score.interval, "low", "high"),
        "chance": score.chance,
        "teacher": score.teacher,
        "retention": score.retention,
        **_ends(score.retention_interval, "retention_low", "retention_high"),
        "runs_at_chance": score.at_chance,
    }


def _ends(interval: Interval | None, low: str, high: str) -> dict[str, float | None]:
    return {
        low: None if interval is None else interval.low,
        high: None if interval is None else interval.high,
    }


def rows(ranking: Ranking) -> list[dict[str, Any]]:
    """One row an arm and metric, for a CSV file."""
    best = ranking.best
    found = []
    for place, result in enumerate(ranking.results, start=1):
        for metric, score in result.scores.items():
            beside = None if best is None else ranking.compare(result.arm.name, best.arm.name, metric)
            found.append(
                {
                    "place": place,
                    "arm": result.arm.name,
                    "role": result.arm.role,
                    "metric": metric,
                    "seeds": len(score.values),
                    **{key: value for key, value in _score(score).items() if key != "values"},
                    "less_the_best": None if beside is None else beside.difference.value,
                    "less_the_best_low": None if beside is None else beside.difference.interval.low,
                    "less_the_best_high": None if beside is None else beside.difference.interval.high,
                    "p_holm": None if beside is None else beside.corrected,
                    "seconds": result.seconds,
                    "joules": result.joules,
                }
            )
    return found


def table(ranking: Ranking) -> list[list[str]]:
    """Cells of the ranked table, the heading first; scores in percent."""
    head = ["", "arm"]
    for metric in ranking.metrics:
        head += [metric, "kept"]
    found = [[*head, "beside the best", "less the best", "p (Holm)", "minutes", "kJ"]]
    first = next((one for one in ranking.results if one.scores), None)
    if first is not None:
        for name in ("chance", "teacher"):
            cells = ["", name]
            for metric in ranking.metrics:
                cells += [f"{100 * getattr(first.scores[metric], name):.2f}", ""]
            found.append([*cells, "", "", "", "", ""])
    for place, result in enumerate(ranking.results, start=1):
        found.append(_cells(place, result, ranking))
    return found


def _cells(place: int, result: ArmResult, ranking: Ranking) -> list[str]:
    cells = [str(place) if result.scores else "", result.arm.name]
    for metric in ranking.metrics:
        score = result.scores.get(metric)
        cells += ["–", ""] if score is None else [percent(score.mean, score.interval), _kept(score)]
    best = ranking.best
    beside = None if best is None else ranking.compare(result.arm.name, best.arm.name)
    less, p = "", ""
    if beside is not None:
        low, high = beside.difference.interval.low, beside.difference.interval.high
        less = f"{100 * beside.difference.value:+.2f} [{100 * low:+.2f}, {100 * high:+.2f}]"
        p = "< 0.001" if beside.corrected < 0.001 else f"{beside.corrected:.3f}"
    minutes = "" if result.seconds is None else f"{result.seconds / 60:.1f}"
    energy = "" if result.joules is None else f"{result.joules / 1000:.1f}"
    return [*cells, ranking.verdict(result), less, p, minutes, energy]


def percent(mean: float, interval: Interval | None) -> str:
    """``44.33 [43.10, 45.56]``; ends beyond what a share can be are cut."""
    if interval is None:
        return f"{100 * mean:.2f}"
    return f"{100 * mean:.2f} [{100 * max(0.0, interval.low):.2f}, {100 * min(1.0, interval.high):.2f}]"


def _kept(score: MeanScore) -> str:
    if score.all_at_chance:
        return "at chance"
    if score.retention is None:
        return "teacher at chance"
    if score.retention_interval is None:
        return f"{100 * score.retention:.0f} %"
    low, high = score.retention_interval.low, score.retention_interval.high
    return f"{100 * score.retention:.0f} % [{100 * low:.0f}, {100 * high:.0f}]"


def notes(study: Study, ranking: Ranking) -> list[str]:
    """What a reader of the table must know."""
    seeds = len(study.seeds)
    found = []
    if ranking.best is None and ranking.metric:
        found.append(
            f"Every arm is at chance in {ranking.metric}: the order says nothing, and no arm is called best."
        )
    if seeds < 2:
        found.append(
            "One seed: how much another would differ is unknown, so no arm is compared; --seeds 3 or more."
        )
    else:
        found.append(
            f"Scores are means of {seeds} seeds with Student's t interval over the seeds; the untrained student is "
            "one, whatever the seed."
        )
    if seeds > 1 and ranking.best is not None:
        found.append(
            "Differences from the best are taken on the same seeds and images, with the luck of both, as if all arms "
            "varied alike; p-values are Holm's over all pairs of arms, since the best was picked by the same scores."
        )
    if ranking.best is not None and (undecided := ranking.undecided) is not None:
        found.append(
            f"In {ranking.metric}, {seeds} seeds left pairs of arms undecided that may differ by up to "
            f"{100 * min(1.0, undecided):.2f} points: so far do their 95 % intervals reach"
            + (
                "."
                if ranking.decided is None
                else f"; the smallest difference that was told apart is {100 * ranking.decided:.2f}."
            )
        )
    found += _budget_notes(ranking)
    if not any(one.joules for one in ranking.results):
        found.append("Energy is unknown: this machine's counters could not be read, or runs shared it.")
    found.append("Minutes are wall-clock of one training, whatever else the machine did.")
    return found


def _budget_notes(ranking: Ranking) -> list[str]:
    trained = [one for one in ranking.results if one.arm.role != "untrained"]
    budgets: dict[tuple[Any, ...], list[str]] = {}
    for one in trained:
        recipe = one.arm.recipe
        key = (recipe.limit, recipe.epochs, recipe.global_batch)
        budgets.setdefault(key, []).append(one.arm.name)
    if len(budgets) < 2:
        return []
    parts = [
        f"{', '.join(names)}: {'all' if limit is None else f'{limit:,}'} pairs x {epochs:g} epochs, "
        + (f"{batch:,} a step" if batch else "batches of the default size")
        for (limit, epochs, batch), names in budgets.items()
    ]
    return ["The arms differ in budget, so this compares budgets, too: " + "; ".join(parts) + "."]


def markdown(study: Study, ranking: Ranking, record: Mapping[str, Any]) -> str:
    """The ranked table with what a reader must know, as a document."""
    cells = table(ranking)
    keep = [column for column in range(len(cells[0])) if any(row[column] for row in cells[1:])]
    lines = [f"# Study: {study.name}", ""]
    lines += [*study.notes, ""] if study.notes else []
    lines += [
        f"{_pairs(study, record['pairs'])}, {len(study.seeds)} seed{'s' * (len(study.seeds) != 1)}, ranked by "
        f"{ranking.metric}. Percent; *kept* is the score over chance, divided by the teacher's.",
        "",
        *markdown_table([[row[column] for column in keep] for row in cells]),
        "",
        *(f"- {note}" for note in notes(study, ranking)),
        "",
        "Made by:",
        "",
        "```",
        record["command"],
        "```",
        "",
        "| arm | loss |",
        "|---|---|",
        *(f"| {one.arm.name} | {_loss(one) or 'never trained'} |" for one in ranking.results),
    ]
    return "\n".join(lines) + "\n"


def _pairs(study: Study, usable: int) -> str:
    limit = study.base.get("limit") or usable
    return f"{usable:,} pairs" if limit >= usable else f"{limit:,} of the cache's {usable:,} pairs"


def markdown_table(cells: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a Markdown table, the heading first."""

    def line(row: Sequence[str]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |"

    return [line(cells[0]), "|" + "---|" * len(cells[0]), *(line(row) for row in cells[1:])]
