"""``mmkd cache-teacher`` as it is typed: what it says, what it writes, and one line for every mistake."""

import json
from dataclasses import dataclass
from pathlib import Path

import pytest
from conftest import draw_pair, save_pairs

from mmkd.cache.store import open_cache
from mmkd.cli.app import run


@dataclass
class Finished:
    code: int
    stdout: str
    stderr: str


@pytest.fixture
def mmkd(tmp_path, monkeypatch, capsys):
    """Runs a command line in this process, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MMKD_VERBOSE", "1")
    for name in ("MMKD_WORK", "RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)

    def command(*arguments) -> Finished:
        capsys.readouterr()
        with pytest.raises(SystemExit) as left:
            run(["cache-teacher", *map(str, arguments)])
        out, err = capsys.readouterr()
        return Finished(int(left.value.code or 0), out, err)

    return command


def test_says_what_it_takes_for_granted_and_what_to_type_next(mmkd, tiny_clip, pairs_parquet):
    done = mmkd("--teacher", tiny_clip, "--data", pairs_parquet, "--shard-rows", 40)
    assert done.code == 0, done.stderr
    lines = done.stderr.splitlines()
    said = {line.split()[0]: line.split(maxsplit=1)[1] for line in lines if line and line[0] != " "}
    assert f"{tiny_clip} · 4 + 4 layers · 32-d" in said["teacher"]
    assert "train · 96 pairs · image: image · caption: caption" in said["data"]
    assert said["writes"].startswith("work/cache · 3 shards · 96 rows · ")
    assert "(disk has " in said["writes"]
    assert said["cached"].startswith("96 pairs in 3 shards")
    assert said["next"] == "accelerate launch mmkd train --kd mse+cos"
    store = open_cache("work/cache")
    assert (len(store), store.manifest.sources[0].spec) == (96, str(pairs_parquet))


def test_goes_on_where_it_was_stopped(mmkd, tiny_clip, pairs_parquet, monkeypatch):
    from mmkd.cache import making

    options = ("--teacher", tiny_clip, "--data", pairs_parquet, "--shard-rows", 20, "--out", "elsewhere")
    plain = making.write_record
    written: list[int] = []

    def interrupted(folder, index, settings, record):
        if len(written) == 2:
            raise KeyboardInterrupt
        written.append(index)
        plain(folder, index, settings, record)

    monkeypatch.setattr(making, "write_record", interrupted)
    done = mmkd(*options)
    assert done.code == 130
    assert done.stderr.splitlines()[-1].split(maxsplit=1) == [
        "stopped",
        "after shard 2 of 5; the same command goes on from there",
    ]
    assert not Path("elsewhere/manifest.json").exists()
    monkeypatch.setattr(making, "write_record", plain)
    done = mmkd(*options)
    assert done.code == 0
    assert "2 shards already there" in done.stderr
    assert "next      accelerate launch mmkd train --kd mse+cos --cache elsewhere" in done.stderr


def test_several_sets_a_template_and_a_limit(mmkd, tiny_clip, pairs_parquet, tmp_path):
    from datasets import ClassLabel

    image = draw_pair(0)[0]
    labelled = save_pairs(tmp_path / "l.parquet", [image] * 3, [0, 1, 1], ClassLabel(names=["cat", "dog"]))
    done = mmkd(
        *("--teacher", tiny_clip, "--data", pairs_parquet, "--data", labelled, "--limit", 98, "--work", "w"),
        *("--template", "my {}"),
    )
    assert done.code == 0, done.stderr
    assert 'caption: "my {}" with the name of caption' in done.stderr
    assert "the first 98 pairs" in done.stderr
    assert "train --kd mse+cos --work w" in done.stderr
    manifest = json.loads(Path("w/cache/manifest.json").read_text())
    assert manifest["settings"]["limit"] == manifest["settings"]["rows"] == 98
    assert [source["template"] for source in manifest["settings"]["sources"]] == [None, "my {}"]


def test_masked_rows_are_counted_aloud(mmkd, tiny_clip, tmp_path):
    images = [draw_pair(number)[0] for number in range(9)] + [b"broken"]
    data = save_pairs(tmp_path / "p.parquet", images, ["words"] * 10)
    done = mmkd("--teacher", tiny_clip, "--data", data)
    assert done.code == 1
    assert done.stderr.splitlines()[-1] == (
        "mmkd: 1 of 10 rows cannot be used (not an image of a known format 1), more than the 5.0% that --max-bad "
        "allows; mend the data, or pass a larger --max-bad"
    )
    assert not Path("work").exists()
    done = mmkd("--teacher", tiny_clip, "--data", data, "--max-bad", 0.1)
    assert "9 pairs in 1 shard, 0.1 MB · 1 masked (not an image of a known format 1)" in done.stderr


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_other_precisions_stay_near(mmkd, tiny_clip, pairs_parquet, dtype):
    import numpy as np

    for out, precision in (("exact", "float32"), ("other", dtype)):
        done = mmkd(
            *(
                "--teacher",
                tiny_clip,
                "--data",
                pairs_parquet,
                "--limit",
                8,
                "--out",
                out,
                "--dtype",
                precision,
            )
        )
        assert done.code == 0, done.stderr
    exact, other = (open_cache(out).read(np.arange(8)) for out in ("exact", "other"))
    assert (exact.image * other.image).sum(dim=1).min() > 0.999
    assert not bool((exact.image == other.image).all())


GOOD = {"--teacher": "TEACHER", "--data": "DATA"}


@pytest.mark.parametrize(
    ("changes", "code", "message"),
    [
        ({"--teacher": "/no/such/teacher"}, 1, "no folder /no/such/teacher"),
        ({"--teacher": "nobody/nothing"}, 1, "nobody/nothing is neither a folder nor in the local Hub cache"),
        ({"--teacher": "BERT"}, 1, "is a 'bert' model; expected a CLIP"),
        ({"--data": "nobody/nothing"}, 1, "the Hugging Face Hub cannot be reached"),
        ({"--data": "/no/such.parquet"}, 1, "no file or folder matches /no/such.parquet"),
        ({"--image-column": "picture"}, 1, "has no column 'picture', only image, caption"),
        ({"--caption-column": "captions"}, 1, "did you mean 'caption'?"),
        ({"--split": "test"}, 1, "has no split 'test', only train"),
        ({"--template": "none"}, 1, "the template 'none' has no {}"),
        ({"--out": "FILE"}, 1, "is a file; expected a folder for the cache"),
        ({"--out": "FOREIGN"}, 1, "holds something else than a cache (notes.txt)"),
        ({"--revision": "main"}, 1, "is a folder; leave it out"),
        ({"--dtype": "int8"}, 2, "'int8' is none of float32, bfloat16, float16"),
        ({"--batch-size": "0"}, 2, "--batch-size"),
        ({"--max-bad": "2"}, 2, "--max-bad"),
        ({"--bach-size": "3"}, 2, "--bach-size"),
    ],
)
def test_every_mistake_gets_one_line(mmkd, tiny_clip, pairs_parquet, tmp_path, changes, code, message):
    (tmp_path / "file").write_text("x")
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "notes.txt").write_text("x")
    (tmp_path / "bert").mkdir()
    (tmp_path / "bert" / "config.json").write_text('{"model_type": "bert"}')
    places = {
        "TEACHER": tiny_clip,
        "DATA": pairs_parquet,
        "FILE": tmp_path / "file",
        "FOREIGN": tmp_path / "foreign",
        "BERT": tmp_path / "bert",
    }
    options = [str(places.get(part, part)) for item in (GOOD | changes).items() for part in item]
    done = mmkd(*options)
    last = done.stderr.splitlines()[-1]
    assert (done.code, last.startswith("mmkd: ")) == (code, True), done.stderr
    assert message in last
    assert not Path("work").exists()


def test_a_process_with_an_impossible_place_is_told(mmkd, tiny_clip, pairs_parquet, monkeypatch):
    monkeypatch.setenv("RANK", "2")
    monkeypatch.setenv("WORLD_SIZE", "2")
    done = mmkd("--teacher", tiny_clip, "--data", pairs_parquet)
    assert done.code == 1
    assert "found RANK=2 and WORLD_SIZE=2 in the environment" in done.stderr
