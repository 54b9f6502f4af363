"""Which rows a step sees: a pure function of seed, epoch, step and global batch size."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mmkd.errors import ConfigError

GROUP = 8  # a row and up to seven of its neighbours stand in one batch


@dataclass(frozen=True)
class BatchPlan:
    """The batches of every epoch, the same for any number of processes.

    Attributes:
        rows: int64 (N,): the rows to train on.
        global_batch: rows of one step, over all processes.
        seed: of the permutations.
        neighbours: int32 (R, K) by row, -1 where there is none: hard negatives that are to share a batch with
            their row; ``None`` for plain random batches.
    """

    rows: NDArray[np.int64]
    global_batch: int
    seed: int
    neighbours: NDArray[np.int32] | None = None

    def __post_init__(self) -> None:
        if len(self.rows) < self.global_batch:
            raise ConfigError(
                f"a batch of {self.global_batch:,} is larger than the {len(self.rows):,} usable pairs; "
                "use a smaller --batch-size"
            )

    @property
    def steps_per_epoch(self) -> int:
        """Whole batches of an epoch; the rest is dropped, since repeated rows would be false negatives."""
        return len(self.rows) // self.global_batch

    def epoch(self, epoch: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Rows of one epoch, int64 (steps, global_batch), and for each a draw from [0, 1) that picks its caption."""
        generator = np.random.default_rng((self.seed, epoch))
        order = generator.permutation(self.rows)
        if self.neighbours is not None:
            order = _group(order, self.neighbours, generator)
        order = order[: self.steps_per_epoch * self.global_batch]
        shape = (self.steps_per_epoch, self.global_batch)
        return order.reshape(shape), generator.random(shape)


def _group(
    order: NDArray[np.int64], neighbours: NDArray[np.int32], generator: np.random.Generator
) -> NDArray[np.int64]:
    """Put rows beside their still unused neighbours, then shuffle the groups."""
    free = np.zeros(len(neighbours), dtype=bool)
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
