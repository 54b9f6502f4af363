"""A shard as it is written, and every way in which a file may lie about being one."""

import errno
from dataclasses import replace

import h5py
import numpy as np
import pytest

from mmkd.cache import shard as shard_module
from mmkd.cache.manifest import CacheManifest, ShardRecord, read_record, write_record
from mmkd.cache.settings import CacheSettings
from mmkd.cache.shard import (
    ALIGNMENT,
    check_file,
    hash_file,
    map_shard,
    shard_bytes,
    shard_fields,
    write_shard,
)
from mmkd.data import DataSource
from mmkd.embeddings import TeacherSpec
from mmkd.errors import CacheError

TEACHER = TeacherSpec("a/teacher", "c0ffee", "0" * 32, "1" * 32, "2" * 32, 16, 100.0, (4, 4))
SETTINGS = CacheSettings(TEACHER, (DataSource("a/b", "train", "jpg", "txt"),), None, 20, 2, "float32", 8, 12)
FIELDS = shard_fields(SETTINGS, 0)


def random_arrays(index: int = 0) -> dict:
    rng = np.random.default_rng(index)
    return {
        name: rng.integers(0, 256, field.bytes, np.uint8).view(field.dtype).reshape(field.shape)
        for name, field in shard_fields(SETTINGS, index).items()
    }


def same_bytes(left, right) -> bool:
    return np.ascontiguousarray(left).tobytes() == np.ascontiguousarray(right).tobytes()


@pytest.mark.parametrize(("index", "rows"), [(0, 12), (1, 8)])
def test_what_was_written_is_mapped_back(tmp_path, index, rows):
    arrays = random_arrays(index)
    record = write_shard(tmp_path, index, SETTINGS, arrays, {"no caption": 1})
    mapped = map_shard(tmp_path / record.name, record, shard_fields(SETTINGS, index))
    assert record.rows == rows
    assert all(same_bytes(mapped[name], arrays[name]) for name in arrays)
    assert not mapped["image"].flags.writeable


def test_datasets_are_contiguous_and_page_aligned(tmp_path):
    record = write_shard(tmp_path, 0, SETTINGS, random_arrays(), {})
    with h5py.File(tmp_path / record.name) as file:
        assert sorted(file) == sorted(FIELDS)
        assert all(file[name].id.get_offset() % ALIGNMENT == 0 for name in file)
        assert all(file[name].chunks is None for name in file)
    assert record.bytes == (tmp_path / record.name).stat().st_size
    assert shard_bytes(SETTINGS, 0) == record.bytes


def test_bytes_depend_on_the_arrays_alone(tmp_path, monkeypatch):
    first = write_shard(tmp_path / "one", 0, SETTINGS, random_arrays(), {})
    monkeypatch.setattr("time.time", lambda: 1.0)
    second = write_shard(tmp_path / "two", 0, SETTINGS, random_arrays(), {})
    assert first == second
    assert first.xxh3_128 != write_shard(tmp_path / "three", 1, SETTINGS, random_arrays(1), {}).xxh3_128


def test_arrays_of_another_shape_are_a_mistake(tmp_path):
    with pytest.raises(ValueError, match="valid is uint8"):
        write_shard(tmp_path, 0, SETTINGS, {**random_arrays(), "valid": np.zeros(3, np.uint8)}, {})
    assert list(tmp_path.iterdir()) == []


def craft(path, **changes):
    """Write a shard, some of its datasets made by ``changes[name](file, name, array)``; None leaves one out."""
    with h5py.File(path, "w") as file:
        for name, array in random_arrays().items():
            change = changes.get(name, lambda file, name, array: file.create_dataset(name, data=array))
            if change is not None:
                change(file, name, array)
        if "extra" in changes:
            changes["extra"](file, "extra", np.zeros(3))
    return ShardRecord(path.name, 12, path.stat().st_size, hash_file(path), {})


def make(**options):
    return lambda file, name, array: file.create_dataset(name, data=array, **options)


def external(file, name, array):
    file.create_dataset(name, array.shape, array.dtype, external=[("/etc/hostname", 0, array.nbytes)])


def virtual(file, name, array):
    layout = h5py.VirtualLayout(array.shape, array.dtype)
    layout[:] = h5py.VirtualSource("elsewhere.h5", "data", array.shape)
    file.create_virtual_dataset(name, layout)


def compact(file, name, array):
    plan = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    plan.set_layout(h5py.h5d.COMPACT)
    space = h5py.h5s.create_simple(array.shape)
    h5py.h5d.create(file.id, name.encode(), h5py.h5t.py_create(array.dtype), space, plan)


