"""Pairs of an image and its captions, from any data set that ``datasets`` can open."""

import bisect
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mmkd.errors import ConfigError, DataError
from mmkd.hub_tars import fetch_tars
from mmkd.images import read_image_file
from mmkd.img2dataset import Links, live_rows
from mmkd.pairs import DataSource, Pair, PairTable, row_hash
from mmkd.sources import (
    absolute_spec,
    base_folder,
    cast_to_bytes,
    check_column,
    choose_image_column,
    open_table,
    short_spec,
)
from mmkd.synthetic import check_synthetic
from mmkd.tar_specs import find_tars
from mmkd.tars import open_tars

if TYPE_CHECKING:
    from datasets import Dataset

__all__ = [
    "DataSource",
    "LabelledDataset",
    "Pair",
    "PairDataset",
    "open_labelled",
    "open_pairs",
    "row_hash",
]

DEFAULT_TEMPLATE = "a photo of a {}."
CAPTION_NAMES = (
    "caption",
    "captions",
    "text",
    "txt",
    "texts",
    "sentence",
    "sentences",
    "description",
    "title",
)
LABEL_NAMES = ("label", "labels", "fine_label", "class", "cls")
KEY_NAMES = ("key", "id", "url", "file_name", "filename", "path", "image_id", "license")


@dataclass(frozen=True)
class _Table:
    """One opened source: its rows and how to read a pair from them."""

    rows: "Dataset"
    source: DataSource
    folder: Path | None
    names: tuple[str, ...] | None  # class names, where captions are made from labels
    downloads: Links | None = None

    def __len__(self) -> int:
        return len(self.rows)

    def pair(self, row: int) -> Pair:
        values = self.rows[row]
        real = self.captions(values)
        synthetic = [text for name in self.source.synthetic_columns for text in self.texts(values[name])]
        return Pair(self.image(values), (*real, *synthetic), len(synthetic))

    def image(self, row: dict[str, Any]) -> bytes:
        column = self.source.image_column
        return b"" if column is None else _image_bytes(row[column], self.folder)

    def captions(self, row: dict[str, Any]) -> tuple[str, ...]:
        column = self.source.caption_column
        return () if column is None else self.texts(row[column])

    def texts(self, value: Any) -> tuple[str, ...]:
        if isinstance(value, int) and self.names is not None and self.source.template is not None:
            known = 0 <= value < len(self.names)
            return (self.source.template.replace("{}", self.names[value]),) if known else ()
        texts = (value,) if isinstance(value, str) else value or ()
        return tuple(text for text in texts if isinstance(text, str) and text.strip())

    def describe(self) -> str:
        source = self.source
        made = f'"{source.template}" with the name of ' if source.template else ""
        return (
            f"{short_spec(source.spec)} · {source.split} · {len(self.rows):,} pairs · "
            f"image: {source.image_column} · caption: {made}{source.caption_column}"
            + "".join(f" · synthetic: {name}" for name in source.synthetic_columns)
        )

    def starts(self) -> None:
        return None

    def links(self) -> Links | None:
        return self.downloads

    def longest_list(self) -> int:
        import pyarrow as pa
        import pyarrow.compute as pc

        columns = [c for c in (self.source.caption_column, *self.source.synthetic_columns) if c is not None]
        lists = [c for c in columns if getattr(self.rows.features[c], "feature", None) is not None]
        single = len(columns) - len(lists)
        if not lists:
            return max(1, single)
        longest = 0
        for batch in self.rows.select_columns(lists).with_format("arrow").iter(batch_size=10_000):
            total = pa.scalar(0, pa.int64())
            for column in lists:
                total = pc.add(total, pc.fill_null(pc.list_value_length(batch[column]), 0))
            longest = max(longest, pc.max(total).as_py() or 0)
        return max(1, single + longest)

    def caption_values(self) -> Iterable[Any]:
        for batch in self.rows.select_columns([str(self.source.caption_column)]).iter(batch_size=10_000):
            yield from batch[str(self.source.caption_column)]


