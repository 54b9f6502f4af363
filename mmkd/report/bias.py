"""What a run's bias report concludes, whatever its version says: the verdict first, then the numbers."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mmkd.report.drawing import Plot, new_figure, shorten
from mmkd.report.plain import mapping, number, text, texts
from mmkd.report.run import ReportRun
from mmkd.report.scatter import scatter

MOST_WORDS = 2_000


@dataclass(frozen=True)
class BiasVerdict:
    """What may be said.

    Attributes:
        withheld: why nothing can be concluded; empty where something can.
        verdict: the conclusion in words, where the report has one.
        correlations: name, value and interval as text, of those that could be computed.
        words: how many were compared.
        nearest: for each term, those nearest to it in teacher and student.
        details: other statements of the report, by name.
    """

    withheld: list[str]
    verdict: str
    correlations: list[tuple[str, str]]
    words: int
    nearest: list[tuple[str, str, str]]
    details: list[tuple[str, str]] = field(default_factory=list)

    @property
    def headline(self) -> str:
        """One sentence."""
        if self.withheld:
            return "Conclusion withheld: these numbers mean nothing."
        return self.verdict or "A rank correlation near 1 means that the student has its teacher's bias."


def read_bias(bias: dict[str, Any]) -> BiasVerdict:
    """Read ``bias.json``; absent keys are left out."""
    withheld = texts(bias.get("withheld"))
    if isinstance(bias.get("withheld"), str):
        withheld = [text(bias["withheld"])]
    elif bias.get("withheld") is True:
        withheld = texts(bias.get("reasons")) or ["the report gives no reason"]
    verdict = bias.get("verdict")
    if isinstance(verdict, dict):
        withheld = withheld or texts(verdict.get("withheld"))
        verdict = verdict.get("text", verdict.get("words", verdict.get("verdict")))
    gaps = _gaps(bias)
    return BiasVerdict(
        withheld,
        text(verdict, limit=600),
        [(text(name), _number(found)) for name, found in list(mapping(bias.get("correlations")).items())[:8]],
        len(gaps),
        _nearest(bias),
    )


def bias_plot(run: ReportRun) -> Plot | None:
    """Each word's gap in the teacher and in the student."""
    if run.bias is None:
        return None
    gaps, verdict = _gaps(run.bias), read_bias(run.bias)
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


def _gaps(bias: dict[str, Any]) -> dict[str, tuple[float, float]]:
    models = mapping(bias.get("models"))
    sides = [mapping(mapping(models.get(name)).get("gaps")) for name in ("teacher", "student")]
    found = {}
    for word in list(sides[0])[:MOST_WORDS]:
        teacher, student = number(sides[0][word]), number(sides[1].get(word))
        if teacher is not None and student is not None:
            found[text(word, limit=40)] = (teacher, student)
    return found


def _nearest(bias: dict[str, Any]) -> list[tuple[str, str, str]]:
    models = mapping(bias.get("models"))
    sides = [mapping(mapping(models.get(name)).get("top")) for name in ("teacher", "student")]
    return [
        (text(term), *(", ".join(texts(side.get(term))[:3]) for side in sides))  # type: ignore[misc]
        for term in list(sides[0])[:20]
        if term in sides[1]
    ]


def _number(found: Any) -> str:
    value, low, high = (number(mapping(found).get(key)) for key in ("value", "low", "high"))
    if value is None:
        return "undefined (a column is constant)"
    around = "" if low is None or high is None else f" [{low:.2f}, {high:.2f}]"
    return f"{value:.2f}{around}"
