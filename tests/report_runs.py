"""Run folders as trainings and evaluations leave them, written in an instant, for what reads them."""

import base64
import io
import json
import shutil
from pathlib import Path
from typing import Any

from PIL import Image

from mmkd.files import write_json
from mmkd.runs import Run, claim_run_folder
from mmkd.weights import hash_weights

RECIPE = {
    "kd": "mse+cos",
    "task": "clip",
    "init": "alternate",
    "towers": "both",
    "epochs": 2,
    "batch_size": 16,
    "lr": 1e-3,
    "clip_grad": 1.0,
    "precision": "fp32",
    "seed": 0,
}
CLASSES = ["cat", "dog", "red fox"]


def jpeg() -> str:
    stream = io.BytesIO()
    Image.new("RGB", (16, 16), "red").save(stream, "JPEG")
    return base64.b64encode(stream.getvalue()).decode()


def score(value: float, chance: float = 1 / 3, width: float = 0.05) -> dict[str, Any]:
    low, high = max(0.0, value - width), min(1.0, value + width)
    return {
        "value": value,
        "low": low,
        "high": high,
        "chance": chance,
        "p_value": 0.01,
        "at_chance": low <= chance,
    }


def make_run(
    folder: Path, student: Path | None = None, *, teacher: Path | None = None, **changes: Any
) -> Run:
    """A run of four logged steps; with ``student`` it is finished, and that folder its student."""
    record = {
        "recipe": {**RECIPE, **changes},
        "teacher": {"model": str(teacher or "/nowhere/teacher"), "revision": None, "weights_hash": "t" * 32},
        "cache": {"path": "/nowhere/cache", "key": "c" * 32},
        "data": [{"spec": "pairs.parquet", "split": "train"}],
        "pairs": 96,
        "command": ["mmkd", "train", "--kd", "mse+cos"],
        "processes": 1,
        "versions": {"mmkd": "0.1.0", "torch": "2.13.0"},
    }
    run = claim_run_folder(folder, record)
    rest = {"grad_norm": 2.0, "lr": 1e-3, "pairs_per_second": 99.0}
    lines: list[dict[str, float]] = [
        {"step": step, "loss": 4.0 / step, "mse": 0.01 / step, "cos": 0.5 / step, **rest}
        for step in (10, 20, 30, 40)
    ]
    lines.append({"step": 40, "val/recall@1": 0.25, "animals/top-1": 0.6})
    run.metrics.write_text("".join(json.dumps(line) + "\n" for line in lines))
    run.config.write_text("kd: mse+cos\n")
    if student is not None:
        shutil.copytree(student, run.student)
        run = run.update(state="finished", steps=40, finished=run.record["started"])
    return run


def evaluate(
    run: Run, *, top_1: float = 0.8, name: str = "animals", source: str = "animals.parquet"
) -> dict[str, Any]:
    """Write zero-shot scores and pictures of ``run``'s student beside its teacher's; gives the JSON."""
    weights = hash_weights(run.student)
    models = {
        "teacher": {"scores": {"top-1": score(0.9), "mean per-class recall": score(0.9)}, "collapsed": False},
        "student": {
            "scores": {"top-1": score(top_1), "mean per-class recall": score(top_1)},
            "collapsed": False,
            "retention": {"top-1": (top_1 - 1 / 3) / (0.9 - 1 / 3)},
        },
    }
    value = {
        "schema": "mmkd.zero-shot",
        "schema_version": 1,
        "reference": "teacher",
        "models": {
            "teacher": {"model": "/nowhere/teacher", "weights_hash": "t" * 32},
            "student": {"model": str(run.student), "weights_hash": weights},
        },
        "sets": [
            {
                "name": name,
                "source": source,
                "images": 300,
                "class_names": CLASSES,
                "notes": [],
                "models": models,
            }
        ],
        "command": ["mmkd", "eval", "zero-shot"],
    }
    write_json(run.folder / "zero-shot.json", value)
    counts = {"teacher": (90, 5), "student": (80, 15)}
    lines = ["set,model,true,predicted,images"]
    for model, (right, wrong) in counts.items():
        for place, true in enumerate(CLASSES):
            other = CLASSES[(place + 1) % 3]
            lines += [f"{name},{model},{true},{true},{right}", f"{name},{model},{true},{other},{wrong}"]
    (run.folder / "zero-shot-confusion.csv").write_text("\n".join(lines) + "\n")
    answers = [
        {"class": one, "confidence": share} for one, share in zip(CLASSES, (0.7, 0.2, 0.1), strict=True)
    ]
    example = {
        "row": 3,
        "true": "cat",
        "picture": jpeg(),
        "answers": {"teacher": answers, "student": answers},
    }
    groups = [{"title": "both right", "images": 240, "share": 0.8, "examples": [example]}]
    write_examples(run, "zero-shot", [{"name": name, "source": source, "groups": groups}])
    return value


