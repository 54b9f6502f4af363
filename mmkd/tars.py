"""Pairs of WebDataset tars, read where they lie: any row at any time, with no copy of the data."""

import json
import os
import re
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmkd.errors import DataError
from mmkd.img2dataset import Links, read_links
from mmkd.pairs import DataSource, Pair
from mmkd.sources import absolute_spec, check_column, choose_tar_split, short_spec
from mmkd.synthetic import check_synthetic
from mmkd.tar_headers import IMAGE_SUFFIXES
from mmkd.tar_index import TarIndex, open_index

_PLAIN = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
_SURROGATE = re.compile("[\ud800-\udfff]")
CAPTION_SUFFIXES = ("txt", "text", "caption")
CAPTION_FIELDS = ("caption", "captions", "text", "txt", "texts", "description", "title", "alt")


@dataclass(frozen=True)
class TarTable:
    """The rows of tars, or a slice of them.

    Attributes:
        index: where members lie.
        source: the source with every guess resolved. ``image_column`` is a suffix or several (``jpg;png``: the first
            that a row has), ``caption_column`` a suffix or a field of a JSON member (``json.caption``).
        rows: which rows of the index.
    """

    index: TarIndex
    source: DataSource
    rows: range

    def __len__(self) -> int:
        return len(self.rows)

    def pair(self, row: int) -> Pair:
        """Row ``row``, from 0.

        Raises:
            DataError: its tar is gone or was changed.
        """
        place = self.rows[row]
        with _OpenTar(self.index, place) as tar:
            real = _texts(self._text(tar, self.source.caption_column))
            columns = self.source.synthetic_columns
            synthetic = [text for column in columns for text in _texts(self._text(tar, column))]
            return Pair(self._image(tar), (*real, *synthetic), len(synthetic))

    def longest_list(self) -> int:
        """The largest number of captions that any row has; looks through the rows only where they have lists."""
        columns = [c for c in (self.source.caption_column, *self.source.synthetic_columns) if c is not None]
        lists = [column for column in columns if "." in column]
        single = len(columns) - len(lists)
        values = zip(*map(self.values, lists), strict=True)
        sizes = (sum(len(one) if isinstance(one, list) else 1 for one in row) for row in values)
        return max(1, single + max(sizes, default=0))

    def values(self, column: str | None) -> Iterator[Any]:
        """What a column of texts holds, row by row."""
        for place in self.rows:
            with _OpenTar(self.index, place) as tar:
                yield self._text(tar, column)

    def starts(self) -> NDArray[np.int64]:
        """int64 (T,): the first row of each tar, ascending from 0."""
        first = self.index.starts[:-1]
        inside = (first > self.rows.start) & (first < self.rows.stop)
        return np.unique(np.concatenate([[0], first[inside] - self.rows.start])).astype(np.int64)

    def describe(self) -> str:
        """One line: what it is and what was guessed."""
        source, skipped = self.source, self.index.skipped
        kind = "folder" if Path(self.index.tars[0].path).is_dir() else "tar"
        tars = len(self.index.tars)
        text = (
            f"{short_spec(source.spec)} · {source.split} · {len(self):,} pairs in {tars:,} {kind}{'s' * (tars != 1)} · "
            f"image: {source.image_column} · caption: {source.caption_column}"
            + "".join(f" · synthetic: {name}" for name in source.synthetic_columns)
        )
        if not skipped:
            return text
        reasons = ", ".join(f"{reason} {number:,}" for reason, number in skipped.items())
        return f"{text} · {sum(skipped.values()):,} members skipped ({reasons})"

    def links(self) -> Links | None:
        """What img2dataset says of the links; read each time it is asked for."""
        return read_links(Path(tar.path) for tar in self.index.tars)

    def _image(self, tar: "_OpenTar") -> bytes:
        for column in (self.source.image_column or "").split(";"):
            if column and (data := tar.read(column)) is not None:
                return data
        return b""

    def _text(self, tar: "_OpenTar", wanted: str | None) -> Any:
        known = wanted in self.index.columns
        column, _, name = (wanted, "", "") if known and wanted else (wanted or "").partition(".")
        if (data := tar.read(column) if column else None) is None:
            return None
        try:
            text = data.decode("utf-8")
            if not name:
                return text
            value = json.loads(text)
        except (ValueError, RecursionError):
            return None
        return value.get(name) if isinstance(value, dict) else None