def link(target):
    def put(file, name, array):
        file["else/where"] = array
        file[name] = target

    return put


LIES = {
    "external storage": ({"image": external}, "'image' keeps its data in another file"),
    "virtual": ({"image": virtual}, "'image' is virtual, chunked or compact"),
    "chunked": ({"text": make(chunks=True)}, "'text' is virtual, chunked or compact"),
    "filtered": ({"text": make(compression="gzip")}, "'text' is virtual, chunked or compact"),
    "checksummed": ({"text": make(fletcher32=True)}, "'text' is virtual, chunked or compact"),
    "compact": ({"captions": compact}, "'captions' is virtual, chunked or compact"),
    "wider": ({"image": lambda f, n, a: f.create_dataset(n, data=a.astype("<f4"))}, "'image' is float32"),
    "big-endian": ({"valid": lambda f, n, a: f.create_dataset(n, data=a.astype(">i2"))}, "'valid' is >i2"),
    "fewer rows": ({"row_hash": lambda f, n, a: f.create_dataset(n, data=a[1:])}, r"\(11, 2\)"),
    "never written": (
        {"image": lambda f, n, a: f.create_dataset(n, a.shape, a.dtype)},
        "'image' claims 384 bytes that are not in the file",
    ),
    "enormous": ({"image": lambda f, n, _: f.create_dataset(n, (1 << 40, 1, 16), "<f2")}, "expected float16"),
    "missing": ({"text": None}, "found the datasets .*; expected"),
    "extra": ({"extra": make()}, "found the datasets .*extra"),
    "group": ({"valid": lambda f, n, _: f.create_group(n)}, "'valid' is not a dataset"),
}


@pytest.mark.parametrize("lie", LIES)
def test_lies_are_refused_before_anything_is_read(tmp_path, lie):
    changes, message = LIES[lie]
    record = craft(tmp_path / "shard-00000.h5", **changes)
    with pytest.raises(CacheError, match=message) as caught:
        map_shard(tmp_path / record.name, record, FIELDS)
    assert "refused" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("target", [h5py.SoftLink("/other"), h5py.ExternalLink("other.h5", "/image")])
def test_links_are_refused(tmp_path, target):
    def put(file, name, array):
        file[name] = target

    record = craft(tmp_path / "shard-00000.h5", image=put)
    with pytest.raises(CacheError, match="'image' is a link to somewhere else"):
        map_shard(tmp_path / record.name, record, FIELDS)


def test_honest_files_of_other_writers_are_read(tmp_path):
    record = craft(tmp_path / "shard-00000.h5")
    mapped = map_shard(tmp_path / record.name, record, FIELDS)
    assert same_bytes(mapped["text"], random_arrays()["text"])


def test_changed_files_are_noticed(tmp_path):
    record = write_shard(tmp_path, 0, SETTINGS, random_arrays(), {})
    path = tmp_path / record.name
    whole = path.read_bytes()
    check_file(path, record, full=True)
    path.write_bytes(whole[:-1])
    with pytest.raises(CacheError, match=r"has [\d,]+ bytes; expected"):
        map_shard(path, record, FIELDS)
    path.write_bytes(whole[:9000] + bytes([whole[9000] ^ 1]) + whole[9001:])
    check_file(path, record, full=False)
    with pytest.raises(CacheError, match="is damaged: its bytes hash to"):
        check_file(path, record, full=True)
    path.write_bytes(b"\0" * len(whole))
    with pytest.raises(CacheError, match="is not readable HDF5"):
        map_shard(path, record, FIELDS)
    path.unlink()
    with pytest.raises(CacheError, match="is missing"):
        map_shard(path, record, FIELDS)


def test_a_shard_that_is_a_symbolic_link_is_refused(tmp_path):
    record = write_shard(tmp_path / "real", 0, SETTINGS, random_arrays(), {})
    (tmp_path / record.name).symlink_to(tmp_path / "real" / record.name)
    with pytest.raises(CacheError, match="is missing"):
        map_shard(tmp_path / record.name, record, FIELDS)


