"""Files of vectors that others made, read without trust: nothing is unpickled, and sizes are checked first."""

import io
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmkd.errors import DataError

Vectors = NDArray[np.floating[Any]]
Columns = Mapping[str, list[Any]]
MAX_UNPACKED = (
    1 << 30
)  # of what cannot be mapped: arrays of an .npz, columns of a row group of a Parquet file
_HEADER = 1 << 16  # bytes that an array's header may take; NumPy's own limit is a sixth of that
_ROWS = 256  # of Parquet, unpacked before their size is known


@dataclass(frozen=True)
class Matrix:
    """Vectors that are read when they are asked for.

    Attributes:
        name: of the file, or of the array or column in it.
        rows: R.
        dim: D.
        dtype: float16, float32 or float64.
        read: gives the vectors, (R, D); rows of NaN where there is none.
    """

    name: str
    rows: int
    dim: int
    dtype: str
    read: Callable[[], Vectors]


@dataclass(frozen=True)
class Table:
    """Columns of texts and numbers that are read when they are asked for.

    Attributes:
        name: of the file.
        rows: R.
        columns: what there is.
        read: gives the named columns, R values each.
    """

    name: str
    rows: int
    columns: tuple[str, ...]
    read: Callable[[list[str]], Columns]


def map_npy(path: Path) -> Matrix:
    """Vectors of an ``.npy`` file, mapped.

    Raises:
        DataError: it holds anything but one two-dimensional array of floats, or is cut short.
    """
    with _explained(path, "an .npy file of vectors"):
        array = np.lib.format.open_memmap(path, mode="r")
        if array.offset + array.nbytes != path.stat().st_size:
            raise DataError(f"{path} has {path.stat().st_size:,} bytes; its header says otherwise")
    return _matrix(str(path), array)


