"""Mined neighbours, kept beside the cache under a name made from all that they depend on."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import xxhash
from numpy.typing import NDArray

from mmkd.cache.hdf5_file import write_hdf5
from mmkd.cache.shard import Field, contiguous_offsets, disk_errors
from mmkd.cache.writers import mining, remove_mining_leftovers
from mmkd.errors import CacheError
from mmkd.files import atomic_file
from mmkd.mining import NegativeRules, Neighbours, SearchOptions, Share, mine_neighbours
from mmkd.mining.search import OnProgress

if TYPE_CHECKING:
    from mmkd.cache.store import CacheStore

_VERSION = 3  # raise when mining changes, so that older files are not taken for the same


def neighbours_file(
    store: "CacheStore", rows: NDArray[np.int64], *, rules: NegativeRules, seed: int, method: str
) -> Path:
    """``<cache>/neighbours-<hash>.h5``: the same name wherever the same is mined in the same way."""
    digest = xxhash.xxh3_128(f"{_VERSION}/{store.key}/{rules}/{seed}/{method}".encode())
    digest.update(rows.tobytes())
    return store.folder / f"neighbours-{digest.hexdigest()[:16]}.h5"


def load_or_mine(
    store: "CacheStore",
    rows: NDArray[np.int64],
    caption_ids: NDArray[np.integer],
    *,
    rules: NegativeRules,
    seed: int,
    search: SearchOptions,
    share: Share,
    on_progress: OnProgress,
) -> Neighbours:
    """Neighbours of ``rows``, read where they were mined before; every process must call it.

    Args:
        store: the cache.
        rows: int64 (N,): the rows to mine among.
        caption_ids: int (N,): equal where their first captions are.
        rules: which of the nearest are negatives.
        seed: of the choice among rows with one caption.
        search: how captions are searched.
        share: this process's part.
        on_progress: receives what is being done; never called where they are read.

    Raises:
        CacheError: this process cannot read what the first one can.
    """
    file = neighbours_file(store, rows, rules=rules, seed=seed, method=search.method)
    found = _load(file, len(store))
    if share.first(found is not None):
        if found is None:
            raise CacheError(
                f"{file} cannot be read by every process; expected a folder that all of them share"
            )
        return found
    with _owning(store.folder, share):
        mined = mine_neighbours(
            store,
            rows,
            caption_ids,
            rules=rules,
            seed=seed,
            search=search,
            share=share,
            on_progress=on_progress,
        )
        if share.rank == 0 and mined.rows.size:  # one distinct caption has none
            _save(file, mined)
    share.wait()
    return mined


@contextmanager
def _owning(folder: Path, share: Share) -> Iterator[None]:
    """Let the first process own what it keeps half-written in ``folder``, after removing what killed ones left."""
    if share.rank == 0:
        remove_mining_leftovers(folder)
        with mining(folder):
            yield
    else:
        yield


def _save(file: Path, mined: Neighbours) -> None:
    said = {name: getattr(mined, name) for name in ("dropped", "method", "recall", "seconds")}
    said["xxh3_128"] = xxhash.xxh3_128_hexdigest(np.ascontiguousarray(mined.rows).data)
    with disk_errors(file.parent, mined.rows.nbytes), atomic_file(file) as temporary:
        write_hdf5(temporary, {"rows": mined.rows}, said)


def _load(file: Path, rows: int) -> Neighbours | None:
    """The neighbours in ``file``, or ``None`` where it is missing or is not what mining wrote."""
    import h5py

    if file.is_symlink() or not file.is_file() or (size := file.stat().st_size) > 64 << 30:
        return None
    try:
        with h5py.File(file, "r") as h5:
            # The link first: to look into the dataset is to follow it.
            if not isinstance(h5.get("rows", getlink=True), h5py.HardLink):
                return None
            dataset = h5["rows"]
            contiguous_offsets(h5.id, {"rows": Field(np.dtype("<i4"), dataset.shape)}, size)
            found = np.asarray(dataset[:])
            digest = str(h5.attrs["xxh3_128"])
            dropped, method = float(h5.attrs["dropped"]), str(h5.attrs["method"])
            recall, seconds = float(h5.attrs["recall"]), float(h5.attrs["seconds"])
    except (OSError, RuntimeError, KeyError, ValueError, TypeError, AttributeError, CacheError):
        return None
    fits = found.ndim == 2 and len(found) == rows and (found >= -1).all() and (found < rows).all()
    whole = fits and xxhash.xxh3_128_hexdigest(np.ascontiguousarray(found).data) == digest
    return Neighbours(found, dropped, method, recall, seconds) if whole else None
