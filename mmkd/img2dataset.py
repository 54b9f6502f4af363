"""What img2dataset says of its downloads: which links were dead, and why.

Beside ``00000.tar`` (or the folder ``00000/``) it writes ``00000.parquet`` with a row for every link, those that gave
no image included: ``key``, ``status`` (``success``, ``failed_to_download``, ``failed_to_resize``), ``error_message``.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmkd.errors import DataError

if TYPE_CHECKING:
    from datasets import Dataset

SUCCESS = "success"
COLUMNS = ("key", "status", "error_message")
SHOWN = 6
MAX_MESSAGE = 80


@dataclass(frozen=True)
class Links:
    """What became of the links of a data set.

    Attributes:
        live: those that gave an image.
        dead: the others, by status and message.
    """

    live: int
    dead: dict[tuple[str, str], int]

    def __add__(self, other: "Links") -> "Links":
        return Links(self.live + other.live, dict(Counter(self.dead) + Counter(other.dead)))

    def describe(self) -> str:
        """``12 of 20 links are dead (60.0 %): not downloaded 11 (HTTP Error 404: Not Found 8, …), no image 1 (…)``."""
        dead = sum(self.dead.values())
        total = dead + self.live
        text = f"{dead:,} of {total:,} links are dead ({dead / max(total, 1):.1%})"
        parts = []
        for status in sorted({status for status, _ in self.dead}):
            of_it = Counter({message: n for (kind, message), n in self.dead.items() if kind == status})
            shown = [f"{message} {number:,}" for message, number in of_it.most_common(SHOWN)]
            if len(of_it) > SHOWN:
                shown.append(f"others {of_it.total() - sum(n for _, n in of_it.most_common(SHOWN)):,}")
            parts.append(f"{status} {of_it.total():,} ({', '.join(shown)})")
        return f"{text}: {'; '.join(parts)}" if parts else text


def read_links(containers: Iterable[Path]) -> Links | None:
    """What the Parquet files beside tars or folders say of their links; None where none of them has one.

    Raises:
        DataError: such a file cannot be read.
    """
    found = None
    for container in containers:
        path = container.with_suffix(".parquet")
        if path.is_file() and (links := _links_of(path)) is not None:
            found = links if found is None else found + links
    return found


def output_folders(folder: Path) -> list[Path]:
    """The subfolders of img2dataset's ``files`` form, each with its Parquet file beside it."""
    return sorted(
        path for path in folder.iterdir() if path.is_dir() and path.with_suffix(".parquet").is_file()
    )


def output_parquet(folder: Path) -> list[Path]:
    """The files of img2dataset's ``parquet`` form, each with its statistics beside it."""
    files = folder.glob("*.parquet")
    return sorted(path for path in files if path.with_name(f"{path.stem}_stats.json").is_file())


def live_rows(rows: "Dataset") -> "tuple[Dataset, Links | None]":
    """The rows of img2dataset's ``parquet`` form that have an image; other data as it is."""
    features = rows.features
    if any(getattr(features.get(name), "dtype", None) not in ("string", "large_string") for name in COLUMNS):
        return rows, None
    table = rows.select_columns(list(COLUMNS[1:])).with_format("arrow")[:]
    status = table["status"].to_pylist()
    if not set(status) <= {SUCCESS, "failed_to_download", "failed_to_resize"}:
        return rows, None
    return rows.select([row for row, said in enumerate(status) if said == SUCCESS]), _count(table)


def _links_of(path: Path) -> Links | None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            if not set(COLUMNS) <= set(file.schema_arrow.names):
                return None
            return _count(file.read(list(COLUMNS[1:])))
    except (pa.ArrowException, OSError, ValueError) as error:
        raise DataError(f"cannot read {path}: {' '.join(str(error).split())[:300]}") from error


def _count(table: Any) -> Links:
    groups = table.group_by(list(COLUMNS[1:])).aggregate([([], "count_all")]).to_pylist()
    live, dead = 0, Counter[tuple[str, str]]()
    for group in groups:
        if group["status"] == SUCCESS:
            live += group["count_all"]
        else:
            dead[(_words(group["status"]), _words(group["error_message"]))] += group["count_all"]
    return Links(live, dict(dead))


def _words(text: Any) -> str:
    """A server's words, fit for a terminal: one line without control characters, not too long."""
    line = " ".join(str(text or "unknown").split()).removeprefix("<urlopen error ").removesuffix(">")
    return "".join(one if one.isprintable() else "\N{REPLACEMENT CHARACTER}" for one in line)[:MAX_MESSAGE]
