"""What ``mmkd cache import`` reads: vectors of images, of texts or of both, row by row beside their captions."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import xxhash
from numpy.typing import NDArray

from mmkd.cache.origin import SIDES
from mmkd.cache.vector_files import (
    Matrix,
    Table,
    map_npy,
    npz_headers,
    npz_matrix,
    parquet_groups,
    read_lines,
    read_npz,
)
from mmkd.data import CAPTION_NAMES
from mmkd.errors import DataError

FOLDERS = {"image": "img_emb", "text": "text_emb"}  # clip-retrieval's
KEPT = ("key", "url", "image_path")  # columns that go on into the cache, beside the caption
NORMS = {"image": "image_norm", "text": "text_norm"}  # columns that `mmkd cache export` adds
_HINTS = {"image": ("image", "img", "visual"), "text": ("text", "txt", "caption")}


@dataclass(frozen=True)
class Columns:
    """What to call what; ``None``: guess.

    Attributes:
        image: array or column of the images' vectors.
        text: array or column of the texts' vectors.
        caption: array or column of captions.
        captions: file with a caption a line, or Parquet with a column of them.
    """

    image: str | None = None
    text: str | None = None
    caption: str | None = None
    captions: Path | None = None


@dataclass(frozen=True)
class Part:
    """Consecutive rows of a source: at least one side, and perhaps a table of captions, of equal length."""

    image: Matrix | None
    text: Matrix | None
    table: Table | None

    @property
    def vectors(self) -> dict[str, Matrix]:
        """The sides that are there."""
        sides = {"image": self.image, "text": self.text}
        return {side: matrix for side, matrix in sides.items() if matrix is not None}

    @property
    def rows(self) -> int:
        """How many rows."""
        return next(iter(self.vectors.values())).rows


@dataclass(frozen=True)
class VectorSource:
    """Vectors that others made.

    Attributes:
        path: the folder or file.
        form: ``clip-retrieval``, ``numpy`` or ``parquet``.
        files: all that is read.
        parts: the rows in order.
        caption: the tables' column of captions; ``None`` where there are none.
    """

    path: Path
    form: str
    files: tuple[Path, ...]
    parts: tuple[Part, ...]
    caption: str | None

    @property
    def rows(self) -> int:
        """R."""
        return sum(part.rows for part in self.parts)

    @property
    def sides(self) -> tuple[str, ...]:
        """The sides that there are vectors of."""
        return tuple(side for side in SIDES if side in self.parts[0].vectors)

    @property
    def dim(self) -> int:
        """D."""
        return next(iter(self.parts[0].vectors.values())).dim

    @property
    def dtype(self) -> str:
        """The widest type that any vectors come in."""
        return max((m.dtype for part in self.parts for m in part.vectors.values()), key=lambda t: int(t[5:]))

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns of every part's table."""
        tables = [part.table for part in self.parts]
        if any(table is None for table in tables):
            return ()
        common = set.intersection(*(set(table.columns) for table in tables if table is not None))
        return tuple(sorted(common))

    def hash(self) -> str:
        """xxh3_128 of the names and contents of all files."""
        digest = xxhash.xxh3_128()
        for file in self.files:
            digest.update(file.name.encode("utf-8", "surrogateescape") + b"\x00")
            with file.open("rb") as stream:
                while block := stream.read(1 << 22):
                    digest.update(block)
        return digest.hexdigest()

    def describe(self) -> str:
        """``clip-retrieval · 10,000 rows of 512-d image and text vectors (float16) · captions: caption``."""
        said = f"captions: {self.caption}" if self.caption else "no captions"
        sides = " and ".join(self.sides)
        return f"{self.path} · {self.form} · {self.rows:,} rows of {self.dim}-d {sides} vectors ({self.dtype}) · {said}"


def open_vectors(path: Path, columns: Columns = Columns()) -> VectorSource:
    """Open a folder of clip-retrieval's, an ``.npy``, ``.npz`` or Parquet file, or a folder of Parquet files.

    Raises:
        DataError: it is none of these, sizes do not agree, or a column is missing or cannot be guessed.
    """
    if path.is_dir() and any((path / name).is_dir() for name in FOLDERS.values()):
        source = _open_clip_retrieval(path, columns)
    elif path.suffix == ".npy":
        source = _open_npy(path, columns)
    elif path.suffix == ".npz":
        source = _open_npz(path, columns)
    else:
        source = _open_parquet(path, columns)
    _check_sizes(source)
    return source


