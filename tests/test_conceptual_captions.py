"""From Conceptual Captions' own TSV, through downloads of which most fail, to a cache.

The captions are Google's; their links lead to a server on 127.0.0.1 that answers as the web does.
"""

import os
import re
import subprocess
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from downloader import Download, download, write
from link_server import HANG, KINDS, bomb, link_server, picture
from typer.testing import CliRunner

from mmkd.data import DataSource, Pair, open_pairs
from mmkd.errors import DataError

FORMS = ("webdataset", "files", "parquet")
LINKS = 120
GOOD = LINKS // 5  # of each ten kinds, "good" and "moved"


@pytest.fixture(scope="module")
def captions(shared_data: Path) -> list[str]:
    path = shared_data / "conceptual-captions" / "validation.tsv"
    rows = [line.split("\t") for line in path.read_text(encoding="utf-8").splitlines()]
    assert len(rows) == 15_833
    assert all(len(row) == 2 and row[1].startswith("http") for row in rows)
    return [caption for caption, _ in rows]


@pytest.fixture(scope="module")
def downloads(captions: list[str]) -> list[Download]:
    with link_server() as server:
        links = [(text, f"{server}/{KINDS[n % 10]}/{n}.jpg") for n, text in enumerate(captions[:LINKS])]
        return download(links, timeout=HANG / 6, threads=LINKS)


def spread(links: dict[tuple[str, str], int]) -> Counter[str]:
    """Dead links by status and first words of the message, as sockets of other machines word it otherwise."""
    found: Counter[str] = Counter()
    for (status, message), number in links.items():
        found[f"{status}: {re.sub('^(The read operation )', '', message)}"] += number
    return found


@pytest.mark.parametrize("form", FORMS)
def test_what_came_is_read_and_what_did_not_is_counted(
    downloads: list[Download], captions: list[str], tmp_path: Path, form: str
) -> None:
    folder = write(tmp_path / "cc", form, downloads)
    pairs = open_pairs([DataSource(str(folder))])
    expected = {Pair(picture(n), (captions[n],)) for n in range(LINKS) if KINDS[n % 10] in {"good", "moved"}}
    assert len(pairs) == len(expected) == GOOD
    assert {pairs[row] for row in range(len(pairs))} == expected
    ((spec, links),) = pairs.links()
    assert Path(spec).name == "cc"
    each = LINKS // 10
    assert spread(links.dead) == {
        "failed_to_download: HTTP Error 404: Not Found": 2 * each,
        "failed_to_download: HTTP Error 403: Forbidden": each,
        "failed_to_download: timed out": each,
        "failed_to_resize: Image decoding error": 4 * each,
    }
    assert links.live == GOOD
    text = (
        f"{LINKS - GOOD} of {LINKS} links are dead (80.0%): failed_to_download {4 * each} (HTTP Error 404: "
    )
    assert links.describe().startswith(text)


def test_the_command_says_which_links_are_dead(
    downloads: list[Download], tiny_clip: Path, tmp_path: Path
) -> None:
    from mmkd.cache.store import open_cache
    from mmkd.cli.app import app

    write(tmp_path / "cc", "webdataset", downloads)
    options = ["--teacher", str(tiny_clip), "--data", str(tmp_path / "cc"), "--out", str(tmp_path / "cache")]
    done = CliRunner().invoke(app, ["cache-teacher", *options, "--min-words", "8"])
    assert done.exit_code == 0, done.output
    text = " ".join(done.output.split())
    assert f"{LINKS - GOOD} of {LINKS} links are dead (80.0%)" in text
    assert "captions: at least 8 words" in text
    store = open_cache(tmp_path / "cache")
    short = sum(len(pair.split()) < 8 for pair in _captions(downloads))
    assert store.manifest.masked == {"filtered: too few words": short}
    assert 0 < short < len(store) == GOOD


def _captions(downloads: list[Download]) -> list[str]:
    return [one.caption for one in downloads if one.image is not None]


def test_what_is_no_picture_is_masked_with_its_reason(
    captions: list[str], tiny_encoder, tmp_path: Path
) -> None:
    """Of a downloader that kept whatever the servers sent."""
    from mmkd.cache.build import build_cache

    kinds = ("good", "page", "cut", "huge", "empty", "good")
    with link_server() as server:
        links = [(captions[n], f"{server}/{kinds[n % 6]}/{n}.jpg") for n in range(24)]
        raw = download(links, timeout=HANG, decode=False)
    pairs = open_pairs([DataSource(str(write(tmp_path / "cc", "webdataset", raw, shard=12)))])
    manifest = build_cache(tiny_encoder, pairs, tmp_path / "cache", batch_size=8, max_bad=0.7)
    assert manifest is not None
    assert manifest.masked == {
        "damaged image": 4,
        "no image data": 4,
        "not an image of a known format": 4,
        "too many pixels": 4,
    }
    assert len(bomb()) < 2_000
    with pytest.raises(DataError, match=r"16 of 24 rows cannot be used \(damaged image 4, no image data 4"):
        build_cache(tiny_encoder, pairs, tmp_path / "strict", batch_size=8)


