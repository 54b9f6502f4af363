"""Rows of WebDataset tars, read where they lie."""

import gzip
import json
import os
import pickle
import random
import tarfile
import threading
from pathlib import Path

import numpy as np
import pytest
from tar_files import samples, save_tar

from mmkd import tar_index
from mmkd.data import DataSource, Pair, open_pairs
from mmkd.errors import ConfigError, DataError
from mmkd.tar_index import open_index
from mmkd.tar_specs import expand_braces


def opened(spec, **options):
    return open_pairs([DataSource(str(spec), **options)])


@pytest.fixture
def tars(tmp_path: Path) -> Path:
    """A folder of three tars of 20, 1 and 30 rows."""
    folder = tmp_path / "tars"
    for number, (first, last) in enumerate([(0, 20), (20, 21), (21, 51)]):
        save_tar(folder / f"{number:03d}.tar", samples(first, last))
    return folder


def test_rows_are_those_that_datasets_finds(tars: Path) -> None:
    from datasets import load_dataset

    found = opened(tars / "*.tar")
    theirs = load_dataset("webdataset", data_files=sorted(map(str, tars.glob("*.tar"))), split="train")
    theirs = theirs.cast_column("jpg", __import__("datasets").Image(decode=False))
    assert [found[row] for row in range(len(found))] == [Pair(r["jpg"]["bytes"], (r["txt"],)) for r in theirs]
    assert len(found) == 51
    assert found.describe()[0].endswith("· train · 51 pairs in 3 tars · image: jpg · caption: txt")


@pytest.mark.parametrize("spec", ["", "{000..002}.tar", "{000,001,002}.tar", "**/*.tar"])
def test_specs_that_name_tars(tars: Path, spec: str) -> None:
    pairs = opened(tars / spec)
    assert [pairs[row].captions[0] for row in (0, 19, 20, 21, 50)] == [
        f"caption {n}" for n in (0, 19, 20, 21, 50)
    ]
    assert opened(pairs.sources[0].spec)[33] == pairs[33]


def test_braces_are_written_out_as_a_shell_does() -> None:
    assert expand_braces("a{08..11}b{x,y}") == [f"a{n}b{c}" for n in ("08", "09", "10", "11") for c in "xy"]
    assert expand_braces("{3..1}") == ["3", "2", "1"]
    assert expand_braces("a{b}c") == ["a{b}c"]
    for spec in ("{0..9999999999}", "{0..9999}{0..9999}"):
        with pytest.raises(DataError, match="names more than 1,000,000 files"):
            expand_braces(spec)


def test_splits(tars: Path) -> None:
    assert len(opened(tars, split="train[:10]")) == 10
    assert opened(tars, split="train[15:25]")[7] == opened(tars)[22]
    with pytest.raises(DataError, match="no split 'test', only train"):
        opened(tars, split="test")
    with pytest.raises(DataError, match=r"found the split 'train\+train' of tars; expected one"):
        opened(tars, split="train+train")
    (tars / "000.tar").rename(tars / "train-000.tar")
    (tars / "001.tar").rename(tars / "test-000.tar")
    (tars / "002.tar").rename(tars / "train-001.tar")
    assert (len(opened(tars)), len(opened(tars, split="test"))) == (50, 1)


