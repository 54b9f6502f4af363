"""A finished cache as the core's ``TeacherStore``: rows in, embeddings out."""

import json
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xxhash
from numpy.typing import NDArray

from mmkd.augment import Augmentation
from mmkd.cache.joined import Finder, pick
from mmkd.cache.manifest import MANIFEST, PAIRS, CacheManifest, read_manifest, read_record, record_path
from mmkd.cache.mapped import MappedShards
from mmkd.cache.origin import SIDES, joined, pick_teacher, teacher_differences
from mmkd.cache.shard import check_file, check_pairs
from mmkd.data import DataSource, PairDataset, open_pairs, row_hash
from mmkd.embeddings import Embeddings, TeacherSpec
from mmkd.errors import CacheError, ConfigError, DataError, StaleCacheError
from mmkd.row_set import RowSet


class CacheStore:
    """A cache on disk, mapped shard by shard when first read; sent to worker processes as its path.

    Attributes:
        folder: where it is.
        manifest: what it says of itself.
        picked: the one of several teachers, from 0, whose embeddings are read; None: all of them, side by side.
    """

    def __init__(self, folder: Path, manifest: CacheManifest, picked: int | None = None) -> None:
        self.folder = folder
        self.manifest = manifest
        self.picked = picked if len(manifest.settings.teachers) > 1 else None

    def __getstate__(self) -> dict[str, Any]:
        return {"folder": self.folder, "manifest": self.manifest, "picked": self.picked}

    @cached_property
    def _shards(self) -> MappedShards:
        return MappedShards(self.folder, self.manifest)

    def __len__(self) -> int:
        return self.manifest.rows

    @property
    def spec(self) -> TeacherSpec:
        """What made the embeddings that are read: a teacher, or several as one."""
        return joined(self.teachers)

    @property
    def teachers(self) -> tuple[TeacherSpec, ...]:
        """The teachers whose embeddings are read."""
        every = self.manifest.settings.teachers
        return every if self.picked is None else (every[self.picked],)

    @property
    def lead(self) -> TeacherSpec:
        """The teacher that a student is made of: the one that is read, or the first of several."""
        return self.teachers[0]

    @cached_property
    def key(self) -> str:
        """xxh3_128 of the manifest, which holds the hash of every shard, and of the teacher that was picked."""
        text = json.dumps(self.manifest.to_json(), sort_keys=True, ensure_ascii=False)
        text += "" if self.picked is None else f" {self.picked}"
        return xxhash.xxh3_128_hexdigest(text.encode("utf-8", "surrogatepass"))

    @cached_property
    def usable(self) -> RowSet:
        """The rows whose pair was not masked."""
        masked = [np.empty(0, np.int64)]
        for index in range(len(self.manifest.shards)):
            start = self.manifest.settings.shard_range(index).start
            masked.append(start + np.flatnonzero(self.shard(index)["valid"] == 0))
        return RowSet(len(self), np.concatenate(masked))

    def caption_counts(self, rows: NDArray[np.int64]) -> NDArray[np.uint16]:
        """uint16 (B,): captions of each of ``rows``."""
        return self._gather("captions", rows)

    def hashes(self, rows: NDArray[np.int64]) -> NDArray[np.uint64]:
        """uint64 (B, 2): xxh3_64 of the image bytes and of the captions of ``rows``."""
        return self._gather("row_hash", rows)

    @property
    def sides(self) -> tuple[str, ...]:
        """The sides that there are vectors of; those of the other are read as zeros."""
        return self.manifest.settings.sides

    @property
    def sources(self) -> list[DataSource]:
        """Where the pairs are: of an imported cache, in the cache itself."""
        sources = self.manifest.sources
        if self.manifest.settings.imported is None:
            return sources
        return [replace(source, spec=str(self.folder.resolve() / PAIRS)) for source in sources]

    @property
    def readable(self) -> tuple[str, ...]:
        """What the sources hold of a pair: the image, the captions, or both."""
        if self.manifest.settings.imported is None:
            return SIDES
        (source,) = self.manifest.sources
        columns = dict(zip(SIDES, (source.image_column, source.caption_column), strict=True))
        return tuple(side for side in SIDES if columns[side] is not None)

    def open_pairs(self, data: Sequence[str] | None = None, *, sides: tuple[str, ...] = SIDES) -> PairDataset:
        """The pairs that the cache was made from.

        Args:
            data: where they are now, if they moved: a spec for each source.
            sides: what to read of them.

        Raises:
            ConfigError: there are more or fewer sources than ``data`` names.
            DataError: they cannot be opened, or an imported cache has neither captions nor images.
        """
        sources = self.sources
        if data:
            if len(data) != len(sources):
                raise ConfigError(
                    f"the cache was made from {len(sources)} data sets, but --data names {len(data)}"
                )
            sources = [replace(source, spec=spec) for source, spec in zip(sources, data, strict=True)]
        if not self.readable:
            raise DataError(
                f"{self.folder} was imported without captions and images; import it again with them"
            )
        sides = tuple(side for side in self.readable if side in sides)
        return open_pairs(sources, self.manifest.limit, sides=sides)

    @property
    def views(self) -> int:
        """V, views of each image; view 0 is the untouched one."""
        return self.manifest.settings.views

    @property
    def augmentation(self) -> Augmentation:
        """What the views beyond the first are."""
        return self.manifest.settings.augmentation

    @property
    def pixels(self) -> int | None:
        """S, the side of the stored images; None where none are stored."""
        return self.manifest.settings.pixels

    @property
    def jpeg_side(self) -> int | None:
        """What ``mmkd.images.decode_image`` was given when the images were embedded."""
        return self.manifest.settings.jpeg_side

    def read_pixels(self, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
        """The untouched images of ``rows``, resized and cropped: uint8 (B, S, S, 3); zeros where masked.

        Raises:
            IndexError: a row that is not there.
            ConfigError: the cache holds no pixels.
        """
        if self.pixels is None:
            raise ConfigError(f"{self.folder} holds no pixels; make it again with --store-pixels")
        return self._gather("pixels", rows)

    def read(
        self,
        rows: NDArray[np.int64],
        captions: NDArray[np.int64] | None = None,
        views: NDArray[np.int64] | None = None,
    ) -> Embeddings:
        """Embeddings of ``rows`` in the order asked for; a masked row's are zero, as is a side without vectors.

        Args:
            rows: int64 (B,), each below ``len(self)``.
            captions: int64 (B,), which caption of its row; default: the first.
            views: int64 (B,), which view of its row's image; default: view 0, the untouched one.

        Raises:
            IndexError: a row, a caption or a view that is not there.
        """
        rows = np.asarray(rows, dtype=np.int64)
        which = np.zeros_like(rows) if captions is None else np.asarray(captions, dtype=np.int64)
        seen = np.zeros_like(rows) if views is None else np.asarray(views, dtype=np.int64)
        if which.shape != rows.shape or seen.shape != rows.shape or rows.ndim != 1:
            raise IndexError(
                f"found rows {rows.shape}, captions {which.shape} and views {seen.shape}; expected (B,) for each"
            )
        if ((seen < 0) | (seen >= self.views)).any():
            raise IndexError(f"views {seen.min()} to {seen.max()} of a cache of {self.views}")
        self._check_rows(rows)
        # A masked row may have no caption; its zero vector can still be asked for.
        if captions is not None and ((which < 0) | (which >= np.maximum(self.caption_counts(rows), 1))).any():
            raise IndexError(f"captions {which.min()} to {which.max()}, but the rows have fewer")
        vectors = {side: torch.zeros(len(rows), self.spec.dim) for side in SIDES}
        for find, here in self._shards.by_shard(rows):
            for side in self.sides:
                chosen = (seen if side == "image" else which)[here]
                units, norms = map(torch.from_numpy, self.vectors(find, side, chosen))
                vectors[side][here] = units.float().mul_(
                    norms[:, None]
                )  # NumPy's float16 is ten times slower
        return Embeddings(*(vectors[side] for side in SIDES))

    def vectors(
        self, find: Finder, side: str, chosen: NDArray[np.int64]
    ) -> tuple[NDArray[np.floating], NDArray[np.float32]]:
        """Unit vectors (B, D) of a ``side`` and the lengths (B,) that they had.

        Those of several teachers stand side by side, scaled to unit length, so that a cosine is the mean of the
        teachers' cosines; their length is the root mean square of the teachers'.

        Source: MobileCLIP, arXiv 2311.17049, section 3.2, stores an ensemble's embeddings side by side.

        Args:
            find: where each dataset's rows are.
            side: ``image`` or ``text``.
            chosen: int64 (B,): their views or captions.
        """
        (units, rows), (norms, norm_rows), settings = find(side), find(f"{side}_norm"), self.manifest.settings
        teachers = len(settings.teachers)
        if teachers > 1 and self.picked is not None:
            part = settings.parts[self.picked]
            return units[rows, chosen, part], norms[norm_rows, chosen, self.picked]
        picked = pick(units, rows, chosen), pick(norms, norm_rows, chosen)
        if teachers == 1:
            return picked
        lengths = np.sqrt(np.square(picked[1]).mean(axis=1))
        return picked[0].astype(np.float32) / np.float32(teachers**0.5), lengths

    def verify(self) -> None:
        """Hold every shard's bytes against the manifest and its structure against the format, then the manifest.

        What the manifest says beside the shards' hashes is held against their completion records and row hashes.

        Raises:
            CacheError: a shard, or an import's pairs, are missing, have changed, or are not built as the format says;
                or the manifest has changed.
        """
        manifest, digest = self.manifest, xxhash.xxh3_128()
        for index, record in enumerate(manifest.shards):
            check_file(self.folder / record.name, record, full=True)
            digest.update(np.ascontiguousarray(self.shard(index)["row_hash"]).tobytes())
            self._check_record(index)
        if digest.hexdigest() != manifest.data_hash:
            raise CacheError(
                f"{self.folder / MANIFEST} says data_hash {manifest.data_hash[:8]}…, and the rows' own hashes give "
                f"{digest.hexdigest()[:8]}…; {self._mend()}"
            )
        imported = manifest.settings.imported
        if imported is not None and (expected := imported.pairs_xxh3_128) is not None:
            check_pairs(self.folder / PAIRS, expected)

    def _check_record(self, index: int) -> None:
        """Hold a completion record, where there is one that can be read, against the manifest."""
        try:
            found = read_record(self.folder, index)
        except CacheError:
            return  # training needs none, and `mmkd cache verify` names it
        if found is not None and found != (self.manifest.settings, self.manifest.shards[index]):
            raise CacheError(
                f"{MANIFEST} and {record_path(self.folder, index).name} in {self.folder} contradict each other; "
                f"{self._mend()}"
            )

    def _mend(self) -> str:
        return f"mend it with `mmkd cache verify {self.folder} --repair`"

    def shard(self, index: int) -> dict[str, NDArray[Any]]:
        """The datasets of one shard by name, mapped; those of a side without vectors are not among them.

        Raises:
            CacheError: it is missing, or not built as the format says.
        """
        return self._shards.shard(index)

    def _check_rows(self, rows: NDArray[np.int64]) -> None:
        if rows.size and (rows.min() < 0 or rows.max() >= len(self)):
            raise IndexError(f"rows {rows.min()} to {rows.max()} of a cache of {len(self)} rows")

    def _gather(self, name: str, rows: NDArray[np.int64]) -> NDArray[Any]:
        self._check_rows(rows)
        return self._shards.gather(name, rows)


def open_cache(path: str | Path, *, verify: bool = True, teacher: str | None = None) -> CacheStore:
    """Open a finished cache.

    Args:
        path: the cache's folder.
        verify: hash every shard against the manifest first (as fast as the disk reads); without it a shard's
            size and structure are checked when it is first read.
        teacher: the one of several teachers whose embeddings are read, by number from 1 or by name; None: all of
            them, side by side.

    Raises:
        ConfigError: there is no such teacher.
        CacheError: there is no finished cache, it is damaged, or it cannot be trusted.
    """
    folder = Path(path)
    manifest = read_manifest(folder)
    picked = None if teacher is None else pick_teacher(manifest.settings.teachers, teacher)
    store = CacheStore(folder, manifest, picked)
    if verify:
        store.verify()
    return store


def check_teacher(store: CacheStore, spec: TeacherSpec) -> None:
    """Hold the teacher that made a cache, or leads those that did, against another.

    Where it is not known what made the cache, only the width is held against the other's.

    Raises:
        StaleCacheError: their weights, preprocessing, tokenizer or sizes differ.
    """
    lead = store.lead
    if not lead.known and lead.dim == spec.dim:
        return
    changed = teacher_differences(lead, spec)
    if not changed:
        return
    same = lead.model == spec.model
    raise StaleCacheError(
        f"{store.folder} was made by {lead.model} with {', '.join(changed).replace('(here', '(now')}"
        + ("" if same else f", but this run asks for {spec.model}")
        + "; make it again with `mmkd cache-teacher --out NEW`, or pass "
        + ("--revision" if same and spec.revision else "--cache")
    )


def check_data(store: CacheStore, pairs: PairDataset, *, sample: int = 4096) -> None:
    """Hold a cache against the data: the number of rows, and the hashes of ``sample`` rows spread evenly.

    Raises:
        StaleCacheError: the data has more or fewer rows than the cache, or other rows.
        CacheError: the cache cannot be read.
    """
    again = "make it again with `mmkd cache-teacher --out NEW`, or pass the --data that it was made from"
    if len(pairs) != len(store):
        raise StaleCacheError(
            f"{store.folder} holds {len(store):,} rows, but the data has {len(pairs):,}; {again}"
        )
    rows = np.unique(np.linspace(0, len(pairs) - 1, num=min(sample, len(pairs)), dtype=np.int64))
    differ = mismatched_rows(store, pairs, rows)
    if differ:
        raise StaleCacheError(
            f"{store.folder} was made from other data: {len(differ):,} of {len(rows):,} rows looked at "
            f"differ, the first of them row {differ[0]:,}; {again}"
        )


def mismatched_rows(store: CacheStore, pairs: PairDataset, rows: NDArray[np.int64]) -> list[int]:
    """Those of ``rows`` whose image bytes or captions are not the ones that were embedded."""
    read = [side in pairs.sides for side in SIDES]
    found = (np.array(row_hash(pairs[row]), dtype=np.uint64) for row in rows.tolist())
    known = zip(rows.tolist(), store.hashes(rows), found, strict=True)
    return [row for row, expected, hashes in known if (hashes != expected)[read].any()]
