"""Shards made one after another, each by one process, whichever processes share a folder."""

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from itertools import chain, islice
from typing import TYPE_CHECKING

from mmkd.cache.embed import Prepared, Teachers, embed_shard, prefetch, prepare
from mmkd.cache.folder import finished_shard
from mmkd.cache.locks import Lock
from mmkd.cache.manifest import ShardRecord, record_path, write_record
from mmkd.cache.shard import disk_errors, shard_bytes, write_shard
from mmkd.cache.tally import Tally
from mmkd.cache.writers import take_shard
from mmkd.data import PairDataset

if TYPE_CHECKING:
    from mmkd.cache.build import BuildPlan

_PATIENCE = 3  # polls after which a shard that nobody is at counts as given up


class ShardMaker:
    """Makes those shards of a cache that no other process is making.

    Args:
        encoder: the teacher, or several.
        pairs: the data.
        plan: what there is to do.
        tally: counts what comes of this process's own shards.
        workers: threads that decode.

    Attributes:
        records: of shards that are known to be whole, by their number.
    """

    def __init__(
        self, encoder: Teachers, pairs: PairDataset, plan: "BuildPlan", tally: Tally, workers: int
    ) -> None:
        self.records: dict[int, ShardRecord] = dict(plan.done)
        self._encoder, self._folder, self._settings = encoder, plan.folder, plan.settings
        self._own, self._tally, self._workers = set(plan.own), tally, workers
        self._prepare: Callable[[range], Prepared] = partial(prepare, encoder, pairs, plan.settings)
        self._held: deque[tuple[int, Lock]] = deque()
        self._polls = 0

    def make(self, wanted: list[int]) -> None:
        """Make those of ``wanted`` that are neither whole nor another process's at the moment."""
        try:
            with closing(prefetch(self._batches(wanted), self._prepare, self._workers)) as prepared:
                for first in prepared:
                    index, lock = self._held[0]
                    rest = -(-len(self._settings.shard_range(index)) // self._settings.batch_size) - 1
                    self.records[index] = self._write(index, chain([first], islice(prepared, rest)))
                    self._held.popleft()
                    lock.release()
        finally:
            while self._held:
                self._held.pop()[1].release()

    def look(self) -> list[int]:
        """The shards that are not whole yet; what other processes have finished is hashed once."""
        left = [index for index in range(self._settings.shards) if index not in self.records]
        for index in left:
            if record := finished_shard(self._folder, index, self._settings):
                self._found(index, record)
        return [index for index in left if index not in self.records]

    def take_over(self, left: list[int]) -> None:
        """Make one of ``left`` that nobody has been at for a while: its process came to an end, or is slower."""
        self._polls += 1
        for index in left if self._polls > _PATIENCE else []:
            if (lock := take_shard(self._folder, index)) is not None:
                lock.release()
                if lock.sure:
                    self.make([index])
                    return

    def _batches(self, wanted: list[int]) -> Iterator[range]:
        for index in wanted:
            lock = take_shard(self._folder, index)
            if lock is None:
                continue
            if record := finished_shard(self._folder, index, self._settings):  # by another, since we looked
                lock.release()
                self._found(index, record)
                continue
            self._held.append((index, lock))
            with disk_errors(self._folder):
                record_path(self._folder, index).unlink(missing_ok=True)
            rows = self._settings.shard_range(index)
            for first in range(0, len(rows), self._settings.batch_size):
                yield rows[first : first + self._settings.batch_size]

    def _found(self, index: int, record: ShardRecord) -> None:
        self.records[index] = record
        if index in self._own:
            self._tally.finish_shard(record)

    def _write(self, index: int, batches: Iterator[Prepared]) -> ShardRecord:
        settings, folder, own = self._settings, self._folder, index in self._own
        on_batch: Callable[[Prepared], None] = self._tally.add if own else (lambda _: None)
        arrays, masked = embed_shard(self._encoder, batches, settings, index, on_batch)
        record = write_shard(folder, index, settings, arrays, masked)
        with disk_errors(folder, shard_bytes(settings, index)):
            write_record(folder, index, settings, record)
        if own:
            self._tally.finish_shard()
        return record
