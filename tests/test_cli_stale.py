"""``mmkd train`` refuses a cache of another teacher or of other data before its first step, and says which."""

import json
import os
import re
import shutil
from pathlib import Path

import pytest
import torch
from command_line import SMALL, mmkd
from conftest import draw_pair, save_pairs, save_tiny_clip

from mmkd.cache.build import build_cache
from mmkd.data import DataSource, open_pairs
from mmkd.encoders import load_encoder

ROWS = 32


@pytest.fixture(scope="module")
def bound(tiny_clip, tmp_path_factory) -> Path:
    """A teacher, data and a cache that belong together, in a folder of their own."""
    folder = tmp_path_factory.mktemp("bound")
    shutil.copytree(tiny_clip, folder / "teacher")
    save_rows(folder, list(range(ROWS)))
    pairs = open_pairs([DataSource(str(folder / "pairs.parquet"))])
    encoder = load_encoder(folder / "teacher", device=torch.device("cpu"))
    build_cache(encoder, pairs, folder / "cache", shard_rows=20, batch_size=8, workers=0)
    return folder


def save_rows(folder: Path, numbers: list[int], **edits: dict) -> None:
    images, captions = zip(*map(draw_pair, numbers), strict=True)
    columns = {"images": list(images), "captions": list(captions)}
    for column, changes in edits.items():
        for row, value in changes.items():
            columns[column][row] = value
    save_pairs(folder / "pairs.parquet", columns["images"], columns["captions"])


def edit_json(path: Path, edit) -> None:
    value = json.loads(path.read_text())
    edit(value)
    path.write_text(json.dumps(value))


def other_preprocessing(folder: Path) -> None:
    file = next((folder / "teacher").glob("*processor_config.json"))
    edit_json(file, lambda value: (value.get("image_processor") or value).update(resample=2))


def other_tokenizer(folder: Path) -> None:
    edit_json(folder / "teacher" / "tokenizer.json", lambda value: value.update(normalizer=None))


ORDER = list(range(ROWS))
CHANGES = {
    "weights": (
        lambda f: save_tiny_clip(f / "teacher", seed=1),
        r"with weights ....… \(now ....…\); make it",
    ),
    "preprocessing": (other_preprocessing, r"with preprocessing ....… \(now ....…\); make it"),
    "tokenizer": (other_tokenizer, r"with tokenizer ....… \(now ....…\); make it"),
    "layers": (lambda f: save_tiny_clip(f / "teacher", layers=2), r"layers \(4, 4\) \(now \(2, 2\)\)"),
    "no teacher": (lambda f: shutil.rmtree(f / "teacher"), "no folder .*teacher"),
    "reordered": (
        lambda f: save_rows(f, [1, 0, *ORDER[2:]]),
        "made from other data: 2 of 32 rows looked at differ, the first of them row 0",
    ),
    "an image edited": (lambda f: save_rows(f, ORDER, images={7: draw_pair(99)[0]}), "1 of 32 .* row 7"),
    "a caption edited": (lambda f: save_rows(f, ORDER, captions={31: "another"}), "1 of 32 .* row 31"),
    "shorter": (lambda f: save_rows(f, ORDER[:-1]), "holds 32 rows, but the data has 31"),
    "longer": (lambda f: save_rows(f, [*ORDER, 0]), "holds 32 rows, but the data has 33"),
    "no data": (lambda f: (f / "pairs.parquet").unlink(), "no file or folder matches .*pairs.parquet"),
    "hash of the rows": (
        lambda f: edit_json(f / "cache/manifest.json", lambda v: v.update(data_hash="0" * 32)),
        "manifest.json says data_hash 00000000…, and the rows' own hashes give",
    ),
    "manifest alone": (
        lambda f: edit_json(
            f / "cache/manifest.json", lambda v: v["settings"]["teacher"].update(logit_scale=1.0)
        ),
        "manifest.json and shard-00000.json in .* contradict each other",
    ),
}


@pytest.mark.parametrize("what", CHANGES)
def test_what_does_not_belong_together_is_refused_before_the_first_step(bound, tmp_path, what):
    change, message = CHANGES[what]
    whole = Path(shutil.copytree(bound, tmp_path / "whole"))
    try:
        change(bound)
        done = mmkd(
            "train", "--cache", bound / "cache", "--out", tmp_path / "run", *SMALL, "--batch-size", "8"
        )
    finally:
        shutil.rmtree(bound)
        shutil.copytree(whole, bound)
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("mmkd: ")]
    assert done.returncode == 1
    assert re.search(message, line), line
    assert not [*(tmp_path / "run").rglob("*.safetensors")]
    assert not [*(tmp_path / "run").rglob("metrics*")]


@pytest.fixture
def hub(tiny_clip):
    """A model of the local Hub cache in two revisions, the later with other weights."""
    folder = Path(os.environ["HF_HOME"]) / "hub" / "models--somebody--clip"
    shutil.copytree(tiny_clip, folder / "snapshots" / ("a" * 40))
    save_tiny_clip(folder / "snapshots" / ("b" * 40), seed=1)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("a" * 40)
    yield folder
    shutil.rmtree(folder)


def test_another_revision_is_told_from_the_one_that_made_the_cache(hub, bound, tmp_path):
    cache = ["--teacher", "somebody/clip", "--data", bound / "pairs.parquet", "--out", tmp_path / "cache"]
    done = mmkd("cache-teacher", *cache)
    assert done.returncode == 0, done.stderr
    (hub / "refs" / "main").write_text("b" * 40)
    again = mmkd("cache-teacher", *cache)
    assert re.search(r"already holds a cache made with weights ....… \(here ....…\)", again.stderr)
    options = ["--cache", tmp_path / "cache", "--out", tmp_path / "run", *SMALL, "--batch-size", "8"]
    done = mmkd("train", *options, "--epochs", "1")  # the manifest's revision is read, not the latest
    assert done.returncode == 0, done.stderr
    shutil.rmtree(hub / "snapshots" / ("a" * 40))
    done = mmkd("train", *options[:2], *SMALL, "--batch-size", "8")
    assert done.returncode == 1
    assert "somebody/clip is neither a folder nor in the local Hub cache" in done.stderr
