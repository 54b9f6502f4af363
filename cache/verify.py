"""Is a cache whole? Every file, byte, shape and vector of it held against what it says of itself."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

from mmkd.cache.claims import Claims, first_difference, read_claims, shard_index, stray_files
from mmkd.cache.contents import check_contents
from mmkd.cache.duplicates import Duplicates, VectorIndex
from mmkd.cache.manifest import MANIFEST, PAIRS, ShardRecord, count_masked, record_path, shard_name
from mmkd.cache.settings import CacheSettings
from mmkd.cache.shard import hash_file, map_shard, shard_fields
from mmkd.errors import CacheError

# Shares of different contents that share a vector with others. Captions that differ in case, in spaces, or
# only beyond the tokenizer's last token have the same vector; pictures hardly ever do.
PLAUSIBLE = {"image": 0.01, "text": 0.1}
PLAUSIBLE_LISTS = 0.5  # where rows have several captions, the hash of all says little about one
_FEW = 2
_SHOWN = 5
_REMAKE = "look at those rows; if the data is sound, make the cache again with `mmkd cache-teacher --out NEW`"


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong with a cache.

    Attributes:
        check: what was looked at, one word or two: ``hash``, ``image norm``, ``duplicate text``.
        where: a file's name, or ``data``.
        found: what is there.
        expected: what should be.
        advice: what to do.
        rows: the first few rows concerned; empty where it concerns a whole file.
        count: how many rows are concerned.
    """

    check: str
    where: str
    found: str
    expected: str
    advice: str
    rows: tuple[int, ...] = ()
    count: int = 0

    def __str__(self) -> str:
        rows = f"{row_text(self.rows, self.count)}: " if self.count else ""
        return f"{self.where}: {rows}{self.found}; expected {self.expected}; {self.advice}"

    def to_json(self) -> dict[str, Any]:
        """As a JSON object."""
        return {**self.__dict__, "rows": list(self.rows)}


