"""What a pair is, and what a manifest records of where pairs come from."""

from dataclasses import asdict, dataclass, fields
from typing import Any, Protocol

import numpy as np
import xxhash
from numpy.typing import NDArray

from mmkd.captions import NO_FILTER, CaptionFilter
from mmkd.errors import DataError
from mmkd.img2dataset import Links

OPTIONAL = {"synthetic_columns", "filters"}  # keys of a source that are left out where they hold nothing


@dataclass(frozen=True)
class DataSource:
    """Where pairs come from, as a manifest records it; ``None`` means: guess.

    Attributes:
        spec: hub id, file, glob or folder.
        split: the split's name.
        image_column: the column of images.
        caption_column: the column of captions or, with ``template``, of labels.
        template: what a label's class name is put into; None where the column holds captions.
        synthetic_columns: columns of synthetic captions, which come after the real ones.
        filters: which captions are dropped.
    """

    spec: str
    split: str | None = None
    image_column: str | None = None
    caption_column: str | None = None
    template: str | None = None
    synthetic_columns: tuple[str, ...] = ()
    filters: CaptionFilter = NO_FILTER

    def to_json(self) -> dict[str, Any]:
        """As a JSON object; what only few sources have is a key of theirs alone."""
        optional = {"synthetic_columns": list(self.synthetic_columns), "filters": self.filters.to_json()}
        value = asdict(self) | optional
        return {key: item for key, item in value.items() if key not in OPTIONAL or item}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> "DataSource":
        """Read what ``to_json`` wrote.

        Raises:
            DataError: a key is unknown, missing, or of the wrong type.
        """
        names = {field.name for field in fields(cls)} - OPTIONAL
        plain = {key: item for key, item in value.items() if key not in OPTIONAL}
        wrong = [k for k in plain if k not in names or not (plain[k] is None or isinstance(plain[k], str))]
        if wrong or not isinstance(plain.get("spec"), str):
            raise DataError(
                f"found the data source {value}; expected strings or null for {', '.join(sorted(names))}"
            )
        synthetic = value.get("synthetic_columns", [])
        if not isinstance(synthetic, list) or not all(isinstance(name, str) for name in synthetic):
            raise DataError(f"found synthetic_columns {synthetic}; expected a list of strings")
        filters = CaptionFilter.from_json(value["filters"]) if "filters" in value else NO_FILTER
        return cls(**plain, synthetic_columns=tuple(synthetic), filters=filters)


@dataclass(frozen=True, slots=True)
class Pair:
    """One image with all its captions; blank captions are left out, so there may be none.

    Attributes:
        image: the encoded image; empty where the data has none or its file is missing.
        captions: the captions that hold more than white space, real ones first.
        synthetic: how many of them, the last ones, are synthetic.
        dropped: why there are none, where a filter dropped them all.
    """

    image: bytes
    captions: tuple[str, ...]
    synthetic: int = 0
    dropped: str | None = None

    def filtered(self, rule: CaptionFilter) -> "Pair":
        """The same pair with those captions that ``rule`` keeps."""
        reasons = [rule.reason(caption) for caption in self.captions]
        if not any(reasons):
            return self
        kept = tuple(text for text, reason in zip(self.captions, reasons, strict=True) if reason is None)
        synthetic = reasons[len(reasons) - self.synthetic :].count(None)
        return Pair(self.image, kept, synthetic, None if kept else reasons[0])


class PairTable(Protocol):
    """One opened source: pairs by their number, cheap to send to worker processes."""

    @property
    def source(self) -> DataSource:
        """The source with every guess resolved."""
        ...

    def __len__(self) -> int: ...

    def pair(self, row: int) -> Pair:
        """Row ``row`` of the source, from 0."""
        ...

    def starts(self) -> NDArray[np.int64] | None:
        """int64 (T,): the first row of each tar, ascending from 0; None where the source is no tars."""
        ...

    def links(self) -> Links | None:
        """What became of the links that the images come from; None where that is not known."""
        ...

    def longest_list(self) -> int:
        """The largest number of captions that any row has, blank ones included; at least 1."""
        ...

    def describe(self) -> str:
        """One line: what it is and what was guessed."""
        ...


def row_hash(pair: Pair) -> tuple[int, int]:
    """xxh3_64 of the image's bytes and of the captions, joined by NUL as UTF-8."""
    return xxhash.xxh3_64_intdigest(pair.image), caption_id("\x00".join(pair.captions))


def caption_id(caption: str) -> int:
    """xxh3_64 of a caption as UTF-8; ``row_hash`` has the same of a row with one caption."""
    return xxhash.xxh3_64_intdigest(caption.encode("utf-8", "surrogatepass"))