def _open_clip_retrieval(path: Path, columns: Columns) -> VectorSource:
    found = {side: _numbered(path / name, name, ".npy") for side, name in FOLDERS.items()}
    tables = _numbered(path / "metadata", "metadata", ".parquet")
    kinds = [("metadata", tables)] * bool(tables) + [(FOLDERS[s], found[s]) for s in SIDES if found[s]]
    if not any(found.values()):
        raise DataError(f"{path} holds no img_emb/img_emb_0.npy and no text_emb/text_emb_0.npy")
    numbers = sorted(set().union(*(files for _, files in kinds)))
    for number in numbers:
        for name, files in kinds:
            if number not in files:
                raise DataError(
                    f"{path / name} has no part {number}, which others of {path} have; fetch it again"
                )
    parts = []
    for number in numbers:
        vectors = {side: map_npy(found[side][number]) for side in SIDES if found[side]}
        table = _whole_table(tables[number]) if tables else None
        parts.append(Part(vectors.get("image"), vectors.get("text"), table))
    read = tuple(files[number] for number in numbers for _, files in kinds)
    known = parts[0].table.columns if parts[0].table is not None else ()
    return VectorSource(path, "clip-retrieval", read, tuple(parts), _caption(path, known, columns.caption))


def _numbered(folder: Path, stem: str, suffix: str) -> dict[int, Path]:
    pattern = re.compile(re.escape(stem) + r"_(\d+)" + re.escape(suffix))
    files = folder.iterdir() if folder.is_dir() else ()
    found: dict[int, Path] = {}
    for file in sorted(files):
        if (match := pattern.fullmatch(file.name)) is None:
            continue
        if (other := found.setdefault(int(match[1]), file)) != file:
            raise DataError(
                f"{other.name} and {file.name} in {folder} are both part {int(match[1])}; remove one"
            )
    return dict(sorted(found.items()))


def _open_npy(path: Path, columns: Columns) -> VectorSource:
    matrix = map_npy(path)
    sides = [side for side in SIDES if getattr(columns, side) is not None] or _hinted(path.stem)
    if len(sides) != 1:
        raise DataError(
            f"the name of {path.name} does not say what it holds; pass --text-column or --image-column {path.stem}"
        )
    beside = [path.with_suffix(suffix) for suffix in (".txt", ".parquet")]
    captions = columns.captions or next((file for file in beside if file.is_file()), None)
    table, caption = _read_captions(captions, columns.caption)
    part = Part(matrix if sides == ["image"] else None, matrix if sides == ["text"] else None, table)
    files = (path,) if captions is None else (path, captions)
    return VectorSource(path, "numpy", files, (part,), caption)


def _open_npz(path: Path, columns: Columns) -> VectorSource:
    headers = npz_headers(path)
    vectors = [name for name, one in headers.items() if len(one.shape) == 2 and one.dtype.kind == "f"]
    chosen = _choose_vectors(path, vectors, tuple(headers), columns)
    texts = tuple(name for name, one in headers.items() if len(one.shape) == 1 and one.dtype.kind == "U")
    files: tuple[Path, ...] = (path,)
    if columns.captions is not None:
        table, caption = _read_captions(columns.captions, columns.caption)
        files = (path, columns.captions)
    else:
        caption = columns.caption
        if caption is not None and caption not in texts:
            raise _no_column(path, caption, texts, "--caption-column")
        caption = caption or (texts[0] if len(texts) == 1 else _caption(path, texts, None))
    own = [caption] if columns.captions is None and caption is not None else []
    arrays = read_npz(path, dict.fromkeys([*chosen.values(), *own]))
    if columns.captions is None:
        table = None if caption is None else _column(path, caption, arrays[caption])
    sides = {side: npz_matrix(path, name, arrays[name]) for side, name in chosen.items()}
    return VectorSource(path, "numpy", files, (Part(sides.get("image"), sides.get("text"), table),), caption)


def _column(path: Path, name: str, values: NDArray[np.str_]) -> Table:
    return Table(str(path), len(values), (name,), lambda names: {one: values.tolist() for one in names})