class PairDataset:
    """Map-style pairs of one or several sources, joined in order; cheap to send to worker processes.

    Attributes:
        sources: the sources with every guess resolved.
        limit: rows kept of the whole; None for all.
        sides: what is read of a pair: ``image``, ``text`` or both.
    """

    def __init__(self, tables: Sequence[PairTable], limit: int | None = None) -> None:
        self._tables = tuple(tables)
        self._ends = list(accumulate(len(table) for table in tables))
        self._length = self._ends[-1] if limit is None else min(limit, self._ends[-1])
        self.limit = limit
        self.sources = [table.source for table in tables]
        columns = {"image": tables[0].source.image_column, "text": tables[0].source.caption_column}
        self.sides = tuple(side for side, column in columns.items() if column is not None)

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, row: int) -> Pair:
        if not 0 <= row < self._length:
            raise IndexError(f"row {row} of {self._length}")
        which = bisect.bisect_right(self._ends, row)
        table = self._tables[which]
        pair = table.pair(row - (self._ends[which - 1] if which else 0))
        return pair.filtered(table.source.filters) if table.source.filters else pair

    def tar_starts(self) -> NDArray[np.int64]:
        """The first row of each tar, int64 (T,), ascending.

        Raises:
            ConfigError: the data is no WebDataset tars.
        """
        starts: list[NDArray[np.int64]] = []
        for table, end in zip(self._tables, self._ends, strict=True):
            if (first := table.starts()) is None:
                raise ConfigError(
                    f"--shuffle-tars is for WebDataset tars, and {short_spec(table.source.spec)} is none; leave it out"
                )
            starts.append(first + end - len(table))
        return np.concatenate(starts)

    def links(self) -> list[tuple[str, Links]]:
        """Where images were downloaded by img2dataset: each such source, and what became of its links.

        Raises:
            DataError: what it wrote cannot be read.
        """
        said = [(short_spec(table.source.spec), table.links()) for table in self._tables]
        return [(spec, links) for spec, links in said if links is not None]

    @property
    def max_captions(self) -> int:
        """The largest number of captions that any row of any source has, blank ones included."""
        return max(table.longest_list() for table in self._tables)

    def describe(self) -> list[str]:
        """One line for each source: what it is and what was guessed."""
        return [
            table.describe() + (f" · captions: {rule.describe()}" if (rule := table.source.filters) else "")
            for table in self._tables
        ]


class LabelledDataset:
    """Map-style images with a class each, for zero-shot evaluation.

    Attributes:
        name: the last part of the spec, without suffix.
        class_names: names by label; empty where the data holds bare integers.
        source: the source with every guess resolved; ``caption_column`` is the label's.
    """

    def __init__(self, table: _Table, label_numbers: dict[str, int] | None) -> None:
        self._table = table
        self._label_numbers = label_numbers
        self.source = table.source
        self.class_names = table.names or ()
        self.name = Path(table.source.spec.partition(":")[0]).name.partition(".")[0]

    def __len__(self) -> int:
        return len(self._table.rows)

    def __getitem__(self, row: int) -> tuple[bytes, int]:
        values = self._table.rows[row]
        label = values[str(self.source.caption_column)]
        if self._label_numbers is not None:
            label = self._label_numbers[label]
        if label is None or label < 0:
            raise DataError(f"row {row} of {self.source.spec} has no label; expected a class for every image")
        return self._table.image(values), int(label)


def open_pairs(
    sources: Sequence[DataSource], limit: int | None = None, *, sides: tuple[str, ...] = ("image", "text")
) -> PairDataset:
    """Open ``sources`` and join them in order.

    Args:
        sources: at least one; columns are guessed where None.
        limit: rows to keep of the whole; None for all.
        sides: what to read of a pair; a side left out needs no column, and is empty in every pair.

    Raises:
        DataError: a source cannot be opened, lacks a column, has no rows or no captions.
    """
    if not sources:
        raise DataError("no data set was named; pass one with --data")
    if limit is not None and limit < 1:
        raise ConfigError(f"found a limit of {limit} rows; expected at least 1")
    return PairDataset([_open_captioned(source, sides) for source in sources], limit)


def open_labelled(
    spec: str,
    split: str | None = None,
    image_column: str | None = None,
    label_column: str | None = None,
    *,
    files: str | None = None,
) -> LabelledDataset:
    """Open a labelled data set: by default its ``test``, else ``validation`` split.

    ``files`` is the pattern of the files that hold the split, where no other is to be downloaded.

    Raises:
        DataError: it cannot be opened, or lacks the columns.
    """
    from datasets import ClassLabel

    rows, split = open_table(spec, split, prefer=("test", "validation", "valid", "val"), files=files)
    image_column = choose_image_column(spec, rows.features, image_column)
    if label_column is not None:
        check_column(spec, rows.features, label_column, "--label-column")
    else:
        label_column = _guess_label(rows.features) or _first(LABEL_NAMES, rows.features)
    if label_column is None:
        raise DataError(
            f"{spec} has no column of labels among {', '.join(rows.features)}; name it with --label-column"
        )
    feature, numbers = rows.features[label_column], None
    names = tuple(feature.names) if isinstance(feature, ClassLabel) else None
    if getattr(feature, "dtype", None) in ("string", "large_string"):
        names = tuple(sorted(set(rows.unique(label_column)) - {None}))
        numbers = {name: number for number, name in enumerate(names)}
    rows = cast_to_bytes(rows.select_columns([image_column, label_column]), image_column)
    source = DataSource(absolute_spec(spec), split, image_column, label_column, None)
    return LabelledDataset(_Table(rows, source, base_folder(spec), names), numbers)


