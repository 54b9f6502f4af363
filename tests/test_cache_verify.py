"""Every way in which a cache can be damaged is found, named and mended; what is whole is called so."""

import json
import os
import shutil
from dataclasses import asdict, replace
from pathlib import Path

import h5py
import numpy as np
import pytest
from conftest import save_tiny_clip

from mmkd.cache import repair as repair_module
from mmkd.cache.build import build_cache
from mmkd.cache.duplicates import VectorIndex
from mmkd.cache.manifest import read_manifest, read_record, write_manifest, write_record
from mmkd.cache.repair import repair_cache
from mmkd.cache.shard import hash_file
from mmkd.cache.verify import VerifyReport, verify_cache
from mmkd.cli.app import run
from mmkd.errors import CacheError, StaleCacheError


def checks(report: VerifyReport) -> set[tuple[str, str]]:
    return {(finding.check, finding.where) for finding in report.findings}


def only(report: VerifyReport) -> str:
    assert len(report.findings) == 1, [str(finding) for finding in report.findings]
    line = str(report.findings[0])
    assert "expected" in line
    assert "\n" not in line
    return line


def same_folder(left: Path, right: Path) -> bool:
    files = [{path.name: path.read_bytes() for path in folder.iterdir()} for folder in (left, right)]
    return files[0] == files[1]


def change(folder: Path, index: int, edit, *, mend: bool = True) -> None:
    """Let ``edit(file)`` change an opened shard; with ``mend``, all that tells of it then tells the new bytes."""
    path = folder / f"shard-{index:05d}.h5"
    with h5py.File(path, "r+") as file:
        edit(file)
    if mend:
        settings, record = read_record(folder, index)
        record = replace(record, bytes=path.stat().st_size, xxh3_128=hash_file(path))
        write_record(folder, index, settings, record)
        manifest = read_manifest(folder)
        shards = [record if place == index else shard for place, shard in enumerate(manifest.shards)]
        write_manifest(folder, replace(manifest, shards=tuple(shards)))


@pytest.fixture
def mended(tiny_encoder, tiny_pairs, tiny_cache):
    """Asserts that a repair ends with the bytes of the undisturbed build."""

    def check(folder: Path) -> None:
        repair_cache(verify_cache(folder), lambda _: (tiny_encoder, tiny_pairs), workers=0)
        assert verify_cache(folder).ok
        assert same_folder(folder, tiny_cache)

    return check


def test_a_whole_cache_is_whole(tiny_cache):
    seen = []
    report = verify_cache(tiny_cache, on_progress=lambda rows, total: seen.append((rows, total)))
    assert report.ok
    assert (len(report.whole), report.broken, seen[-1]) == (5, [], (96, 96))
    assert report.bytes == sum(path.stat().st_size for path in tiny_cache.glob("*.h5"))
    text = report.duplicates["text"]
    assert (text.vectors, text.distinct, text.repeats, text.clashes) == (96, 12, 84, 0)
    assert report.duplicates["image"].clashes == 0


def test_views_and_several_captions_and_masked_rows_are_whole(tiny_encoder, tmp_path):
    from conftest import draw_pair, save_pairs
    from datasets import Sequence, Value

    from mmkd.augment import Augmentation
    from mmkd.data import DataSource, open_pairs

    images = [b"broken" if number in {3, 17} else draw_pair(number)[0] for number in range(24)]
    captions = [[f"picture {number}", f"number {number}"][: number % 3] for number in range(24)]
    file = save_pairs(tmp_path / "data" / "lists.parquet", images, captions, Sequence(Value("string")))
    pairs = open_pairs([DataSource(str(file))])
    folder = tmp_path / "cache"
    views = {"views": 3, "augmentation": Augmentation("crop+flip", 0)}
    build_cache(tiny_encoder, pairs, folder, shard_rows=10, batch_size=8, max_bad=0.9, workers=0, **views)
    report = verify_cache(folder)
    assert report.ok, [str(finding) for finding in report.findings]
    assert sum(report.masked.values()) == 9  # 8 without a caption (3 among them), 17 is broken
    assert report.duplicates["text"].vectors == 22


def truncated(folder: Path) -> None:
    with (folder / "shard-00002.h5").open("r+b") as file:
        file.truncate(10_000)


def swapped(folder: Path) -> None:
    one, other = folder / "shard-00001.h5", folder / "shard-00003.h5"
    held = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(held)


def linked(folder: Path) -> None:
    (folder / "shard-00002.h5").rename(folder / ".elsewhere.h5")
    (folder / "shard-00002.h5").symlink_to(folder / ".elsewhere.h5")


