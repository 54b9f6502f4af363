"""Shards of one size mapped one behind the other, so that a single gather reads rows of all of them.

A random batch of 1,024 rows reaches into nearly every shard of a large cache. Gathered shard by shard, the calls cost
more than the bytes, and the more shards there are the more so; at one stride in memory each dataset is one array.
"""

import ctypes
import math
import mmap
import os
import sys
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmkd.cache.manifest import ShardRecord
from mmkd.cache.shard import Field, shard_offsets, still_written
from mmkd.errors import CacheError

_FIXED, _NORESERVE, _NO_ACCESS = 0x10, 0x4000, 0  # Linux's; Python's own mmap takes no address
_HUGE = 2 << 20  # at such addresses the processor may keep one entry for several pages in a row
_FAILED = ctypes.c_void_p(-1).value

Finder = Callable[[str], tuple[NDArray[Any], NDArray[np.int64]]]
"""Of a dataset's name: an array of rows, and which of them are wanted, int64 (B,)."""


class JoinedShards:
    """Room in the address space for ``count`` shards, each mapped read-only when it is first asked for.

    Args:
        fields: the datasets of each.
        count: how many there may be.
        size: bytes of each file.
    """

    def __init__(self, fields: dict[str, Field], count: int, size: int) -> None:
        self._fields, self._count, self._size = fields, count, size
        self._row_bytes = {name: field.bytes // field.shape[0] for name, field in fields.items()}
        # A whole number of rows of each dataset, so that a row's place in any shard is a number of rows, too.
        unit = math.lcm(_HUGE, *self._row_bytes.values())
        self._stride = -(-size // unit) * unit
        self._offsets: dict[str, int] = {}
        self._arrays: dict[str, NDArray[Any]] = {}
        self._held = np.zeros(count + 1, np.bool_)  # the last stands for those beyond
        self._room: Any = None

    def holds(self, indices: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Bool (B,): which of the shards ``indices`` (B,) are mapped here."""
        return self._held[np.minimum(indices, self._count)]

    def find(self, shards: NDArray[np.int64], inside: NDArray[np.int64]) -> Finder:
        """Where rows ``inside`` (B,) of ``shards`` (B,), all held, are to be read."""

        def of(name: str) -> tuple[NDArray[Any], NDArray[np.int64]]:
            return self._arrays[name], shards * (self._stride // self._row_bytes[name]) + inside

        return of

    def shard(self, index: int) -> dict[str, NDArray[Any]]:
        """The datasets of one shard that is held."""
        found = {}
        for name, field in self._fields.items():
            first = index * (self._stride // self._row_bytes[name])
            found[name] = self._arrays[name][first : first + field.shape[0]]
        return found

    def add(self, index: int, path: Path, record: ShardRecord) -> bool:
        """Map shard ``index``; False where it cannot stand with the others, and is to be mapped by itself.

        Raises:
            CacheError: the file is missing, has another size than its record, or is not built as the format says.
        """
        if sys.platform != "linux" or index >= self._count or record.bytes != self._size:
            return False
        offsets = shard_offsets(path, record, self._fields)
        if offsets != (self._offsets or offsets) or not self._reserve(offsets):
            return False
        with path.open("rb") as file:
            if (size := os.fstat(file.fileno()).st_size) != self._size:
                raise still_written(path, size, record)
            place = ctypes.addressof(self._room) + index * self._stride
            if _map(place, size, mmap.PROT_READ, mmap.MAP_SHARED | _FIXED, file.fileno()) != place:
                raise CacheError(f"cannot map {path}: {os.strerror(ctypes.get_errno())}")
        self._held[index] = True
        return True

    def _reserve(self, offsets: dict[str, int]) -> bool:
        """Take the addresses, which cost nothing until a file is mapped there; False where that cannot be."""
        if self._room is not None:
            return True
        # NumPy copies what is not aligned before it gathers from it: all of it, holes included.
        if any(offsets[name] % field.dtype.alignment for name, field in self._fields.items()):
            return False
        length = self._count * self._stride
        start = _map(None, length + _HUGE, _NO_ACCESS, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _NORESERVE, -1)
        if start is None:
            return False
        first = -(-start // _HUGE) * _HUGE
        self._offsets, self._room = offsets, (ctypes.c_ubyte * length).from_address(first)
        weakref.finalize(self._room, _unmap, start, length + _HUGE)  # every array below keeps the room alive
        raw = np.frombuffer(self._room, np.uint8)
        raw.flags.writeable = False
        for name, field in self._fields.items():
            first, last = offsets[name], (self._count - 1) * self._stride + offsets[name] + field.bytes
            self._arrays[name] = raw[first:last].view(field.dtype).reshape(-1, *field.shape[1:])
        return True


def pick(array: NDArray[Any], rows: NDArray[np.int64], which: NDArray[np.int64]) -> NDArray[Any]:
    """``array[rows, which]``, in half the time where there is one to choose from."""
    return array[:, 0].take(rows, axis=0) if array.shape[1] == 1 else array[rows, which]


def _map(place: int | None, length: int, access: int, kind: int, file: int) -> int | None:
    """The system's ``mmap``; None where it refuses."""
    call = ctypes.CDLL(None, use_errno=True).mmap
    call.restype = ctypes.c_void_p
    call.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
    found: int | None = call(place, length, access, kind, file, 0)
    return None if found == _FAILED else found


def _unmap(place: int, length: int) -> None:
    call = ctypes.CDLL(None).munmap
    call.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    call(place, length)
