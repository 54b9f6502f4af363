"""The zero-shot report as a page: scores, plot, templates, and the pictures that were taken for something else."""

import base64
import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmkd.cli.console import printable
from mmkd.cli.models import describe
from mmkd.cli.pages import thumbnail, write_page
from mmkd.cli.zero_shot_table import cell, cost_words, verdict

if TYPE_CHECKING:
    from collections.abc import Callable

    from mmkd.evaluation.zero_shot_report import ModelScores, SetReport, ZeroShotReport

PAIRS, PICTURES = 10, 6
MATRIX = 40  # classes; a larger matrix cannot be read


def write_zero_shot_page(file: Path, report: "ZeroShotReport") -> None:
    """Write the report as one HTML file that needs nothing else."""
    write_page(
        file,
        "zero_shot.html",
        title="Zero-shot classification",
        models=[
            (name, " · ".join([describe(spec), *cost_words(report.costs.get(name))]))
            for name, spec in report.models.items()
        ],
        plot=_plot(report),
        sets=[_set(one) for one in report.sets],
    )


def _plot(report: "ZeroShotReport") -> str:
    from mmkd.evaluation.plots import as_written
    from mmkd.evaluation.zero_shot_plot import plot_scores

    stream = io.BytesIO()
    with as_written():
        plot_scores(report).savefig(stream, format="png", metadata={"Software": None})
    return base64.b64encode(stream.getvalue()).decode("ascii")


def _set(one: "SetReport") -> dict[str, Any]:
    models = list(one.models.values())
    metrics = list(models[0].scores)
    facts = [
        (
            f"{metric} (chance {100 * models[0].scores[metric].chance:.1f})",
            [cell(m.scores[metric]) for m in models],
        )
        for metric in metrics
    ]
    facts += [(label, [text(model) for model in models]) for label, text in _FACTS.items()]
    return {
        "name": one.task.name,
        "source": f"{one.task.source} · {len(one.labels):,} images · {len(one.task.class_names)} classes",
        "names": list(one.models),
        "facts": facts,
        "notes": one.notes,
        "templates": [
            (template, [cell(model.templates[i]) for model in models])
            for i, template in enumerate(one.task.templates)
            if models[0].templates
        ],
        "classes": [printable(name, limit=40) for name in one.task.class_names],
        "confused": [
            {"name": name, "pairs": _pairs(one, name), "matrix": _matrix(one, name)} for name in one.models
        ],
    }


def _p_value(model: "ModelScores") -> str:
    p = model.scores["top-1"].p_value
    return "" if p is None else f"{p:.4f}"


_FACTS: "dict[str, Callable[[ModelScores], str]]" = {
    "verdict": lambda model: verdict(model) or "above chance",
    "p, class names shuffled": _p_value,
    "expected calibration error": lambda model: f"{100 * model.calibration_error:.1f} %",
    "effective rank of the images": lambda model: (
        f"{model.image_geometry.effective_rank:.1f} of {model.image_geometry.max_rank}"
    ),
    "mean cosine of two images": lambda model: f"{model.image_geometry.mean_cosine:.3f}",
    "alignment of an image and its class": lambda model: f"{model.alignment:.3f}",
    "uniformity of the images": lambda model: f"{model.image_geometry.uniformity:.3f}",
}


def _pairs(one: "SetReport", name: str) -> list[dict[str, Any]]:
    classes = one.task.class_names
    return [
        {
            "true": printable(classes[pair.true], limit=60),
            "predicted": printable(classes[pair.predicted], limit=60),
            "count": f"{pair.images:,} images, {100 * pair.share:.0f} % of the class",
            "pictures": [
                thumbnail(one.task.images[int(one.rows[place])][0])
                for place in pair.places[:PICTURES].tolist()
            ],
        }
        for pair in one.most_confused(name, PAIRS)
    ]


def _matrix(one: "SetReport", name: str) -> list[tuple[str, list[dict[str, Any]]]]:
    classes = one.task.class_names
    if len(classes) > MATRIX:
        return []
    counts = one.confusion(name)
    rows = []
    for true, row in enumerate(counts):
        shares = 100 * row[:-1] / max(1, row.sum())
        cells = [
            {"text": f"{share:.0f}" if share >= 0.5 else "", "shade": round(0.8 * share)} for share in shares
        ]
        rows.append((printable(classes[true], limit=40), cells))
    return rows
