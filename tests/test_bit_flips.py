"""A bit that turns over, anywhere in a cache, is noticed when the cache is opened, or changes nothing."""

import os
import shutil
from collections import Counter
from functools import partial
from pathlib import Path

import h5py
import numpy as np
import pytest
from fuzzing import in_child

from mmkd.cache.store import open_cache
from mmkd.errors import CacheError, MmkdError

SHARD, MANIFEST, RECORD = "shard-00002.h5", "manifest.json", "shard-00002.json"
FULL = os.environ.get("MMKD_FULL", "0") not in {"", "0"}
FLIPS = 1500 if FULL else 60
KINDS = ("data", "header", "manifest", "record")


@pytest.fixture(scope="module")
def folder(tiny_cache, tmp_path_factory) -> Path:
    """A cache that every flip is put into and taken out of again."""
    mined = shutil.ignore_patterns("neighbours-*", ".neighbours-*")
    return Path(shutil.copytree(tiny_cache, tmp_path_factory.mktemp("flips") / "cache", ignore=mined))


def places(folder: Path, kind: str) -> tuple[Path, np.ndarray]:
    """The file, and its bytes by number, that hold one kind of things."""
    name = {"manifest": MANIFEST, "record": RECORD}.get(kind, SHARD)
    held = np.zeros((folder / name).stat().st_size, dtype=bool)
    if name != SHARD:
        return folder / name, np.flatnonzero(~held)
    with h5py.File(folder / SHARD) as file:
        for dataset in file.values():
            start = dataset.id.get_offset()
            held[start : start + dataset.nbytes] = True
    if kind == "data":
        return folder / name, np.flatnonzero(held)
    # HDF5's own bytes, most of which are zeros of padding: a flip in those that are not counts for more.
    said = np.frombuffer((folder / name).read_bytes(), np.uint8) != 0
    return folder / name, np.concatenate([np.flatnonzero(~held), *[np.flatnonzero(~held & said)] * 9])


def flips(folder: Path, kind: str) -> list[tuple[Path, int, int]]:
    path, among = places(folder, kind)
    rng = np.random.default_rng(KINDS.index(kind))
    count = FLIPS // len(KINDS)
    return list(
        zip(
            [path] * count, rng.choice(among, count).tolist(), rng.integers(0, 8, count).tolist(), strict=True
        )
    )


def values(folder: Path, *, verify: bool) -> dict:
    """All that a training takes from a cache."""
    store = open_cache(folder, verify=verify)
    rows = np.arange(len(store))
    read = store.read(rows)
    return {
        "image": read.raw_image.numpy().tobytes(),
        "text": read.raw_text.numpy().tobytes(),
        "usable": store.usable.listed.tobytes(),
        "captions": store.caption_counts(rows).tobytes(),
        "hashes": store.hashes(rows).tobytes(),
        "manifest": store.manifest,
    }


def with_flip(path: Path, place: int, bit: int, action):
    whole = path.read_bytes()
    damaged = bytearray(whole)
    damaged[place] ^= 1 << bit
    path.write_bytes(damaged)
    try:
        return action()
    finally:
        path.write_bytes(whole)


@pytest.mark.parametrize("kind", KINDS)
def test_every_flipped_bit_is_noticed_or_harmless(folder, kind):
    expected, outcomes = values(folder, verify=True), Counter()
    for path, place, bit in flips(folder, kind):
        try:
            found = with_flip(path, place, bit, partial(values, folder, verify=True))
        except CacheError:
            outcomes["noticed"] += 1
        else:
            assert found == expected, f"bit {bit} of byte {place} of {path.name} went unnoticed"
            outcomes["harmless"] += 1
    print(f"{kind}: {dict(outcomes)}")
    if kind in ("data", "header"):
        assert outcomes["noticed"] == FLIPS // len(KINDS)  # every bit of a shard is hashed, padding too


@pytest.mark.parametrize("kind", KINDS[:3])
def test_without_hashing_nothing_crashes(folder, kind, tmp_path):
    """``verify=False`` looks at sizes and structure only: most flips of vectors go through, as documented."""
    expected, log = values(folder, verify=False), tmp_path / "log"

    def read(path: Path, place: int, bit: int) -> None:
        try:
            found = with_flip(path, place, bit, partial(values, folder, verify=False))
            said = "harmless" if found == expected else "unnoticed"
        except MmkdError:
            said = "noticed"
        with log.open("a") as stream:
            stream.write(f"{said}\n")

    chosen = flips(folder, kind)
    for start in range(0, len(chosen), 50):
        in_child("flips", [partial(read, *flip) for flip in chosen[start : start + 50]])
    outcomes = Counter(log.read_text().split())
    print(f"{kind}, not hashed: {dict(outcomes)}")
    assert sum(outcomes.values()) == len(chosen)
    assert outcomes["unnoticed"] > 0 or kind != "data"  # else the documentation says too little