def edit_json(name: str, edit):
    def damage(folder: Path) -> None:
        value = json.loads((folder / name).read_text())
        edit(value)
        (folder / name).write_text(json.dumps(value))

    return damage


FILES = {
    "truncated": (truncated, "shard-00002.h5: has 10,000 bytes; expected"),
    "missing": (lambda f: (f / "shard-00002.h5").unlink(), "shard-00002.h5: is missing"),
    "extra": (
        lambda f: shutil.copy(f / "shard-00000.h5", f / "shard-00005.h5"),
        "shard-00005.h5: a file that no cache of this size has",
    ),
    "no record": (lambda f: (f / "shard-00002.json").unlink(), "shard-00002.json: is missing"),
    "no manifest": (lambda f: (f / "manifest.json").unlink(), "manifest.json: is missing"),
    "torn manifest": (lambda f: os.truncate(f / "manifest.json", 500), "manifest.json: cannot be used"),
    "torn record": (lambda f: os.truncate(f / "shard-00001.json", 500), "shard-00001.json: cannot be used"),
    "other batch": (
        edit_json("manifest.json", lambda v: v["settings"].update(batch_size=9)),
        "manifest.json: says batch_size 9; expected 8, as most of the files say",
    ),
    "other teacher's name": (
        edit_json("shard-00003.json", lambda v: v["settings"]["teacher"].update(model="x/y")),
        "shard-00003.json: says teacher.model 'x/y'",
    ),
    "other reasons": (
        edit_json("shard-00003.json", lambda v: v["shard"].update(masked={"damaged image": 1})),
        "shard-00003.json: says masked.damaged image 1; expected None, as manifest.json says",
    ),
    "data hash": (edit_json("manifest.json", lambda v: v.update(data_hash="0" * 32)), "data_hash 00000000…"),
}


@pytest.mark.parametrize("damage", FILES)
def test_a_damaged_file_is_named_and_mended(copied_cache, damage, mended):
    FILES[damage][0](copied_cache)
    report = verify_cache(copied_cache)
    line = only(report)
    assert FILES[damage][1] in line
    assert "--repair" in line
    mended(copied_cache)


def test_swapped_shards_are_told_apart(copied_cache, mended):
    swapped(copied_cache)
    report = verify_cache(copied_cache)
    assert [str(finding).partition(";")[0] for finding in report.findings] == [
        "shard-00001.h5: holds the bytes of shard-00003.h5",
        "shard-00003.h5: holds the bytes of shard-00001.h5",
    ]
    assert report.broken == [1, 3]
    mended(copied_cache)


def test_a_shard_of_another_cache_is_refused_even_with_its_record(
    copied_cache, tiny_encoder, tmp_path, mended
):
    from conftest import draw_pair, save_pairs

    from mmkd.data import DataSource, open_pairs

    images, captions = zip(*(draw_pair(number) for number in range(100, 196)), strict=True)
    other = open_pairs(
        [DataSource(str(save_pairs(tmp_path / "b" / "pairs.parquet", [*images], [*captions])))]
    )
    other.sources = read_manifest(copied_cache).sources  # the data was edited in place
    build_cache(tiny_encoder, other, tmp_path / "other", shard_rows=20, batch_size=8, workers=0)
    for name in ("shard-00001.h5", "shard-00001.json"):
        shutil.copy(tmp_path / "other" / name, copied_cache / name)
    report = verify_cache(copied_cache)
    assert checks(report) == {("record", "shard-00001.json"), ("hash", "shard-00001.h5")}
    mended(copied_cache)


def test_a_link_is_refused_unread(copied_cache, mended):
    linked(copied_cache)
    assert "shard-00002.h5: is a link" in only(verify_cache(copied_cache))
    (copied_cache / ".elsewhere.h5").rename(copied_cache.parent / "elsewhere.h5")
    mended(copied_cache)
    assert not (copied_cache / "shard-00002.h5").is_symlink()


def test_structure_is_refused_before_anything_is_read(copied_cache, mended):
    def outside(file):
        del file["image"]
        file.create_dataset("image", (20, 1, 32), "<f2", external=[("/etc/hostname", 0, 1280)])

    change(copied_cache, 1, outside)
    report = verify_cache(copied_cache)
    assert "'image' keeps its data in another file" in only(report)
    assert report.broken == [1]
    mended(copied_cache)


def put(name: str, place, value):
    def edit(file) -> None:
        file[name][place] = value

    return edit


