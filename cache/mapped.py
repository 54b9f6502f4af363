"""All shards of a cache, mapped when they are first read: rows of any of them in one call."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmkd.cache.joined import Finder, JoinedShards
from mmkd.cache.manifest import CacheManifest
from mmkd.cache.shard import map_shard, shard_fields


class MappedShards:
    """The shards of one cache.

    Args:
        folder: where they are.
        manifest: what it says of them.
    """

    def __init__(self, folder: Path, manifest: CacheManifest) -> None:
        self._folder, self._records, self._settings = folder, manifest.shards, manifest.settings
        whole = self._settings.rows // self._settings.shard_rows  # the last one may have fewer rows
        size = self._records[0].bytes if whole else 0
        self._joined = JoinedShards(shard_fields(self._settings, 0), whole, size)
        self._alone: dict[int, dict[str, NDArray[Any]]] = {}

    def shard(self, index: int) -> dict[str, NDArray[Any]]:
        """The datasets of one shard by name.

        Raises:
            CacheError: it is missing, or not built as the format says.
        """
        return self._joined.shard(index) if self._map(np.array([index]))[0] else self._alone[index]

    def gather(self, name: str, rows: NDArray[np.int64]) -> NDArray[Any]:
        """Of dataset ``name`` the ``rows`` (B,), in the order asked for; all of them are there."""
        found: NDArray[Any] | None = None
        for find, here in self.by_shard(rows):
            array, inside = find(name)
            if isinstance(here, slice):
                found = array.take(inside, axis=0)
            else:
                found = np.empty((len(rows), *array.shape[1:]), array.dtype) if found is None else found
                found[here] = array[inside]
        if found is None:  # no rows
            field = shard_fields(self._settings, 0)[name]
            return np.empty((0, *field.shape[1:]), field.dtype)
        return found

    def by_shard(self, rows: NDArray[np.int64]) -> Iterator[tuple[Finder, slice | NDArray[np.int64]]]:
        """Where some of ``rows`` are to be read, and their places in ``rows``; later ones overrule earlier ones."""
        shards, inside = np.divmod(rows, self._settings.shard_rows)
        joined = self._map(shards)
        if joined.any():
            # All places, so that nothing is copied twice; what is not joined is any shard's for now.
            held = shards if joined.all() else np.where(joined, shards, shards[joined.argmax()])
            yield self._joined.find(held, inside), slice(None)
        rest = np.flatnonzero(~joined)
        alone = shards[rest]
        if len(rest) and (alone == alone[0]).all():  # the last shard, mostly: no need to sort
            yield partial(find_in, self._alone[int(alone[0])], inside[rest]), rest
            return
        order = rest[np.argsort(shards[rest], kind="stable")]
        indices, starts = np.unique(shards[order], return_index=True)
        for index, here in zip(indices.tolist(), np.split(order, starts[1:]), strict=False):
            yield partial(find_in, self._alone[index], inside[here]), here

    def _map(self, shards: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Map ``shards`` (B,), and say which of them are joined; the others are mapped by themselves."""
        joined = self._joined.holds(shards)
        if joined.all():
            return joined
        for index in np.unique(shards[~joined]).tolist():
            record = self._records[index]
            path = self._folder / record.name
            if index not in self._alone and not self._joined.add(index, path, record):
                self._alone[index] = map_shard(path, record, shard_fields(self._settings, index))
        return self._joined.holds(shards)


def find_in(
    arrays: dict[str, NDArray[Any]], rows: NDArray[np.int64], name: str
) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """Rows of one shard, as a ``Finder`` finds them."""
    return arrays[name], rows
