"""One shard: fixed-shape, contiguous, page-aligned HDF5 datasets, so that a reader can map them."""

import errno
import math
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import xxhash
from numpy.typing import NDArray

from mmkd.cache.hdf5_file import ALIGNMENT, write_hdf5
from mmkd.cache.manifest import ShardRecord, shard_name
from mmkd.cache.origin import SIDES
from mmkd.cache.settings import CacheSettings
from mmkd.errors import CacheError
from mmkd.files import atomic_file

_LITTLE = 16 << 20  # bytes free on a disk that counts as full
_FEW = 20
Arrays = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class Field:
    """Type and shape of one dataset of a shard."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]

    @property
    def bytes(self) -> int:
        """Size of the data."""
        return self.dtype.itemsize * math.prod(self.shape)


def fields(
    rows: int,
    views: int,
    captions: int,
    dim: int,
    sides: tuple[str, ...] = SIDES,
    pixels: int | None = None,
    teachers: int = 1,
) -> dict[str, Field]:
    """The datasets of a shard of ``rows`` rows, format version 1; none of a side that there are no vectors of."""
    each = (teachers,) if teachers > 1 else ()  # of several teachers each vector has a length
    found = {
        "image": Field(np.dtype("<f2"), (rows, views, dim)),
        "image_norm": Field(np.dtype("<f4"), (rows, views, *each)),
        "text": Field(np.dtype("<f2"), (rows, captions, dim)),
        "text_norm": Field(np.dtype("<f4"), (rows, captions, *each)),
        "valid": Field(np.dtype("u1"), (rows,)),
        "captions": Field(np.dtype("<u2"), (rows,)),
        "row_hash": Field(np.dtype("<u8"), (rows, 2)),
    }
    if pixels is not None:
        found["pixels"] = Field(np.dtype("u1"), (rows, pixels, pixels, 3))
    absent = {name for side in SIDES if side not in sides for name in (side, f"{side}_norm")}
    return {name: field for name, field in found.items() if name not in absent}


def shard_fields(settings: CacheSettings, index: int) -> dict[str, Field]:
    """The datasets of shard ``index``."""
    rows = len(settings.shard_range(index))
    return fields(
        rows,
        settings.views,
        settings.captions,
        settings.dim,
        settings.sides,
        settings.pixels,
        len(settings.teachers),
    )


def shard_bytes(settings: CacheSettings, index: int) -> int:
    """The size of shard ``index``'s file: a page for each object's header, and data that starts at a page."""
    end = 0
    for field in shard_fields(settings, index).values():
        start = -(-end // ALIGNMENT) * ALIGNMENT + ALIGNMENT if end else 3 * ALIGNMENT
        end = start + field.bytes
    return end


def hash_file(path: Path) -> str:
    """xxh3_128 of a file."""
    digest = xxhash.xxh3_128()
    with path.open("rb") as stream:
        while block := stream.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()


def write_shard(
    folder: Path, index: int, settings: CacheSettings, arrays: Arrays, masked: dict[str, int]
) -> ShardRecord:
    """Write shard ``index``, whole or not at all.

    Raises:
        CacheError: the disk refuses.
    """
    expected = shard_fields(settings, index)
    _check_fields(expected, arrays)
    path = folder / shard_name(index)
    with disk_errors(folder, shard_bytes(settings, index)), atomic_file(path) as temporary:
        size, digest = write_hdf5(temporary, {name: arrays[name] for name in expected})
    return ShardRecord(
        path.name, len(settings.shard_range(index)), size, digest, dict(sorted(masked.items()))
    )


@contextmanager
def disk_errors(folder: Path, needed: int = 0) -> Iterator[None]:
    """Say in one line what the disk of ``folder`` refused to take.

    Args:
        folder: what is written to; errors of files elsewhere pass as they are.
        needed: about how many bytes are written.

    Raises:
        CacheError: it is full, a quota is used up, or it fails.
    """
    try:
        yield
    except OSError as error:
        name = error.filename
        elsewhere = name is not None and not Path(os.fsdecode(name)).is_relative_to(folder)
        number = None if elsewhere else error.errno
        if number is None:
            raise
        if number in (errno.ENOSPC, errno.EDQUOT):
            raise disk_full(folder, needed) from error
        raise CacheError(
            f"cannot write to {folder}: {os.strerror(number)}; see to the disk, then run the same command again, or "
            "pass another --out"
        ) from error


def disk_full(folder: Path, needed: int, free: int | None = None) -> CacheError:
    """The error for a disk that cannot take ``needed`` more bytes; ``free`` are left, if that was asked already."""
    free = free_bytes(folder) if free is None else free
    found = (
        f"has {size_text(free)} free, but {size_text(needed)} more are needed"
        if free < needed
        else f"takes no more, though it has {size_text(free)} free: a quota or its number of files is used up"
        if free > _LITTLE
        else "is full"
    )
    return CacheError(
        f"the disk of {folder} {found}; free some space and run the same command again, or pass another --out"
    )


def size_text(count: int) -> str:
    """``5.9 GB``, ``33.8 MB``."""
    return f"{count / 1e9:,.1f} GB" if count >= 1e8 else f"{count / 1e6:,.1f} MB"


def free_bytes(folder: Path) -> int:
    """Free space where ``folder`` is, or will be."""
    while not folder.exists():
        folder = folder.absolute().parent
    return shutil.disk_usage(folder).free


def _check_fields(expected: dict[str, Field], arrays: Arrays) -> None:
    for name, field in expected.items():
        array = arrays[name]
        if array.shape != field.shape or array.dtype != field.dtype:
            raise ValueError(f"{name} is {array.dtype} {array.shape}; expected {field.dtype} {field.shape}")


def check_file(path: Path, record: ShardRecord, *, full: bool) -> None:
    """Hold a shard's file against its record: size and, if ``full``, hash.

    Raises:
        CacheError: it is missing or has changed.
    """
    again = "run the same `mmkd cache-teacher` again, or `mmkd cache import`, to mend it"
    if path.is_symlink() or not path.is_file():
        raise CacheError(f"{path} is missing; {again}")
    size = path.stat().st_size
    if size != record.bytes:
        raise CacheError(f"{path} has {size:,} bytes; expected {record.bytes:,}; {again}")
    if full and (found := hash_file(path)) != record.xxh3_128:
        raise CacheError(
            f"{path} is damaged: its bytes hash to {found[:8]}…, expected {record.xxh3_128[:8]}…; {again}"
        )


def check_pairs(path: Path, expected: str) -> None:
    """Hold the captions and image paths of an imported cache against their hash.

    Raises:
        CacheError: the file is missing or has changed.
    """
    again = "run the same `mmkd cache import` again to mend it"
    if path.is_symlink() or not path.is_file():
        raise CacheError(f"{path} is missing; {again}")
    if (found := hash_file(path)) != expected:
        raise CacheError(
            f"{path} is damaged: its bytes hash to {found[:8]}…, expected {expected[:8]}…; {again}"
        )


def map_shard(path: Path, record: ShardRecord, expected: dict[str, Field]) -> dict[str, NDArray[Any]]:
    """Map a shard's datasets read-only, after checking all that an untrusted file could lie about.

    Raises:
        CacheError: the file is missing, has another size, or is not built as format version 1 says.
    """
    offsets = shard_offsets(path, record, expected)
    with _explained(path):
        raw = _map_file(path)
    if len(raw) != record.bytes:
        raise still_written(path, len(raw), record)
    return {
        name: raw[offsets[name] : offsets[name] + field.bytes].view(field.dtype).reshape(field.shape)
        for name, field in expected.items()
    }


def shard_offsets(path: Path, record: ShardRecord, expected: dict[str, Field]) -> dict[str, int]:
    """Where in the file each dataset's bytes begin, after the same checks.

    Raises:
        CacheError: as ``map_shard``.
    """
    check_file(path, record, full=False)
    with _explained(path), h5py.File(path, "r", locking=False) as file:
        return contiguous_offsets(file.id, expected, path.stat().st_size)


def still_written(path: Path, size: int, record: ShardRecord) -> CacheError:
    """The error for a shard that has changed its size since it was checked."""
    return CacheError(f"{path} has {size:,} bytes; expected {record.bytes:,}; it is being written to")


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except CacheError as error:
        raise CacheError(f"refused {path}: {error}") from error
    except (OSError, RuntimeError, KeyError, ValueError, TypeError) as error:
        raise CacheError(f"{path} is not readable HDF5: {' '.join(str(error).split())}") from error


def _map_file(path: Path) -> NDArray[np.uint8]:
    """A file's bytes, mapped read-only.

    One map a shard: the kernel allows a process some 65,000. Unlike ``numpy.memmap`` it keeps no file open, of which
    a process often may have 1,024 only.
    """
    import pyarrow as pa

    with pa.memory_map(str(path), "r") as file:
        return np.frombuffer(file.read_buffer(), np.uint8)


def contiguous_offsets(file: Any, expected: dict[str, Field], size: int) -> dict[str, int]:
    """Where in an open file, of ``size`` bytes, the data of each dataset begins: it has these alone, all plain.

    Raises:
        CacheError: it has others, or one whose bytes are not in the file as they are.
    """
    # By h5py's low-level calls, a third of the time: a first random batch of 10^7 rows opens all 611 shards.
    if before := file.get_create_plist().get_userblock():
        raise CacheError(f"a user block of {before:,} bytes comes before HDF5's own; expected none")
    root = h5py.h5g.open(file, b"/")
    # Counted before they are listed: a file may name any number of them.
    found = [name.decode(errors="replace") for name in root] if len(root) < _FEW else []
    if sorted(found) != sorted(expected):
        named = ", ".join(sorted(found)) or f"{len(root):,} of them"
        raise CacheError(f"found the datasets {named}; expected {', '.join(sorted(expected))}")
    # All links first: to look into a dataset is to follow its link.
    for name in expected:
        if root.links.get_info(name.encode()).type != h5py.h5l.TYPE_HARD:
            raise CacheError(f"{name!r} is a link to somewhere else; expected a dataset of the file itself")
        if h5py.h5o.get_info(root, name.encode()).type != h5py.h5o.TYPE_DATASET:
            raise CacheError(f"{name!r} is not a dataset")
    offsets = {
        name: _offset(h5py.h5d.open(root, name.encode()), name, field, size)
        for name, field in expected.items()
    }
    end = 0
    for name in sorted(expected, key=lambda name: (offsets[name], expected[name].bytes)):
        if offsets[name] < end:
            raise CacheError(f"{name!r} shares its bytes with another dataset; expected bytes of its own")
        end = offsets[name] + expected[name].bytes
    return offsets


def _offset(dataset: Any, name: str, field: Field, size: int) -> int:
    plan = dataset.get_create_plist()
    if plan.get_layout() != h5py.h5d.CONTIGUOUS:
        raise CacheError(f"{name!r} is virtual, chunked or compact; expected contiguous storage")
    if plan.get_external_count() != 0:
        raise CacheError(f"{name!r} keeps its data in another file; expected it in the shard itself")
    if plan.get_nfilters() != 0:
        raise CacheError(f"{name!r} is filtered; expected plain bytes")
    if dataset.dtype != field.dtype or dataset.shape != field.shape:
        raise CacheError(f"{name!r} is {dataset.dtype} {dataset.shape}; expected {field.dtype} {field.shape}")
    offset = dataset.get_offset()
    if offset is None or offset < 0 or offset + field.bytes > size:
        raise CacheError(f"{name!r} claims {field.bytes:,} bytes that are not in the file")
    if dataset.get_storage_size() != field.bytes:
        raise CacheError(f"{name!r} stores {dataset.get_storage_size():,} bytes; expected {field.bytes:,}")
    return int(offset)