def test_files_form_follows_no_links_and_notices_changes(downloads: list[Download], tmp_path: Path) -> None:
    folder = write(tmp_path / "cc", "files", downloads, shard=60)
    (tmp_path / "secret.jpg").write_bytes(b"secret")
    victim = sorted((folder / "00000").glob("*.jpg"))[0]
    victim.unlink()
    victim.symlink_to(tmp_path / "secret.jpg")
    pairs = open_pairs([DataSource(str(folder))])
    assert pairs[0].image == b""
    assert "pairs in 2 folders" in pairs.describe()[0]
    assert "1 members skipped (link 1)" in pairs.describe()[0]
    other = sorted((folder / "00001").glob("*.jpg"))[0]
    row = next(row for row in range(len(pairs)) if pairs[row].image == other.read_bytes())
    other.write_bytes(b"shorter")
    with pytest.raises(DataError, match="start again"):
        pairs[row]
    other.unlink()
    with pytest.raises(DataError, match=r"00001 was changed since it was opened"):
        pairs[row]


def test_messages_of_servers_cannot_reach_the_terminal(tmp_path: Path) -> None:
    bad = [
        Download(n, "a dog", "http://x", None, "failed_to_download", f"\x1b[31m{n}\nred" * 40)
        for n in range(9)
    ]
    folder = write(tmp_path / "cc", "webdataset", [*bad, Download(9, "a cat", "http://x", picture(1))])
    ((_, links),) = open_pairs([DataSource(str(folder))]).links()
    text = links.describe()
    assert text.isprintable()
    assert len(text) < 800
    assert text.startswith("9 of 10 links are dead (90.0%): failed_to_download 9 (")
    assert "others 3" in text


def test_a_parquet_file_that_says_nothing_of_links_is_left_alone(pairs_parquet: Path, tmp_path: Path) -> None:
    pairs = open_pairs([DataSource(str(pairs_parquet))])
    assert (len(pairs), pairs.links()) == (96, [])
    folder = write(tmp_path / "cc", "webdataset", [Download(0, "a cat", "http://x", picture(1))])
    (folder / "00000.parquet").write_bytes(b"PAR1 but no more")
    with pytest.raises(DataError, match=r"cannot read .*00000\.parquet"):
        open_pairs([DataSource(str(folder))]).links()


@pytest.mark.full
@pytest.mark.parametrize("form", FORMS)
def test_the_real_img2dataset_writes_what_the_stand_in_does(
    downloads: list[Download], captions: list[str], tmp_path: Path, form: str
) -> None:
    """Needs ``MMKD_IMG2DATASET``: the program, in an environment of its own (``uv tool install img2dataset``)."""
    program = os.environ.get("MMKD_IMG2DATASET")
    if program is None:
        pytest.skip("MMKD_IMG2DATASET names no img2dataset")
    table = tmp_path / "cc.tsv"
    with link_server() as server:
        lines = [f"{text}\t{server}/{KINDS[n % 10]}/{n}.jpg\n" for n, text in enumerate(captions[:LINKS])]
        table.write_text("caption\turl\n" + "".join(lines), encoding="utf-8")
        options = f"""--url_list {table} --input_format tsv --url_col url --caption_col caption --resize_mode no
            --skip_reencode True --timeout 1 --thread_count {LINKS} --processes_count 1 --enable_wandb False
            --number_sample_per_shard 25 --output_format {form} --output_folder {tmp_path / "real"}"""
        subprocess.run([program, *options.split()], check=True, capture_output=True, timeout=300)
    mine = open_pairs([DataSource(str(write(tmp_path / "mine", form, downloads)))])
    real = open_pairs([DataSource(str(tmp_path / "real"))])
    assert {real[row] for row in range(len(real))} == {mine[row] for row in range(len(mine))}
    ((_, ours), (_, theirs)) = *mine.links(), *real.links()
    assert theirs.live == ours.live == GOOD
    downloads_failed = [
        Counter({k: n for k, n in spread(one.dead).items() if "download" in k}) for one in (ours, theirs)
    ]
    assert downloads_failed[0] == downloads_failed[1]
    assert sum(ours.dead.values()) == sum(theirs.dead.values())
    schemas = [pq.read_schema(tmp_path / which / "00000.parquet") for which in ("mine", "real")]
    assert [(field.name, field.type) for field in schemas[0]] == [
        (field.name, field.type) for field in schemas[1]
    ]
