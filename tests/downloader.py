"""A stand-in for img2dataset: fetches like it and writes its layout, member by member, as version 1.47 does.

``test_conceptual_captions.py`` holds its output against the real one's (marker ``full``).
"""

import io
import json
import tarfile
import urllib.request
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

SCHEMA = pa.schema(
    [(name, pa.string()) for name in ("caption", "url", "key", "status", "error_message")]
    + [(name, pa.int32()) for name in ("width", "height", "original_width", "original_height")]
    + [(name, pa.string()) for name in ("exif", "sha256")]
)


@dataclass(frozen=True)
class Download:
    """One link: its image, or why there is none."""

    number: int
    caption: str
    url: str
    image: bytes | None
    status: str = "success"
    message: str | None = None


def download(
    links: list[tuple[str, str]], *, timeout: float, threads: int = 32, decode: bool = True
) -> list[Download]:
    """Fetch the captions' links, in the order that answers come in; without ``decode`` whatever came is kept."""
    with ThreadPoolExecutor(threads) as pool:
        waiting = [
            pool.submit(_fetch, number, caption, url, timeout, decode)
            for number, (caption, url) in enumerate(links)
        ]
        return [one.result() for one in as_completed(waiting)]


def _fetch(number: int, caption: str, url: str, timeout: float, decode: bool) -> Download:
    try:
        with urllib.request.urlopen(url, timeout=timeout) as answer:
            data = answer.read()
    except Exception as error:
        return Download(number, caption, url, None, "failed_to_download", str(error))
    if decode:
        try:
            with Image.open(io.BytesIO(data)) as image:
                image.load()
        except Exception:
            return Download(number, caption, url, None, "failed_to_resize", "Image decoding error")
    return Download(number, caption, url, data)


def write(folder: Path, form: str, downloads: list[Download], *, shard: int = 25) -> Path:
    """Write ``webdataset``, ``files`` or ``parquet``, ``shard`` links to each part."""
    folder.mkdir(parents=True)
    parts: dict[int, list[Download]] = {}
    for one in downloads:
        parts.setdefault(one.number // shard, []).append(one)
    for number, part in sorted(parts.items()):
        rows = [_meta(one, f"{number * 100 + one.number % shard:07d}") for one in part]
        stem = folder / f"{number:05d}"
        if form == "webdataset":
            _write_tar(stem.with_suffix(".tar"), part, rows)
        elif form == "files":
            stem.mkdir()
            for one, row in zip(part, rows, strict=True):
                for suffix, data in _members(one, row):
                    (stem / f"{row['key']}.{suffix}").write_bytes(data)
        schema = SCHEMA
        if form == "parquet":
            schema = SCHEMA.append(pa.field("jpg", pa.binary()))
            rows = [row | {"jpg": one.image} for one, row in zip(part, rows, strict=True)]
        pq.write_table(pa.Table.from_pylist(rows, schema), stem.with_suffix(".parquet"))
        live = sum(one.image is not None for one in part)
        stem.with_name(f"{stem.name}_stats.json").write_text(
            json.dumps({"count": len(part), "successes": live}, indent=4)
        )
    return folder


def _meta(one: Download, key: str) -> dict[str, Any]:
    said = {
        "caption": one.caption,
        "url": one.url,
        "key": key,
        "status": one.status,
        "error_message": one.message,
    }
    return {name: said.get(name) for name in SCHEMA.names}


def _members(one: Download, row: dict[str, Any]) -> list[tuple[str, bytes]]:
    if one.image is None:
        return []
    return [("jpg", one.image), ("json", json.dumps(row, indent=4).encode()), ("txt", one.caption.encode())]


def _write_tar(path: Path, part: list[Download], rows: list[dict[str, Any]]) -> None:
    with tarfile.open(path, "w") as tar:
        for one, row in zip(part, rows, strict=True):
            for suffix, data in _members(one, row):
                entry = tarfile.TarInfo(f"{row['key']}.{suffix}")
                entry.size, entry.mode, entry.uname, entry.gname = len(data), 0o444, "bigdata", "bigdata"
                tar.addfile(entry, io.BytesIO(data))