CONTENTS = {
    "NaN": (
        put("image", (4, 0, 3), np.nan),
        "image not finite",
        "row 44: image vectors hold NaN or infinity",
    ),
    "infinity": (put("text", (4, 0, 3), np.inf), "text not finite", "row 44: text vectors hold NaN"),
    "zero": (
        put("image", slice(2, 9), 0),
        "image zero",
        "rows 42, 43, 44, 45, 46, … (7 rows): image vectors",
    ),
    "not unit": (put("text", (slice(0, 2), 0, 0), 2), "text norm", "rows 40 and 41: text vectors are not of"),
    "length": (put("image_norm", (3, 0), -1), "image length", "row 43: image_norm is not a positive number"),
    "captions": (put("captions", 3, 7), "captions", "row 43: more or fewer captions than there is room for"),
    "flag": (put("valid", 3, 4), "flags", "row 43: valid is neither 0 nor 1"),
}


@pytest.mark.parametrize("damage", CONTENTS)
def test_wrong_numbers_are_found_where_every_hash_is_right(copied_cache, damage, mended):
    edit, check, line = CONTENTS[damage]
    change(copied_cache, 2, edit)
    report = verify_cache(copied_cache)
    assert (check, "shard-00002.h5") in checks(report)
    assert f"shard-00002.h5: {line}" in only(report)
    assert report.broken == [2]
    mended(copied_cache)


def test_masked_rows_are_counted_and_hold_nothing(copied_cache):
    change(copied_cache, 2, put("valid", 3, 0))
    found = checks(verify_cache(copied_cache))
    kinds = {"masked", "image masked", "text masked", "captions"}
    assert found == {(kind, "shard-00002.h5") for kind in kinds}


def test_row_hashes_are_held_against_the_manifest(copied_cache):
    change(copied_cache, 2, put("row_hash", (3, 0), 1))
    assert "data_hash" in only(verify_cache(copied_cache))


def test_one_vector_for_many_images_is_found(copied_cache):
    def edit(file) -> None:
        file["image"][:] = file["image"][0]

    change(copied_cache, 2, edit)
    line = only(verify_cache(copied_cache))
    assert "19 different images (19.8%) share their vector with another" in line
    assert "rows 40, 41, 42, 43, 44 among them" in line


def test_an_equal_vector_of_equal_content_is_no_finding(copied_cache):
    def edit(file) -> None:
        file["image"][:] = file["image"][0]
        file["row_hash"][:, 0] = 7

    change(copied_cache, 2, edit)
    report = verify_cache(copied_cache)
    assert "data_hash" in only(report)
    assert report.duplicates["image"].repeats == 19


def test_duplicates_are_counted_as_by_a_dictionary(monkeypatch):
    from mmkd.cache import duplicates

    monkeypatch.setattr(duplicates, "_PART", 50)
    monkeypatch.setattr(duplicates, "_SPOOL", 64)
    rng = np.random.default_rng(0)
    vectors = rng.integers(0, 9, (400, 2)).astype(np.float16)
    contents = rng.integers(0, 3, 400).astype(np.uint64)
    index = VectorIndex(400)
    for start in range(0, 400, 70):
        part = slice(start, start + 70)
        index.add(vectors[part], contents[part], np.arange(400)[part])
    found = index.count()
    index.close()
    distinct = {vector.tobytes() for vector in vectors}
    pairs = {(vector.tobytes(), content) for vector, content in zip(vectors, contents.tolist(), strict=True)}
    assert (found.vectors, found.distinct) == (400, len(distinct))
    assert (found.repeats, found.clashes) == (400 - len(pairs), len(pairs) - len(distinct))
    assert len({vectors[row].tobytes() for row in found.rows}) == 1
    assert len({contents[row] for row in found.rows}) == len(found.rows) == 3


@pytest.mark.parametrize("name", ["shard-00001.h5", "manifest.json", "shard-00001.json"])
def test_flipped_bits_are_found(copied_cache, name):
    rng = np.random.default_rng(len(name))
    path = copied_cache / name
    whole = path.read_bytes()
    # Half of a shard's flips into its header, which is what HDF5 would stumble over.
    places = [*rng.integers(0, 400, 6), *rng.integers(0, len(whole), 8)]
    for place in places:
        damaged = bytearray(whole)
        damaged[place] ^= 1 << int(rng.integers(0, 8))
        path.write_bytes(damaged)
        report = verify_cache(copied_cache)
        equal = name.endswith(".json") and _same_json(damaged, whole)
        assert report.ok == equal, f"bit of byte {place}: {[str(f) for f in report.findings]}"


