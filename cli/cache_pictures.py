"""The pictures and captions of a cache's rows, and the page that shows them."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mmkd.cli.console import printable
from mmkd.cli.pages import thumbnail, write_page

if TYPE_CHECKING:
    from mmkd.cache.overview import Neighbourhood
    from mmkd.cache.rows import RowReader
    from mmkd.data import Pair, PairDataset

MAX_CAPTION = 300
NOT_THERE = "(no caption: the data is not here)"
CHANGED = "(the data has changed since it was embedded)"
TITLES = {
    "image to image": "images nearest to the image",
    "image to text": "captions nearest to the image; its own is framed",
    "text to text": "captions nearest to the caption",
}


@dataclass(frozen=True)
class Shown:
    """A row as the page shows it.

    Attributes:
        row: which.
        label: its number, or how near it is.
        caption: its first caption.
        picture: a JPEG in base64; empty where there is none.
        own: whether it is the caption that belongs to the image.
    """

    row: int
    label: str
    caption: str
    picture: str = ""
    own: bool = False


class Pictures:
    """Reads rows of the data, each held against the cache's hash of it; ``pairs`` is None where they are not here."""

    def __init__(self, reader: "RowReader", pairs: "PairDataset | None") -> None:
        self._reader, self._pairs = reader, pairs
        self._last: tuple[int, Pair | str] | None = None

    def caption(self, row: int, *, limit: int = MAX_CAPTION) -> str:
        """A row's first caption as one line, or why it cannot be shown, in brackets."""
        pair = self._pair(row)
        if isinstance(pair, str):
            return pair
        return printable(pair.captions[0], limit=limit) if pair.captions else "(no caption)"

    def own(self, row: int, other: int) -> bool:
        """Whether two rows have the same first caption or, where that cannot be read, the same captions."""
        pairs = [self._pair(one) for one in (row, other)]
        texts = [pair.captions[0] for pair in pairs if not isinstance(pair, str) and pair.captions]
        first, second = (
            texts if len(texts) == 2 else (self._reader[one]["row_hash"][1] for one in (row, other))
        )
        return bool(first == second)

    def thumbnail(self, row: int) -> str:
        """A row's picture as a JPEG in base64; empty where it cannot be shown."""
        pair = self._pair(row)
        return "" if isinstance(pair, str) else thumbnail(pair.image)

    def _pair(self, row: int) -> "Pair | str":
        if self._last is None or self._last[0] != row:
            self._last = row, self._read(row)
        return self._last[1]

    def _read(self, row: int) -> "Pair | str":
        from mmkd.data import row_hash

        if self._pairs is None or row >= len(self._pairs):
            return NOT_THERE
        pair = self._pairs[row]
        same = row_hash(pair) == tuple(self._reader[row]["row_hash"].tolist())
        return pair if same or self._reader.settings.imported is not None else CHANGED


def write_neighbours(
    file: Path,
    facts: list[tuple[str, str]],
    neighbourhoods: "list[Neighbourhood]",
    pictures: Pictures,
    *,
    title: str,
    note: str = "",
) -> None:
    """Write the page of a cache and some of its rows."""
    shown = [
        {
            "shown": Shown(one.row, "", pictures.caption(one.row), pictures.thumbnail(one.row)),
            "near": [
                (
                    TITLES[kind],
                    [
                        Shown(
                            other.row,
                            f"{other.cosine:.3f}",
                            pictures.caption(other.row),
                            pictures.thumbnail(other.row),
                            kind == "image to text" and pictures.own(one.row, other.row),
                        )
                        for other in near
                    ],
                )
                for kind, near in one.near.items()
            ],
        }
        for one in neighbourhoods
    ]
    write_page(file, "cache.html", title=title, facts=facts, note=note, neighbourhoods=shown)
