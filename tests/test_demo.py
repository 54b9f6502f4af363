"""The demo: what it refuses, what it leaves behind, and one whole run with a tiny teacher."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from mmkd.cli import demo, demo_workspace
from mmkd.cli.demo_result import read_lines, table, verdict
from mmkd.cli.demo_workspace import DemoSettings, DemoWorkspace, claim, copy_teacher
from mmkd.configs import FOLDER
from mmkd.errors import ConfigError, ModelError
from mmkd.files import write_json

SETTINGS = DemoSettings(pairs=200, epochs=1, batch_size=32, lr=1e-3, seen=1, unseen=1, seed=0)


def mmkd(*arguments: object, work: Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "MMKD_WORK": str(work), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-P", "-m", "mmkd", *map(str, arguments)]
    return subprocess.run(
        command, env=environment, cwd=cwd, capture_output=True, text=True, timeout=400, check=False
    )


def test_refuses_a_folder_that_no_demo_wrote(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(ConfigError, match=r"thesis\.tex, which no demo wrote"):
        claim(DemoWorkspace(tmp_path), SETTINGS)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_goes_on_with_its_own_folder_but_not_with_other_settings(tmp_path: Path) -> None:
    place = DemoWorkspace(tmp_path / "work")
    assert claim(place, SETTINGS) == claim(place, SETTINGS)
    with pytest.raises(ConfigError, match="a demo with pairs 200; this one has pairs 300"):
        claim(place, replace(SETTINGS, pairs=300))


def test_refusal_is_one_line_at_the_terminal(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("mine")
    done = mmkd("demo", work=tmp_path, cwd=tmp_path)
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith("mmkd: ")
    assert done.stderr.count("\n") == 1


def test_a_teacher_without_weights_is_named(tmp_path: Path) -> None:
    (tmp_path / "teacher").mkdir()
    with pytest.raises(ModelError, match=r"lacks config\.json"):
        copy_teacher(DemoWorkspace(tmp_path / "work"), tmp_path / "teacher")
    assert not (tmp_path / "work").exists()


def test_no_test_scene_was_a_training_scene_of_the_teacher() -> None:
    assert demo_workspace._PAIRS_SEED != demo_workspace._TEST_SEED != 1


def finished_run(folder: Path, started: str) -> Path:
    (folder / "student").mkdir(parents=True)
    write_json(folder / "run.json", {"state": "finished", "started": started})
    return folder


def test_a_second_start_trains_only_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place, ran = DemoWorkspace(tmp_path), []

    def pretend(_: DemoWorkspace, *arguments: str) -> None:
        ran.append(arguments[:3])
        folder = Path(arguments[-1]) if "--out" in arguments else place.space.runs / "first"
        finished_run(folder, "2026-01-01")

    monkeypatch.setattr(demo, "_mmkd", pretend)
    claim(place, SETTINGS)
    (place.scratch / "checkpoints").mkdir(parents=True)  # cut off half-way
    for _ in range(2):
        record = claim(place, SETTINGS)
        student = demo._train_student(place, record)
        demo._train_scratch(place)
        assert student == place.space.runs / "first"
        assert demo._unless_latest(place, student) == []
    assert ran == [("train", "--kd", "mse+cos"), ("train", "--kd", "none")]
    assert not (place.scratch / "checkpoints").exists()
    finished_run(place.space.runs / "mine", "2026-01-02")
    assert demo._unless_latest(place, student) == ["--model", str(student)]


def report(path: Path, student: float) -> Path:
    def score(value: float) -> dict[str, Any]:
        return {"value": value, "low": value - 0.02, "high": value + 0.02, "chance": 0.01}

    def model(value: float) -> dict[str, Any]:
        return {
            "scores": {"top-1": score(value), "top-5": score(value + 0.03)},
            "retention": {"top-1": value, "top-5": None},
        }

    sets = [
        {"name": name, "models": {"teacher": model(0.95), "student": model(student)}}
        for name in ("seen", "never-seen")
    ]
    path.write_text(json.dumps({"sets": sets}))
    return path


def test_table_puts_student_beside_scratch(tmp_path: Path) -> None:
    lines = read_lines(report(tmp_path / "student.json", 0.9), report(tmp_path / "scratch.json", 0.1))
    assert [(line.title, line.metric) for line in lines][::2] == [
        ("classes seen", "top-1"),
        ("never seen", "top-1"),
    ]
    rows = table(lines)
    assert max(map(len, rows)) <= 80
    start = rows.index(next(row for row in rows if row.startswith("classes seen")))
    words = [row.replace("from scratch", "scratch").split() for row in rows[start : start + 5]]
    assert words[0] == ["classes", "seen", "top-1", "top-5"]
    assert words[1][:2] == ["chance", "1.0"]
    assert words[2][:4] == ["teacher", "95.0", "[93.0,", "97.0]"]
    assert words[3][:7] == ["student", "90.0", "[88.0,", "92.0]", "kept", "90", "%"]
    assert words[4][:4] == ["scratch", "10.0", "[8.0,", "12.0]"]


@pytest.mark.parametrize(("scratch", "beats"), [(0.1, True), (0.87, False), (0.95, False)])
def test_verdict_asks_for_intervals_that_do_not_touch(tmp_path: Path, scratch: float, beats: bool) -> None:
    lines = read_lines(report(tmp_path / "student.json", 0.9), report(tmp_path / "scratch.json", scratch))
    assert ("not clearly" not in verdict(lines)) == beats


@pytest.fixture
def scene_teacher(tmp_path: Path) -> Path:
    """A random 4 + 4-layer CLIP with the carried teacher's tokenizer and preprocessing."""
    import torch
    from transformers import CLIPConfig, CLIPModel

    folder = tmp_path / "scene-teacher"
    shutil.copytree(FOLDER / "demo" / "teacher", folder, ignore=shutil.ignore_patterns("*.safetensors"))
    values = json.loads((folder / "config.json").read_text())
    for tower in ("text_config", "vision_config"):
        values[tower] |= {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 4}
        values[tower] |= {"num_attention_heads": 2}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        CLIPModel(CLIPConfig(**values)).save_pretrained(folder)
    return folder


@pytest.mark.slow
def test_whole_demo_leaves_a_workspace_for_the_plain_commands(tmp_path: Path, scene_teacher: Path) -> None:
    work = tmp_path / "work"
    options = ["--pairs", 200, "--epochs", 1, "--batch-size", 32, "--seen", 1, "--unseen", 2]
    done = mmkd("demo", *options, "--teacher", scene_teacher, work=work, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    for said in ("from scratch", "never seen", "openai/clip-vit-base-patch32"):
        assert said in done.stdout
    assert "never saw a person" in " ".join(done.stderr.split())

    student, *others = (work / "runs").iterdir()
    assert not others
    for run in (student, work / "scratch"):
        recipe = yaml.safe_load((run / "config.yaml").read_text())
        assert (recipe["epochs"], recipe["batch-size"], recipe["seed"]) == (1, 32, 0)
        config = json.loads((run / "student" / "config.json").read_text())
        assert config["vision_config"]["num_hidden_layers"] == 2

    # the plain commands, offline, in that workspace; the scratch run is not the latest
    judged = mmkd("eval", "zero-shot", work=work, cwd=tmp_path)
    assert judged.returncode == 0, judged.stderr
    assert str(student) in judged.stderr
    assert "never-seen" in judged.stdout
