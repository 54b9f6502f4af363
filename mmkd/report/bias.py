"""What a run's bias report concludes, whatever its version says: the verdict first, then the numbers."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from mmkd.report.drawing import Plot, new_figure, shorten
from mmkd.report.plain import listing, mapping, number, text, texts
from mmkd.report.run import ReportRun
from mmkd.report.scatter import scatter

MOST_WORDS = 2_000
LIMITS = (
    "These are associations inside a text tower. That they are there does not say what a system built on it does, and "
    "that none are found does not say that there are none."
)


@dataclass(frozen=True)
class BiasVerdict:
    """What may be said.

    Attributes:
        withheld: why nothing can be concluded; empty where something can.
        verdict: the conclusion in words, where the report has one.
        reason: what it rests on.
        correlations: name, value and interval as text, of those that could be computed.
        nearest: for each term, those nearest to it in teacher and student.
        limits: what may not be concluded from any of it.
    """

    withheld: list[str]
    verdict: str
    reason: str
    correlations: list[tuple[str, str]]
    nearest: list[tuple[str, str, str]]
    limits: list[str]

    @property
    def headline(self) -> str:
        """One sentence."""
        if self.withheld:
            return "Conclusion withheld: these numbers mean nothing."
        if self.verdict:
            return f"The teacher's bias in the student: {self.verdict}."
        return "A rank correlation near 1 means that the student has its teacher's bias."


def read_bias(bias: dict[str, Any], weights_hash: str = "") -> BiasVerdict:
    """Read ``bias.json`` of either version; absent keys are left out.

    Args:
        bias: its content.
        weights_hash: of the run's student, by which it is found among several models.
    """
    student = student_name(bias, weights_hash)
    comparisons = mapping(bias.get("comparisons"))  # version 2; version 1 compares one student only
    found = mapping(comparisons.get(student)) if comparisons else bias
    correlations = mapping(found.get("correlations")) or {
        name: found[name] for name in ("spearman", "kendall") if name in found
    }
    verdict = text(found.get("verdict"), limit=600)
    withheld = texts(found.get("withheld"))
    if not withheld and (verdict.startswith("withheld") or not found):
        withheld = [text(found.get("reason"), limit=600) or "the report gives no reason"]
    return BiasVerdict(
        withheld,
        verdict.removesuffix("."),
        text(found.get("reason"), limit=600),
        [(text(name), _number(one)) for name, one in list(correlations.items())[:8]],
        _nearest(bias, student),
        [text(one, limit=1_000) for one in listing(bias.get("limits"), limit=5)] or [LIMITS],
    )


def student_name(bias: dict[str, Any], weights_hash: str = "") -> str:
    """The run's student among the models: by its weights, else ``student``, else the first that is compared."""
    models = mapping(bias.get("models"))
    for name, model in models.items():
        if weights_hash and text(mapping(mapping(model).get("model")).get("weights_hash")) == weights_hash:
            return str(name)
    others = [name for name in models if name != _teacher_name(bias)]
    return "student" if "student" in others or not others else str(others[0])


def _teacher_name(bias: dict[str, Any]) -> str:
    return text(bias.get("reference")) or "teacher"


def bias_plot(run: ReportRun) -> Plot | None:
    """Each word's gap in the teacher and in the student."""
    if run.bias is None:
        return None
    verdict = read_bias(run.bias, run.weights_hash)
    gaps = _gaps(run.bias, student_name(run.bias, run.weights_hash))
    if len(gaps) < 3:
        return None
    x, y = (np.array([100 * gaps[name][side] for name in gaps]) for side in (0, 1))
    reach = max(float(np.abs(x).max()), float(np.abs(y).max()), 0.01)
    figure = new_figure(4.4)
    axes = figure.add_subplot()
    limits = (-1.15 * reach, 1.15 * reach)
    scatter(
        axes,
        x,
        y,
        list(gaps),
        limits=limits,
        labelled=0 if verdict.withheld else 8,
        known=not verdict.withheld,
    )
    axes.set_xlabel("gap in the teacher, x 100 (right: female)")
    axes.set_ylabel(f"gap in {shorten(run.name, 24)}, x 100")
    if verdict.withheld:
        axes.text(
            0.5,
            0.5,
            "means nothing",
            transform=axes.transAxes,
            ha="center",
            va="center",
            rotation=30,
            fontsize=30,
            fontweight="bold",
            color="#cc3311",
            alpha=0.35,
        )
    rows = [
        {"run": run.name, "word": name, "teacher": gaps[name][0], "student": gaps[name][1]} for name in gaps
    ]
    caption = (
        f"Each of {len(gaps)} words by its gap, the mean cosine to the female less that to the male terms, in teacher "
        "and student; on the dashed line nothing changed."
        + (
            " It is grey and stamped because the conclusion is withheld, for the reasons given."
            if verdict.withheld
            else ""
        )
    )
    return Plot(f"bias-{run.name}", "Gender gap of professions", caption, figure, rows)


def _gaps(bias: dict[str, Any], student: str) -> dict[str, tuple[float, float]]:
    """Each word's gap in mean cosine, in teacher and student."""
    models = mapping(bias.get("models"))
    sides = [mapping(mapping(models.get(name)).get("gaps")) for name in (_teacher_name(bias), student)]
    found = {}
    for word in list(sides[0])[:MOST_WORDS]:
        teacher, own = (number(mapping(side.get(word)).get("raw", side.get(word))) for side in sides)
        if teacher is not None and own is not None:
            found[text(word, limit=40)] = (teacher, own)
    return found


def _nearest(bias: dict[str, Any], student: str) -> list[tuple[str, str, str]]:
    models = mapping(bias.get("models"))
    teacher, own = (mapping(mapping(models.get(name)).get("top")) for name in (_teacher_name(bias), student))
    return [
        (text(term), ", ".join(texts(teacher[term])[:3]), ", ".join(texts(own[term])[:3]))
        for term in list(teacher)[:20]
        if term in own
    ]


def _number(found: Any) -> str:
    one = mapping(found)
    around = mapping(one.get("interval")) or one
    value, low, high = number(one.get("value")), number(around.get("low")), number(around.get("high"))
    if value is None:
        return "undefined (a column is constant)"
    spread = "" if low is None or high is None else f" [{low:.2f}, {high:.2f}]"
    return f"{value:.2f}{spread}"
