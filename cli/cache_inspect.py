"""``mmkd cache inspect``: what made a cache, what is in it, and what lies next to what."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mmkd.cli.cache_pictures import Pictures, write_neighbours
from mmkd.cli.cache_sources import clean_json
from mmkd.cli.cache_verify import CacheFolder, Data
from mmkd.cli.console import console, printable, progress, say, warn
from mmkd.cli.options import DEFAULT_WORK, Config, Work
from mmkd.cli.tables import align
from mmkd.cli.workspace import Workspace
from mmkd.errors import MmkdError

if TYPE_CHECKING:
    from mmkd.cache.manifest import CacheManifest
    from mmkd.cache.overview import Overview
    from mmkd.cache.rows import RowReader
    from mmkd.data import PairDataset
    from mmkd.embeddings import TeacherSpec


def cache_inspect(
    cache: CacheFolder = None,
    *,
    rows: Annotated[int, typer.Option(min=0, help="Rows to show the neighbours of.")] = 3,
    neighbours: Annotated[int, typer.Option(min=1, help="Neighbours of each kind.")] = 3,
    seed: Annotated[int, typer.Option(min=0, help="Of the rows that are looked at.")] = 0,
    data: Data = None,
    html: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write one page with pictures; needs nothing else.")
    ] = None,
    json: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the same as JSON.")] = None,
    work: Work = DEFAULT_WORK,
    config: Config = None,  # noqa: ARG001 - read by its callback
) -> None:
    """Show what made a cache, how spread its vectors are, and the nearest neighbours of a few rows.

    Nothing is hashed; `mmkd cache verify` says whether the cache is whole.

    \b
    Examples:
      mmkd cache inspect
      mmkd cache inspect caches/photos --html photos.html
      mmkd cache inspect --rows 10 --neighbours 5 --seed 1
    """
    from mmkd.cache.manifest import read_manifest
    from mmkd.cache.rows import RowReader
    from mmkd.files import write_json

    folder = Workspace(work).cache if cache is None else cache
    manifest = read_manifest(folder)
    reader = RowReader(folder, manifest.settings, dict(enumerate(manifest.shards)))
    found = _look(reader, rows, neighbours, seed)
    facts = [*_made_by(manifest), *_spread(found)]
    console.print("\n".join(align([("cache", printable(str(folder))), *facts])), markup=False, soft_wrap=True)
    pairs, note = _open(folder, manifest, data) if found.neighbourhoods else (None, "")
    pictures = Pictures(reader, pairs)
    for line in _neighbours(found, pictures):
        console.print(line, markup=False, soft_wrap=True)
    if json is not None:
        about = {
            "cache": str(folder),
            "settings": manifest.settings.to_json(),
            "data_hash": manifest.data_hash,
        }
        sizes = {"bytes": manifest.bytes, "shards": len(manifest.shards), "masked": manifest.masked}
        write_json(json, clean_json(about | sizes | found.to_json()))
        say("saved", str(json))
    if html is not None:
        title = printable(f"{folder}, by {' + '.join(one.model for one in manifest.settings.teachers)}")
        write_neighbours(html, facts, found.neighbourhoods, pictures, title=title, note=note)
        say("saved", str(html))


def _look(reader: "RowReader", rows: int, neighbours: int, seed: int) -> "Overview":
    from mmkd.cache.overview import overview

    with progress("rows") as bar:
        task = bar.add_task("searching", total=len(reader))
        return overview(
            reader,
            queries=rows,
            neighbours=neighbours,
            seed=seed,
            on_progress=lambda done: bar.update(task, completed=done),
        )


def _open(
    folder: Path, manifest: "CacheManifest", data: list[str] | None
) -> "tuple[PairDataset | None, str]":
    from mmkd.cache.store import CacheStore

    try:
        return CacheStore(folder, manifest).open_pairs(data), ""
    except MmkdError as error:
        if data:
            raise
        note = f"captions and pictures cannot be shown: {printable(str(error))}"
        warn(f"{note}; pass --data")
        return None, note


def _made_by(manifest: "CacheManifest") -> list[tuple[str, str]]:
    from mmkd.cache.shard import size_text

    settings = manifest.settings
    masked = sum(manifest.masked.values())
    reasons = ", ".join(f"{reason} {rows:,}" for reason, rows in manifest.masked.items())
    facts = [
        *(fact for teacher in settings.teachers for fact in _teacher(teacher, settings.dtype)),
        *(("" if place else "data", line) for place, line in enumerate(_sources(manifest))),
        ("", f"data_hash {manifest.data_hash}"),
        ("rows", f"{manifest.rows:,}" + (f", {masked:,} of them masked ({reasons})" if masked else "")),
        ("captions", f"{settings.captions} a row" + " at most" * (settings.captions > 1)),
        ("views", settings.describe_views()),
        *([("pixels", f"{settings.describe_pixels()}, of the untouched images")] if settings.pixels else []),
        *([("JPEGs", f"decoded {settings.describe_jpeg()}")] if settings.jpeg_side else []),
        (
            "size",
            f"{size_text(manifest.bytes)} in {len(manifest.shards):,} shards of {settings.shard_rows:,} rows",
        ),
    ]
    if settings.imported is not None:
        kind = f"{settings.imported.form}, {settings.imported.files:,} files, {' and '.join(settings.sides)}"
        facts.append(("imported", kind))
    return [(name, printable(value)) for name, value in facts]


def _teacher(teacher: "TeacherSpec", dtype: str) -> list[tuple[str, str]]:
    layers = f"{teacher.layers[0]} + {teacher.layers[1]} layers · " if teacher.layers else ""
    revision = f" @ {teacher.revision}" if teacher.revision else ""
    return [
        ("teacher", f"{teacher.model}{revision}"),
        ("", f"{layers}{teacher.dim}-d · {dtype}"),
        ("hashes", f"weights {teacher.weights_hash}"),
        ("", f"preprocessing {teacher.preprocess_hash}"),
        ("", f"tokenizer {teacher.tokenizer_hash}"),
    ]


def _sources(manifest: "CacheManifest") -> list[str]:
    return [
        " · ".join(
            f"{name} {value}" if name != "spec" else str(value)
            for name, value in source.to_json().items()
            if value is not None
        )
        for source in manifest.sources
    ] + ([f"the first {manifest.limit:,} rows"] if manifest.limit else [])


def _spread(found: "Overview") -> list[tuple[str, str]]:
    if not found.spread:
        return [("spread", "too few rows that are not masked to say")]
    lines = [
        (
            f"{side}s",
            f"mean cosine of two {geometry.mean_cosine:.3f} · effective rank {geometry.effective_rank:.1f} of "
            f"{geometry.max_rank}" + (f" · collapsed: {geometry.describe()}" if geometry.collapsed else ""),
        )
        for side, geometry in found.spread.items()
    ]
    if found.matched is not None and found.unmatched is not None:
        cosines = f"mean cosine of an image and its caption {found.matched:.3f}, and another's {found.unmatched:.3f}"
        lines.append(("pairs", cosines))
    return [*lines, ("", f"over {found.sampled:,} random rows")]


def _neighbours(found: "Overview", pictures: Pictures) -> list[str]:
    lines = []
    for one in found.neighbourhoods:
        lines += ["", f"row {one.row:,}   {pictures.caption(one.row, limit=100)}"]
        for kind, near in one.near.items():
            for place, other in enumerate(near):
                own = " (its own)" if kind == "image to text" and pictures.own(one.row, other.row) else ""
                head = f"  {'' if place else kind:<14}   {other.cosine:6.3f}   row {other.row:<9,}"
                lines.append(f"{head}   {pictures.caption(other.row, limit=80)}{own}")
    return lines