@dataclass(frozen=True)
class Header:
    """What an array of an ``.npz`` file says of itself."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]


def npz_headers(path: Path) -> dict[str, Header]:
    """The arrays of an ``.npz`` file, by name, none of them read.

    Raises:
        DataError: it is damaged, or holds objects.
    """
    found = {}
    with _explained(path, "an .npz file"), zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            if info.filename.endswith(".npy"):
                with archive.open(info) as member:
                    first = io.BytesIO(member.read(_HEADER))
                found[info.filename.removesuffix(".npy")] = _read_header(first, info.file_size)
    return found


def read_npz(path: Path, names: Iterable[str]) -> dict[str, NDArray[Any]]:
    """Some arrays of an ``.npz`` file that ``npz_headers`` found.

    Raises:
        DataError: it is damaged, or they are more than can be read at once.
    """
    found: dict[str, NDArray[Any]] = {}
    with _explained(path, "an .npz file"), zipfile.ZipFile(path) as archive:
        wanted = {name: archive.getinfo(f"{name}.npy") for name in names}
        if (size := sum(info.file_size for info in wanted.values())) > MAX_UNPACKED:
            raise DataError(
                f"{' and '.join(wanted)} in {path} unpack to {size:,} bytes, and at most {MAX_UNPACKED:,} can be read "
                "at once; save each as an .npy file, which is mapped"
            )
        for name, info in wanted.items():
            with archive.open(info) as member:
                found[name] = np.lib.format.read_array(member, allow_pickle=False)
    return found


def _read_header(member: io.BytesIO, size: int) -> Header:
    version = np.lib.format.read_magic(member)
    read_header = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }.get(version)
    if read_header is None:
        raise ValueError(f"version {version} of the format")
    shape, _, dtype = read_header(member)
    if dtype.hasobject:
        raise ValueError("it holds pickled objects, which are not loaded")
    claimed = dtype.itemsize * int(np.prod(shape, dtype=object))
    if claimed != size - member.tell():
        raise ValueError(f"its header claims {claimed:,} bytes, and it has {size - member.tell():,}")
    return Header(shape, dtype)


def npz_matrix(path: Path, name: str, array: NDArray[Any]) -> Matrix:
    """One array of an ``.npz`` file as vectors.

    Raises:
        DataError: it is none.
    """
    return _matrix(f"{name} in {path}", array)


def _matrix(name: str, array: NDArray[Any]) -> Matrix:
    if array.ndim != 2 or array.dtype.name not in ("float16", "float32", "float64") or 0 in array.shape:
        raise DataError(
            f"{name} is {array.dtype} {array.shape}; expected vectors, (rows, width) of float16, float32 or float64"
        )
    return Matrix(name, array.shape[0], array.shape[1], array.dtype.name, lambda: array)


def read_lines(path: Path) -> list[str]:
    """The lines of a UTF-8 text file, blank ones included.

    Raises:
        DataError: it is no such file.
    """
    with _explained(path, "a UTF-8 text file"):
        if path.stat().st_size > MAX_UNPACKED:
            raise DataError(f"{path} has {path.stat().st_size:,} bytes; write the texts as Parquet instead")
        text = path.read_bytes().decode("utf-8")
    lines = text.split("\n")
    return [line.removesuffix("\r") for line in (lines[:-1] if lines[-1] == "" else lines)]


@dataclass(frozen=True)
class ParquetGroup:
    """One row group of a Parquet file."""

    path: Path
    number: int
    rows: int

    def table(self, columns: tuple[str, ...]) -> Table:
        """Its texts and numbers."""
        return Table(str(self.path), self.rows, columns, lambda wanted: self._read(wanted).to_pydict())

    def matrix(self, column: str) -> Matrix:
        """A column of lists of floats as vectors.

        Raises:
            DataError: it is none, or the lists differ in length.
        """
        found = self._array(column)
        return Matrix(
            f"{column} in {self.path}",
            self.rows,
            found.shape[1],
            found.dtype.name,
            lambda: self._array(column),
        )

    def _read(self, columns: list[str]) -> Any:
        import pyarrow as pa
        import pyarrow.parquet as pq

        with _explained(self.path, "a Parquet file"), pq.ParquetFile(self.path) as file:
            batches, size = [], 0
            # What is encoded in a few bytes, such as one long text a million times, shows its size only here.
            for batch in file.iter_batches(_ROWS, row_groups=[self.number], columns=columns):
                batches.append(batch)
                if (size := size + batch.nbytes) > MAX_UNPACKED:
                    raise _too_large(self.path, f"more than {MAX_UNPACKED:,}")
            table = pa.Table.from_batches(batches)
        if table.num_rows != self.rows:
            raise DataError(
                f"{self.path} has {table.num_rows:,} rows in a group of {self.rows:,}; it is damaged"
            )
        return table

    def _array(self, column: str) -> Vectors:
        import pyarrow as pa
        import pyarrow.compute as pc

        array = pa.concat_arrays(self._read([column])[column].chunks)
        lengths = pc.list_value_length(array)
        widths = pc.unique(pc.drop_null(lengths)).to_pylist()
        if len(widths) != 1 or not 0 < widths[0] <= 65_536:
            raise DataError(
                f"{column} in {self.path} has lists of {', '.join(map(str, sorted(widths)[:3])) or 'no'} numbers; "
                "expected vectors of one width"
            )
        there = lengths.is_valid().to_numpy(zero_copy_only=False)
        values = array.flatten().to_numpy(zero_copy_only=False)
        vectors = np.full((self.rows, widths[0]), np.nan, dtype=values.dtype)
        vectors[there] = values.reshape(-1, widths[0])
        return vectors


def parquet_groups(path: Path) -> tuple[dict[str, str], list[ParquetGroup]]:
    """The kinds of a Parquet file's columns (``vectors``, ``text``, ``number`` or ``other``), and its row groups.

    Raises:
        DataError: it is no Parquet file, or a group is too large to be read at once.
    """
    import pyarrow.parquet as pq

    with _explained(path, "a Parquet file"), pq.ParquetFile(path) as file:
        kinds = {field.name: _kind(field.type) for field in file.schema_arrow}
        groups = []
        for number in range(file.metadata.num_row_groups):
            group = file.metadata.row_group(number)
            if group.total_byte_size > MAX_UNPACKED:
                raise _too_large(path, f"{group.total_byte_size:,}")
            if group.num_rows:
                groups.append(ParquetGroup(path, number, group.num_rows))
    return kinds, groups


def _too_large(path: Path, size: str) -> DataError:
    return DataError(
        f"{path} has a row group of {size} bytes, and at most {MAX_UNPACKED:,} can be read at once; write it with "
        "smaller row groups"
    )


def _kind(kind: Any) -> str:
    import pyarrow as pa

    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        return "vectors" if pa.types.is_floating(kind.value_type) else "other"
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return "text"
    return "number" if pa.types.is_floating(kind) or pa.types.is_integer(kind) else "other"


@contextmanager
def _explained(path: Path, expected: str) -> Iterator[None]:
    """One line about a file that cannot be read."""
    import pyarrow as pa

    try:
        yield
    except FileNotFoundError as error:
        raise DataError(f"no file {path}; expected {expected}") from error
    except (OSError, ValueError, EOFError, MemoryError, OverflowError, SyntaxError, TypeError) as error:
        said = " ".join(str(error).split())[:200]
        if "object" in said.lower():
            said = "it holds pickled objects, which are not loaded"
        raise DataError(f"cannot read {path} as {expected}: {said or type(error).__name__}") from error
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, KeyError, pa.ArrowException) as error:
        raise DataError(f"cannot read {path} as {expected}: {' '.join(str(error).split())[:200]}") from error
