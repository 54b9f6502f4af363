"""``mmkd cache verify``: is a cache whole, and what its teacher would make today?"""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mmkd.cli.cache_sources import clean_json, load_cached_teachers, open_cached_pairs
from mmkd.cli.console import console, duration, printable, progress, say
from mmkd.cli.options import DEFAULT_WORK, Config, Work
from mmkd.cli.tables import align
from mmkd.cli.workspace import Workspace
from mmkd.errors import ConfigError

if TYPE_CHECKING:
    from mmkd.cache.reencode import Reencoded
    from mmkd.cache.settings import CacheSettings
    from mmkd.cache.verify import VerifyReport
    from mmkd.data import PairDataset
    from mmkd.encoders import PairEncoder

CacheFolder = Annotated[
    Path | None, typer.Argument(metavar="[CACHE]", help="The cache's folder. Default: cache/ in --work.")
]
Data = Annotated[
    list[str] | None,
    typer.Option(
        metavar="SPEC", help="Where the data is now, if it has moved; as often as the cache has sets."
    ),
]
Teacher = Annotated[
    list[str] | None,
    typer.Option(
        metavar="ID_OR_FOLDER",
        help="Where the teacher is now, if it has moved; as often as the cache has teachers.",
    ),
]


def cache_verify(
    cache: CacheFolder = None,
    *,
    reencode: Annotated[
        int, typer.Option(metavar="N", min=0, help="Embed N random rows again and compare them.")
    ] = 0,
    repair: Annotated[
        bool, typer.Option("--repair", help="Embed broken shards again, and write what else is broken anew.")
    ] = False,
    data: Data = None,
    teacher: Teacher = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the rows that --reencode takes.")] = 0,
    json: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the findings as JSON.")] = None,
    work: Work = DEFAULT_WORK,
    config: Config = None,  # noqa: ARG001 - read by its callback
) -> None:
    """Check every file, byte and vector of a cache: sizes, hashes, structure, lengths, NaN, zeros, duplicates.

    Leaves with 0 if the cache is whole; with 1 and a line for each finding if it is not.

    \b
    Examples:
      mmkd cache verify
      mmkd cache verify caches/photos --reencode 200
      mmkd cache verify --repair
      mmkd cache verify --reencode 200 --data elsewhere/pairs.parquet --teacher elsewhere/clip
    """
    from mmkd.files import write_json

    folder = Workspace(work).cache if cache is None else cache
    sources = _Sources(data, teacher)
    report, seconds = _verify(folder)
    if repair and not report.ok:
        _say_findings(report)
        _repair(report, sources)
        report, seconds = _verify(folder)
    again = _reencode(report, sources, reencode, seed) if reencode else None
    if again is not None:
        report.findings += again.findings
    for line in table(report, again, seconds):
        console.print(line, markup=False, soft_wrap=True)
    if json is not None:
        write_json(json, clean_json(report.to_json() | {"reencoded": again.to_json() if again else None}))
    if not report.ok:
        _say_findings(report)
        raise typer.Exit(1)


class _Sources:
    """The teacher and the data, opened when first asked for."""

    def __init__(self, data: list[str] | None, teachers: list[str] | None) -> None:
        self._data, self._teachers = data, teachers
        self._opened: tuple[list[PairEncoder], PairDataset] | None = None

    def __call__(self, settings: "CacheSettings") -> "tuple[list[PairEncoder], PairDataset]":
        if settings.imported is not None:
            raise ConfigError("the cache was imported, so nothing says how to make its vectors again")
        if self._opened is None:
            pairs = open_cached_pairs(settings, self._data)
            self._opened = load_cached_teachers(settings, self._teachers), pairs
        return self._opened


def _verify(folder: Path) -> "tuple[VerifyReport, float]":
    from mmkd.cache.verify import verify_cache

    start = time.perf_counter()
    with progress("rows") as bar:
        task = bar.add_task("verifying", total=None)

        def show(rows: int, total: int) -> None:
            bar.update(task, completed=rows, total=total)

        return verify_cache(folder, on_progress=show), time.perf_counter() - start


def _repair(report: "VerifyReport", sources: _Sources) -> None:
    from mmkd.cache.repair import repair_cache

    if report.settings is not None:
        missing = report.settings.shards - len(report.whole)
        say("repairs", f"{missing:,} of {report.settings.shards:,} shards to make again")
    with progress("pairs") as bar:
        task = bar.add_task("embedding", total=report.settings.rows if report.settings else None)
        repair_cache(report, sources, on_progress=lambda state: bar.update(task, completed=state.rows))


def _reencode(report: "VerifyReport", sources: _Sources, rows: int, seed: int) -> "Reencoded | None":
    from mmkd.cache.reencode import reencode
    from mmkd.cache.rows import RowReader

    settings = report.settings
    if settings is None or len(report.whole) < settings.shards:
        say("skipped", "nothing was embedded again, since the cache is not whole; --repair mends it first")
        return None
    encoder, pairs = sources(settings)
    reader = RowReader(report.folder, settings, report.whole)
    with progress("rows") as bar:
        task = bar.add_task("embedding", total=min(rows, len(reader)))
        return reencode(
            reader,
            encoder,
            pairs,
            rows=rows,
            seed=seed,
            on_progress=lambda done: bar.update(task, completed=done),
        )


def table(report: "VerifyReport", again: "Reencoded | None", seconds: float) -> list[str]:
    """What was looked at, in a few lines."""
    from mmkd.cache.shard import size_text

    settings = report.settings
    if settings is None:
        return [f"{report.folder}: nothing that can be used says what made it"]
    masked = sum(report.masked.values())
    reasons = ", ".join(f"{printable(reason)} {number:,}" for reason, number in report.masked.items())
    speed = f", {report.bytes / 1e9 / seconds:,.1f} GB/s" if seconds > 2 else ""
    rows = [
        ("cache", printable(str(report.folder))),
        ("rows", f"{settings.rows:,}, {masked:,} of them masked" + (f" ({reasons})" if masked else "")),
        ("shards", f"{len(report.whole):,} of {settings.shards:,} whole"),
        ("read", f"{size_text(report.bytes)} in {duration(seconds)}{speed}"),
    ]
    for side, found in report.duplicates.items():
        shared = f", {found.clashes:,} of different content share one" if found.clashes else ""
        repeats = f", {found.repeats:,} repeat the same {side}" if found.repeats else ""
        rows.append((side, f"{found.vectors:,} vectors{repeats}{shared}"))
    if again is not None and again.lowest is not None:
        found_at = f"lowest cosine {again.lowest:.6f} ({again.lowest_at})"
        rows.append(("encoded", f"{again.rows:,} rows again, {again.vectors:,} vectors, {found_at}"))
    rows.append(("verdict", "whole" if report.ok else f"{len(report.findings):,} findings"))
    return align(rows)


def _say_findings(report: "VerifyReport") -> None:
    for finding in report.findings:
        say("found", printable(str(finding)))