@pytest.mark.parametrize(
    "error",
    [OSError(errno.ENOSPC, "No space left on device"), OSError(errno.EDQUOT, "Disk quota exceeded")],
)
def test_a_full_disk_leaves_nothing_behind(tmp_path, monkeypatch, error):
    def full(path, arrays):
        path.write_bytes(b"half")
        raise error

    monkeypatch.setattr(shard_module, "write_hdf5", full)
    for free, found in (
        (10_000, r"has 0\.0 MB free, but 0\.\d MB more are needed"),
        (1_000_000, "is full"),
        (10**10, r"takes no more, though it has 10\.0 GB free: a quota or its number of files is used up"),
    ):
        monkeypatch.setattr(shard_module, "free_bytes", lambda _, free=free: free)
        with pytest.raises(CacheError, match=rf"the disk of .* {found}; free some space and run the same"):
            write_shard(tmp_path, 0, SETTINGS, random_arrays(), {})
        assert list(tmp_path.iterdir()) == []


def manifest() -> CacheManifest:
    shards = (
        ShardRecord("shard-00000.h5", 12, 50, "a" * 32, {"no caption": 2}),
        ShardRecord("shard-00001.h5", 8, 40, "b" * 32, {"damaged image": 1, "no caption": 1}),
    )
    return CacheManifest(SETTINGS, "c" * 32, shards)


def test_manifest_survives_json_and_adds_up():
    import json

    made = manifest()
    assert CacheManifest.from_json(json.loads(json.dumps(made.to_json()))) == made
    assert made.masked == {"damaged image": 1, "no caption": 3}
    assert (made.rows, made.bytes, made.teacher, made.limit) == (20, 90, TEACHER, None)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("schema",), 2, "found format version 2; this mmkd reads version 1"),
        (("shards", 0, "name"), "../../etc/passwd", "found shard '../../etc/passwd'"),
        (("shards", 0, "rows"), 11, "of 11 rows; expected"),
        (("shards", 1, "xxh3_128"), "nonsense", "expected 32 hexadecimal digits"),
        (("shards", 1, "bytes"), -1, "found bytes -1"),
        (("shards",), [], "another number of shards"),
        (("masked",), {}, "do not add up"),
        (("surprise",), 1, "found .*surprise"),
        (("settings", "rows"), True, "found rows True"),
        (("settings", "rows"), 10**30, "found rows"),
        (("settings", "dtype"), "int8", "found dtype 'int8'"),
        (("settings", "sources"), [], "no data source"),
        (("settings", "sources"), [{"spec": 1}], "found the data source"),
        (("settings", "views"), [], "found the views"),
        (("settings", "teacher", "dim"), 0, "found dim 0"),
        (("settings", "teacher", "layers"), [1], "found layers"),
        (("settings", "teacher", "logit_scale"), "x", "found logit_scale 'x'"),
        (
            ("settings", "teacher", "logit_scale"),
            10**400,
            r"found logit_scale 10+\.\.\.0+; expected a number above 0",
        ),
        (("settings", "teacher", "logit_scale"), float("inf"), "found logit_scale inf"),
        (("settings", "teacher", "layers"), [1, 1 << 70], "found layers"),
        (("settings", "rows"), 12 * 16_385, "fill 16,385 shards of 12, and a cache has at most 16,384"),
        (("schema",), True, "found format version True"),
        (("settings", "teacher"), {}, "in the teacher"),
    ],
)
def test_manifests_that_cannot_be_trusted(path, value, message):
    import json

    raw = json.loads(json.dumps(manifest().to_json()))
    here = raw
    for step in path[:-1]:
        here = here[step]
    here[path[-1]] = value
    with pytest.raises(CacheError, match=message):
        CacheManifest.from_json(raw)


def test_records_hold_their_settings(tmp_path):
    shard = manifest().shards[1]
    write_record(tmp_path, 1, SETTINGS, shard)
    assert read_record(tmp_path, 1) == (SETTINGS, shard)
    assert read_record(tmp_path, 0) is None
    (tmp_path / "shard-00000.json").write_text("{")
    with pytest.raises(
        CacheError, match=r"cannot use .*shard-00000\.json: .* delete it to make its shard again"
    ):
        read_record(tmp_path, 0)


def test_differences_are_named_and_names_do_not_count():
    renamed = replace(SETTINGS, teacher=replace(TEACHER, model="elsewhere", revision=None))
    assert SETTINGS.differences(renamed) == []
    other = replace(SETTINGS, batch_size=4, teacher=replace(TEACHER, weights_hash="f" * 32))
    assert SETTINGS.differences(other) == ["weights ffff… (here 0000…)", "batch_size 4 (here 8)"]
    moved = replace(SETTINGS, sources=(DataSource("c/d", "train", "jpg", "txt"),))
    assert SETTINGS.differences(moved) == ["data c/d (here a/b)"]
