"""An index over many tars: where each row's members lie. Made once, kept, mapped when opened again."""

import bisect
import json
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

from mmkd.errors import DataError
from mmkd.files import atomic_file
from mmkd.tar_headers import TarMembers, read_members

FORMAT = 1
THREADS = 8
_TYPES: dict[str, np.dtype[Any]] = {"I32": np.dtype("<i4"), "I64": np.dtype("<i8"), "U8": np.dtype("u1")}


@dataclass(frozen=True)
class TarFile:
    """A tar as it was when it was indexed: bytes and time of change, in nanoseconds."""

    path: str
    size: int
    changed: int

    @classmethod
    def of(cls, path: Path) -> "TarFile":
        """``path`` as it is now.

        Raises:
            DataError: there is no such file.
        """
        try:
            status = path.stat()
        except OSError as error:
            raise DataError(f"cannot read {path}: {error.strerror}") from error
        return cls(str(path), status.st_size, status.st_mtime_ns)


class TarIndex:
    """Rows of several tars, in the order of the tars and within each as they lie; sent to processes as a path.

    Attributes:
        file: where the index is kept.
        tars: what is indexed.
    """

    def __init__(self, file: Path, tars: Sequence[TarFile]) -> None:
        self.file = file
        self.tars = tuple(tars)

    def __getstate__(self) -> dict[str, Any]:
        return {"file": self.file, "tars": self.tars}

    def __len__(self) -> int:
        return int(self.starts[-1])

    @cached_property
    def _parts(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        return _map(self.file)

    @cached_property
    def columns(self) -> tuple[str, ...]:
        """The suffixes that occur."""
        return tuple(self._parts[0]["columns"])

    @cached_property
    def skipped(self) -> dict[str, int]:
        """Members that are not used, by reason."""
        return dict(self._parts[0]["skipped"])

    @cached_property
    def starts(self) -> NDArray[np.int64]:
        """int64 (T + 1,): the first row of each tar, and the number of all rows."""
        return self._parts[1]["starts"]

    def tar_of(self, row: int) -> TarFile:
        """The tar that holds a row."""
        return self.tars[bisect.bisect_right(self.starts, row) - 1]

    def place(self, row: int, column: str) -> tuple[int, int] | None:
        """Offset and size of a member, in bytes; None where the row has none of that suffix."""
        arrays = self._parts[1]
        offsets = arrays.get(f"{column}/offset")
        offset = -1 if offsets is None else int(offsets[row])
        return None if offset < 0 else (offset, int(arrays[f"{column}/size"][row]))

    def has(self, column: str) -> NDArray[np.bool_]:
        """bool (R,): which rows have a member of that suffix."""
        has: NDArray[np.bool_] = self._parts[1][f"{column}/offset"] >= 0
        return has

    def key(self, row: int) -> str:
        """The name of a row, without suffix."""
        ends, names = self._parts[1]["key_ends"], self._parts[1]["keys"]
        first = int(ends[row - 1]) if row else 0
        return names[first : int(ends[row])].tobytes().decode("utf-8", "surrogateescape")


def open_index(
    paths: Sequence[Path],
    *,
    folder: Path | None = None,
    on_progress: Callable[[int, int], None] = lambda _, __: None,
) -> TarIndex:
    """The index of ``paths``, in that order: kept from an earlier time, or made now.

    It is kept under a name made from the tars' names, sizes and times, so a changed tar is indexed again.

    Args:
        paths: tars.
        folder: where indices are kept; default: ``mmkd/tars`` in ``HF_HOME``.
        on_progress: called with the number of tars indexed, and of all, while an index is made.

    Raises:
        DataError: a tar cannot be used, or the index cannot be kept.
    """
    tars = [TarFile.of(path.absolute()) for path in paths]
    names = json.dumps([FORMAT, [[tar.path, tar.size, tar.changed] for tar in tars]])
    name = xxhash.xxh3_128_hexdigest(names.encode("utf-8", "surrogateescape"))
    file = (folder or index_folder()) / f"{name}.safetensors"
    index = TarIndex(file, tars)
    if not _is_sound(file, name, len(tars)):
        _write(file, name, _read_all(paths, on_progress))
    return index


def index_folder() -> Path:
    """Where indices are kept unless said otherwise: beside what ``datasets`` keeps."""
    from huggingface_hub.constants import HF_HOME

    return Path(HF_HOME) / "mmkd" / "tars"


def _read_all(paths: Sequence[Path], on_progress: Callable[[int, int], None]) -> list["_Part"]:
    parts: list[_Part] = []
    with ThreadPoolExecutor(min(THREADS, max(1, len(paths))), thread_name_prefix="tar") as pool:
        try:
            for part in pool.map(_part, paths):
                parts.append(part)
                on_progress(len(parts), len(paths))
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return parts


@dataclass(frozen=True)
class _Part:
    """What one tar holds, as arrays."""

    rows: int
    keys: bytes
    key_sizes: NDArray[np.int64]
    places: dict[str, NDArray[np.int64]]
    skipped: Counter[str]


def _part(path: Path) -> _Part:
    found: TarMembers = read_members(path)
    keys = [key.encode("utf-8", "surrogateescape") for key in found.keys]
    sizes = np.array([len(key) for key in keys], dtype=np.int64)
    places = {column: np.array(values, dtype=np.int64) for column, values in found.places.items()}
    return _Part(len(keys), b"".join(keys), sizes, places, found.skipped)


def _write(file: Path, name: str, parts: list[_Part]) -> None:
    from safetensors.numpy import save_file

    starts = np.cumsum([0, *(part.rows for part in parts)], dtype=np.int64)
    columns = sorted({column for part in parts for column in part.places})
    arrays: dict[str, NDArray[Any]] = {
        "starts": starts,
        "keys": np.frombuffer(b"".join(part.keys for part in parts), dtype=np.uint8),
        "key_ends": np.cumsum(np.concatenate([part.key_sizes for part in parts]), dtype=np.int64),
    }
    for column in columns:
        offset, size = np.full(starts[-1], -1, np.int64), np.zeros(starts[-1], np.int32)
        for first, part in zip(starts.tolist(), parts, strict=False):
            if column in part.places:
                rows, offsets, sizes = part.places[column].T
                offset[first + rows], size[first + rows] = offsets, sizes
        arrays |= {f"{column}/offset": offset, f"{column}/size": size}
    skipped: Counter[str] = sum((part.skipped for part in parts), Counter())
    said: dict[str, Any] = {"name": name, "columns": columns, "skipped": dict(sorted(skipped.items()))}
    said["xxh3_128"] = _digest(said, arrays)
    try:
        with atomic_file(file) as temporary:
            save_file(arrays, temporary, {"index": json.dumps(said)})
    except OSError as error:
        raise DataError(
            f"cannot keep the index of {len(parts):,} tars in {file.parent}: {error.strerror}; make room, or let "
            "HF_HOME name another folder"
        ) from error


def _is_sound(file: Path, name: str, tars: int) -> bool:
    """Whether an index is there and whole; one that is not is made again."""
    try:
        said, arrays = _map(file)
        rows = int(arrays["starts"][-1])
        shapes = [
            len(array) == rows for column, array in arrays.items() if "/" in column or column == "key_ends"
        ]
        return (
            said["name"] == name
            and len(arrays["starts"]) == tars + 1
            and all(shapes)
            and said.pop("xxh3_128") == _digest(said, arrays)
        )
    except (OSError, ValueError, KeyError, IndexError, TypeError):
        return False


def _digest(said: dict[str, Any], arrays: dict[str, NDArray[Any]]) -> str:
    digest = xxhash.xxh3_128(json.dumps(said, sort_keys=True).encode())
    for column in sorted(arrays):
        data: NDArray[np.uint8] = arrays[column].view(np.uint8)
        digest.update(column.encode())
        digest.update(data.data)
    return digest.hexdigest()


def _map(file: Path) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """The arrays of a safetensors file, mapped rather than read, and what it says of them."""
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if length > os.fstat(stream.fileno()).st_size:
            raise ValueError(f"{file} is cut off")
        header = json.loads(stream.read(length))
    said = json.loads(header.pop("__metadata__")["index"])
    whole = np.memmap(file, np.uint8, "r")
    return said, dict(_arrays(whole[8 + length :], header))


def _arrays(data: NDArray[np.uint8], header: dict[str, Any]) -> Iterator[tuple[str, NDArray[Any]]]:
    for name, entry in header.items():
        first, end = entry["data_offsets"]
        if not 0 <= first <= end <= len(data):
            raise ValueError(f"{name} lies outside the file")
        yield name, data[first:end].view(_TYPES[entry["dtype"]])
