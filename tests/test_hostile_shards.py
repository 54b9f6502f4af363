"""Shards that lie are refused unread: no other file is opened, and what they claim costs no memory."""

import ctypes
import json
import os
import resource
import struct
from functools import partial
from pathlib import Path

import fuzzing
import h5py
import numpy as np
import pytest
from fuzzing import in_child
from test_cache_shard import FIELDS, LIES, craft, make, random_arrays

from mmkd.cache.manifest import CacheManifest, ShardRecord
from mmkd.cache.shard import hash_file, map_shard
from mmkd.cache.store import open_cache
from mmkd.errors import CacheError, MmkdError
from mmkd.parse import MAX_JSON, read_json

IN_OPEN, IN_ACCESS, IN_ISDIR = 0x20, 0x1, 0x40000000
MEGABYTES = 100  # that refusing a file may take


class Watch:
    """Tells whether any process opened a file of a folder."""

    def __init__(self, folder: Path) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        self.descriptor = libc.inotify_init1(os.O_NONBLOCK)
        assert self.descriptor >= 0
        assert libc.inotify_add_watch(self.descriptor, os.fsencode(folder), IN_OPEN | IN_ACCESS) >= 0

    def opened(self) -> bool:
        """Whether a file was opened since this was asked last; that the folder was listed does not count."""
        found = False
        while True:
            try:
                events = os.read(self.descriptor, 4096)
            except BlockingIOError:
                return found
            while events:
                _, mask, _, length = struct.unpack_from("iIII", events)
                found |= not mask & IN_ISDIR
                events = events[16 + length :]


@pytest.fixture
def elsewhere(tmp_path):
    """A folder with files that nothing may open, and what tells whether something did."""
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    (folder / "secret").write_bytes(bytes(range(256)) * 64)
    with h5py.File(folder / "secret.h5", "w") as file:
        file["data"] = random_arrays()["image"]
    watch = Watch(folder)
    yield folder, watch
    os.close(watch.descriptor)


def array(dtype):
    return lambda file, name, _: file.create_dataset(name, FIELDS[name].shape, dtype)


def external(folder: Path):
    def put(file, name, values):
        file.create_dataset(
            name, values.shape, values.dtype, external=[(str(folder / "secret"), 0, values.nbytes)]
        )

    return put


def virtual(folder: Path, *, unlimited: bool):
    def put(file, name, values):
        most = (None, *values.shape[1:]) if unlimited else values.shape
        layout = h5py.VirtualLayout(values.shape, values.dtype, maxshape=most)
        source = h5py.VirtualSource(str(folder / "secret.h5"), "data", values.shape, maxshape=most)
        if unlimited:  # how many rows there are is then known from the other file only
            layout[: h5py.h5s.UNLIMITED, :, :] = source[: h5py.h5s.UNLIMITED, :, :]
        else:
            layout[:] = source
        file.create_virtual_dataset(name, layout)

    return put


def link(target):
    def put(file, name, values):
        file["else/where"] = values
        file[name] = target

    return put


def attributes(file, name, values):
    dataset = file.create_dataset(name, data=values)
    for number in range(500):
        dataset.attrs[f"a{number}"] = np.zeros(8_000, np.uint8)
        file.attrs[f"a{number}"] = np.zeros(8_000, np.uint8)


def groups(file, name, values):
    here = file
    for number in range(2_000):
        here = here.create_group(f"g{number}")


def many(file, name, values):
    for number in range(20_000):
        file[f"d{number}"] = h5py.SoftLink("/image")


def twice(file, name, values):
    file[name] = file["image_norm"]  # a hard link: both names are one dataset


def of_type(file, name, values):
    file["kinds"] = np.dtype("<f2")
    file.create_dataset(name, data=values, dtype=file["kinds"])


def early(file, name, values):
    plan = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    plan.set_layout(h5py.h5d.CONTIGUOUS)
    plan.set_alloc_time(h5py.h5d.ALLOC_TIME_LATE)
    space = h5py.h5s.create_simple((1 << 38, 1, 16))  # 8.8 TB
    h5py.h5d.create(file.id, name.encode(), h5py.h5t.IEEE_F16LE, space, plan)


