"""Write a cache as clip-retrieval does, so that its index and search tools work on it."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmkd.cache.manifest import PAIRS
from mmkd.cache.mapped import find_in
from mmkd.cache.store import CacheStore
from mmkd.cache.vector_source import FOLDERS, KEPT, NORMS
from mmkd.data import Pair, PairDataset, row_hash
from mmkd.errors import CacheError, StaleCacheError
from mmkd.files import atomic_folder


def export_cache(
    store: CacheStore,
    pairs: PairDataset | None,
    out: Path,
    *,
    on_progress: Callable[[int], None] = lambda _: None,
) -> int:
    """Write the vectors, their captions and keys, one part a shard; ``out`` appears whole or not at all.

    There is a row for each caption, with its image's vector beside it. Masked rows are left out. Of several views
    it is the untouched image's. ``key`` is the row's number in the cache, unless the cache was imported with keys.

    Args:
        store: the cache, and which of its teachers is read.
        pairs: what it was made from, for the captions; ``None``: it has none.
        out: a folder that is not there yet, or empty.
        on_progress: called with the number of the cache's rows done.

    Returns:
        Rows written.

    Raises:
        CacheError: ``out`` holds something.
        StaleCacheError: the pairs are others than the cache was made from.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise CacheError(f"{out} holds something already; pass another --out")
    settings, written = store.manifest.settings, 0
    digits = len(str(max(settings.shards - 1, 0)))
    kept = _kept_columns(store)
    with atomic_folder(out) as folder:
        for name in ("metadata", *(FOLDERS[side] for side in store.sides)):
            (folder / name).mkdir()
        for index in range(settings.shards):
            rows = settings.shard_range(index)
            arrays = store.shard(index)
            part = _part(store, arrays, rows, pairs, kept)
            number = f"{index:0{digits}d}"
            for side in store.sides:
                name = FOLDERS[side]
                np.save(folder / name / f"{name}_{number}.npy", part.pop(name), allow_pickle=False)
            _write_table(folder / "metadata" / f"metadata_{number}.parquet", part)
            written += len(part["key"])
            on_progress(rows.stop)
    return written


def _part(
    store: CacheStore,
    arrays: dict[str, NDArray[Any]],
    rows: range,
    pairs: PairDataset | None,
    kept: dict[str, list[str | None]],
) -> dict[str, Any]:
    """The columns of one part: vectors by clip-retrieval's names, and the metadata."""
    good = np.flatnonzero(arrays["valid"])
    captions, inside, which = [], [], []
    sides = () if pairs is None else pairs.sides
    for row in good.tolist():
        pair = Pair(b"", ()) if pairs is None else pairs[rows[row]]
        texts = pair.captions
        count = int(arrays["captions"][row])
        if "text" in sides and (len(texts) != count or row_hash(pair)[1] != arrays["row_hash"][row, 1]):
            raise StaleCacheError(
                f"row {rows[row]:,} of the data has other captions than when it was cached; pass the --data that the "
                "cache was made from"
            )
        for number in range(max(count, 1)):
            captions.append(texts[number] if texts else None)
            inside.append(row)
            which.append(number)
    here = np.array(inside, dtype=np.int64)
    part: dict[str, Any] = {}
    for side, place in (("image", np.zeros_like(here)), ("text", np.array(which, dtype=np.int64))):
        if side in arrays:
            units, lengths = store.vectors(partial(find_in, arrays, here), side, place)
            part[FOLDERS[side]] = np.ascontiguousarray(units, np.float16)
            part[NORMS[side]] = lengths
    part["key"] = [str(rows[row]) for row in inside]
    part |= {name: [values[rows[row]] for row in inside] for name, values in kept.items()}
    if any(caption is not None for caption in captions):
        part["caption"] = captions
    return part


def _kept_columns(store: CacheStore) -> dict[str, list[str | None]]:
    """Keys, links and paths that an imported cache came with."""
    import pyarrow.parquet as pq

    file = store.folder / PAIRS
    if store.manifest.settings.imported is None or not file.is_file():
        return {}
    with pq.ParquetFile(file) as table:
        names = [name for name in KEPT if name in table.schema_arrow.names]
        found: dict[str, list[str | None]] = table.read(columns=names).to_pydict() if names else {}
    if any(len(values) != len(store) for values in found.values()):
        raise StaleCacheError(f"{file} has another number of rows than its cache; import it again")
    return found


def _write_table(path: Path, columns: dict[str, Any]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    def array(values: list[str | None] | NDArray[Any]) -> Any:
        return pa.array(values, type=None if isinstance(values, np.ndarray) else pa.string())

    pq.write_table(pa.table({name: array(values) for name, values in columns.items()}), path)