def test_nothing_is_copied_and_the_index_is_kept(
    tars: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    before = opened(tars)[40]
    monkeypatch.setattr(tar_index, "read_members", lambda path: pytest.fail(f"{path} was read again"))
    pairs = opened(tars)
    assert pairs[40] == before
    packed = pickle.dumps(pairs)
    assert len(packed) < 5_000
    assert pickle.loads(packed)[40] == before
    kept = tar_index.open_index(sorted(tars.glob("*.tar"))).file
    assert kept.parent == Path(os.environ["HF_HOME"]) / "mmkd" / "tars"
    assert kept.stat().st_size < 51 * 64 + 2048


@pytest.mark.parametrize("damage", ["flip", "cut", "text"])
def test_a_damaged_index_is_made_again(tars: Path, damage: str) -> None:
    paths = sorted(tars.glob("*.tar"))
    file = open_index(paths).file
    good = file.read_bytes()
    bad = {
        "flip": good[:-9] + bytes([good[-9] ^ 4]) + good[-8:],
        "cut": good[:-100],
        "text": b"not an index",
    }[damage]
    file.write_bytes(bad)
    assert opened(tars)[50].captions == ("caption 50",)
    assert file.read_bytes() == good


def test_a_changed_tar_is_indexed_again_and_never_misread(tars: Path) -> None:
    pairs = opened(tars)
    save_tar(tars / "001.tar", [("new.jpg", b"new"), ("new.txt", b"new caption")])
    with pytest.raises(DataError, match=r"001\.tar was changed since it was opened"):
        pairs[20]
    assert opened(tars)[20] == Pair(b"new", ("new caption",))
    (tars / "001.tar").unlink()
    with pytest.raises(DataError, match=r"cannot read .*001\.tar: No such file"):
        pairs[20]


def test_any_row_from_many_threads(tars: Path) -> None:
    pairs = opened(tars)
    expected = [pairs[row] for row in range(51)]
    wrong: list[int] = []

    def read(seed: int) -> None:
        for row in random.Random(seed).choices(range(51), k=300):
            if pairs[row] != expected[row]:
                wrong.append(row)

    threads = [threading.Thread(target=read, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_columns(tmp_path: Path) -> None:
    def text(number: int) -> bytes:
        return json.dumps({"url": "x", "caption": f"from json {number}", "tags": ["a", "b"]}).encode()

    members = []
    for number in range(4):
        suffix = "PNG" if number == 2 else "jpg"
        members += [
            (f"d.1/{number}.{suffix}", b"image"),
            (f"d.1/{number}.seg.png", b"mask"),
            (f"d.1/{number}.json", text(number)),
        ]
    path = save_tar(tmp_path / "x.tar", members)
    pairs = opened(path)
    assert (pairs.sources[0].image_column, pairs.sources[0].caption_column) == ("jpg;png", "json.caption")
    assert [pairs[row] for row in (1, 2)] == [Pair(b"image", (f"from json {n}",)) for n in (1, 2)]
    tags = opened(path, caption_column="json.tags", image_column="seg.png")
    assert (tags[3], tags.max_captions) == (Pair(b"mask", ("a", "b")), 2)
    with pytest.raises(DataError, match=r"no column 'json.caption2', only .*; did you mean 'json.caption'"):
        opened(path, caption_column="json.caption2")
    with pytest.raises(DataError, match=r"no column 'webp', only jpg, png, seg\.png"):
        opened(path, image_column="webp")


def test_rows_without_image_or_readable_caption_stay(tmp_path: Path) -> None:
    path = save_tar(
        tmp_path / "x.tar", [("0.txt", b"zero"), ("1.jpg", b"one"), ("2.jpg", b"two"), ("2.txt", b"\xff")]
    )
    pairs = opened(path)
    assert [pairs[row] for row in range(3)] == [Pair(b"", ("zero",)), Pair(b"one", ()), Pair(b"two", ())]


def special(name: str, kind: bytes, target: str = "") -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.type, entry.linkname = kind, target
    return entry


def test_links_devices_and_names_that_leave_the_tar_are_skipped_and_counted(tmp_path: Path) -> None:
    members = [
        special("dir", tarfile.DIRTYPE),
        *samples(0, 1),
        special("1.jpg", tarfile.SYMTYPE, "/etc/passwd"),
        special("2.jpg", tarfile.LNKTYPE, "000000.jpg"),
        special("3.jpg", tarfile.CHRTYPE),
        special("4.jpg", tarfile.FIFOTYPE),
        ("../5.jpg", b"up"),
        ("/6.jpg", b"root"),
        ("a/../../7.txt", b"up"),
        ("__pycache__.jpg", b"hidden"),
        ("8.pyd", pickle.dumps(Path("/"))),
        ("9.pkl", b"cos\nsystem\n(S'touch /tmp/pwned'\ntR."),
        *samples(10, 11),
    ]
    pairs = opened(save_tar(tmp_path / "x.tar", members))
    assert len(pairs) == 2
    assert "7 members skipped (device or pipe 2, link 2, unsafe name 3)" in pairs.describe()[0]
    assert pairs[1].captions == ("caption 10",)


def test_pickles_are_never_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save_tar(
        tmp_path / "x.tar", [("0.jpg", b"x"), ("0.pyd", pickle.dumps(1)), ("0.txt", b"one"), ("0.pth", b"y")]
    )
    for name in ("load", "loads", "Unpickler"):
        monkeypatch.setattr(pickle, name, lambda *_, **__: pytest.fail("a pickle was opened"))
    assert opened(path)[0] == Pair(b"x", ("one",))
    assert open_index([path]).columns == ("jpg", "txt")


@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_long_names(tmp_path: Path, form: int) -> None:
    name = "folder/" * 30 + "ü" * 90
    pairs = opened(save_tar(tmp_path / "x.tar", [(f"{name}.jpg", b"x"), (f"{name}.txt", b"one")], form=form))
    assert pairs[0] == Pair(b"x", ("one",))


def test_sparse_files_are_skipped(tmp_path: Path) -> None:
    entry = tarfile.TarInfo("1.jpg")
    entry.type = tarfile.GNUTYPE_SPARSE
    pairs = opened(save_tar(tmp_path / "x.tar", [*samples(0, 1), entry], form=tarfile.GNU_FORMAT))
    assert len(pairs) == 1
    assert "sparse file 1" in pairs.describe()[0]


def test_repeated_keys_are_named(tmp_path: Path) -> None:
    apart = save_tar(tmp_path / "a.tar", [("7.jpg", b"x"), ("8.jpg", b"y"), ("7.txt", b"z"), ("8.txt", b"w")])
    with pytest.raises(DataError, match=r"the key '7' occurs twice in .*a\.tar.*--sort=name"):
        opened(apart)
    with pytest.raises(DataError, match=r"b\.tar holds two members 7\.jpg"):
        opened(save_tar(tmp_path / "b.tar", [("7.jpg", b"x"), ("7.jpg", b"y")]))


def test_damaged_tars_are_named_in_one_line(tars: Path) -> None:
    path = tars / "002.tar"
    good = path.read_bytes()
    end = len(good.rstrip(b"\0")) // 512 * 512 + 512
    for cut in (0, 100, 512, 700, end // 2, end - 100, end, end + 10):
        path.write_bytes(good[:cut])
        with pytest.raises(
            DataError, match=r"002\.tar is truncated, damaged or still being written: .*; fetch"
        ) as caught:
            opened(tars)
        assert "\n" not in str(caught.value)
    for byte in (0, 130, 5 * 512 + 257):
        path.write_bytes(good[:byte] + bytes([good[byte] ^ 1]) + good[byte + 1 :])
        if byte != 5 * 512 + 257 or good[5 * 512 + 257 : 5 * 512 + 262] == b"ustar":
            with pytest.raises(DataError, match=r"002\.tar is truncated, damaged"):
                opened(tars)


def test_headers_that_claim_too_much(tmp_path: Path) -> None:
    huge = tarfile.TarInfo("1.jpg")
    huge.size = 8 << 40
    path = tmp_path / "huge.tar"
    path.write_bytes(huge.tobuf() + bytes(1024))
    with pytest.raises(DataError, match=r"'1.jpg' is cut off"):
        opened(path)
    name = tarfile.TarInfo("././@LongLink")
    name.type, name.size = tarfile.GNUTYPE_LONGNAME, 2 << 30
    path.write_bytes(name.tobuf() + bytes(1024))
    with pytest.raises(DataError, match=r"a header claims 2,147,483,648 bytes"):
        opened(path)
    back = bytearray(tarfile.TarInfo("1.jpg").tobuf())
    back[124:136] = (-1024 & (1 << 95) - 1 | 0xFF << 88).to_bytes(12, "big")
    back[148:156] = b" " * 8
    back[148:156] = f"{sum(back):06o}\0 ".encode()
    path.write_bytes(bytes(back) * 2 + bytes(1024))
    with pytest.raises(DataError, match=r"huge\.tar"):
        opened(path)


@pytest.mark.parametrize("seed", range(3))
def test_no_bytes_do_worse_than_a_refusal(tmp_path: Path, seed: int) -> None:
    generator = random.Random(seed)
    path = save_tar(
        tmp_path / "x.tar", [*samples(0, 6), special("s.jpg", tarfile.SYMTYPE, "x")], form=tarfile.GNU_FORMAT
    )
    good = path.read_bytes()
    for _ in range(150):
        bad = bytearray(good)
        for _ in range(generator.randint(1, 4)):
            bad[generator.randrange(len(bad))] = generator.choice([0, 255, generator.randrange(256)])
        path.write_bytes(bad)
        try:
            pairs = opened(path)
            [pairs[row] for row in range(len(pairs))]
        except DataError:
            pass


def test_compressed_tars_are_refused_with_what_to_do(tars: Path, tmp_path: Path) -> None:
    packed = tmp_path / "x.tar.gz"
    packed.write_bytes(gzip.compress((tars / "000.tar").read_bytes()))
    for spec in (packed, tmp_path / "*.tar.gz"):
        with pytest.raises(DataError, match=r"x\.tar\.gz is compressed; unpack it first \(gunzip"):
            opened(spec)
    packed.rename(tars / "x.tar")
    with pytest.raises(DataError, match=r"x\.tar is compressed with gzip; unpack it first"):
        opened(tars)


def test_a_missing_tar_of_a_list_is_named(tars: Path) -> None:
    with pytest.raises(DataError, match=r"003\.tar is missing; expected every tar of .*\{000\.\.003\}"):
        opened(tars / "{000..003}.tar")


def test_tars_without_pairs(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no rows in its split 'train'"):
        opened(save_tar(tmp_path / "none.tar", []))
    with pytest.raises(DataError, match="no image columns among txt"):
        opened(save_tar(tmp_path / "text.tar", [("0.txt", b"x")]))
    with pytest.raises(DataError, match="no captions among jpg"):
        opened(save_tar(tmp_path / "image.tar", [("0.jpg", b"x")]))
    with pytest.raises(DataError, match="all captions in column 'txt'"):
        opened(save_tar(tmp_path / "blank.tar", [("0.jpg", b"x"), ("0.txt", b" ")]))


def test_keys_and_starts(tars: Path) -> None:
    index = open_index(sorted(tars.glob("*.tar")))
    assert [index.key(row) for row in (0, 20, 50)] == ["000000", "000020", "000050"]
    assert np.array_equal(index.starts, [0, 20, 21, 51])


def test_where_each_tar_begins(tars: Path, pairs_parquet: Path) -> None:
    both = open_pairs([DataSource(str(tars)), DataSource(str(tars), split="train[:-10]")])
    assert both.tar_starts().tolist() == [0, 20, 21, 51, 71, 72]
    with pytest.raises(
        ConfigError, match=r"--shuffle-tars is for WebDataset tars, and .*pairs\.parquet is none"
    ):
        open_pairs([DataSource(str(tars)), DataSource(str(pairs_parquet))]).tar_starts()


def test_half_a_surrogate_pair_is_replaced(tmp_path: Path) -> None:
    texts = [b'{"caption": "a \\ud83d cat"}', b'{"caption": ["\\ud83d\\ude00", "\\udc00"]}']
    path = save_tar(
        tmp_path / "a.tar",
        [member for n, text in enumerate(texts) for member in ((f"{n}.jpg", b"x"), (f"{n}.json", text))],
    )
    pairs = opened(path)
    assert [pairs[row].captions for row in (0, 1)] == [("a \ufffd cat",), ("\U0001f600", "\ufffd")]
    assert all(text.encode() for row in (0, 1) for text in pairs[row].captions)
