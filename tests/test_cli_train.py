"""``mmkd train`` as a user types it."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml
from command_line import SMALL, mmkd
from safetensors.torch import load_file
from transformers import AutoTokenizer, CLIPModel
from typer.testing import CliRunner

from mmkd.cli.app import app
from mmkd.objective import LOSSES


@pytest.fixture(scope="module")
def workspace(tiny_clip: Path, pairs_parquet: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with a cache of the 96 pairs."""
    work = tmp_path_factory.mktemp("work")
    done = mmkd("cache-teacher", "--teacher", tiny_clip, "--data", pairs_parquet, "--work", work)
    assert done.returncode == 0, done.stderr
    return work


@pytest.fixture(scope="module")
def run(workspace: Path) -> Path:
    """A finished run with the default losses."""
    done = mmkd("train", "--kd", "mse+cos", "--work", workspace, *SMALL, "--seed", "3")
    assert done.returncode == 0, done.stderr
    (folder,) = (workspace / "runs").glob("*-mse+cos")
    return folder


def test_the_help_names_every_loss_with_its_weight() -> None:
    text = CliRunner().invoke(app, ["train", "--help"]).stdout
    for name, loss in LOSSES.items():
        (line,) = [line for line in text.splitlines() if line.split()[:1] == [name]]
        assert f"({loss.weight:g}" in line
        assert ("temperature" in line) == (loss.temperature is not None)
        assert loss.temperature is None or f"temperature {loss.temperature:g}" in line


