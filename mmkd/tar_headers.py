"""Where the members of a WebDataset tar lie, from its headers alone: no data is read, and nothing is unpacked."""

import os
import re
import tarfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import IO

from mmkd.errors import DataError

IMAGE_SUFFIXES = ("jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff", "ppm")
TEXT_SUFFIXES = ("txt", "text", "caption", "json")
MAX_IMAGE = 256 << 20
MAX_TEXT = 1 << 20
MAX_HEADER = 64 << 10  # of a long name or a PAX header, which tarfile reads whole
MAX_COLUMNS = 64
BLOCK = 512
COMPRESSED = {b"\x1f\x8b": "gzip", b"BZ": "bzip2", b"\xfd7": "xz", b"\x28\xb5": "zstd"}
UNPACK = "unpack it first (gunzip, unxz, zstd -d), since rows of a compressed tar cannot be read at random"
_KEY = re.compile(r"((?:.*/|)[^./][^./]*)[.]([^/]*)", re.DOTALL)


@dataclass
class TarMembers:
    """The rows of one tar; a row is what WebDataset calls a sample: neighbours of the same name up to the first dot.

    Attributes:
        keys: the name of each row.
        places: by column (a suffix, ``jpg``), for each row that has it: row, offset and size of its data, in bytes.
        skipped: members that are not used, by reason.
    """

    keys: list[str] = field(default_factory=list)
    places: dict[str, list[tuple[int, int, int]]] = field(default_factory=dict)
    skipped: Counter[str] = field(default_factory=Counter)


def read_members(path: Path) -> TarMembers:
    """Go through the headers of a tar; of a folder, through its files in the order of their names.

    Links, devices, pipes, sparse files, absolute names and names with ``..`` are skipped and counted, as are
    members beyond ``MAX_IMAGE`` or ``MAX_TEXT`` bytes. Members of other suffixes, pickles among them, are passed over.

    Raises:
        DataError: it cannot be read, is compressed, truncated or damaged, or a key occurs twice.
    """
    rows = _Rows(path)
    if path.is_dir():
        for member in _files(path):
            rows.add(member)
        return rows.found
    with _open(path) as stream:
        size = os.fstat(stream.fileno()).st_size
        try:
            for member in _headers(stream):
                if member.offset_data + member.size > size:
                    raise _truncated(path, f"its member {member.name!r} is cut off")
                rows.add(member)
        except tarfile.TarError as error:
            raise _damaged(path, stream, error) from error
        except (
            ValueError,
            ArithmeticError,
            RecursionError,
            LookupError,
        ) as error:  # tarfile on hostile headers
            raise DataError(f"cannot read the headers of {path}: {type(error).__name__}: {error}") from error
    return rows.found


class _Rows:
    """Puts members together to rows."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.found = TarMembers()
        self._seen: set[str] = set()
        self._columns: set[str] = set()

    def add(self, member: tarfile.TarInfo) -> None:
        if member.isdir():
            return
        if (reason := _unusable(member)) is not None:
            self.found.skipped[reason] += 1
            return
        name = member.name.removeprefix("./")
        match = _KEY.fullmatch(name)
        if match is None or PurePosixPath(name).name.startswith("__"):
            return
        key, column = match[1], match[2].lower()
        suffix = column.rpartition(".")[2]
        if suffix not in IMAGE_SUFFIXES + TEXT_SUFFIXES or len(column) > BLOCK:
            return
        if member.size > (MAX_IMAGE if suffix in IMAGE_SUFFIXES else MAX_TEXT):
            self.found.skipped["too large"] += 1
            return
        self._place(key, column, member)

    def _place(self, key: str, column: str, member: tarfile.TarInfo) -> None:
        keys, places = self.found.keys, self.found.places
        if not keys or keys[-1] != key:
            if key in self._seen:
                raise DataError(
                    f"the key {key!r} occurs twice in {self.path}, not side by side; expected all members of a key "
                    "next to each other, as `tar --sort=name` packs them"
                )
            self._seen.add(key)
            keys.append(key)
            self._columns.clear()
        if column in self._columns:
            raise DataError(f"{self.path} holds two members {key}.{column}; expected one of each name")
        self._columns.add(column)
        if column not in places and len(places) == MAX_COLUMNS:
            raise DataError(
                f"{self.path} has members of more than {MAX_COLUMNS} suffixes; expected a WebDataset tar"
            )
        places.setdefault(column, []).append((len(keys) - 1, member.offset_data, member.size))


def _unusable(member: tarfile.TarInfo) -> str | None:
    if member.issym() or member.islnk():
        return "link"
    if not member.isreg():
        return "device or pipe"
    if member.type == tarfile.GNUTYPE_SPARSE or member.issparse():
        return "sparse file"
    if member.name.startswith("/") or ".." in PurePosixPath(member.name).parts:
        return "unsafe name"
    return None


class _HeadersOnly:
    """A file as ``tarfile`` may read it: small pieces, and never back to where it was."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self._reached = 0

    def read(self, size: int) -> bytes:
        if not 0 <= size <= MAX_HEADER:
            raise tarfile.ReadError(f"a header claims {size:,} bytes")
        return self._stream.read(size)

    def seek(self, position: int) -> int:
        if position < self._reached:
            raise tarfile.ReadError("a header points back")
        self._reached = position
        return self._stream.seek(position)

    def tell(self) -> int:
        return self._stream.tell()


def _headers(stream: IO[bytes]) -> Iterator[tarfile.TarInfo]:
    with tarfile.TarFile(fileobj=_HeadersOnly(stream)) as tar:  # type: ignore[arg-type]  # of a file, what it needs
        while (member := tar.next()) is not None:
            tar.members = []  # type: ignore[attr-defined]  # or it would keep them all
            yield member
        # tarfile takes a broken header, or none, for the end.
        stream.seek(tar.offset)
        end = stream.read(BLOCK)
    if end != bytes(BLOCK):
        problem = "a header is damaged" if len(end) == BLOCK else "the end mark of a tar is missing"
        raise tarfile.ReadError(f"{problem} at byte {tar.offset:,}")


def _files(folder: Path) -> Iterator[tarfile.TarInfo]:
    """The files of a folder as the members of a tar would be."""
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        member = tarfile.TarInfo(entry.name)
        if entry.is_symlink():
            member.type = tarfile.SYMTYPE
        elif not entry.is_file(follow_symlinks=False):
            member.type = tarfile.DIRTYPE if entry.is_dir() else tarfile.FIFOTYPE
        else:
            member.size = entry.stat(follow_symlinks=False).st_size
        yield member


def _open(path: Path) -> IO[bytes]:
    try:
        return path.open("rb", buffering=0)
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from error


def _damaged(path: Path, stream: IO[bytes], error: tarfile.TarError) -> DataError:
    stream.seek(0)
    if (kind := COMPRESSED.get(stream.read(2))) is not None:
        return DataError(f"{path} is compressed with {kind}; {UNPACK}")
    return _truncated(path, " ".join(str(error).split()))


def _truncated(path: Path, problem: str) -> DataError:
    return DataError(f"{path} is truncated, damaged or still being written: {problem}; fetch it again")
