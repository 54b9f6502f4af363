"""Mined neighbours, kept beside the cache under a name made from all that they depend on."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import xxhash
from numpy.typing import NDArray

from mmkd.files import atomic_file
from mmkd.mining import Neighbours, mine_neighbours

if TYPE_CHECKING:
    from mmkd.cache.store import CacheStore

_VERSION = 1  # raise when mining changes, so that older files are not taken for the same


def load_or_mine(store: "CacheStore", rows: NDArray[np.int64], *, k: int, seed: int) -> Neighbours:
    """Neighbours of ``rows``, from ``<cache>/neighbours-<hash>.h5`` where they were mined before.

    Args:
        store: the cache.
        rows: int64 (N,): the rows to mine among.
        k: neighbours a row.
        seed: of the choice among rows with one caption.
    """
    digest = xxhash.xxh3_128(f"{_VERSION}/{store.key}/{k}/{seed}".encode())
    digest.update(rows.tobytes())
    file = store.folder / f"neighbours-{digest.hexdigest()[:16]}.h5"
    found = _load(file, len(store))
    if found is None:
        found = mine_neighbours(store, rows, k=k, seed=seed)
        _save(file, found)
    return found


def _save(file: Path, mined: Neighbours) -> None:
    import h5py

    with atomic_file(file) as temporary, h5py.File(temporary, "w", libver="latest") as h5:
        h5.create_dataset("rows", data=mined.rows)
        h5.attrs["dropped"] = mined.dropped
        h5.attrs["method"] = mined.method


def _load(file: Path, rows: int) -> Neighbours | None:
    """The neighbours in ``file``, or ``None`` where it is missing or is not what mining writes."""
    import h5py

    if not file.is_file() or file.stat().st_size > 64 << 30:
        return None
    try:
        with h5py.File(file, "r") as h5:
            dataset = h5.get("rows")
            if not _is_plain(h5, "rows") or dataset.dtype != np.int32 or dataset.nbytes > file.stat().st_size:
                return None
            found = np.asarray(dataset[:])
            dropped, method = float(h5.attrs["dropped"]), str(h5.attrs["method"])
    except (OSError, KeyError, ValueError, TypeError):
        return None
    fits = found.ndim == 2 and len(found) == rows and (found >= -1).all() and (found < rows).all()
    return Neighbours(found, dropped, method) if fits else None


def _is_plain(h5: Any, name: str) -> bool:
    """Whether ``name`` is a contiguous dataset of this very file."""
    import h5py

    dataset = h5.get(name)
    own = isinstance(h5.get(name, getlink=True), h5py.HardLink) and isinstance(dataset, h5py.Dataset)
    return own and not (dataset.external or dataset.is_virtual or dataset.chunks)
