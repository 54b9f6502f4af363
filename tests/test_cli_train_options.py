"""Options of ``mmkd train`` that change how a step is taken, and what is judged on the way."""

import json
import math
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from command_line import SMALL, mmkd
from datasets import ClassLabel, Dataset, Features
from datasets import Image as ImageFeature
from safetensors.torch import load_file
from transformers import CLIPModel

from mmkd.data import DataSource, open_pairs


@pytest.fixture(scope="module")
def workspace(tiny_clip: Path, pairs_parquet: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    work = tmp_path_factory.mktemp("work")
    done = mmkd("cache-teacher", "--teacher", tiny_clip, "--data", pairs_parquet, "--work", work)
    assert done.returncode == 0, done.stderr
    return work


@pytest.fixture(scope="module")
def colours(pairs_parquet: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pictures, each with its colour for a label."""
    pairs = open_pairs([DataSource(str(pairs_parquet))])
    words = [pair.captions[0].split()[1] for pair in (pairs[row] for row in range(len(pairs)))]
    names = sorted(set(words))
    rows = {"image": [{"bytes": pairs[row].image, "path": None} for row in range(len(pairs))]}
    features = Features({"image": ImageFeature(), "label": ClassLabel(names=names)})
    data = Dataset.from_dict({**rows, "label": [names.index(word) for word in words]}, features=features)
    path = tmp_path_factory.mktemp("labelled") / "colours.parquet"
    data.to_parquet(str(path))
    return path


def train(workspace: Path, name: str, *options: str | Path) -> Path:
    """The run's folder."""
    out = workspace / name
    done = mmkd("train", "--work", workspace, *SMALL, "--out", out, *options)
    assert done.returncode == 0, done.stderr
    return out


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "student" / "model.safetensors")


def metrics(run: Path, name: str) -> list[tuple[int, float]]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [(line["step"], line[name]) for line in lines if name in line]


def assert_close(one: Path, other: Path, tolerance: float) -> None:
    first, second = weights(one), weights(other)
    for name, tensor in first.items():
        torch.testing.assert_close(tensor, second[name], rtol=0, atol=tolerance, msg=name)


@pytest.fixture(scope="module")
def plain(workspace: Path) -> Path:
    return train(workspace, "plain")


def test_accumulated_batches_are_one_large_batch(workspace: Path, plain: Path) -> None:
    parts = train(workspace, "parts", "--batch-size", "4", "--accumulate", "4")
    assert_close(parts, plain, 2e-5)
    assert metrics(parts, "loss") == [
        (step, pytest.approx(value, rel=1e-4)) for step, value in metrics(plain, "loss")
    ]


def test_activations_computed_twice_are_the_same(workspace: Path, plain: Path) -> None:
    assert_close(train(workspace, "checkpointed", "--gradient-checkpointing"), plain, 1e-6)


@pytest.mark.full
@pytest.mark.filterwarnings("ignore:.*torch.jit.script_method:DeprecationWarning")  # torch's own compiler
def test_a_compiled_student_learns_the_same(workspace: Path, plain: Path) -> None:
    compiled = train(workspace, "compiled", "--compile")
    assert_close(compiled, plain, 1e-3)
    CLIPModel.from_pretrained(compiled / "student")


def test_the_average_is_saved_in_the_weights_stead(workspace: Path, plain: Path) -> None:
    average = weights(train(workspace, "average", "--ema", "0.9"))
    last = weights(plain)
    moved = [name for name in last if not torch.equal(last[name], average[name])]
    assert "vision_model.encoder.layers.0.mlp.fc1.weight" in moved
    assert "logit_scale" not in moved  # not trained with the triplet loss


def test_bf16_trains_on_a_cpu(workspace: Path) -> None:
    found = [value for _, value in metrics(train(workspace, "bf16", "--precision", "bf16"), "loss")]
    assert all(math.isfinite(value) for value in found)
    assert found[-1] < found[0] * 1.5


def test_a_bank_changes_what_is_learnt(workspace: Path, plain: Path) -> None:
    bank = train(workspace, "bank", "--bank", "32")
    assert metrics(bank, "triplet")[0][1] != metrics(plain, "triplet")[0][1]
    assert not torch.equal(
        weights(bank)["visual_projection.weight"], weights(plain)["visual_projection.weight"]
    )


@pytest.mark.parametrize(("towers", "frozen", "kept"), [("image", "text", 4), ("text", "vision", 4)])
def test_one_tower_is_trained_and_the_other_is_the_teachers(
    workspace: Path, tiny_clip: Path, towers: str, frozen: str, kept: int
) -> None:
    student = CLIPModel.from_pretrained(train(workspace, towers, "--towers", towers) / "student")
    teacher = CLIPModel.from_pretrained(tiny_clip)
    tower, other = getattr(student, f"{frozen}_model"), getattr(teacher, f"{frozen}_model")
    assert len(tower.encoder.layers) == kept
    for mine, theirs in zip(tower.parameters(), other.parameters(), strict=True):
        assert torch.equal(mine, theirs)


def test_pairs_held_out_are_judged_by_and_not_trained_on(workspace: Path) -> None:
    run = train(workspace, "held-out", "--hold-out", "20", "--limit", "80")
    assert json.loads((run / "run.json").read_text())["pairs"] == 60
    assert len(metrics(run, "val/recall@1")) == 2  # an epoch each
    both = mmkd("train", "--work", workspace, *SMALL, "--hold-out", "20", "--val-data", "x.parquet")
    assert "--val-data and --hold-out both name the pairs to judge by" in both.stderr
    assert (
        "--hold-out 1 is no set to judge by" in mmkd("train", "--work", workspace, "--hold-out", "1").stderr
    )


def test_isolated_towers_have_no_term_across(workspace: Path) -> None:
    run = train(workspace, "isolated", "--towers", "isolated")
    record = json.loads((run / "run.json").read_text())
    assert record["recipe"]["task"] == "none"
    assert metrics(run, "cos")


def test_the_student_is_judged_on_its_way_and_the_best_is_kept(
    workspace: Path, pairs_parquet: Path, colours: Path
) -> None:
    # A huge rate at the end of which nothing is left of the student: the best one is an early one.
    options = ["--val-data", pairs_parquet, "--eval-data", colours, "--eval-limit", "30", "--eval-every", "3"]
    run = train(workspace, "judged", *options, "--keep-best", "val/loss", "--keep", "1", "--save-every", "3")
    found = dict(metrics(run, "val/loss"))
    assert list(found) == [3, 6, 9, 12]
    assert len(metrics(run, "colours/top-1")) == 4
    best = min(found, key=found.__getitem__)
    kept = {path.name for path in (run / "checkpoints").iterdir()}
    assert kept == {f"step-{best}", "step-12"}
    assert json.loads((run / "run.json").read_text())["steps"] == best
    checkpoint = load_file(run / "checkpoints" / f"step-{best}" / "model.safetensors")
    name = "visual_projection.weight"
    assert torch.equal(weights(run)[name], checkpoint[f"clip.{name}"])


def test_it_stops_early_where_nothing_gets_better(workspace: Path, pairs_parquet: Path) -> None:
    options = ["--val-data", pairs_parquet, "--eval-every", "1", "--patience", "2", "--lr", "1"]
    run = train(workspace, "stopped", *options)
    steps = [step for step, _ in metrics(run, "val/loss")]
    assert steps[-1] < 12
    values = [value for _, value in metrics(run, "val/loss")]
    assert min(values[-2:]) >= min(values[:-2])


def test_a_checkpoint_of_another_run_is_refused(workspace: Path, plain: Path) -> None:
    out = workspace / "unfinished"
    shutil.copytree(plain, out)
    shutil.rmtree(out / "student")
    record = json.loads((out / "run.json").read_text())
    (out / "run.json").write_text(json.dumps({**record, "state": "training", "started": "another day"}))
    done = mmkd("train", "--resume", "--out", out)
    assert done.returncode == 1
    assert "is a checkpoint of another run" in done.stderr


def test_a_checkpoint_of_another_student_is_refused(workspace: Path, plain: Path) -> None:
    out = workspace / "other-student"
    shutil.copytree(plain, out)
    shutil.rmtree(out / "student")
    record = json.loads((out / "run.json").read_text())
    (out / "run.json").write_text(json.dumps({**record, "state": "training"}))
    settings = yaml.safe_load((out / "config.yaml").read_text())
    (out / "config.yaml").write_text(yaml.safe_dump({**settings, "depth": 1}))
    done = mmkd("train", "--resume", "--out", out)
    assert done.returncode == 1
    assert "is not a checkpoint of this student" in done.stderr


@pytest.mark.parametrize(
    ("options", "part"),
    [
        (["--accumulate", "0"], "--accumulate 0 is not at least 1"),
        (["--accumulate", "7"], "--batch-size 16 times --accumulate 7 is larger than the 96 usable pairs"),
        (["--ema", "1"], "--ema 1.0 is not from 0"),
        (["--layer-decay", "0"], "--layer-decay 0.0 is not above 0"),
        (["--bank", "90"], "use a --bank of at most 80"),
        (["--keep-best", "val/loss"], "need something to measure"),
        (["--patience", "3"], "need something to measure"),
        (["--precision", "fp16"], "--precision fp16 needs an accelerator"),
    ],
)
def test_bad_input_is_one_line(workspace: Path, options: list[str], part: str) -> None:
    before = set((workspace / "runs").glob("*"))
    done = mmkd("train", "--work", workspace, *SMALL, *options)
    assert done.returncode == 1
    assert set((workspace / "runs").glob("*")) == before, "a run was begun that could not be trained"
    error = [line for line in done.stderr.splitlines() if line.startswith("mmkd: ")]
    assert len(error) == 1, done.stderr
    assert part in error[0]


def test_a_metric_that_is_not_measured_is_refused(workspace: Path, pairs_parquet: Path) -> None:
    done = mmkd("train", "--work", workspace, *SMALL, "--val-data", pairs_parquet, "--keep-best", "val/los")
    assert done.returncode == 1
    assert "--keep-best val/los is not measured; expected one of val/loss, val/recall@1" in done.stderr


def test_siglip_starts_from_a_bias_that_fits_the_teachers_pairs(workspace: Path) -> None:
    def checkpointed(*options: str) -> float:
        run = train(
            workspace, f"siglip{len(options)}", "--task", "siglip", "--kd", "none", "--lr", "1e-9", *options
        )
        (folder,) = (run / "checkpoints").iterdir()
        return load_file(folder / "model.safetensors")["logit_bias"].item()

    assert checkpointed("--init", "random") == pytest.approx(-10, abs=1e-3)
    assert abs(checkpointed() + 10) > 1