def _same_json(one: bytes, other: bytes) -> bool:
    try:
        return json.loads(one) == json.loads(other)
    except ValueError:
        return False


def test_two_accounts_without_a_third_are_not_decided(copied_cache, tiny_encoder, tiny_pairs, tmp_path):
    folder = tmp_path / "one"
    build_cache(tiny_encoder, tiny_pairs, folder, shard_rows=96, batch_size=8, workers=0)
    edit_json("manifest.json", lambda v: v["settings"]["teacher"].update(revision="abc"))(folder)
    report = verify_cache(folder)
    assert "says teacher.revision None; expected 'abc', as manifest.json says, or" in only(report)
    with pytest.raises(CacheError, match="cannot be mended"):
        repair_cache(report, lambda _: pytest.fail("nothing to load for"))


def test_a_forged_record_of_very_many_shards_is_no_hang(copied_cache):
    (copied_cache / "manifest.json").unlink()
    for index in range(1, 5):
        (copied_cache / f"shard-{index:05d}.json").unlink()
    edit_json("shard-00000.json", lambda v: v["settings"].update(rows=20 << 14))(copied_cache)
    report = verify_cache(copied_cache)
    assert any("nothing tells of 16,383 of 16,384 shards" in str(f) for f in report.findings)
    edit_json("shard-00000.json", lambda v: v["settings"].update(rows=20 << 30))(copied_cache)
    assert any("neither it nor a record can be used" in str(f) for f in verify_cache(copied_cache).findings)


def test_only_broken_shards_are_embedded_again(copied_cache, tiny_encoder, tiny_pairs, tiny_cache):
    truncated(copied_cache)
    rows = []
    loads = []

    def load(settings):
        loads.append(settings)
        return tiny_encoder, tiny_pairs

    repair_cache(verify_cache(copied_cache), load, on_progress=lambda p: rows.append(p.rows), workers=0)
    assert rows[0] == 76  # all but the one shard's
    assert len(loads) == 1
    assert same_folder(copied_cache, tiny_cache)


def test_records_are_mended_without_the_teacher(copied_cache, tiny_cache):
    (copied_cache / "shard-00002.json").unlink()
    os.truncate(copied_cache / "manifest.json", 500)
    # Nothing tells of shard 2 now but its own bytes.
    with pytest.raises(RuntimeError, match="asked for"):
        repair_cache(verify_cache(copied_cache), _refuse)
    shutil.copy(tiny_cache / "shard-00002.json", copied_cache)
    repair_cache(verify_cache(copied_cache), _refuse)
    assert same_folder(copied_cache, tiny_cache)


def _refuse(_):
    raise RuntimeError("asked for")


def test_repair_with_other_data_or_another_teacher_changes_nothing(
    copied_cache, tiny_encoder, tiny_pairs, tmp_path
):
    from conftest import draw_pair, save_pairs

    from mmkd.data import DataSource, open_pairs

    truncated(copied_cache)
    before = {path.name: path.read_bytes() for path in copied_cache.iterdir()}
    numbers = [*range(40), 41, 40, *range(42, 96)]
    images, captions = zip(*map(draw_pair, numbers), strict=True)
    other = open_pairs(
        [DataSource(str(save_pairs(tmp_path / "b" / "pairs.parquet", [*images], [*captions])))]
    )
    with pytest.raises(StaleCacheError, match=r"made from other data .* the rows of shard-00002\.h5"):
        repair_cache(verify_cache(copied_cache), lambda _: (tiny_encoder, other))
    changed = replace(tiny_encoder, spec=replace(tiny_encoder.spec, weights_hash="f" * 32))
    with pytest.raises(StaleCacheError, match=r"with weights ....… \(now ffff…\)"):
        repair_cache(verify_cache(copied_cache), lambda _: (changed, tiny_pairs))
    assert {path.name: path.read_bytes() for path in copied_cache.iterdir()} == before


def test_a_strangers_file_is_never_deleted(copied_cache):
    (copied_cache / "thesis.tex").write_text("years of work")
    assert "thesis.tex: a file that no cache of this size has; expected none; move it away" in only(
        verify_cache(copied_cache)
    )
    with pytest.raises(CacheError, match=r"holds thesis\.tex, which is no part"):
        repair_cache(verify_cache(copied_cache), _refuse)
    assert (copied_cache / "thesis.tex").exists()


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
            run(["cache", "verify", *map(str, arguments)])
        out, err = capsys.readouterr()
        return int(left.value.code or 0), out, err

    return command


