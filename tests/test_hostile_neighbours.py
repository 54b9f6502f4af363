"""Neighbours that are not what mining wrote are mined again, and open nothing else."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from test_hostile_shards import Watch

from mmkd.cache.neighbours import load_or_mine
from mmkd.cache.store import open_cache
from mmkd.mining import NegativeRules, SearchOptions, Share

ROWS = 96


class Mining:
    """Mines a cache, and says whether it had to."""

    def __init__(self, folder: Path) -> None:
        self.store = open_cache(folder)
        self.mined = False

    def __call__(self, captions: np.ndarray | None = None) -> np.ndarray:
        self.mined = False
        rows = np.arange(ROWS)
        found = load_or_mine(
            self.store,
            rows,
            self.store.hashes(rows)[:, 1] if captions is None else captions,
            rules=NegativeRules(4),
            seed=0,
            search=SearchOptions(),
            share=Share(),
            on_progress=lambda *_: setattr(self, "mined", True),
        )
        return found.rows


@pytest.fixture
def mining(copied_cache: Path) -> Mining:
    return Mining(copied_cache)


def external_link(file: h5py.File, elsewhere: Path) -> None:
    file["rows"] = h5py.ExternalLink(str(elsewhere), "/rows")


def soft_link(file: h5py.File, _: Path) -> None:
    file["rows"] = h5py.SoftLink("/other")


def virtual(file: h5py.File, elsewhere: Path) -> None:
    layout = h5py.VirtualLayout((ROWS, 4), "<i4")
    layout[:] = h5py.VirtualSource(str(elsewhere), "rows", (ROWS, 4))
    file.create_virtual_dataset("rows", layout)


def external_bytes(file: h5py.File, elsewhere: Path) -> None:
    file.create_dataset("rows", (ROWS, 4), "<i4", external=[(str(elsewhere), 0, ROWS * 16)])


def group(file: h5py.File, _: Path) -> None:
    file.create_group("rows")


def one_more(file: h5py.File, _: Path) -> None:
    file["rows"] = np.zeros((ROWS, 4), np.int32)
    file["other"] = np.zeros((ROWS, 4), np.int32)


@pytest.mark.parametrize("lie", [external_link, soft_link, virtual, external_bytes, group, one_more])
def test_no_other_file_is_opened(
    mining: Mining, tmp_path: Path, lie: Callable[[h5py.File, Path], None]
) -> None:
    expected = mining()
    (file,) = mining.store.folder.glob("neighbours-*.h5")
    elsewhere = tmp_path / "elsewhere" / "others.h5"
    elsewhere.parent.mkdir()
    shutil.copy(file, elsewhere)
    with h5py.File(file, "r") as whole:
        said = dict(whole.attrs)
    with h5py.File(file, "w") as h5:
        lie(h5, elsewhere)
        h5.attrs.update(said)
    watch = Watch(elsewhere.parent)
    assert np.array_equal(mining(), expected)
    assert mining.mined
    assert not watch.opened()
    os.close(watch.descriptor)


def test_a_link_to_a_file_is_not_followed(mining: Mining, tmp_path: Path) -> None:
    mining()
    (file,) = mining.store.folder.glob("neighbours-*.h5")
    file.rename(tmp_path / "moved.h5")
    file.symlink_to(tmp_path / "moved.h5")
    mining()
    assert mining.mined
    assert not file.is_symlink()


def test_a_flipped_bit_is_noticed(mining: Mining) -> None:
    expected = mining()
    (file,) = mining.store.folder.glob("neighbours-*.h5")
    with h5py.File(file, "r") as h5:
        offset = h5["rows"].id.get_offset()
    data = bytearray(file.read_bytes())
    place = offset + 4 * int(np.flatnonzero(expected.ravel() > 1)[0])
    data[place] ^= 1  # the row beside it: as good a row as any
    file.write_bytes(data)
    assert np.array_equal(mining(), expected)
    assert mining.mined
    assert np.array_equal(mining(), expected)
    assert not mining.mined


def test_one_caption_leaves_nothing_to_keep(mining: Mining) -> None:
    assert mining(np.zeros(ROWS, int)).shape == (ROWS, 0)
    assert not list(mining.store.folder.glob("neighbours-*"))