def _open_parquet(path: Path, columns: Columns) -> VectorSource:
    files = tuple(sorted(path.glob("*.parquet"))) if path.is_dir() else (path,)
    if not files or (path.suffix != ".parquet" and not path.is_dir()) or not path.exists():
        raise DataError(
            f"{path} holds no vectors that can be imported; expected clip-retrieval's folder (img_emb/, text_emb/), "
            "an .npy, .npz or .parquet file, or a folder of .parquet files"
        )
    parts, caption = [], None
    for file in files:
        kinds, groups = parquet_groups(file)
        vectors = [name for name, kind in kinds.items() if kind == "vectors"]
        chosen = _choose_vectors(file, vectors, tuple(kinds), columns)
        known = _plain(kinds)
        caption = _caption(file, known, columns.caption)
        for group in groups:
            sides = {side: group.matrix(name) for side, name in chosen.items()}
            parts.append(Part(sides.get("image"), sides.get("text"), group.table(known)))
    if not parts:
        raise DataError(f"{path} has no rows")
    if columns.captions is not None:
        raise DataError(f"{path} holds its own captions; name their column with --caption-column")
    return VectorSource(path, "parquet", files, tuple(parts), caption)


def _choose_vectors(
    path: Path, names: list[str], everything: tuple[str, ...], columns: Columns
) -> dict[str, str]:
    """Which array or column holds which side's vectors."""
    chosen = {side: name for side in SIDES if (name := getattr(columns, side)) is not None}
    for side, name in chosen.items():
        if name not in everything:
            raise _no_column(path, name, everything, f"--{side}-column")
        if name not in names:
            raise DataError(f"{name} in {path} holds no vectors; expected rows of floats (--{side}-column)")
    if chosen:
        return chosen
    guessed = {name: _hinted(name) for name in names}
    for side in SIDES:
        likely = [name for name in names if guessed[name] == [side]]
        if len(likely) == 1:
            chosen[side] = likely[0]
    if not chosen:
        raise DataError(
            f"cannot tell which side the vectors of {path} are of among {', '.join(names) or 'no vectors'}; name them "
            "with --image-column or --text-column"
        )
    return chosen


def _hinted(name: str) -> list[str]:
    return [side for side in SIDES if any(hint in name.lower() for hint in _HINTS[side])]


def _read_captions(file: Path | None, column: str | None) -> tuple[Table | None, str | None]:
    if file is None:
        return None, None
    if file.suffix == ".parquet":
        table = _whole_table(file)
        caption = _caption(file, table.columns, column)
        if caption is None:
            raise DataError(
                f"{file} has no column of captions among {', '.join(table.columns)}; name it with --caption-column"
            )
        return table, caption
    lines = read_lines(file)
    return Table(str(file), len(lines), ("caption",), lambda names: dict.fromkeys(names, lines)), "caption"


def _whole_table(file: Path) -> Table:
    kinds, groups = parquet_groups(file)
    known = _plain(kinds)
    tables = [group.table(known) for group in groups]

    def read(names: list[str]) -> dict[str, list[object]]:
        found = [table.read(names) for table in tables]
        return {name: [value for columns in found for value in columns[name]] for name in names}

    return Table(str(file), sum(table.rows for table in tables), known, read)


def _plain(kinds: dict[str, str]) -> tuple[str, ...]:
    return tuple(name for name, kind in kinds.items() if kind in ("text", "number"))


def _caption(path: Path, names: Iterable[str], wanted: str | None) -> str | None:
    names = tuple(names)
    if wanted is not None and wanted not in names:
        raise _no_column(path, wanted, names, "--caption-column")
    return wanted or next((name for name in CAPTION_NAMES if name in names), None)


def _no_column(path: Path, name: str, names: tuple[str, ...], option: str) -> DataError:
    return DataError(f"{path} has no column {name!r}, only {', '.join(names) or 'none'} ({option})")


def _check_sizes(source: VectorSource) -> None:
    sides = source.sides
    for part in source.parts:
        vectors = part.vectors
        if tuple(vectors) != sides:
            raise DataError(
                f"{source.path} has {' and '.join(vectors)} vectors in one part and {' and '.join(sides)} in another"
            )
        for matrix in vectors.values():
            if matrix.dim != source.dim:
                raise DataError(
                    f"{matrix.name} has vectors of width {matrix.dim}, and others have {source.dim}"
                )
            if matrix.rows != part.rows:
                first = next(iter(vectors.values()))
                raise DataError(
                    f"{first.name} has {first.rows:,} rows, but {matrix.name} {matrix.rows:,}; expected one row a pair"
                )
        if part.table is not None and part.table.rows != part.rows:
            first = next(iter(vectors.values()))
            raise DataError(
                f"{part.table.name} has {part.table.rows:,} texts, but {first.name} {first.rows:,} vectors; expected a "
                "text a row"
            )