def test_command_on_a_whole_cache(mmkd, tiny_cache, tmp_path):
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "cache").symlink_to(tiny_cache)
    code, out, err = mmkd("--json", "found.json", "--reencode", 10)
    assert code == 0, err
    said = dict(line.split(maxsplit=1) for line in out.splitlines())
    assert said["verdict"] == "whole"
    assert said["shards"] == "5 of 5 whole"
    assert said["encoded"].startswith("10 rows again, 20 vectors, lowest cosine 1.000000 (")
    report = json.loads(Path("found.json").read_text())
    assert (report["whole"], report["findings"], report["reencoded"]["rows"]) == (True, [], 10)
    assert report["reencoded"]["lowest"] > 0.99999


def test_command_on_a_broken_cache_and_its_repair(mmkd, copied_cache, tiny_cache):
    truncated(copied_cache)
    code, _, err = mmkd(copied_cache, "--json", "found.json", "--reencode", 3)
    assert code == 1
    lines = [line for line in err.splitlines() if line.startswith("found")]
    assert len(lines) == 1
    assert "shard-00002.h5: has 10,000 bytes; expected" in lines[0]
    assert "nothing was embedded again" in err
    report = json.loads(Path("found.json").read_text())
    assert (report["broken"], report["findings"][0]["check"]) == (["shard-00002.h5"], "size")
    code, _, err = mmkd(copied_cache, "--repair")
    assert code == 0, err
    assert "1 of 5 shards to make again" in err
    assert same_folder(copied_cache, tiny_cache)


def test_no_cache_at_all(mmkd):
    code, _, err = mmkd("nowhere")
    assert code == 1
    assert "no cache at nowhere" in err


def test_hostile_names_cannot_write_to_the_terminal(mmkd, copied_cache):
    edit_json("shard-00003.json", lambda v: v["settings"]["teacher"].update(model="\x1b[2J\udcff"))(
        copied_cache
    )
    code, out, err = mmkd(copied_cache, "--json", "found.json")
    assert code == 1
    assert "\x1b[2J" not in out + err
    assert not json.loads(Path("found.json").read_text())["whole"]


def lie_about_weights(folder: Path, model: Path) -> None:
    """Make every file of a cache say that the teacher now at ``model`` made it."""
    from mmkd.encoders import read_teacher_spec

    spec = asdict(read_teacher_spec(model))
    for path in folder.glob("*.json"):
        edit_json(path.name, lambda value: value["settings"].update(teacher=spec))(folder)


def test_reencode_finds_other_weights_under_the_same_name(mmkd, copied_cache, tmp_path):
    model = save_tiny_clip(tmp_path / "tiny-clip", seed=1)
    code, _, err = mmkd(copied_cache, "--reencode", 8, "--teacher", model)
    assert code == 1
    assert "teacher: has other weights " in err
    lie_about_weights(copied_cache, model)
    code, out, err = mmkd(copied_cache, "--reencode", 8)
    assert code == 1
    assert "(8 rows): the teacher gives other vectors (cosine " in err
    assert "expected at least 0.999" in err
    assert "lowest cosine -" in out or "lowest cosine 0." in out


def test_reencode_finds_other_data(mmkd, copied_cache, tmp_path):
    from conftest import draw_pair, save_pairs

    images, captions = zip(*map(draw_pair, [*range(40), 41, 40, *range(42, 96)]), strict=True)
    moved = save_pairs(tmp_path / "moved.parquet", [*images], [*captions])
    code, _, err = mmkd(copied_cache, "--reencode", 1000, "--data", moved)
    assert code == 1
    assert "rows 40 and 41: the image or the captions have changed" in err


def test_repair_module_reads_the_data_once_a_row(copied_cache, tiny_encoder, tiny_pairs, monkeypatch):
    truncated(copied_cache)
    asked = []
    plain = repair_module.row_hash
    monkeypatch.setattr(repair_module, "row_hash", lambda pair: asked.append(pair) or plain(pair))
    repair_cache(verify_cache(copied_cache), lambda _: (tiny_encoder, tiny_pairs), workers=0)
    assert len(asked) == 20  # the broken shard's rows alone


def test_a_torn_manifest_names_what_mends_it(copied_cache, mmkd):
    os.truncate(copied_cache / "manifest.json", 500)
    with pytest.raises(CacheError, match=r"mend it with `mmkd cache verify .*cache --repair`"):
        read_manifest(copied_cache)
    assert mmkd(copied_cache, "--repair")[0] == 0
    read_manifest(copied_cache)
