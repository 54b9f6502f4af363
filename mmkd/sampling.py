"""Which rows a step sees: a pure function of seed, epoch, step and global batch size."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mmkd.errors import ConfigError

SUBSET_SEED = 7012  # the same subset for every --seed, so that seeds share their data
GROUP = 8  # a row and up to seven of its neighbours stand in one batch


class StepRows(NamedTuple):
    """What one process reads for one step.

    Attributes:
        rows: int64 (B,).
        draws: float64 (B,), from [0, 1): which of its captions a row shows.
        bank: int64 (N,): rows whose cached embeddings serve as further negatives, the same for every process.
        views: int64 (B,): which view of its image a row shows.
    """

    rows: NDArray[np.int64]
    draws: NDArray[np.float64]
    bank: NDArray[np.int64]
    views: NDArray[np.int64]


def split_rows(
    rows: NDArray[np.int64], limit: int | None, hold_out: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The rows to train on and those held out of them, the same for every seed.

    Args:
        rows: int64 (N,), usable ones.
        limit: how many of them there are to be, held out or not; ``None``: all.
        hold_out: how many of those are kept from training.

    Raises:
        ConfigError: fewer than 2 are left to train on.
    """
    draws = np.random.default_rng(SUBSET_SEED)
    if limit is not None and limit < len(rows):
        if limit < 2:
            raise ConfigError(f"--limit {limit} leaves nothing to train on; expected 2 or more")
        rows = np.sort(draws.choice(rows, limit, replace=False))
    if not hold_out:
        return rows, np.empty(0, dtype=np.int64)
    if len(rows) - hold_out < 2:
        raise ConfigError(
            f"--hold-out {hold_out:,} leaves nothing to train on of {len(rows):,} pairs; use fewer"
        )
    held = np.zeros(len(rows), dtype=np.bool_)
    held[draws.choice(len(rows), hold_out, replace=False)] = True
    return rows[~held], rows[held]


@dataclass(frozen=True)
class BatchPlan:
    """The batches of every epoch, the same for any number of processes.

    Attributes:
        rows: int64 (N,): the rows to train on.
        global_batch: rows of one step, over all processes.
        seed: of the permutations.
        neighbours: int32 (R, K) by row, -1 where there is none: hard negatives that are to share a batch with
            their row; ``None`` for plain random batches.
        bank: N, the rows of a step's bank.
        views: V, the views that a row shows by turns; ``None`` for a new one, never shown before, each epoch.
        tars: int64 (N,): which tar each of ``rows`` lies in; ``None`` to shuffle all rows with each other.
        window: with ``tars``, so many of them are shuffled with each other: the tars come in a new order each
            epoch, and are read from front to back but for that.
    """

    rows: NDArray[np.int64]
    global_batch: int
    seed: int
    neighbours: NDArray[np.int32] | None = None
    bank: int = 0
    views: int | None = 1
    tars: NDArray[np.int64] | None = None
    window: int = 1

    def __post_init__(self) -> None:
        if len(self.rows) < self.global_batch:
            raise ConfigError(
                f"a batch of {self.global_batch:,} is larger than the {len(self.rows):,} usable pairs; "
                "use a smaller --batch-size"
            )
        if self.bank > len(self.rows) - self.global_batch:
            raise ConfigError(
                f"--bank {self.bank:,} and a batch of {self.global_batch:,} are more than the {len(self.rows):,} "
                f"usable pairs; use a --bank of at most {len(self.rows) - self.global_batch:,}"
            )

    @property
    def steps_per_epoch(self) -> int:
        """Whole batches of an epoch; the rest is dropped, since repeated rows would be false negatives."""
        return len(self.rows) // self.global_batch

    def epoch(self, epoch: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Rows of one epoch, int64 (steps, global_batch), and for each a draw from [0, 1) that picks its caption."""
        generator = np.random.default_rng((self.seed, epoch))
        free = np.zeros(0 if self.neighbours is None else len(self.neighbours), dtype=bool)
        parts = []
        for part in self._windows(generator):
            shuffled = generator.permutation(part)
            if self.neighbours is not None:
                shuffled = _group(shuffled, self.neighbours, generator, free)
            parts.append(shuffled)
        order = np.concatenate(parts)
        order = order[: self.steps_per_epoch * self.global_batch]
        shape = (self.steps_per_epoch, self.global_batch)
        return order.reshape(shape), generator.random(shape)

    def _windows(self, generator: np.random.Generator) -> list[NDArray[np.int64]]:
        """The rows that are shuffled with each other, and grouped with their neighbours."""
        if self.tars is None:
            return [self.rows]
        tars, firsts = np.unique(np.sort(self.tars), return_index=True)
        by_tar = np.split(self.rows[np.argsort(self.tars, kind="stable")], firsts[1:])
        order = generator.permutation(len(tars)).tolist()
        return [
            np.concatenate([by_tar[tar] for tar in order[first : first + self.window]])
            for first in range(0, len(order), self.window)
        ]

    def views_of(self, epoch: int, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Which view each of ``rows`` shows in an epoch, in their shape.

        A row starts with a view of its own and shows the next one each epoch: all V in any V epochs in a row.
        """
        if self.views is None:
            return np.full(rows.shape, 1 + epoch)
        generator = np.random.default_rng((self.seed, 0, 0x76696577))
        first = generator.integers(self.views, size=int(self.rows.max()) + 1)
        return (first[rows] + epoch) % self.views

    def bank_rows(self, epoch: int, step: int, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Rows of a step's bank, none of them in the batch: the mined neighbours first, then random ones.

        Args:
            epoch: 0-based.
            step: 0-based, within the epoch.
            rows: int64 (global_batch,): the step's own rows.
        """
        near = np.zeros(0, np.int64)
        if self.bank and self.neighbours is not None:
            # Column by column: every row's nearest neighbour before anybody's second.
            near = self.neighbours[rows].T.ravel().astype(np.int64)
            near = near[(near >= 0) & ~np.isin(near, rows)]
            _, first = np.unique(near, return_index=True)
            near = near[np.sort(first)][: self.bank]
        taken, chosen = np.concatenate([rows, near]), [near]
        missing = self.bank - len(near)
        generator = np.random.default_rng((self.seed, epoch, step, 0x62616E6B))
        while missing:
            # By rejection, since a step must not cost more the larger the data is.
            drawn = np.unique(generator.choice(self.rows, 2 * missing))
            drawn = generator.permutation(drawn[~np.isin(drawn, taken)])[:missing]
            taken, chosen = np.concatenate([taken, drawn]), [*chosen, drawn]
            missing -= len(drawn)
        return np.concatenate(chosen)


def _group(
    order: NDArray[np.int64],
    neighbours: NDArray[np.int32],
    generator: np.random.Generator,
    free: NDArray[np.bool_],
) -> NDArray[np.int64]:
    """Put rows beside their still unused neighbours, then shuffle the groups; ``free`` is False before and after."""
    free[order] = True
    starts: list[int] = []
    grouped: list[int] = []
    for row in order.tolist():
        if not free[row]:
            continue
        free[row] = False
        starts.append(len(grouped))
        grouped.append(row)
        for neighbour in neighbours[row].tolist():
            if neighbour >= 0 and free[neighbour]:
                free[neighbour] = False
                grouped.append(neighbour)
                if len(grouped) - starts[-1] == GROUP:
                    break
    groups = np.split(np.array(grouped, dtype=np.int64), starts[1:])
    return np.concatenate([groups[index] for index in generator.permutation(len(groups))])