class _OpenTar:
    """A tar, or a folder, for as long as a row is read; opened each time, so that nothing is shared by processes."""

    def __init__(self, index: TarIndex, row: int) -> None:
        self._tar = tar = index.tar_of(row)
        self._index, self._row = index, row
        try:
            self._file = os.open(tar.path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise DataError(f"cannot read {tar.path}: {error.strerror}; put it back") from error
        status = os.fstat(self._file)
        self._folder = stat.S_ISDIR(status.st_mode)
        if (status.st_size, status.st_mtime_ns) != (tar.size, tar.changed):
            os.close(self._file)
            raise DataError(f"{tar.path} was changed since it was opened; start again")

    def __enter__(self) -> "_OpenTar":
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._file)

    def read(self, column: str) -> bytes | None:
        """A member of the row; None where it has none of that suffix."""
        place = self._index.place(self._row, column)
        if place is None:
            return None
        try:
            data = self._read_file(column, place[1]) if self._folder else os.pread(self._file, *place[::-1])
        except OSError as error:
            raise DataError(f"cannot read {self._tar.path}: {error.strerror}") from error
        if len(data) != place[1]:
            raise DataError(f"{self._tar.path} gave {len(data):,} bytes of {place[1]:,}; start again")
        return data

    def _read_file(self, column: str, size: int) -> bytes:
        name = f"{self._index.key(self._row)}.{column}"
        with open(name, "rb", opener=lambda path, _: os.open(path, _PLAIN, dir_fd=self._file)) as stream:
            return stream.read(size + 1)


def open_tars(source: DataSource, splits: dict[str, list[Path]], sides: tuple[str, ...]) -> TarTable:
    """Open tars as a table; columns are guessed where ``source`` names none.

    Args:
        source: what was asked for.
        splits: the tars of each split, as ``find_tars`` gives them.
        sides: what to read of a pair.

    Raises:
        DataError: a tar cannot be used, a column or split is not there, or there are no rows or no captions.
    """
    spec = source.spec
    split = choose_tar_split(spec, list(splits), source.split)
    everything = {"all": [path for paths in splits.values() for path in paths]}
    index = open_index((everything | splits).get(split.partition("[")[0], []))
    rows = _slice(spec, split, len(index))
    if not len(rows):
        raise DataError(f"{spec} has no rows in its split {split!r}; expected at least one pair")
    image = _choose_image(spec, index, source.image_column) if "image" in sides else None
    first = TarTable(index, DataSource(spec), rows)
    caption = _choose_caption(first, source.caption_column) if "text" in sides else None
    if source.template is not None:
        raise DataError(f"{spec} holds captions, not class labels; leave --template out")
    synthetic = source.synthetic_columns if caption is not None else ()
    check_synthetic(source, _text_columns(first), caption)
    resolved = DataSource(absolute_spec(spec), split, image, caption, None, synthetic, source.filters)
    table = TarTable(index, resolved, rows)
    if caption is not None and not any(_texts(value) for value in table.values(caption)):
        raise DataError(
            f"all captions in column {caption!r} of {spec} are empty; choose with --caption-column"
        )
    return table


def _slice(spec: str, split: str, rows: int) -> range:
    from datasets import ReadInstruction

    try:
        (part,) = ReadInstruction.from_spec(split).to_absolute({split.partition("[")[0]: rows})
    except (ValueError, AssertionError) as error:
        raise DataError(f"cannot take the split {split!r} of {spec}: {error}") from error
    return range(rows)[part.from_ : part.to]


def _choose_image(spec: str, index: TarIndex, wanted: str | None) -> str:
    images = [column for column in index.columns if column.rpartition(".")[2] in IMAGE_SUFFIXES]
    if wanted is not None:
        for column in wanted.split(";"):
            check_column(spec, dict.fromkeys(images), column, "--image-column")
        return wanted
    usual = [suffix for suffix in IMAGE_SUFFIXES if suffix in images]
    if usual or len(images) == 1:
        return ";".join(usual or images)
    raise DataError(
        f"{spec} has {len(images) or 'no'} image columns among {', '.join(index.columns)}; name the one to take with "
        "--image-column"
    )


def _text_columns(table: TarTable) -> list[str]:
    """Members of text, and the fields of JSON members."""
    members = [name for name in table.index.columns if name.rpartition(".")[2] in CAPTION_SUFFIXES]
    return members + [f"json.{name}" for name in _json_fields(table)]


def _choose_caption(table: TarTable, wanted: str | None) -> str:
    spec, columns, known = table.source.spec, table.index.columns, _text_columns(table)
    if wanted is not None:
        return check_column(spec, dict.fromkeys(known), wanted, "--caption-column")
    usual: Sequence[str] = (*CAPTION_SUFFIXES, *(f"json.{name}" for name in CAPTION_FIELDS))
    for column in usual:
        if column in known:
            return column
    raise DataError(
        f"{spec} has no captions among {', '.join(dict.fromkeys([*columns, *known]))}; name the one to take with "
        "--caption-column"
    )


def _json_fields(table: TarTable) -> list[str]:
    """The fields of the first JSON member."""
    if "json" not in table.index.columns:
        return []
    places = np.flatnonzero(table.index.has("json")[table.rows.start : table.rows.stop])
    if not len(places):
        return []
    place = table.rows[int(places[0])]
    with _OpenTar(table.index, place) as tar:
        try:
            value = json.loads(tar.read("json") or b"")
        except (ValueError, RecursionError):
            value = None
    return [str(name) for name in value] if isinstance(value, dict) else []


def _texts(value: Any) -> tuple[str, ...]:
    texts = (value,) if isinstance(value, str) else value if isinstance(value, list) else ()
    # JSON may hold half a surrogate pair, which no text can be written with.
    return tuple(_SURROGATE.sub("\ufffd", text) for text in texts if isinstance(text, str) and text.strip())
