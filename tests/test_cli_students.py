"""``mmkd train`` with students of other shapes and of one tower, as a user types it."""

import json
from pathlib import Path

import pytest
import torch
import yaml
from command_line import SMALL, mmkd
from safetensors.torch import load_file
from transformers import CLIPModel

from mmkd.encoders import load_encoder
from mmkd.heads import HEAD_FILE, ProjectionHead


@pytest.fixture(scope="module")
def work(tiny_clip: Path, tiny_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace whose cache is ``tiny_cache``."""
    folder = tmp_path_factory.mktemp("work")
    (folder / "cache").symlink_to(tiny_cache)
    return folder


@pytest.mark.parametrize(("trained", "frozen"), [("image", "text"), ("text", "vision")])
def test_one_tower_is_trained_and_the_other_stays_the_teachers(
    work: Path, tiny_clip: Path, trained, frozen
) -> None:
    out = work / trained
    done = mmkd("train", "--towers", trained, "--work", work, "--out", out, *SMALL)
    assert done.returncode == 0, done.stderr
    assert f"{trained}: 2 layers of width 32, every other layer of the teacher" in done.stderr
    assert "the teacher's own 4 layers, frozen" in done.stderr
    teacher, student = (load_file(folder / "model.safetensors") for folder in (tiny_clip, out / "student"))
    kept = [name for name in teacher if name.startswith(f"{frozen}_")]
    assert len(kept) > 60
    assert all(torch.equal(student[name], teacher[name]) for name in kept)
    moved = "visual_projection.weight" if trained == "image" else "text_projection.weight"
    assert not torch.equal(student[moved], teacher[moved])
    record = json.loads((out / "run.json").read_text())
    assert (record["recipe"]["task"], record["recipe"]["init"]) == ("clip", "alternate")
    CLIPModel.from_pretrained(out / "student")


def test_a_head_is_trained_saved_and_used(work: Path, tiny_clip: Path, tmp_path: Path) -> None:
    config = json.loads((tiny_clip / "config.json").read_text()) | {"projection_dim": 24}
    (tmp_path / "small.json").write_text(json.dumps(config))
    out = work / "headed"
    done = mmkd("train", "--student-config", tmp_path / "small.json", "--work", work, "--out", out, *SMALL)
    assert done.returncode == 0, done.stderr
    assert "4 + 4 layers of width 32 + 32, random weights · head 24 -> 32" in done.stderr
    encoder = load_encoder(out / "student", device=torch.device("cpu"))
    assert encoder.spec.dim == 32
    first = ProjectionHead(24, 32, seed=0).image.weight
    trained = load_file(out / "student" / HEAD_FILE)
    assert all(not torch.equal(weight, first) for weight in trained.values())
    (checkpoint,) = out.glob("checkpoints/step-12/model.safetensors")
    stored = load_file(checkpoint)
    assert all(torch.equal(stored[f"head.{name}"], weight) for name, weight in trained.items())
    assert "projection_head" in (out / "student" / "README.md").read_text()
    saved = yaml.safe_load((out / "config.yaml").read_text())
    assert saved["student-config"] == str((tmp_path / "small.json").resolve())
    assert saved["init"] == "random"
    again = mmkd("train", "--config", out / "config.yaml", "--work", work, "--out", work / "headed-again")
    assert again.returncode == 0, again.stderr
    other = load_file(work / "headed-again" / "student" / HEAD_FILE)
    assert all(torch.equal(other[name], trained[name]) for name in trained)


def test_another_width_is_said_to_start_at_random(work: Path) -> None:
    out = work / "narrow"
    done = mmkd("train", "--width", "16", "--work", work, "--out", out, *SMALL, "--epochs", "1")
    assert done.returncode == 0, done.stderr
    assert "2 + 2 layers of width 16 + 16, random weights" in done.stderr
    assert CLIPModel.from_pretrained(out / "student").config.text_config.hidden_size == 16
    assert not (out / "student" / HEAD_FILE).exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--width", "16", "--init", "alternate"], "--init alternate asks for the teacher's layers"),
        (["--width", "20"], "--width 20 is not a multiple of 16"),
        (["--student-config", "absent.json"], "cannot read absent.json"),
        (["--width", "16", "--student-config", "x.json"], "--width and --student-config both say"),
        (["--towers", "text", "--task", "triplet"], "add --bank 1024, or use --task clip"),
        (
            ["--model-config", "config.json", "--kd", "none", "--task", "clip", "--towers", "image"],
            "--towers image needs",
        ),
        (
            ["--model-config", "config.json", "--kd", "none", "--width", "16"],
            "--width 16 is for a student of a cached",
        ),
        (
            ["--model-config", "config.json", "--kd", "none", "--init", "first"],
            "--init first needs a teacher",
        ),
    ],
)
def test_what_cannot_be_is_refused_in_one_line_before_a_run_is_made(work: Path, options, message) -> None:
    done = mmkd("train", *options, "--work", work, "--out", work / "refused", *SMALL)
    assert done.returncode == 1
    assert message in done.stderr
    assert not (work / "refused").exists()
