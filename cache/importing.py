"""Make a cache of vectors that exist already; killed and started again, it ends with the same bytes."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

from mmkd.cache.build import SHARD_ROWS
from mmkd.cache.embed import NO_CAPTION
from mmkd.cache.folder import finished_shard, refuse_foreign, refuse_other_cache
from mmkd.cache.manifest import (
    PAIRS,
    CacheManifest,
    ShardRecord,
    count_masked,
    record_path,
    write_manifest,
    write_record,
)
from mmkd.cache.origin import SIDES, Imported
from mmkd.cache.settings import CacheSettings
from mmkd.cache.shard import (
    disk_errors,
    disk_full,
    free_bytes,
    hash_file,
    map_shard,
    shard_bytes,
    shard_fields,
    write_shard,
)
from mmkd.cache.tally import MAX_BAD, judge_masked
from mmkd.cache.vector_source import KEPT, NORMS, Part, VectorSource
from mmkd.cache.writers import writing
from mmkd.data import DataSource, Pair, row_hash
from mmkd.embeddings import TeacherSpec, unknown_teacher
from mmkd.errors import ConfigError, DataError
from mmkd.files import atomic_file
from mmkd.images import BadImageError, decode_image, read_image_file

NOT_FINITE, ZERO = "vector not finite", "vector of zeros"
_UNIT = 1e-3  # a unit vector in float16 is off by half as much at most


@dataclass(frozen=True)
class ImportPlan:
    """What there is to do before anything is written.

    Attributes:
        folder: where the cache goes.
        source: the vectors.
        settings: what the cache will say of itself.
        images: the folder that image paths lead into; ``None``: no image is opened.
        done: shards that an earlier start finished.
        needed: bytes that are still to be written.
        free: bytes that the disk has.
    """

    folder: Path
    source: VectorSource
    settings: CacheSettings
    images: Path | None
    done: dict[int, ShardRecord]
    needed: int
    free: int


def plan_import(
    source: VectorSource,
    out: Path,
    *,
    teacher: TeacherSpec | None = None,
    images: Path | None = None,
    shard_rows: int = SHARD_ROWS,
) -> ImportPlan:
    """Look at ``out`` and the disk; finished shards of the same vectors are kept.

    Args:
        source: the vectors.
        out: where the cache goes.
        teacher: what is said to have made them; ``None``: nobody knows.
        images: the folder that ``image_path`` of the source leads into.
        shard_rows: rows of a shard.

    Raises:
        StaleCacheError: ``out`` holds shards of other vectors.
        CacheError: ``out`` holds something else, or the disk has too little space.
        ConfigError: the teacher's vectors have another width, or there are no image paths.
    """
    if teacher is not None and teacher.dim != source.dim:
        raise ConfigError(
            f"{source.path} holds vectors of width {source.dim}, but {teacher.model} makes {teacher.dim}; pass another "
            "--teacher"
        )
    if images is not None and "image_path" not in source.columns:
        raise ConfigError(f"--images {images} has nothing to look up: {source.path} has no column image_path")
    settings = CacheSettings(
        teacher=teacher or unknown_teacher(source.dim),
        sources=(
            DataSource(
                str(source.path.resolve()),
                "train",
                None if images is None else "image",
                None if source.caption is None else "caption",
            ),
        ),
        limit=None,
        rows=source.rows,
        captions=1,
        dtype=source.dtype,
        batch_size=0,
        shard_rows=shard_rows,
        imported=Imported(
            source.form,
            len(source.files),
            sum(file.stat().st_size for file in source.files),
            source.hash(),
            source.sides,
        ),
    )
    refuse_foreign(out)
    refuse_other_cache(out, settings)
    found = {index: finished_shard(out, index, settings) for index in range(settings.shards)}
    done = {index: record for index, record in found.items() if record is not None}
    needed = sum(shard_bytes(settings, index) for index in found if index not in done)
    if needed > (free := free_bytes(out)):
        raise disk_full(out, needed, free)
    return ImportPlan(out, source, settings, images, done, needed, free)


def run_import(
    plan: ImportPlan, *, max_bad: float = MAX_BAD, on_progress: Callable[[int], None] = lambda _: None
) -> CacheManifest:
    """Write the pairs, the shards that are missing, and last the manifest.

    Args:
        plan: what to do.
        max_bad: the largest share of masked rows to accept.
        on_progress: called with the number of rows done.

    Raises:
        DataError: too many rows are masked, or the source changed meanwhile.
        CacheError: the disk refuses, or another process is writing there.
    """
    with writing(plan.folder, plan.settings, alone=True):
        refuse_other_cache(plan.folder, plan.settings)  # another may have written since the plan was made
        with disk_errors(plan.folder):
            pairs_hash = _write_pairs(plan)
        imported = replace(_imported(plan), pairs_xxh3_128=pairs_hash)
        settings = replace(plan.settings, imported=imported)
        records, data_hash = _write_shards(plan, settings, on_progress)
        judge_masked(count_masked(records), settings.rows, max_bad)
        manifest = CacheManifest(settings, data_hash, tuple(records))
        with disk_errors(plan.folder):
            write_manifest(plan.folder, manifest)
        return manifest


def _imported(plan: ImportPlan) -> Imported:
    assert plan.settings.imported is not None
    return plan.settings.imported


def _write_shards(
    plan: ImportPlan, settings: CacheSettings, on_progress: Callable[[int], None]
) -> tuple[list[ShardRecord], str]:
    """Write what is missing; the records of all shards, and the hash of all row hashes."""
    records: list[ShardRecord] = []
    digest = xxhash.xxh3_128()
    rows = _Rows(plan)
    for index in range(settings.shards):
        record = plan.done.get(index)
        if record is None:
            record_path(plan.folder, index).unlink(missing_ok=True)
            arrays, masked = _make_shard(plan, index, rows)
            record = write_shard(plan.folder, index, settings, arrays, masked)
        with disk_errors(plan.folder):
            # Of finished ones, too: the pairs' file may have other bytes than when they were written.
            write_record(plan.folder, index, settings, record)
        found = map_shard(plan.folder / record.name, record, shard_fields(settings, index))
        digest.update(np.ascontiguousarray(found["row_hash"]).tobytes())
        records.append(record)
        on_progress(settings.shard_range(index).stop)
    return records, digest.hexdigest()


@dataclass(frozen=True)
class _Block:
    """Consecutive rows within a part."""

    vectors: dict[str, NDArray[Any]]
    norms: dict[str, Sequence[float | None]]
    captions: list[str | None] | None
    images: list[str] | None


class _Rows:
    """Reads blocks of a source's rows, and holds one part's columns at a time."""

    def __init__(self, plan: ImportPlan) -> None:
        self._plan = plan
        self._at: tuple[Part, dict[str, Any], dict[str, Any]] | None = None

    def blocks(self, rows: range) -> Iterator[_Block]:
        """Blocks that together are ``rows``."""
        start = 0
        for part in self._plan.source.parts:
            first, last = max(rows.start, start) - start, min(rows.stop, start + part.rows) - start
            if first < last:
                yield self._block(part, slice(first, last))
            start += part.rows

    def _block(self, part: Part, here: slice) -> _Block:
        if self._at is None or self._at[0] is not part:
            self._at = None  # the last part's columns go before the next one's come
            vectors = {side: matrix.read() for side, matrix in part.vectors.items()}
            self._at = (part, vectors, self._columns(part))
        _, vectors, columns = self._at
        captions = columns.get(self._plan.source.caption or "")
        return _Block(
            {side: np.asarray(array[here]) for side, array in vectors.items()},
            {side: columns[NORMS[side]][here] for side in vectors if NORMS[side] in columns},
            None if captions is None else [_text(value) for value in captions[here]],
            None
            if self._plan.images is None
            else _image_paths(self._plan.images, columns["image_path"][here]),
        )

    def _columns(self, part: Part) -> dict[str, Any]:
        source = self._plan.source
        wanted = {source.caption, *NORMS.values(), *(["image_path"] if self._plan.images else [])}
        names = [name for name in source.columns if name in wanted]
        found = dict(part.table.read(names)) if part.table is not None and names else {}
        for name in found.keys() & set(NORMS.values()):
            if any(isinstance(value, str) for value in found[name]):
                raise DataError(
                    f"{name} in {source.path} holds texts; expected lengths of vectors, or another name for the column"
                )
        return found


def _make_shard(plan: ImportPlan, index: int, rows: _Rows) -> tuple[dict[str, NDArray[Any]], dict[str, int]]:
    settings = plan.settings
    arrays = {name: np.zeros(f.shape, f.dtype) for name, f in shard_fields(settings, index).items()}
    masked: dict[str, int] = {}
    place = 0
    for block in rows.blocks(settings.shard_range(index)):
        count = len(next(iter(block.vectors.values())))
        here = slice(place, place + count)
        place += count
        units = {side: unit_vectors(block.vectors[side], block.norms.get(side)) for side in settings.sides}
        reasons = _reasons(block, units)
        good = np.array([reason is None for reason in reasons])
        for side, (unit, norm) in units.items():
            arrays[side][here][good, 0], arrays[f"{side}_norm"][here][good, 0] = unit[good], norm[good]
        arrays["valid"][here] = good
        has_text = np.array([bool(_captions(block, row)) for row in range(count)])
        arrays["captions"][here] = good & (
            has_text if block.captions is not None else "text" in settings.sides
        )
        hashes, unreadable = _hashes(block, units)
        arrays["row_hash"][here] = hashes
        for row, reason in unreadable.items():
            if good[row]:
                reasons[row] = reason
                _mask(arrays, here.start + row)
        for why in reasons:
            if why is not None:
                masked[why] = masked.get(why, 0) + 1
    return arrays, masked


def unit_vectors(
    raw: NDArray[Any], norms: Sequence[float | None] | None = None
) -> tuple[NDArray[np.float16], NDArray[np.float32]]:
    """Unit vectors and the lengths that they had; a length of 0, or one that is not finite, marks what is none.

    Float16 vectors that are of unit length already, as near as float16 can be, stay what they are to the bit.

    Args:
        raw: (B, D) of any float type.
        norms: (B,), lengths before ``raw`` was normalised; default: none are known.

    Returns:
        float16 (B, D) and float32 (B,).
    """
    wide = raw.astype(np.float64)
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        lengths = np.sqrt((wide**2).sum(axis=1))
        if raw.dtype == np.float16:
            lengths[np.abs(lengths - 1) < _UNIT] = 1
        unit = (wide / lengths[:, None]).astype(np.float16)
        if norms is not None:
            lengths = lengths * np.array([np.nan if norm is None else norm for norm in norms])
        return unit, lengths.astype(np.float32)


def _reasons(block: _Block, units: dict[str, tuple[Any, NDArray[np.float32]]]) -> list[str | None]:
    """Why a row cannot be used; None where it can."""
    count = len(next(iter(block.vectors.values())))
    reasons: list[str | None] = [None] * count
    for row in range(count):
        lengths = [norm[row] for _, norm in units.values()]
        if not np.isfinite(lengths).all():
            reasons[row] = NOT_FINITE
        elif min(lengths) <= 0:
            reasons[row] = ZERO
        elif block.captions is not None and "text" in units and not _captions(block, row):
            reasons[row] = NO_CAPTION
    return reasons


def _hashes(
    block: _Block, units: dict[str, tuple[NDArray[np.float16], Any]]
) -> tuple[NDArray[np.uint64], dict[int, str]]:
    """(B, 2) as ``row_hash`` gives them, of a vector where what it was made from is not there; broken images."""
    count = len(next(iter(block.vectors.values())))
    hashes, broken = np.zeros((count, 2), dtype=np.uint64), {}
    for row in range(count):
        image = b""
        if block.images is not None:
            image = read_image_file(Path(block.images[row]))
            try:
                decode_image(image)
            except BadImageError as error:
                broken[row] = error.reason
        hashes[row] = row_hash(Pair(image, _captions(block, row)))
        for column, (side, given) in enumerate(zip(SIDES, (block.images, block.captions), strict=True)):
            if given is None:
                vector = units[side][0][row].tobytes() if side in units else b""
                hashes[row, column] = xxhash.xxh3_64_intdigest(vector)
    return hashes, broken


def _mask(arrays: dict[str, NDArray[Any]], row: int) -> None:
    for name, array in arrays.items():
        if name != "row_hash":
            array[row] = 0


def _captions(block: _Block, row: int) -> tuple[str, ...]:
    caption = None if block.captions is None else block.captions[row]
    return (caption,) if caption is not None and caption.strip() else ()


def _text(value: Any) -> str | None:
    return None if value is None else str(value)


def _image_paths(folder: Path, names: Sequence[Any]) -> list[str]:
    """Where the named images are.

    Raises:
        DataError: a name leads out of ``folder``.
    """
    root = folder.resolve()
    found = []
    for name in names:
        # Links are followed first, so that none leads out. No file has a NUL in its name.
        path = (root / str(name).replace("\0", "\N{REPLACEMENT CHARACTER}")).resolve()
        if not path.is_relative_to(root):
            raise DataError(
                f"the source names the image {name!r}, which lies outside --images {folder}; refused"
            )
        found.append(str(path))
    return found


def _write_pairs(plan: ImportPlan) -> str | None:
    """Keep captions, image paths and keys in the cache, so that training needs nothing else; xxh3_128 of the file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    source = plan.source
    kept = [name for name in KEPT if name in source.columns and name != source.caption]
    names = [*(["caption"] if source.caption else []), *(["image"] if plan.images else []), *kept]
    if not names:
        return None
    schema = pa.schema([(name, pa.string()) for name in names])
    with atomic_file(plan.folder / PAIRS) as temporary, pq.ParquetWriter(temporary, schema) as writer:
        for part in source.parts:
            assert part.table is not None
            found = part.table.read([*kept, *([source.caption] if source.caption else [])])
            columns = {name: [_text(value) for value in found[name]] for name in kept}
            if source.caption:
                columns["caption"] = [_text(value) for value in found[source.caption]]
            if plan.images:
                columns["image"] = list(_image_paths(plan.images, found["image_path"]))
            writer.write_table(pa.table(columns, schema=schema))
    return hash_file(plan.folder / PAIRS)