@dataclass
class VerifyReport:
    """What was looked at and what was found.

    Attributes:
        folder: the cache.
        settings: what made it, as most of its files say; None where nothing can be read.
        bytes: size of the shards that were read.
        masked: masked rows by reason.
        duplicates: equal vectors among ``image`` and ``text``.
        findings: what is wrong; a cache is whole without any.
        broken: shards to make again.
        judged: by broken shard, the record that was found of it; None where there was none.
        whole: by shard, the record of each that is whole.
        data_hash: xxh3_128 of all row hashes; empty unless every shard is whole.
        lost: other files that are broken and cannot be made again from the rest.
    """

    folder: Path
    settings: CacheSettings | None = None
    bytes: int = 0
    masked: dict[str, int] = field(default_factory=dict)
    duplicates: dict[str, Duplicates] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)
    broken: list[int] = field(default_factory=list)
    judged: dict[int, ShardRecord | None] = field(default_factory=dict)
    whole: dict[int, ShardRecord] = field(default_factory=dict)
    data_hash: str = ""
    lost: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether nothing was found."""
        return not self.findings

    def to_json(self) -> dict[str, Any]:
        """As a JSON object."""
        settings = self.settings
        return {
            "cache": str(self.folder),
            "whole": self.ok,
            "rows": settings.rows if settings else None,
            "shards": settings.shards if settings else None,
            "bytes": self.bytes,
            "masked": self.masked,
            "duplicates": {side: found.to_json() for side, found in self.duplicates.items()},
            "broken": [shard_name(index) for index in self.broken],
            "findings": [finding.to_json() for finding in self.findings],
        }


def row_text(rows: Sequence[int], count: int) -> str:
    """``row 4``, ``rows 4, 7 and 9``, ``rows 4, 7, 9, … (1,204 rows)``."""
    if count == 1:
        return f"row {rows[0]:,}"
    listed = [f"{row:,}" for row in rows]
    if len(rows) < count:
        return f"rows {', '.join(listed)}, … ({count:,} rows)"
    return f"rows {', '.join(listed[:-1])} and {listed[-1]}"


def verify_cache(
    folder: Path, *, on_progress: Callable[[int, int], None] = lambda _, __: None
) -> VerifyReport:
    """Hold every file of a cache against the format and its own words; each file is hashed before it is opened.

    Memory does not grow with the rows: shards are read by block, and the vectors' hashes, by which equal ones
    are counted, go to temporary files.

    Args:
        folder: the cache.
        on_progress: called with the number of rows seen so far, and of all.

    Raises:
        CacheError: there is no cache in ``folder``.
    """
    claims = read_claims(folder)
    report = VerifyReport(folder, claims.settings, findings=list(_claim_findings(claims)))
    if report.settings is None:
        return report
    reader = _Reader(claims, report.settings, report)
    try:
        seen = 0
        for index in reader.known():
            report.findings += reader.check_shard(index)
            seen += len(report.settings.shard_range(index))
            on_progress(seen, report.settings.rows)
        report.findings += reader.finish()
    finally:
        for vectors in reader.indices.values():
            vectors.close()
    return report


def _mend(folder: Path) -> str:
    return f"mend it with `mmkd cache verify {folder} --repair`"


def import_again(folder: Path, settings: CacheSettings) -> str:
    """What to do where a cache that was imported has lost what only its source holds."""
    return (
        f"repeat the `mmkd cache import {settings.sources[0].spec} --out {folder}` that made it, with the same "
        "options: it keeps what is whole and writes the rest anew"
    )


def _claim_findings(claims: Claims) -> Iterator[Finding]:
    folder, settings = claims.folder, claims.settings
    for name, reason in claims.refused.items():
        found = f"cannot be used ({reason})" if (folder / name).is_file() else "is missing"
        yield Finding("record", name, found, "what mmkd wrote", _mend(folder))
    if settings is None:
        yield _no_settings(claims)
        return
    for name, found, expected in claims.outvoted():
        yield Finding("record", name, f"says {found}", f"{expected}, as most of the files say", _mend(folder))
    for name in stray_files(folder, settings.shards):
        advice = (
            _mend(folder).replace("mend it", "delete it") if shard_index(name) is not None else "move it away"
        )
        yield Finding("extra file", name, "a file that no cache of this size has", "none", advice)


def _no_settings(claims: Claims) -> Finding:
    """Nothing can be read, or the files contradict each other and none of them is outvoted."""
    says = claims.says()
    if not says:
        advice = "make it again with `mmkd cache-teacher --out NEW`"
        return Finding("record", MANIFEST, "neither it nor a record can be used", "either", advice)
    (first, one), (second, other) = next(
        ((a, b) for a in says.items() for b in says.items() if a[1] != b[1]), (*says.items(),) * 2
    )
    path, found, expected = first_difference(other.to_json(), one.to_json())
    what, wanted = f"says {path} {found}", f"{expected}, as {first} says, or the other way round"
    return Finding(
        "record", second, what, wanted, f"delete the one that is wrong, then {_mend(claims.folder)}"
    )


class _Reader:
    """Goes through the shards one by one, and remembers what only shows over all of them."""

    def __init__(self, claims: Claims, settings: CacheSettings, report: VerifyReport) -> None:
        self.claims, self.settings, self.report = claims, settings, report
        sizes = {"image": settings.rows, "text": settings.rows * settings.captions}
        self.indices = {side: VectorIndex(sizes[side]) for side in settings.sides}
        self.row_hashes = xxhash.xxh3_128()
        folder = claims.folder
        self.advice = _mend(folder) if settings.imported is None else import_again(folder, settings)
        self.same_views = 0

    def known(self) -> list[int]:
        """Shards that the manifest or a record speaks of."""
        # A forged record may claim 10^14 shards: only those that are told of are looked for.
        if self.claims.manifest is not None and self.claims.manifest.settings == self.settings:
            return list(range(self.settings.shards))
        return sorted(index for index in self.claims.records if index < self.settings.shards)

    def check_shard(self, index: int) -> Iterator[Finding]:
        """What is wrong with a shard: its record, its file, its structure, then its contents."""
        report, name, advice = self.report, shard_name(index), self.advice
        record = self.claims.of_shard(index)
        if record is None:
            self._broken(index)
            yield Finding("record", name, "no file that can be used tells of it", "its size and hash", advice)
            return
        yield from self._record_findings(index, record)
        if mismatch := self._mismatch(record):
            self._broken(index)
            yield Finding(mismatch[0], name, mismatch[1], mismatch[2], advice)
            return
        try:
            arrays = map_shard(self.claims.folder / name, record, shard_fields(self.settings, index))
        except CacheError as error:
            self._broken(index)
            yield Finding("structure", name, str(error), "the datasets of format version 1", advice)
            return
        report.bytes += record.bytes
        faults = list(self._content_findings(index, record, arrays))
        self.row_hashes.update(np.ascontiguousarray(arrays["row_hash"]).tobytes())
        if faults:
            self._broken(index)
        else:
            report.whole[index] = record
        yield from faults

    def _broken(self, index: int) -> None:
        self.report.broken.append(index)
        self.report.judged[index] = self.claims.records.get(index, (None, None))[1]

    def _mismatch(self, record: ShardRecord) -> tuple[str, str, str] | None:
        """Where a file is not the one of its record: what was checked, found and expected."""
        path = self.claims.folder / record.name
        if path.is_symlink() or not path.is_file():
            return "file", "is a link" if path.is_symlink() else "is missing", "the shard's own file"
        try:
            size = path.stat().st_size
            if size != record.bytes:
                return "size", f"has {size:,} bytes", f"{record.bytes:,}"
            digest = hash_file(path)
        except OSError as error:
            return "file", f"cannot be read ({error.strerror})", "a readable file"
        if digest == record.xxh3_128:
            return None
        known = {found.xxh3_128: found.name for _, found in self.claims.records.values()}
        twin = known.get(digest)
        found = f"is damaged: its bytes hash to {digest[:8]}…"
        if twin is not None:
            found = "is what its record says" if twin == record.name else f"holds the bytes of {twin}"
        return "hash", found, f"bytes that hash to {record.xxh3_128[:8]}…"

    def _record_findings(self, index: int, record: ShardRecord) -> Iterator[Finding]:
        folder, settings_and_other = self.claims.folder, self.claims.records.get(index)
        name = record_path(folder, index).name
        if settings_and_other is None:
            if name not in self.claims.refused:
                yield Finding("record", name, "is missing", "the shard's completion record", _mend(folder))
        elif settings_and_other[1] != record:
            path, found, expected = first_difference(asdict(settings_and_other[1]), asdict(record))
            yield Finding(
                "record", name, f"says {path} {found}", f"{expected}, as {MANIFEST} says", _mend(folder)
            )

    def _content_findings(
        self, index: int, record: ShardRecord, arrays: dict[str, NDArray[Any]]
    ) -> Iterator[Finding]:
        advice = self.advice
        found = check_contents(
            arrays, self.settings.shard_range(index).start, self.indices, self.settings.parts
        )
        self.same_views += found.same_views
        for kind, rows, what, expected in found.faults():
            yield Finding(kind, record.name, what, expected, advice, tuple(rows[:_SHOWN].tolist()), len(rows))
        masked = sum(record.masked.values())
        if found.masked != masked:
            what = f"{found.masked:,} rows are masked"
            yield Finding("masked", record.name, what, f"{masked:,}, as its record counts by reason", advice)

    def check_pairs(self) -> Iterator[Finding]:
        """What is wrong with the captions and image paths of an imported cache."""
        imported, path = self.settings.imported, self.claims.folder / PAIRS
        if imported is None:
            return
        source = self.settings.sources[0]
        known = imported.pairs_xxh3_128
        if known is None and source.image_column is None and source.caption_column is None:
            return  # it may never have had any
        if path.is_symlink() or not path.is_file():
            found = "is a link" if path.is_symlink() else "is missing"
        elif known is None or (digest := _hash(path)) == known:
            return
        else:
            found = f"is damaged: its bytes hash to {digest[:8]}…" if digest else "cannot be read"
        self.report.lost.append(PAIRS)
        expected = "the captions and image paths" if known is None else f"bytes that hash to {known[:8]}…"
        yield Finding("pairs", PAIRS, found, expected, self.advice)

    def finish(self) -> Iterator[Finding]:
        """What only shows over all shards."""
        settings, manifest, report = self.settings, self.claims.manifest, self.report
        yield from self.check_pairs()
        known = set(self.known())
        if missing := settings.shards - len(known):
            first = next(index for index in range(settings.shards) if index not in known)
            what = (
                f"nothing tells of {missing:,} of {settings.shards:,} shards, {shard_name(first)} the first"
            )
            yield Finding("record", MANIFEST, what, "all of them", _mend(self.claims.folder))
        report.masked = count_masked([record for _, record in sorted(report.whole.items())])
        report.duplicates = {side: index.count() for side, index in self.indices.items()}
        yield from _duplicate_findings(report.duplicates, settings)
        valid = settings.rows - sum(report.masked.values())
        if self.same_views > max(_FEW, PLAUSIBLE["image"] * valid):
            what = f"{self.same_views:,} rows have an augmented view that equals the untouched one"
            yield Finding("views", "data", what, f"hardly any under {settings.augmentation}", _REMAKE)
        if len(report.whole) < settings.shards:
            return
        report.data_hash = self.row_hashes.hexdigest()
        if manifest is not None and manifest.settings == settings and manifest.data_hash != report.data_hash:
            what = f"data_hash {manifest.data_hash[:8]}…"
            expected = f"{report.data_hash[:8]}…, the hash of the rows' own hashes"
            yield Finding("data hash", MANIFEST, what, expected, _mend(self.claims.folder))


def _hash(path: Path) -> str:
    try:
        return hash_file(path)
    except OSError:
        return ""


def _duplicate_findings(duplicates: dict[str, Duplicates], settings: CacheSettings) -> Iterator[Finding]:
    for side, found in duplicates.items():
        plausible = PLAUSIBLE_LISTS if side == "text" and settings.captions > 1 else PLAUSIBLE[side]
        if found.clashes > max(_FEW, plausible * (found.vectors - found.repeats)):
            made_from = "images" if side == "image" else "captions"
            yield Finding(
                f"duplicate {side}",
                "data",
                f"{found.clashes:,} different {made_from} ({found.clash_share:.1%}) share their vector with "
                f"another, rows {', '.join(f'{row:,}' for row in found.rows)} among them",
                f"at most {plausible:.0%}",
                _REMAKE,
            )