def write_examples(run: Run, kind: str, sets: list[dict[str, Any]]) -> None:
    value = {"schema": "mmkd.examples", "schema_version": 1, "sets": sets}
    write_json(run.folder / f"{kind}-examples.json", value)


def judge_bias(run: Run, *, withheld: list[str] | None = None) -> None:
    """Write a bias report."""
    gaps = {"nurse": 0.02, "cook": 0.01, "guard": -0.01, "pilot": -0.02}
    model = {"gaps": gaps, "top": {"woman": ["nurse"], "man": ["pilot"]}}
    value = {
        "schema": "mmkd.bias",
        "schema_version": 1,
        "models": {
            "teacher": model,
            "student": {**model, "model": {"weights_hash": hash_weights(run.student)}},
        },
        "correlations": {"spearman": {"value": 0.91, "low": 0.8, "high": 0.95}, "kendall": None},
        "withheld": withheld or [],
    }
    write_json(run.folder / "bias.json", value)


def judge_bias_2(run: Run, verdict: str, *, withheld: list[str] | None = None) -> None:
    """Write a bias report of version 2."""
    gaps = {
        name: {"raw": raw, "value": 9 * raw}
        for name, raw in zip("abcd", (0.02, 0.01, -0.01, -0.02), strict=True)
    }
    model = {"gaps": gaps, "top": {"woman": ["a"]}}
    comparison = {
        "verdict": verdict,
        "reason": "kept 0.9 of the gaps",
        "withheld": withheld or [],
        "spearman": {"value": 0.77, "interval": {"low": 0.5, "high": 0.9}},
        "kendall": None,
    }
    value = {
        "schema": "mmkd.bias",
        "schema_version": 2,
        "reference": "teacher",
        "models": {"teacher": model, "mine": {**model, "model": {"weights_hash": hash_weights(run.student)}}},
        "comparisons": {"mine": comparison},
        "limits": ["They clear neither."],
    }
    write_json(run.folder / "bias.json", value)


def make_study(folder: Path, *, at_chance: int = 0) -> Path:
    """Write a study's result of two arms and three seeds."""

    def mean(value: float, low_runs: int = 0) -> dict[str, Any]:
        values = [value - 0.01, value, value + 0.01]
        ends = {"low": value - 0.02, "high": value + 0.02, "retention": 0.9}
        return {
            "values": values,
            "mean": value,
            "chance": 0.1,
            "teacher": 0.5,
            "runs_at_chance": low_runs,
            **ends,
        }

    arms = [
        {"name": "mse + cos", "verdict": "best", "loss": "2000*mse", "scores": {"animals/top-1": mean(0.45)}},
        {
            "name": "from scratch",
            "verdict": "not distinguishable from the best",
            "scores": {"animals/top-1": mean(0.12, at_chance)},
        },
    ]
    value = {
        "schema": "mmkd.study",
        "schema_version": 1,
        "name": "which loss",
        "about": ["Which loss is it?"],
        "ranked_by": "animals/top-1",
        "arms": arms,
        "notes": ["Scores are means of 3 seeds."],
    }
    write_json(folder / "study.json", value)
    return folder
