"""Single rows of a cache, all that it holds of each, with one shard open at a time."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmkd.cache.manifest import ShardRecord
from mmkd.cache.settings import CacheSettings
from mmkd.cache.shard import map_shard, shard_fields


class RowReader:
    """Reads rows and shards; cheap while rows are asked for in ascending order.

    Attributes:
        settings: what made the cache.
    """

    def __init__(self, folder: Path, settings: CacheSettings, records: Mapping[int, ShardRecord]) -> None:
        self.settings = settings
        self._folder = folder
        self._records = records
        self._open: tuple[int, dict[str, NDArray[Any]]] | None = None

    def __len__(self) -> int:
        return self.settings.rows

    def __getitem__(self, row: int) -> dict[str, NDArray[Any]]:
        """A row of every dataset: ``image (V, D)``, ``text (C, D)``, ``valid ()``, ``row_hash (2,)`` ….

        Raises:
            CacheError: its shard is missing, or is not built as the format says.
        """
        index, inside = divmod(row, self.settings.shard_rows)
        return {name: np.array(array[inside]) for name, array in self.shard(index).items()}

    def shard(self, index: int) -> dict[str, NDArray[Any]]:
        """The mapped datasets of a shard.

        Raises:
            CacheError: it is missing, or is not built as the format says.
        """
        if self._open is None or self._open[0] != index:
            self._open = None  # first let go of the other one
            record = self._records[index]
            arrays = map_shard(self._folder / record.name, record, shard_fields(self.settings, index))
            self._open = index, arrays
        return self._open[1]

    def shards(self) -> Iterator[tuple[int, dict[str, NDArray[Any]]]]:
        """Every shard in order, with its first row."""
        for index in range(self.settings.shards):
            yield self.settings.shard_range(index).start, self.shard(index)

    def sample(self, rows: int, generator: np.random.Generator) -> NDArray[np.int64]:
        """``rows`` different random rows, ascending; all where there are no more."""
        if rows >= len(self):
            return np.arange(len(self), dtype=np.int64)
        chosen = np.empty(0, np.int64)
        while len(chosen) < rows:  # a permutation of all rows would need memory for all of them
            chosen = np.unique(np.append(chosen, generator.integers(0, len(self), rows - len(chosen))))
        return chosen
