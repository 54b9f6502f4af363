"""Which rows a step sees: a pure function of seed, epoch, step and global batch size."""

from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mmkd.errors import ConfigError
from mmkd.row_set import RowSet
from mmkd.shuffle import Shuffle, mix

SHUFFLED_WHOLE = 1 << 20  # rows; more are shuffled piece by piece, so that memory does not grow with them
PIECE = 1 << 16  # rows
GROUP = 8  # a row and up to seven of its neighbours stand in one batch


_Piece = tuple[int, Callable[[], NDArray[np.int64]]]


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


@dataclass(frozen=True)
class BatchPlan:
    """The batches of every epoch, the same for any number of processes.

    Attributes:
        rows: the rows to train on.
        global_batch: rows of one step, over all processes.
        seed: of the permutations.
        neighbours: int32 (R, K) by row, -1 where there is none: hard negatives that are to share a batch with
            their row; ``None`` for plain random batches.
        bank: N, the rows of a step's bank.
        views: V, the views that a row shows by turns; ``None`` for a new one, never shown before, each epoch.
        tars: int64 (T,): the first row of each tar; ``None`` to shuffle all rows with each other.
        window: with ``tars``, so many of them are shuffled with each other: the tars come in a new order each
            epoch, and are read from front to back but for that.
    """

    rows: RowSet
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

    def batches(self, epoch: int, first: int = 0) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float64]]]:
        """The steps of one epoch, from ``first`` on: rows, int64 (global_batch,), and draws from [0, 1).

        A row's draw picks its caption.
        """
        generator = np.random.default_rng((self.seed, epoch))
        pieces = self._pieces(epoch, generator)
        skipped, size = first * self.global_batch, self.global_batch
        generator.bit_generator.advance(skipped)  # type: ignore[attr-defined]  # a draw is one of its numbers
        left = np.empty(0, np.int64)
        for length, read in pieces:
            if skipped >= length:
                skipped -= length
                continue
            rows, skipped = read()[skipped:], 0
            rows = np.concatenate([left, rows]) if len(left) else rows
            for start in range(0, len(rows) - size + 1, size):
                yield rows[start : start + size], generator.random(size)
            left = rows[len(rows) // size * size :]

    def _pieces(self, epoch: int, generator: np.random.Generator) -> list[_Piece]:
        """The epoch's rows in their order, piece after piece: how many, and what reads them."""
        if self.tars is not None:
            return self._windows(epoch, generator)
        count = len(self.rows)
        if self.neighbours is not None or count <= SHUFFLED_WHOLE:
            order = self._mixed(self.rows.to_array(), generator)
            return [(count, lambda: order)]
        shuffle = Shuffle(count, (self.seed, epoch))

        def piece(start: int) -> _Piece:
            stop = min(start + PIECE, count)
            return stop - start, lambda: self.rows.take(shuffle(np.arange(start, stop)))

        return [piece(start) for start in range(0, count, PIECE)]

    def _windows(self, epoch: int, generator: np.random.Generator) -> list[_Piece]:
        """The tars in the epoch's order, those of a window shuffled with each other."""
        assert self.tars is not None
        starts = self.rows.places_before(self.tars)
        stops = np.append(starts[1:], len(self.rows))
        order = generator.permutation(len(starts))

        def piece(tars: NDArray[np.int64]) -> _Piece:
            def read() -> NDArray[np.int64]:
                places = [np.arange(starts[tar], stops[tar]) for tar in tars]
                own = np.random.default_rng((self.seed, epoch, int(tars[0])))
                return self._mixed(self.rows.take(np.concatenate(places)), own)

            return int((stops[tars] - starts[tars]).sum()), read

        return [piece(order[at : at + self.window]) for at in range(0, len(order), self.window)]

    def _mixed(self, rows: NDArray[np.int64], generator: np.random.Generator) -> NDArray[np.int64]:
        """Rows in random order, where there are neighbours beside them."""
        shuffled = generator.permutation(rows)
        return shuffled if self.neighbours is None else _group(shuffled, self.neighbours, generator)

    def views_of(self, epoch: int, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Which view each of ``rows`` shows in an epoch, in their shape.

        A row starts with a view of its own and shows the next one each epoch: all V in any V epochs in a row.
        """
        if self.views is None:
            return np.full(rows.shape, 1 + epoch)
        first = mix(rows.astype(np.uint64), self.seed) % np.uint64(self.views)
        return (first.astype(np.int64) + epoch) % self.views

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
            drawn = np.unique(self.rows.take(generator.integers(len(self.rows), size=2 * missing)))
            drawn = generator.permutation(drawn[~np.isin(drawn, taken)])[:missing]
            taken, chosen = np.concatenate([taken, drawn]), [*chosen, drawn]
            missing -= len(drawn)
        return np.concatenate(chosen)


def _group(
    order: NDArray[np.int64], neighbours: NDArray[np.int32], generator: np.random.Generator
) -> NDArray[np.int64]:
    """Put rows beside their still unused neighbours, then shuffle the groups."""
    free = np.zeros(len(neighbours), dtype=bool)
    free[order] = True
    starts, grouped, done = array("q"), np.empty_like(order), 0
    for piece in range(0, len(order), PIECE):  # a Python number takes four times its place in an array
        for row in order[piece : piece + PIECE].tolist():
            if not free[row]:
                continue
            free[row] = False
            starts.append(done)
            grouped[done] = row
            done += 1
            for neighbour in neighbours[row].tolist():
                if neighbour >= 0 and free[neighbour]:
                    free[neighbour] = False
                    grouped[done] = neighbour
                    done += 1
                    if done - starts[-1] == GROUP:
                        break
    return _shuffle_groups(grouped, np.frombuffer(starts, np.int64), generator)


def _shuffle_groups(
    grouped: NDArray[np.int64], starts: NDArray[np.int64], generator: np.random.Generator
) -> NDArray[np.int64]:
    """Groups in random order, each as it is."""
    chosen = generator.permutation(len(starts))
    lengths = np.diff(starts, append=len(grouped))[chosen]
    moved = np.repeat(starts[chosen] - np.cumsum(lengths) + lengths, lengths)
    places: NDArray[np.int64] = np.arange(len(grouped)) + moved
    return grouped[places]