COMPOUND = np.dtype([("a", "<f2"), ("b", "<i4", (3,))])
ENUM = h5py.enum_dtype({f"name{number}": number for number in range(2_000)}, basetype="u2")
MORE_LIES = {
    "objects": ({"image": array(h5py.string_dtype())}, "'image' is object"),
    "lists": ({"image": array(h5py.vlen_dtype(np.float16))}, "'image' is object"),
    "references": ({"image": array(h5py.ref_dtype)}, "'image' is object"),
    "regions": ({"image": array(h5py.regionref_dtype)}, "'image' is object"),
    "compound": ({"image": array(COMPOUND)}, r"'image' is \[\('a'"),
    "names for numbers": ({"captions": array(ENUM)}, "'captions' claims .* not in the file"),
    "opaque": ({"image": array(np.dtype("V2"))}, r"'image' is \|V2"),
    "text": ({"valid": array(np.dtype("S1"))}, r"'valid' is \|S1"),
    "scaled": ({"row_hash": make(scaleoffset=0, chunks=(4, 2))}, "'row_hash' is virtual, chunked or compact"),
    "shuffled": (
        {"row_hash": make(shuffle=True, chunks=(4, 2))},
        "'row_hash' is virtual, chunked or compact",
    ),
    "8 TB": ({"image": early}, r"'image' is float16 \(274877906944, 1, 16\); expected"),
    "deep groups": ({"image": groups}, "found the datasets .*g0"),
    "many links": ({"extra": many}, "found the datasets 20,00[0-9] of them; expected"),
    "one for two": (
        {"text_norm": twice, "image_norm": make()},
        r"'text_norm' is float32 \(12, 1\)|shares its bytes",
    ),
    "soft link": ({"image": link(h5py.SoftLink("/else/where"))}, "found the datasets"),
    "named type": ({"image": of_type}, "found the datasets .*kinds"),
}


def outside(folder: Path) -> dict:
    """Lies that point at a file of ``folder``."""
    return {
        "external": ({"image": external(folder)}, "'image' keeps its data in another file"),
        "virtual": ({"image": virtual(folder, unlimited=False)}, "'image' is virtual"),
        "virtual, unlimited": ({"image": virtual(folder, unlimited=True)}, "'image' is virtual"),
        "external link": (
            {
                "image": lambda f, n, _: f.__setitem__(
                    n, h5py.ExternalLink(str(folder / "secret.h5"), "/data")
                )
            },
            "'image' is a link to somewhere else",
        ),
        "soft link through an external one": (
            {
                "image": lambda f, n, _: f.__setitem__(n, h5py.SoftLink("/extra/data")),
                "extra": lambda f, n, _: f.__setitem__(n, h5py.ExternalLink(str(folder / "secret.h5"), "/")),
            },
            "found the datasets",
        ),
    }


def refuse(path: Path, record: ShardRecord, message: str) -> None:
    """Assert that a shard is refused in these words, and at what cost."""
    Path("/proc/self/clear_refs").write_text("5")  # the highest memory so far is that of now
    before = memory()
    with pytest.raises(CacheError, match=message) as refused:
        map_shard(path, record, FIELDS)
    assert str(refused.value).startswith("refused ")
    assert len(str(refused.value)) < 2_000
    assert memory() - before < MEGABYTES << 20


def memory() -> int:
    """Bytes, the most that this process has had since ``clear_refs``."""
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in line]
    return int(line.split()[1]) << 10


def test_hostile_shards_are_refused_unread(tmp_path, elsewhere):
    folder, watch = elsewhere
    lies, actions = {**LIES, **MORE_LIES, **outside(folder)}, []
    for number, (changes, message) in enumerate(lies.values()):
        (tmp_path / str(number)).mkdir()
        path = tmp_path / str(number) / "shard-00000.h5"
        actions.append(partial(refuse, path, craft(path, **changes), message))
    watch.opened()  # forgets what crafting them did
    in_child("hostile shards", actions)
    assert not watch.opened()


def test_what_other_readers_do_with_them_would_be_seen(tmp_path, elsewhere):
    """Plain h5py opens the other file: what the test above looks for can be seen."""
    folder, watch = elsewhere
    for number, (changes, _) in enumerate(outside(folder).values()):
        path = tmp_path / f"{number}.h5"
        craft(path, **changes)
        watch.opened()
        in_child("readers", [partial(read_all, path)])
        assert watch.opened()


