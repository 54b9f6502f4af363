"""Write arrays as an HDF5 file of which HDF5 itself writes nothing: a disk that refuses a byte of it can crash it.

HDF5 lays the file out in memory, where room for the arrays costs nothing until it is used; then its own few bytes and
the arrays are written one after another, as any other file is.
"""

import os
import tempfile
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import xxhash
from numpy.typing import NDArray

ALIGNMENT = 4096
_OPTIONS = {"libver": ("v108", "v108"), "alignment_threshold": 1, "alignment_interval": ALIGNMENT}

Fields = tuple[tuple[str, np.dtype[Any], tuple[int, ...]], ...]
"""Name, type and shape of each dataset."""


def write_hdf5(
    path: Path, arrays: Mapping[str, NDArray[Any]], attributes: Mapping[str, float | str] | None = None
) -> tuple[int, str]:
    """Write ``arrays`` as contiguous datasets, each at a multiple of 4,096 bytes.

    Args:
        path: the file; replaced where there is one.
        arrays: by name; none of them empty.
        attributes: of the file.

    Returns:
        The file's size, and its xxh3_128.

    Raises:
        OSError: the disk refuses.
    """
    fields = tuple((name, array.dtype, array.shape) for name, array in arrays.items())
    frame = _lay_out(fields, attributes) if attributes else _plain_frame(fields)
    digest, size = xxhash.xxh3_128(), 0
    with path.open("wb") as stream:
        for piece in frame:
            whole: Any = np.ascontiguousarray(arrays[piece]) if isinstance(piece, str) else piece
            data = memoryview(whole).cast("B")
            stream.write(data)
            digest.update(data)
            size += len(data)
    return size, digest.hexdigest()


@lru_cache(maxsize=8)
def _plain_frame(fields: Fields) -> list[bytes | str]:
    return _lay_out(fields, {})


def _lay_out(fields: Fields, attributes: Mapping[str, float | str]) -> list[bytes | str]:
    """The file from front to back: HDF5's own bytes, and the names of the arrays that stand between them."""
    with _memory() as scratch:
        with h5py.File(scratch, "w", **_OPTIONS) as file:
            places = {}
            for name, dtype, shape in fields:
                dataset = file.create_dataset(name, shape, dtype, track_times=False)  # times would differ
                dataset[(0,) * len(shape)] = np.zeros((), dtype)  # claims its room
                places[name] = dataset.id.get_offset()
            file.attrs.update(attributes)
        scratch.flush()
        frame: list[bytes | str] = []
        end = 0
        for name, dtype, shape in sorted(fields, key=lambda field: places[field[0]]):
            frame += [os.pread(scratch.fileno(), places[name] - end, end), name]
            end = places[name] + dtype.itemsize * int(np.prod(shape, dtype=np.int64))
        frame.append(os.pread(scratch.fileno(), os.fstat(scratch.fileno()).st_size - end, end))
    return [piece for piece in frame if piece]


def _memory() -> Any:
    """A file in memory; on systems without such, one that has no name and takes no room for what is not written."""
    if hasattr(os, "memfd_create"):
        return os.fdopen(os.memfd_create("mmkd"), "r+b")
    return tempfile.TemporaryFile()