def test_a_run_holds_all_that_made_it(run: Path, workspace: Path, tiny_clip: Path) -> None:
    record = json.loads((run / "run.json").read_text())
    assert record["state"] == "finished"
    assert record["teacher"]["model"] == str(tiny_clip)
    assert record["recipe"]["seed"] == 3
    assert record["recipe"]["warmup"] == 1
    assert record["steps"] == 12
    assert record["versions"]["torch"] == torch.__version__
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert (config["kd"], config["batch-size"], config["cache"]) == ("mse+cos", 16, str(workspace / "cache"))
    steps = [json.loads(line)["step"] for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert steps == [10, 12]
    assert list((workspace / "cache").glob("neighbours-*.h5"))
    assert "distilled from" in (run / "student" / "README.md").read_text()


def test_the_student_is_a_plain_hugging_face_clip(run: Path, tiny_clip: Path) -> None:
    student = CLIPModel.from_pretrained(run / "student")
    assert student.config.vision_config.num_hidden_layers == 2
    tokens = AutoTokenizer.from_pretrained(run / "student")(["a red circle"], return_tensors="pt")
    assert student.get_text_features(**tokens).pooler_output.shape == (1, 32)
    before = CLIPModel.from_pretrained(tiny_clip).visual_projection.weight
    assert not torch.equal(student.visual_projection.weight, before)


def test_the_saved_config_makes_the_same_student(run: Path, workspace: Path) -> None:
    done = mmkd("train", "--config", run / "config.yaml", "--work", workspace, "--out", workspace / "again")
    assert done.returncode == 0, done.stderr
    first, again = (
        load_file(folder / "student" / "model.safetensors") for folder in (run, workspace / "again")
    )
    assert all(torch.equal(first[name], again[name]) for name in first)


def test_a_flag_beats_the_config(run: Path, workspace: Path) -> None:
    out = workspace / "flag"
    done = mmkd("train", "--config", run / "config.yaml", "--epochs", "1", "--work", workspace, "--out", out)
    assert done.returncode == 0, done.stderr
    assert yaml.safe_load((out / "config.yaml").read_text())["epochs"] == 1


def test_killed_and_resumed_it_ends_with_the_same_student(run: Path, workspace: Path) -> None:
    out = workspace / "killed"
    command = [
        "train",
        "--config",
        run / "config.yaml",
        "--work",
        workspace,
        "--out",
        out,
        "--save-every",
        "3",
    ]
    process = subprocess.Popen(
        [sys.executable, "-m", "mmkd", *map(str, command)], stderr=subprocess.PIPE, start_new_session=True
    )
    deadline = time.monotonic() + 120
    while not list(out.glob("checkpoints/step-*")) and process.poll() is None:
        assert time.monotonic() < deadline, "no checkpoint was written"
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    process.stderr.close()
    assert not (out / "student").exists()
    other = mmkd("train", "--out", out, "--resume", "--lr", "0.5")
    assert "--lr 0.5 was typed, but" in other.stderr
    done = mmkd("train", "--out", out, "--resume")
    assert done.returncode == 0, done.stderr
    assert "resumed" in done.stderr
    assert "is finished, so there is nothing to resume" in mmkd("train", "--out", out, "--resume").stderr
    first, again = (load_file(folder / "student" / "model.safetensors") for folder in (run, out))
    assert all(torch.equal(first[name], again[name]) for name in first)
    steps = [json.loads(line)["step"] for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert steps == sorted(set(steps))


def test_a_clip_from_scratch_needs_no_cache(tiny_clip: Path, pairs_parquet: Path, tmp_path: Path) -> None:
    out = tmp_path / "scratch"
    options = [
        "--kd",
        "none",
        "--task",
        "clip",
        "--model-config",
        tiny_clip / "config.json",
        "--data",
        pairs_parquet,
    ]
    done = mmkd("train", *options, *SMALL, "--out", out)
    assert done.returncode == 0, done.stderr
    student = CLIPModel.from_pretrained(out / "student")
    assert student.config.vision_config.num_hidden_layers == 4
    assert "trained from scratch" in (out / "student" / "README.md").read_text()


def test_tensorboard_gets_the_metrics(workspace: Path, tmp_path: Path) -> None:
    done = mmkd("train", "--work", workspace, *SMALL, "--out", tmp_path / "run", "--tracker", "tensorboard")
    assert done.returncode == 0, done.stderr
    assert list((tmp_path / "run").rglob("events.out.tfevents.*"))


@pytest.mark.parametrize(
    ("options", "part"),
    [
        (["--out", "runs/none", "--resume"], "holds no run.json"),
        (["--kd", "mse+cso"], "unknown loss 'cso' in --kd 'mse+cso'; did you mean 'cos'?"),
        (["--kd", "none", "--task", "none"], "leaves nothing to learn"),
        (["--depth", "4"], "--depth 4 is not smaller than the teacher's 4 layers"),
        (["--batch-size", "97"], "--batch-size 97 is larger than the 96 usable pairs"),
        (["--cache", "nowhere"], "nowhere"),
        (["--precision", "fp64"], "--precision fp64 is unknown"),
        (["--task", "tripplet"], "did you mean 'triplet'?"),
        (
            ["--tracker", "tensorbord"],
            "--tracker tensorbord is unknown or not installed; installed here: tensorboard",
        ),
        (["--model-config", "c.json"], "needs a teacher"),
        (["--resume"], "no unfinished run"),
    ],
)
def test_bad_input_is_one_line(run: Path, workspace: Path, options: list[str], part: str) -> None:
    before = sorted((workspace / "runs").iterdir())
    done = mmkd("train", "--work", workspace, *options)
    assert done.returncode == 1
    error = [line for line in done.stderr.splitlines() if line.startswith("mmkd: ")]
    assert len(error) == 1, done.stderr
    assert part in error[0]
    assert "Traceback" not in done.stderr
    assert sorted((workspace / "runs").iterdir()) == before, "something half-written was left behind"


def test_an_output_folder_that_holds_something_is_refused(run: Path, workspace: Path) -> None:
    done = mmkd("train", "--work", workspace, *SMALL, "--out", run)
    assert done.returncode == 1
    assert "holds something already; pass --resume" in done.stderr


def test_other_weights_under_the_same_name_are_refused(
    tiny_clip: Path, pairs_parquet: Path, tmp_path: Path
) -> None:
    teacher = tmp_path / "teacher"
    shutil.copytree(tiny_clip, teacher)
    assert (
        mmkd("cache-teacher", "--teacher", teacher, "--data", pairs_parquet, "--work", tmp_path).returncode
        == 0
    )
    model = CLIPModel.from_pretrained(teacher)
    with torch.no_grad():
        model.visual_projection.weight[0, 0] += 1
    model.save_pretrained(teacher)
    done = mmkd("train", "--work", tmp_path, *SMALL)
    assert done.returncode == 1
    assert "weights" in done.stderr
    assert not (tmp_path / "runs").exists()