def read_all(path: Path) -> None:
    with h5py.File(path) as file:
        file["image"][:]


def test_attributes_cost_no_more_than_their_bytes_in_the_file(tmp_path):
    path = tmp_path / "shard-00000.h5"
    record = craft(path, image=attributes)
    assert record.bytes > 7 << 20

    def read() -> None:
        Path("/proc/self/clear_refs").write_text("5")
        before = memory()
        map_shard(path, record, FIELDS)
        assert memory() - before < record.bytes + (8 << 20)

    in_child("attributes", [read])


def test_bytes_before_hdf5s_own_are_refused(tmp_path):
    path = tmp_path / "shard-00000.h5"
    with h5py.File(path, "w", userblock_size=1024) as file:
        for name, values in random_arrays().items():
            file.create_dataset(name, data=values)
    record = ShardRecord(path.name, 12, path.stat().st_size, hash_file(path), {})
    with pytest.raises(CacheError, match="a user block of 1,024 bytes"):
        map_shard(path, record, FIELDS)


def test_two_datasets_of_the_same_bytes_are_refused(tmp_path):
    """One dataset by two names, where type and shape fit both."""
    path, fields = tmp_path / "shard-00000.h5", {**FIELDS, "text": FIELDS["image"]}
    with h5py.File(path, "w") as file:
        for name, values in random_arrays().items():
            if name != "text":
                file.create_dataset(name, data=values)
        file["text"] = file["image"]
    record = ShardRecord(path.name, 12, path.stat().st_size, hash_file(path), {})
    with pytest.raises(CacheError, match="shares its bytes with another dataset"):
        map_shard(path, record, fields)


def test_mapped_shards_keep_no_file_open(tiny_cache):
    def descriptors() -> int:
        return len([*Path("/proc/self/fd").iterdir()])

    store, before = open_cache(tiny_cache, verify=False), descriptors()
    for index in range(5):
        store.shard(index)
    assert descriptors() == before
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert hard >= soft > 5


VIEW = {"policy": "crop+flip", "seed": 0}
CLAIMS = {
    "rows": lambda v: v["settings"].update(rows=1 << 47, shard_rows=1 << 47),
    "width": lambda v: v["settings"]["teacher"].update(dim=65_536),
    "captions": lambda v: v["settings"].update(captions=65_535),
    "views": lambda v: v["settings"].update(views=v["settings"]["views"] + [VIEW] * 60_000),
    "bytes": lambda v: v["shards"][0].update(bytes=1 << 47),
    "shards": lambda v: v["settings"].update(shard_rows=1, rows=1 << 40),
    "reasons": lambda v: v.update(masked={f"reason {n}": 0 for n in range(100_000)}),
}


def test_what_a_manifest_claims_costs_no_memory(copied_cache):
    whole = (copied_cache / "manifest.json").read_text()

    def read(text: str) -> None:
        (copied_cache / "manifest.json").write_text(text)
        Path("/proc/self/clear_refs").write_text("5")
        before = memory()
        with pytest.raises(CacheError):
            open_cache(copied_cache, verify=True).read(np.arange(96))
        assert memory() - before < MEGABYTES << 20

    actions = []
    for change in CLAIMS.values():
        value = json.loads(whole)
        change(value)
        actions.append(partial(read, json.dumps(value)))
    in_child("claims", actions)


def test_the_largest_json_stays_below_500_mb(tmp_path, monkeypatch):
    """The worst for its size: lists and lists. A quarter of it must take less than a quarter."""
    text = '{"a": [' + "[]," * (MAX_JSON // 3 // 4) + "1]}"
    (tmp_path / "manifest.json").write_text(text)
    monkeypatch.setattr(fuzzing, "HANG", 60)

    def read() -> None:
        Path("/proc/self/clear_refs").write_text("5")
        before = memory()
        with pytest.raises(MmkdError):
            CacheManifest.from_json(read_json(tmp_path / "manifest.json"))
        assert memory() - before < 125 << 20

    in_child("json", [read])
