"""Which rows of a data set are meant, without a number for each of ten million."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from mmkd.errors import ConfigError

SUBSET_SEED = 7012  # the same subset for every --seed, so that seeds share their data


@dataclass(frozen=True)
class RowSet:
    """Rows in ascending order, of which only those that are meant, or only those that are not, are held.

    Attributes:
        total: rows of the data set, meant or not.
        listed: int64 (L,), ascending, each once.
        excludes: whether ``listed`` are the rows that are not meant.
    """

    total: int
    listed: NDArray[np.int64]
    excludes: bool = True

    @classmethod
    def all_of(cls, total: int) -> "RowSet":
        """Every row."""
        return cls(total, np.empty(0, np.int64))

    @classmethod
    def only(cls, rows: NDArray[np.int64]) -> "RowSet":
        """These rows, in any order, each once."""
        listed = np.sort(rows)
        return cls(int(listed[-1]) + 1 if len(listed) else 0, listed, excludes=False)

    def __len__(self) -> int:
        return self.total - len(self.listed) if self.excludes else len(self.listed)

    def take(self, places: NDArray[np.int64]) -> NDArray[np.int64]:
        """The rows at ``places``, counted from 0, in their shape."""
        if not self.excludes:
            return self.listed[places]
        return places + np.searchsorted(self._meant_before, places, side="right")

    @cached_property
    def _meant_before(self) -> NDArray[np.int64]:
        """How many rows that are meant stand before each excluded one."""
        return self.listed - np.arange(len(self.listed))

    def places_before(self, bounds: NDArray[np.int64]) -> NDArray[np.int64]:
        """How many of the rows are smaller than each of ``bounds``: the place of the first that is not."""
        listed = np.searchsorted(self.listed, bounds)
        return np.minimum(bounds, self.total) - listed if self.excludes else listed

    def to_array(self) -> NDArray[np.int64]:
        """All of them, int64 (N,)."""
        return self.take(np.arange(len(self)))


def split_rows(rows: RowSet, limit: int | None, hold_out: int) -> tuple[RowSet, NDArray[np.int64]]:
    """The rows to train on and those held out of them, the same for every seed.

    Args:
        rows: usable ones.
        limit: how many of them there are to be, held out or not; ``None``: all.
        hold_out: how many of those are kept from training.

    Raises:
        ConfigError: fewer than 2 are left to train on.
    """
    draws = np.random.default_rng(SUBSET_SEED)
    if limit is not None and limit < len(rows):
        if limit < 2:
            raise ConfigError(f"--limit {limit} leaves nothing to train on; expected 2 or more")
        rows = RowSet.only(rows.take(draws.choice(len(rows), limit, replace=False)))
    if not hold_out:
        return rows, np.empty(0, dtype=np.int64)
    if len(rows) - hold_out < 2:
        raise ConfigError(
            f"--hold-out {hold_out:,} leaves nothing to train on of {len(rows):,} pairs; use fewer"
        )
    held = np.sort(rows.take(draws.choice(len(rows), hold_out, replace=False)))
    if rows.excludes:
        return RowSet(rows.total, np.union1d(rows.listed, held)), held
    return RowSet.only(np.setdiff1d(rows.listed, held, assume_unique=True)), held