def _open_captioned(source: DataSource, sides: tuple[str, ...]) -> PairTable:
    spec = source.spec
    if (tars := find_tars(spec) or fetch_tars(spec, source.split)) is not None:
        return open_tars(source, tars, sides)
    if source.template is not None and "{}" not in source.template:
        raise ConfigError(
            f"the template {source.template!r} has no {{}}; expected one where the class name goes"
        )
    rows, split = open_table(spec, source.split, prefer=("train",))
    rows, links = live_rows(rows)
    image_column = caption_column = names = None
    if "image" in sides:
        image_column = choose_image_column(spec, rows.features, source.image_column)
    if "text" in sides:
        caption_column = _choose_caption_column(source, rows.features, image_column)
        names = _class_names(spec, rows.features[caption_column], caption_column)
    template = None if names is None else source.template or DEFAULT_TEMPLATE
    synthetic = source.synthetic_columns if "text" in sides else ()
    check_synthetic(source, [name for name in rows.features if _is_text(rows.features[name])], caption_column)
    chosen = (image_column, caption_column, *synthetic)
    rows = rows.select_columns([column for column in chosen if column is not None])
    if image_column is not None:
        rows = cast_to_bytes(rows, image_column)
    resolved = DataSource(
        absolute_spec(spec), split, image_column, caption_column, template, synthetic, source.filters
    )
    table = _Table(rows, resolved, base_folder(spec), names, links)
    if caption_column is not None and not any(table.texts(value) for value in table.caption_values()):
        raise DataError(
            f"all captions in column {caption_column!r} of {spec} are empty; choose with --caption-column"
        )
    return table


def _choose_caption_column(source: DataSource, features: Mapping[str, Any], image_column: str | None) -> str:
    if source.caption_column is not None:
        return check_column(source.spec, features, source.caption_column, "--caption-column")
    label = _guess_label(features)
    if source.template is not None and label is not None:
        return label
    taken = {image_column, *source.synthetic_columns}
    texts = [name for name, feature in features.items() if name not in taken and _is_text(feature)]
    if (usual := _first(CAPTION_NAMES, texts)) is not None:
        return usual
    texts = [name for name in texts if name.strip("_").lower() not in KEY_NAMES]
    if len(texts) == 1:
        return texts[0]
    if label is not None:
        return label
    raise DataError(
        f"{source.spec} has {len(texts) or 'no'} columns that may be captions among {', '.join(features)}; "
        "name the one to take with --caption-column"
    )


def _class_names(spec: str, feature: Any, column: str) -> tuple[str, ...] | None:
    from datasets import ClassLabel

    if isinstance(feature, ClassLabel):
        return tuple(feature.names)
    if _is_text(feature):
        return None
    raise DataError(
        f"column {column!r} of {spec} holds {feature}; expected text, a list of texts or a class label "
        "(--caption-column)"
    )


def _guess_label(features: Mapping[str, Any]) -> str | None:
    from datasets import ClassLabel

    labels = [name for name, feature in features.items() if isinstance(feature, ClassLabel)]
    return _first(LABEL_NAMES, labels) or (labels[0] if len(labels) == 1 else None)


def _first(names: Sequence[str], among: Iterable[str]) -> str | None:
    present = set(among)
    return next((name for name in names if name in present), None)


def _is_text(feature: Any) -> bool:
    inner = getattr(feature, "feature", feature)
    return getattr(inner, "dtype", None) in ("string", "large_string")


def _image_bytes(value: Any, folder: Path | None) -> bytes:
    if value is None:
        return b""
    if value.get("bytes") is not None:
        return bytes(value["bytes"])
    if not value.get("path"):
        return b""
    path = Path(value["path"])
    return read_image_file(folder / path if folder is not None else path)
