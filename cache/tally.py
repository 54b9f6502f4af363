"""How far a build is, and whether too much of the data is unusable to go on."""

from collections.abc import Callable
from dataclasses import dataclass

from mmkd.cache.embed import Prepared
from mmkd.cache.manifest import ShardRecord, count_masked
from mmkd.captions import FILTERED
from mmkd.errors import DataError

MAX_BAD = 0.05
EARLY_ROWS = 1_000  # from here on the share of masked rows is judged


@dataclass(frozen=True)
class BuildProgress:
    """How far this process is with its own share.

    Attributes:
        rows: rows done, those of an earlier start included.
        masked: masked rows among them.
        shards: finished shards among its own.
        awaited: shards that other processes are at, where this one has nothing left to do but wait for them.
    """

    rows: int
    masked: int
    shards: int
    awaited: int = 0


class Tally:
    """Counts rows and masked rows, tells of them, and stops where too many are masked.

    Args:
        done: shards that an earlier start finished.
        rows: of the whole cache.
        max_bad: the largest share of masked rows to accept.
        on_progress: is told.
    """

    def __init__(
        self,
        done: dict[int, ShardRecord],
        rows: int,
        max_bad: float,
        on_progress: Callable[[BuildProgress], None],
    ) -> None:
        self._rows = sum(record.rows for record in done.values())
        self._shards = len(done)
        self._masked = count_masked(list(done.values()))
        self._awaited = 0
        self._all_rows = rows
        self._max_bad = max_bad
        self._on_progress = on_progress
        self._tell()

    def add(self, batch: Prepared) -> None:
        """Count a batch that was embedded.

        Raises:
            DataError: too many rows are masked.
        """
        self._count(
            len(batch.rows), {reason: batch.reasons.count(reason) for reason in set(batch.reasons) if reason}
        )
        if self._rows >= min(EARLY_ROWS, self._all_rows):
            judge_masked(self._masked, self._rows, self._max_bad)
        self._tell()

    def finish_shard(self, made_by_another: ShardRecord | None = None) -> None:
        """Count a shard, with its rows where another process made it."""
        if made_by_another is not None:
            self._count(made_by_another.rows, made_by_another.masked)
        self._shards += 1
        self._tell()

    def wait(self, shards: int) -> None:
        """Tell that ``shards`` shards of other processes are awaited."""
        if shards != self._awaited:
            self._awaited = shards
            self._tell()

    def _count(self, rows: int, masked: dict[str, int]) -> None:
        self._rows += rows
        for reason, number in masked.items():
            self._masked[reason] = self._masked.get(reason, 0) + number

    def _tell(self) -> None:
        masked = sum(self._masked.values())
        self._on_progress(BuildProgress(self._rows, masked, self._shards, self._awaited))


def judge_masked(masked: dict[str, int], rows: int, max_bad: float) -> None:
    """Stop where more than ``max_bad`` of ``rows`` are masked; those that a filter dropped do not count.

    Raises:
        DataError: they are, or the filter dropped all.
    """
    dropped = sum(number for reason, number in masked.items() if reason.startswith(FILTERED))
    if 0 < dropped == rows:
        raise DataError(f"the caption filters drop all of {rows:,} rows; loosen them")
    bad, rows = sum(masked.values()) - dropped, rows - dropped
    if bad > max_bad * rows:
        reasons = ", ".join(
            f"{reason} {number:,}"
            for reason, number in sorted(masked.items())
            if not reason.startswith(FILTERED)
        )
        raise DataError(
            f"{bad:,} of {rows:,} rows cannot be used ({reasons}), more than the {max_bad:.1%} that --max-bad "
            "allows; mend the data, or pass a larger --max-bad"
        )
