"""Mining as a training takes it: its options, its file beside the cache, and mining again in the student's space."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from command_line import Done, mmkd
from planned import epoch_of
from safetensors.torch import load_file

from mmkd.batches import BatchReader, BatchStream
from mmkd.cache.neighbours import load_or_mine
from mmkd.cache.store import open_cache
from mmkd.errors import TrainingError
from mmkd.mining import ArraySpace, NegativeRules, SearchOptions, Share
from mmkd.mining.refresh import Refresher, embed_rows, load_neighbours
from mmkd.row_set import RowSet
from mmkd.sampling import BatchPlan
from mmkd.step import PairStudent
from mmkd.students import halve

SMALL = ["--batch-size", "16", "--epochs", "3", "--workers", "0", "--kd", "cos"]


def train(cache: Path, out: Path, *options: str) -> Done:
    return mmkd("train", "--cache", cache, "--out", out, *SMALL, *options)


def test_they_are_kept_beside_the_cache_by_what_they_depend_on(copied_cache: Path) -> None:
    store, rows = open_cache(copied_cache), np.arange(96)
    heard: list[str] = []

    def mine(rules: NegativeRules, method: str = "exact") -> np.ndarray:
        heard.clear()
        return load_or_mine(
            store,
            rows,
            store.hashes(rows)[:, 1],
            rules=rules,
            seed=0,
            search=SearchOptions(method),
            share=Share(),
            on_progress=lambda stage, *_: heard.append(stage),
        ).rows

    first = mine(NegativeRules(4))
    assert heard
    assert np.array_equal(mine(NegativeRules(4)), first)
    assert not heard
    (file,) = copied_cache.glob("neighbours-*.h5")
    file.write_bytes(file.read_bytes()[:-40])
    assert np.array_equal(mine(NegativeRules(4)), first)
    assert heard
    assert not np.array_equal(mine(NegativeRules(4, range_min=2)), first)
    mine(NegativeRules(4), "ivf")
    assert heard
    assert len(list(copied_cache.glob("neighbours-*.h5"))) == 3


def test_a_training_says_how_it_mined(copied_cache: Path, tmp_path: Path) -> None:
    done = train(copied_cache, tmp_path / "a", "--neighbours", "20", "--relative-margin", "0")
    assert done.returncode == 0, done.stderr
    assert "11 negatives a row of 20 asked for among first captions, exact search" in done.stderr
    assert (
        "kept from an earlier run"
        in train(copied_cache, tmp_path / "b", "--neighbours", "20", "--relative-margin", "0").stderr
    )
    done = train(copied_cache, tmp_path / "c", "--neighbours", "4", "--mining-search", "ivf")
    assert (
        "4 negatives a row among first captions, IVF, 2 of 2 lists" in done.stderr
        or "IVF, 1 of 1 lists" in done.stderr
    )


def test_random_negatives_are_not_mined(copied_cache: Path, tmp_path: Path) -> None:
    done = train(copied_cache, tmp_path / "run", "--negatives", "random")
    assert done.returncode == 0, done.stderr
    assert "mined" not in done.stderr
    assert not list(copied_cache.glob("neighbours-*"))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            "--mining-range-min 4 --mining-range-max 4",
            "--mining-range-max 4 is not above --mining-range-min 4; raise it",
        ),
        ("--absolute-margin 3", "--absolute-margin 3 is out of range; expected 0 to 2"),
        ("--mining-memory lots", "cannot read --mining-memory 'lots'; expected a size such as 4GB or 500MB"),
        ("--mining-memory 1KB", "--mining-memory 1KB is too little"),
        (
            "--mining-search annoy",
            "--mining-search annoy is unknown; expected one of auto, exact, ivf, ivf-pq",
        ),
        ("--refresh-every -1", "--refresh-every -1 is below 0"),
        ("--refresh-every 1 --task clip", "--refresh-every 1 mines for --task triplet or a --bank"),
    ],
)
def test_what_cannot_be_mined_is_refused(tiny_cache: Path, tmp_path: Path, options: str, said: str) -> None:
    done = train(tiny_cache, tmp_path / "run", *options.split())
    assert done.returncode == 1
    assert said in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "run").exists()


@pytest.fixture
def refresher(tiny_cache: Path, tmp_path: Path):
    """A refresher over the 96 rows whose student embeds by chance."""
    store, rows = open_cache(tiny_cache), np.arange(96)

    def embed() -> ArraySpace:
        generator = np.random.default_rng(7)
        return ArraySpace(generator.standard_normal((96, 8)), generator.standard_normal((96, 8)))

    return Refresher(
        every=2,
        folder=tmp_path,
        store=store,
        rows=rows,
        caption_ids=store.hashes(rows)[:, 1],
        embed=embed,
        rules=NegativeRules(6),
        seed=0,
        search=SearchOptions(),
        share=Share(),
        on_progress=lambda *_: None,
        on_mined=lambda _: None,
    )


def test_batches_follow_the_students_neighbours_from_its_epoch_on(
    refresher: Refresher, tiny_pairs, tiny_encoder, tmp_path: Path
) -> None:
    first = np.full((96, 1), -1, dtype=np.int32)
    every = RowSet.only(refresher.rows)
    plan = BatchPlan(every, 16, 0, first)
    reader = BatchReader(
        tiny_pairs, tiny_encoder.image_processor, tiny_encoder.tokenizer, 77, refresher.store
    )

    def seen(step: int) -> list[list[int]]:
        stream = BatchStream(reader, plan, rank=0, world=1, workers=0, on_epoch=refresher)
        batches = stream.from_step(step)
        return [next(batches).image_ids.tolist() for _ in range(18 - step)]

    whole = seen(0)
    mined = load_neighbours(tmp_path / "neighbours-epoch-2.npz", 96)
    ids = refresher.store.hashes(np.arange(96))[:, 0].astype(np.int64)
    for epoch, neighbours in ((0, first), (1, first), (2, mined)):
        rows, _ = epoch_of(BatchPlan(every, 16, 0, neighbours), epoch)
        assert whole[6 * epoch : 6 * epoch + 6] == ids[rows].tolist()
    unrefreshed, _ = epoch_of(plan, 2)
    assert whole[12:] != ids[unrefreshed].tolist()
    # Resumed in the middle of an epoch: what was mined is read, not mined with another student.
    object.__setattr__(refresher, "embed", None)
    assert seen(14) == whole[14:]
    (tmp_path / "neighbours-epoch-2.npz").write_bytes(b"PK")
    with pytest.raises(TrainingError, match=r"neighbours-epoch-2\.npz is missing or damaged"):
        seen(14)


def test_rows_are_embedded_as_the_student_embeds_them(
    tiny_clip: Path, tiny_cache: Path, tiny_pairs, tiny_encoder
) -> None:
    student = PairStudent(halve(str(tiny_clip)))
    student.train()
    store, rows = open_cache(tiny_cache), np.arange(3, 80, 7)
    processors = tiny_encoder.image_processor, tiny_encoder.tokenizer
    heard: list[int] = []

    def embed(sides: tuple[str, ...], share: Share, batch: int) -> ArraySpace:
        reader = BatchReader(tiny_pairs, *processors, 77, store, sides=sides)
        return embed_rows(
            student,
            reader,
            rows,
            batch=batch,
            workers=0,
            device=torch.device("cpu"),
            share=share,
            on_progress=lambda _, done, __: heard.append(done),
        )

    found = embed(("image", "text"), Share(), 4)
    assert heard == [4, 8, 11]
    assert student.training
    own = embed(("image",), Share(), 5)
    every = np.arange(len(rows))
    assert np.allclose(own.images(every), found.images(every), atol=2e-3)
    assert np.allclose(own.texts(every), store.read(rows).text, atol=2e-3)
    assert not np.allclose(found.texts(every), store.read(rows).text, atol=0.1)


def test_killed_and_resumed_it_ends_with_the_same_student(copied_cache: Path, tmp_path: Path) -> None:
    options = ["--refresh-every", "1", "--neighbours", "6", "--save-every", "8", "--lr", "1e-2"]
    done = train(copied_cache, tmp_path / "whole", *options, "--keep", "9")
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("in the student's space") == 2
    assert {file.name for file in (tmp_path / "whole").glob("neighbours-*")} == {
        "neighbours-epoch-1.npz",
        "neighbours-epoch-2.npz",
    }
    # As a kill at step 15 leaves it: the checkpoint of step 8, in the middle of the second epoch of 6 steps.
    killed = Path(shutil.copytree(tmp_path / "whole", tmp_path / "killed"))
    shutil.rmtree(killed / "student")
    for step in (16, 18):
        shutil.rmtree(killed / "checkpoints" / f"step-{step}")
    record = json.loads((killed / "run.json").read_text())
    (killed / "run.json").write_text(json.dumps({**record, "state": "training"}))
    done = mmkd("train", "--resume", "--out", killed)
    assert done.returncode == 0, done.stderr
    assert "from step 8" in done.stderr
    assert "in the student's space" not in done.stderr
    first, again = (
        load_file(tmp_path / name / "student" / "model.safetensors") for name in ("whole", "killed")
    )
    assert all(torch.equal(first[name], again[name]) for name in first)
    plain = train(copied_cache, tmp_path / "plain", *options[2:])
    assert plain.returncode == 0, plain.stderr
    other = load_file(tmp_path / "plain" / "student" / "model.safetensors")
    assert any(not torch.equal(first[name], other[name]) for name in first)
