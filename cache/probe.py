"""A small cache of rows from all over the data, made as the real one would be, with a clock beside it."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmkd.cache.build import build_cache
from mmkd.cache.settings import CacheSettings
from mmkd.cache.shard import shard_bytes, shard_fields, write_shard
from mmkd.cache.store import CacheStore, open_cache
from mmkd.cache.tally import BuildProgress
from mmkd.data import Pair, PairDataset, open_pairs
from mmkd.embeddings import Embeddings, TeacherSpec
from mmkd.encoders import PairEncoder
from mmkd.planning import CachingProbe, measured
from mmkd.row_set import RowSet, split_rows

FIRST_ROWS = (4, 32)  # rows of the first, unmeasured caches, from which the probe's size follows
LEAST_BATCHES = 8
MOST_ROWS = 50_000
WRITTEN = 32 << 20  # bytes of the file that writing is timed by
MOST_TEXTS = 100_000  # rows whose captions are compared with each other


class RepeatedPairs(PairDataset):
    """Pair i is pair ``rows[i % len(rows)]`` of others.

    Args:
        pairs: the others.
        rows: int64 (N,): which of them.
        length: how many there seem to be.
    """

    def __init__(self, pairs: PairDataset, rows: NDArray[np.int64], length: int) -> None:
        self._pairs, self._rows, self._count = pairs, rows, length
        self.limit, self.sources, self.sides = pairs.limit, pairs.sources, pairs.sides

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, row: int) -> Pair:
        return self._pairs[int(self._rows[row % len(self._rows)])]

    @property
    def max_captions(self) -> int:
        """As many as any pair of the others has, so that their room is the same."""
        return self._pairs.max_captions


class RepeatedStore:
    """A ``TeacherStore`` whose row i is row ``rows[i % len(rows)]`` of a cache, none of them masked."""

    def __init__(self, store: CacheStore, rows: NDArray[np.int64], length: int) -> None:
        self._store, self._rows, self._count = store, rows, length
        self.folder, self.manifest, self.sides = store.folder, store.manifest, store.sides

    def __len__(self) -> int:
        return self._count

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "_store":
            raise AttributeError(name)
        return getattr(self._store, name)

    @property
    def spec(self) -> TeacherSpec:
        """The teacher."""
        return self._store.spec

    def hashes(self, rows: NDArray[np.int64]) -> NDArray[np.uint64]:
        """As the cache's."""
        return self._store.hashes(self._of(rows))

    def caption_counts(self, rows: NDArray[np.int64]) -> NDArray[np.uint16]:
        """As the cache's."""
        return self._store.caption_counts(self._of(rows))

    def read_pixels(self, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
        """As the cache's."""
        return self._store.read_pixels(self._of(rows))

    def read(
        self,
        rows: NDArray[np.int64],
        captions: NDArray[np.int64] | None = None,
        views: NDArray[np.int64] | None = None,
    ) -> Embeddings:
        """As the cache's."""
        return self._store.read(self._of(rows), captions, views)

    def _of(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        return self._rows[rows % len(self._rows)]


@dataclass(frozen=True)
class ProbedCache:
    """A small cache, and what making it showed.

    Attributes:
        store: the cache.
        pairs: what it was made from.
        good: int64 (N,): its rows that are not masked.
        probe: what was measured.
    """

    store: CacheStore
    pairs: PairDataset
    good: NDArray[np.int64]
    probe: CachingProbe


def probe_caching(
    encoder: PairEncoder,
    pairs: PairDataset,
    settings: CacheSettings,
    folder: Path,
    *,
    seconds: float,
    workers: int | None = None,
    on_progress: Callable[[int, int], None] = lambda _, __: None,
) -> ProbedCache:
    """Embed rows from all over the data for about ``seconds`` and keep them as a cache in ``folder``.

    What runs is the build itself, threads included. The first batches are not counted: they come from a queue that is
    still being filled, and warm up the teacher. Where the batch is so large that eight of them would not fit into the
    time, smaller ones are measured.

    Args:
        encoder: the teacher.
        pairs: the data.
        settings: of the cache that is planned.
        folder: where the small cache goes; new or empty.
        seconds: to measure for.
        workers: threads that decode; default: as the build has it.
        on_progress: called with the rows done, and all that will be.
    """
    rows, batch = _choose_rows(encoder, pairs, settings, seconds, folder.parent)
    sample = RepeatedPairs(pairs, rows, len(rows))
    stamps: list[tuple[float, int]] = []
    finished = 0.0

    def note(state: BuildProgress) -> None:
        nonlocal finished
        finished = time.perf_counter()
        if not stamps or state.rows > stamps[-1][1]:
            stamps.append((finished, state.rows))
            on_progress(state.rows, len(rows))

    _build(encoder, sample, folder, settings, batch=batch, workers=workers, on_progress=note)
    store = open_cache(folder)
    texts = len({text for row in range(len(sample)) for text in sample[row].captions})
    byte = _seconds_a_byte(settings, folder.parent)
    queued = 3 + (workers or 0)  # the queue holds about as many at the start
    skipped = min(max(1, min(queued, len(stamps) - LEAST_BATCHES)), len(stamps) - 2)
    caption = max(0.0, finished - stamps[-1][0] - byte * store.manifest.bytes) / max(1, texts)
    good = store.usable.to_array()
    probe = CachingProbe(
        measured(stamps[skipped:]), caption, byte, len(good) / len(rows), stamps[-1][1] - stamps[skipped][1]
    )
    return ProbedCache(store, sample, good, probe)


def _build(
    encoder: PairEncoder,
    sample: PairDataset,
    folder: Path,
    settings: CacheSettings,
    *,
    batch: int,
    workers: int | None = None,
    on_progress: Callable[[BuildProgress], None] = lambda _: None,
) -> None:
    """A cache of all of ``sample``, in one shard, and otherwise as ``settings`` have it."""
    build_cache(
        encoder,
        sample,
        folder,
        max_bad=1.0,
        workers=workers,
        on_progress=on_progress,
        shard_rows=len(sample),
        batch_size=batch,
        views=settings.views,
        augmentation=settings.augmentation,
        store_pixels=settings.pixels is not None,
        scaled_jpeg=settings.jpeg_side is not None,
    )


def _choose_rows(
    encoder: PairEncoder, pairs: PairDataset, settings: CacheSettings, seconds: float, scratch: Path
) -> tuple[NDArray[np.int64], int]:
    """Rows in whole batches from all over the data, ascending, and the batch's size."""
    each = 0.0
    for few in FIRST_ROWS:  # the first ones warm the teacher up
        sample = RepeatedPairs(pairs, np.arange(min(few, settings.rows)), few)
        with TemporaryDirectory(dir=scratch) as name:
            start = time.perf_counter()
            _build(encoder, sample, Path(name) / "cache", settings, batch=few)
            each = (time.perf_counter() - start) / few
        if each > seconds / 50:
            break
    wanted = min(settings.rows, MOST_ROWS, max(LEAST_BATCHES + 1, round(seconds / each)))
    batch = max(1, min(settings.batch_size, wanted // (LEAST_BATCHES + 1)))
    starts = np.arange(0, settings.rows, batch)
    count = max(1, min(len(starts), wanted // batch))
    chosen = np.sort(np.random.default_rng(0).permutation(len(starts))[:count])
    rows = [np.arange(starts[one], min(starts[one] + batch, settings.rows)) for one in chosen]
    return np.concatenate(rows).astype(np.int64), batch


def _seconds_a_byte(settings: CacheSettings, folder: Path) -> float:
    row = sum(field.bytes for field in shard_fields(settings, 0).values()) / len(settings.shard_range(0))
    count = max(1, min(len(settings.shard_range(0)), int(WRITTEN / row)))
    small = replace(settings, rows=count, shard_rows=count)
    arrays = {name: np.zeros(field.shape, field.dtype) for name, field in shard_fields(small, 0).items()}
    with TemporaryDirectory(dir=folder) as name:
        start = time.perf_counter()
        write_shard(Path(name), 0, small, arrays, {})
        return (time.perf_counter() - start) / shard_bytes(small, 0)


def count_captions(
    settings: CacheSettings, on_progress: Callable[[int, int], None] = lambda _, __: None
) -> int:
    """Captions that are distinct within their shard, over all shards; beyond 100,000 rows at the first ones' rate.

    The build embeds each of these once.
    """
    pairs = open_pairs(settings.sources, settings.limit, sides=("text",))
    looked = min(settings.rows, max(MOST_TEXTS // settings.shard_rows, 1) * settings.shard_rows, MOST_TEXTS)
    found = sum(_distinct(pairs, part, on_progress, looked) for part in _parts(settings, looked))
    return round(found * settings.rows / looked)


def count_first_captions(
    settings: CacheSettings, rows: int, on_progress: Callable[[int, int], None] = lambda _, __: None
) -> int:
    """Distinct first captions of ``rows`` rows, which training mines among; beyond 100,000 at the last ones' rate.

    Args:
        settings: of the cache.
        rows: of the training; the very ones that ``split_rows`` takes where none is masked.
        on_progress: called with the rows looked at, and all that will be.
    """
    pairs = open_pairs(settings.sources, settings.limit, sides=("text",))
    chosen, _ = split_rows(RowSet.all_of(settings.rows), rows, 0)
    looked = min(len(chosen), MOST_TEXTS)
    places = np.random.default_rng(0).permutation(len(chosen))[:looked]
    seen: set[int] = set()
    half = 0
    for number, row in enumerate(chosen.take(places).tolist()):
        half = len(seen) if 2 * number <= looked else half
        seen.update(hash(text) for text in pairs[row].captions[:1])
        if number % 1_000 == 0:
            on_progress(number, looked)
    return len(seen) + round((len(chosen) - looked) * 2 * (len(seen) - half) / looked)


def _parts(settings: CacheSettings, looked: int) -> Iterator[range]:
    for index in range(settings.shards):
        part = settings.shard_range(index)
        if part.start >= looked:
            return
        yield range(part.start, min(part.stop, looked))


def _distinct(pairs: PairDataset, part: range, on_progress: Callable[[int, int], None], total: int) -> int:
    seen: set[int] = set()
    for row in part:
        seen.update(hash(text) for text in pairs[row].captions)
        if row % 1_000 == 0:
            on_progress(row, total)
    return len(seen)
