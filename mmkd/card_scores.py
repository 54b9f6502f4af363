"""What a student scored, as its model card says it: never a number without its chance line."""

from typing import Any

from mmkd.errors import MmkdError, ModelError
from mmkd.parse import read_json
from mmkd.report.bias import read_bias
from mmkd.report.evaluations import KINDS, Evaluation, Judged, JudgedSet, read_evaluation
from mmkd.report.run import bias_weights, own_name
from mmkd.runs import Run
from mmkd.weights import hash_weights

_METRICS = {"zero-shot": "accuracy", "retrieval": "recall", "probe": "accuracy"}
_TITLES = {"zero-shot": "Zero-shot classification", "retrieval": "Retrieval", "probe": "Probes"}


def card_metrics(run: Run) -> list[str]:
    """The Hub's names of what was measured."""
    return list(dict.fromkeys(_METRICS[kind] for kind in _evaluations(run)))


def card_results(run: Run) -> list[dict[str, Any]]:
    """The ``model-index``: zero-shot top-1 of each set on which it can be told from chance.

    The Hub shows these numbers bare, and one at chance would be taken for a result.
    """
    evaluation = _evaluations(run).get("zero-shot")
    found = []
    for one, model in () if evaluation is None else _own(evaluation, run):
        if "top-1" in model.scores and model.knows("top-1"):
            value = round(model.scores["top-1"].value, 6)
            found.append(
                {
                    "task": {"type": "zero-shot-image-classification"},
                    "dataset": {"name": one.name, "type": one.name},
                    "metrics": [{"type": "accuracy", "name": "top-1", "value": value}],
                }
            )
    return found


def card_scores(run: Run) -> str:
    """Tables of scores with chance and intervals, the bias verdict, and what is missing with what to type."""
    evaluations = _evaluations(run)
    parts = [_section(kind, evaluation, run) for kind, evaluation in evaluations.items()]
    if evaluations:
        parts.insert(
            0,
            "## Scores\n\nPercent, with 95 % intervals that come from the number of images alone. *Chance* is what "
            "guessing reaches; *kept* is the share of the teacher's score above chance.",
        )
    else:
        parts.append(
            f"Not evaluated here: run `mmkd eval zero-shot --model {run.folder.name}` for its scores beside its "
            "teacher's and beside\nchance, and `mmkd eval bias` before anyone draws conclusions about people from it."
        )
    bias = _bias(run)
    if bias:
        parts.append(f"## Bias\n\n{bias}")
    elif evaluations:
        parts.append(
            "Not looked into for bias: run `mmkd eval bias` before anyone draws conclusions about people."
        )
    return "\n\n".join(parts)


def _evaluations(run: Run) -> dict[str, Evaluation]:
    """Those that can be read, and are of the student's own weights."""
    found = {}
    for kind in KINDS:
        file = run.folder / f"{kind}.json"
        if file.is_file():
            try:
                found[kind] = read_evaluation(file, kind)
            except MmkdError:
                continue
    weights = _weights(run) if found else ""
    return {
        kind: one
        for kind, one in found.items()
        if weights and any(model.hash in {weights, ""} for _, model in _own(one, run))
    }


def _weights(run: Run) -> str:
    """Hash of the student's weights; empty where they cannot be read."""
    try:
        return hash_weights(run.student) if run.student.is_dir() else ""
    except ModelError:
        return ""


def _own(evaluation: Evaluation, run: Run) -> list[tuple[JudgedSet, Judged]]:
    name = own_name(evaluation, run.folder)
    return [(one, one.models[name]) for one in evaluation.sets if name in one.models]


def _section(kind: str, evaluation: Evaluation, run: Run) -> str:
    teacher = evaluation.reference
    head = "| set | metric | chance |" + (" teacher |" if teacher else "") + " student | kept |"
    lines = [f"### {_TITLES[kind]}", "", head, "|---" * (head.count("|") - 1) + "|"]
    for one, model in _own(evaluation, run):
        reference = one.models.get(teacher)
        for metric in model.scores:
            lines.append(_line(one.name, metric, model, reference, has_teacher=bool(teacher)))
    return "\n".join(lines)


def _line(name: str, metric: str, model: Judged, reference: Judged | None, *, has_teacher: bool) -> str:
    score = model.scores[metric]
    cells = [f"`{name.replace('`', '').replace('|', '')}`", metric.replace("|", ""), _percent(score.chance)]
    if has_teacher:
        cells.append("" if reference is None or metric not in reference.scores else _cell(reference, metric))
    cells.append(_cell(model, metric))
    cells.append("" if score.kept is None or not model.knows(metric) else f"{100 * score.kept:.0f} %")
    return "| " + " | ".join(cells) + " |"


def _cell(model: Judged, metric: str) -> str:
    score = model.scores[metric]
    word = "" if model.knows(metric) else " **collapsed**" if model.collapsed else " **at chance**"
    return f"{_percent(score.value)} [{_percent(score.low)}, {_percent(score.high)}]{word}"


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"


def _bias(run: Run) -> str:
    file = run.folder / "bias.json"
    weights = _weights(run) if file.is_file() else ""
    try:
        bias = read_json(file) if weights else {}
    except MmkdError:
        return ""
    if weights not in bias_weights(bias):
        return ""
    verdict = read_bias(bias, weights)
    lines = [verdict.headline]
    if verdict.withheld:
        lines += [f"- {reason.replace('<', '&lt;')}" for reason in verdict.withheld]
    else:
        lines += [f"- {name}: {value}" for name, value in verdict.correlations]
    return "\n".join([lines[0], "", *lines[1:], "", *verdict.limits])
