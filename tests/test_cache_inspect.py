"""What `mmkd cache inspect` says of a cache, against plain numpy; its page, against hostile captions."""

import base64
import io
import json
import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from conftest import draw_pair, save_pairs
from PIL import Image

from mmkd.cache.build import build_cache
from mmkd.cache.manifest import read_manifest
from mmkd.cache.overview import overview
from mmkd.cache.rows import RowReader
from mmkd.cache.store import open_cache
from mmkd.cli.app import run
from mmkd.data import DataSource, open_pairs
from mmkd.evaluation.statistics import geometry

HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>\x1b[2J{{ 7*7 }}"


def reader_of(folder: Path) -> RowReader:
    manifest = read_manifest(folder)
    return RowReader(folder, manifest.settings, dict(enumerate(manifest.shards)))


@pytest.fixture(scope="module")
def hostile_cache(tiny_encoder, tmp_path_factory) -> Path:
    """24 rows: two masked, one with a hostile caption; the data lies beside it."""
    root = tmp_path_factory.mktemp("hostile")
    images = [b"broken" if number in {3, 9} else draw_pair(number)[0] for number in range(24)]
    captions = [HOSTILE if number == 5 else draw_pair(number)[1] for number in range(24)]
    pairs = open_pairs([DataSource(str(save_pairs(root / "data" / "pairs.parquet", images, captions)))])
    build_cache(tiny_encoder, pairs, root / "cache", shard_rows=10, batch_size=8, max_bad=0.5, workers=0)
    return root / "cache"


def test_numbers_are_those_of_numpy(hostile_cache):
    store = open_cache(hostile_cache)
    rows = store.usable.to_array()
    found = overview(reader_of(hostile_cache), queries=0)
    teacher = store.read(rows)
    image, text = teacher.image.numpy().astype(float), teacher.text.numpy().astype(float)
    assert found.sampled == 22
    for side, vectors in (("image", image), ("text", text)):
        known = geometry(vectors)
        assert found.spread[side].mean_cosine == pytest.approx(known.mean_cosine, abs=1e-3)
        assert found.spread[side].effective_rank == pytest.approx(known.effective_rank, rel=1e-2)
    cosines = image @ text.T
    assert found.matched == pytest.approx(np.diag(cosines).mean(), abs=1e-3)
    assert found.unmatched == pytest.approx(cosines[~np.eye(22, dtype=bool)].mean(), abs=1e-3)


def test_a_larger_cache_is_sampled_without_repetition(tiny_cache, monkeypatch):
    monkeypatch.setattr("mmkd.cache.overview.SAMPLE", 50)
    reader = reader_of(tiny_cache)
    rows = reader.sample(50, np.random.default_rng(0))
    assert len(set(rows.tolist())) == 50
    assert rows.max() < 96
    assert overview(reader, queries=0).sampled == 50


def test_neighbours_are_those_of_a_full_search(hostile_cache):
    store = open_cache(hostile_cache)
    rows = np.arange(24)
    teacher = store.read(rows)
    vectors = {"image": teacher.image.numpy(), "text": teacher.text.numpy()}
    hashes = dict(zip(("image", "text"), store.hashes(rows).T, strict=True))
    found = overview(reader_of(hostile_cache), queries=22, neighbours=4)
    assert [one.row for one in found.neighbourhoods] == [row for row in range(24) if row not in {3, 9}]
    for one in found.neighbourhoods:
        for kind, near in one.near.items():
            source, _, target = kind.partition(" to ")
            scores = vectors[target] @ vectors[source][one.row]
            best: dict[int, float] = {}
            for row in store.usable.to_array():
                own = source == target and hashes[target][row] == hashes[target][one.row]
                if not own:
                    best.setdefault(int(hashes[target][row]), float(scores[row]))
            expected = sorted(best.values(), reverse=True)[:4]
            assert [other.cosine for other in near] == pytest.approx(expected, abs=2e-3)
            assert len({int(hashes[target][other.row]) for other in near}) == 4
            assert all(scores[other.row] == pytest.approx(other.cosine, abs=2e-3) for other in near)


@pytest.fixture
def mmkd(tmp_path, monkeypatch, capsys):
    """Runs a command line in this process, in an empty folder: exit code, stdout, stderr."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MMKD_VERBOSE", "1")
    for name in ("MMKD_WORK", "RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)

    def command(*arguments) -> tuple[int, str, str]:
        capsys.readouterr()
        with pytest.raises(SystemExit) as left:
            run(["cache", "inspect", *map(str, arguments)])
        out, err = capsys.readouterr()
        return int(left.value.code or 0), out, err

    return command


def test_command_says_what_made_it_and_what_is_near(mmkd, hostile_cache):
    code, out, err = mmkd(hostile_cache, "--rows", 22, "--json", "found.json")
    assert code == 0, err
    manifest = read_manifest(hostile_cache)
    for words in (
        manifest.teacher.model,
        f"weights {manifest.teacher.weights_hash}",
        "pairs.parquet · split train · image_column image · caption_column caption",
        "24, 2 of them masked (not an image of a known format 2)",
        "3 shards of 10 rows",
        "mean cosine of two ",
        " of 22",
        "over 22 random rows",
        "(its own)",
        f"row 7   {draw_pair(7)[1]}",
    ):
        assert words in out, words
    assert "\x1b" not in out + err
    assert "<script>alert(1)</script>" in out  # harmless in a terminal, and what the caption says
    found = json.loads(Path("found.json").read_text())
    assert found["settings"] == json.loads((hostile_cache / "manifest.json").read_text())["settings"]
    assert len(found["neighbours"]) == 22
    assert found["neighbours"][0]["image to text"][0].keys() == {"row", "cosine"}


class Page(HTMLParser):
    """What a browser would make of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data


def test_page_needs_nothing_else_and_runs_nothing(mmkd, hostile_cache):
    code, _, err = mmkd(hostile_cache, "--rows", 8, "--html", "page.html")
    assert code == 0, err
    page = Page(Path("page.html").read_text(encoding="utf-8"))
    names = {tag for tag, _ in page.tags}
    assert not names & {"script", "iframe", "object", "link", "a", "form", "base", "svg"}
    assert not [name for _, attrs in page.tags for name in attrs if name.startswith("on") or name == "style"]
    policy = next(attrs["content"] for tag, attrs in page.tags if "http-equiv" in attrs)
    assert policy.startswith("default-src 'none'")
    assert "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>" in page.text
    assert "{{ 7*7 }}" in page.text
    assert "\x1b" not in page.text
    pictures = [attrs["src"] for tag, attrs in page.tags if tag == "img"]
    assert all(source.startswith("data:image/jpeg;base64,") for source in pictures)
    assert len(pictures) == 8 * (1 + 3 * 3)
    with Image.open(io.BytesIO(base64.b64decode(pictures[0].partition(",")[2]))) as image:
        assert image.size == (40, 32)
    assert [attrs for tag, attrs in page.tags if tag == "figure" and attrs.get("class") == "own"]


def test_data_that_moved_is_said_and_can_be_named(mmkd, hostile_cache, tmp_path):
    folder = Path(shutil.copytree(hostile_cache.parent, tmp_path / "all"))
    manifest = json.loads((folder / "cache" / "manifest.json").read_text())
    manifest["settings"]["sources"][0]["spec"] = str(tmp_path / "gone.parquet")
    (folder / "cache" / "manifest.json").write_text(json.dumps(manifest))
    code, out, err = mmkd(folder / "cache", "--html", "page.html")
    assert code == 0, err
    assert "captions and pictures cannot be shown: " in err
    assert "(no caption: the data is not here)" in out
    page = Page(Path("page.html").read_text(encoding="utf-8"))
    assert not [tag for tag, _ in page.tags if tag == "img"]
    code, out, err = mmkd(folder / "cache", "--data", folder / "data" / "pairs.parquet")
    assert code == 0, err
    assert "the data is not here" not in out


def test_no_caption_of_other_data_is_shown(mmkd, tiny_cache, hostile_cache):
    code, out, _ = mmkd(tiny_cache, "--data", hostile_cache.parent / "data" / "pairs.parquet", "--rows", 12)
    assert code == 0
    assert "(the data has changed since it was embedded)" in out
    assert "<script>" not in out


def test_a_damaged_shard_is_one_line(mmkd, copied_cache):
    (copied_cache / "shard-00003.h5").write_bytes(b"")
    code, _, err = mmkd(copied_cache)
    assert code == 1
    assert err.startswith("mmkd: ")
    assert "shard-00003.h5 has 0 bytes" in err
    assert len(err.splitlines()) == 1
