"""Are the vectors of a cache what its teacher gives today? A few random rows are embedded again."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mmkd.cache.embed import Prepared, Teachers, listed, prepare
from mmkd.cache.origin import teachers_differences
from mmkd.cache.rows import RowReader
from mmkd.cache.settings import CacheSettings
from mmkd.cache.verify import Finding
from mmkd.data import PairDataset
from mmkd.embeddings import TeacherSpec
from mmkd.errors import StaleCacheError

LEAST_COSINE = 0.999
_ANEW = "make the cache again with `mmkd cache-teacher --out NEW`"


@dataclass(frozen=True)
class Reencoded:
    """What came of embedding rows again.

    Attributes:
        rows: rows looked at.
        vectors: vectors compared: every view and every caption of those rows that are not masked.
        lowest: the lowest cosine with what the cache holds; None where nothing could be compared.
        lowest_at: where it is, in words; empty likewise.
        findings: what is wrong.
    """

    rows: int
    vectors: int
    lowest: float | None
    lowest_at: str
    findings: list[Finding]

    def to_json(self) -> dict[str, Any]:
        """As a JSON object, without the findings."""
        return {"rows": self.rows, "vectors": self.vectors, "lowest": self.lowest, "at": self.lowest_at}


def reencode(
    reader: RowReader,
    encoder: Teachers,
    pairs: PairDataset,
    *,
    rows: int,
    seed: int = 0,
    on_progress: Callable[[int], None] = lambda _: None,
) -> Reencoded:
    """Embed ``rows`` random rows again and compare every view and caption with the cache.

    Args:
        reader: of a whole cache.
        encoder: its teacher, or all of them, in the precision that the cache was made with.
        pairs: its data, of as many rows.
        rows: how many to take; all where there are fewer.
        seed: of the choice.
        on_progress: called with the number of rows done.

    Raises:
        StaleCacheError: the data has another number of rows.
    """
    if len(pairs) != len(reader):
        raise StaleCacheError(
            f"the cache holds {len(reader):,} rows, but the data has {len(pairs):,}; pass the --data that it was "
            "made from"
        )
    settings, now = reader.settings, [one.spec for one in listed(encoder)]
    teacher = list(_teacher_findings(settings.teachers, now))
    if [one.dim for one in now] != [one.dim for one in settings.teachers]:
        return Reencoded(0, 0, None, "", teacher)
    chosen = reader.sample(rows, np.random.default_rng(seed))
    wrong: dict[str, list[int]] = {"data": [], "masked": [], "cosine": [], "pixels": []}
    cosines: list[tuple[float, str]] = []
    lowest, vectors = (np.inf, ""), 0
    step = max(1, min(64, reader.settings.batch_size))
    for first in range(0, len(chosen), step):
        cosines = []
        for row, stored, fresh in _embed(
            reader, encoder, pairs, chosen[first : first + step].tolist(), wrong
        ):
            values = [
                (value, f"{side} {number}{_of(which, settings)}")
                for side, units in fresh.items()
                for which, part in enumerate(settings.parts)
                for number, value in enumerate(_cosines(units[:, part], stored[side][:, part]))
            ]
            if any(not value >= LEAST_COSINE for value, _ in values):  # NaN, too
                wrong["cosine"].append(row)
            cosines += [(value, f"{what} of row {row:,}") for value, what in values]
        vectors += len(cosines)
        lowest = min([lowest, *cosines], key=lambda one: -2.0 if np.isnan(one[0]) else one[0])
        on_progress(min(first + step, len(chosen)))
    found = [*teacher, *_findings(wrong, *lowest)]
    return Reencoded(len(chosen), vectors, lowest[0] if vectors else None, lowest[1], found)


def _of(teacher: int, settings: CacheSettings) -> str:
    return f" by teacher {teacher + 1}" if len(settings.teachers) > 1 else ""


def _teacher_findings(made_by: Sequence[TeacherSpec], now: Sequence[TeacherSpec]) -> Iterator[Finding]:
    if changed := teachers_differences(made_by, now):
        found = f"has other {', '.join(changed).replace('(here', '(now')}"
        yield Finding(
            "reencode teacher", "teacher", found, "the one that made the cache", "pass the right --teacher"
        )


def _embed(
    reader: RowReader, encoder: Teachers, pairs: PairDataset, rows: list[int], wrong: dict[str, list[int]]
) -> Iterator[tuple[int, dict[str, NDArray[Any]], dict[str, NDArray[Any]]]]:
    """Rows with their stored and their fresh vectors, views (V, D) and captions (C, D); others go to ``wrong``."""
    settings = reader.settings
    good: list[tuple[int, Prepared, dict[str, NDArray[Any]]]] = []
    for row in rows:
        known, fresh = reader[row], prepare(encoder, pairs, settings, range(row, row + 1))
        masked = fresh.reasons[0] is not None
        if fresh.hashes[0] != tuple(known["row_hash"].tolist()):
            wrong["data"].append(row)
        elif masked != (known["valid"] == 0):
            wrong["masked"].append(row)
        elif not masked:
            good.append((row, fresh, known))
            if fresh.resized is not None and _other_picture(fresh.resized[0], known["pixels"]):
                wrong["pixels"].append(row)
    if not good:
        return
    encoders = listed(encoder)
    views = [
        np.concatenate(
            [
                one.encode_pixels(torch.cat([fresh.pixels[view][number] for _, fresh, _ in good])).numpy()
                for number, one in enumerate(encoders)
            ],
            axis=1,
        )
        for view in range(settings.views)
    ]
    texts = [text for _, fresh, _ in good for text in fresh.captions[0]]
    step = settings.batch_size
    captions = np.concatenate(
        [
            np.concatenate([one.encode_texts(texts[at : at + step]).numpy() for one in encoders], axis=1)
            for at in range(0, len(texts), step)
        ]
    )
    start = 0
    for place, (row, fresh, known) in enumerate(good):
        end = start + len(fresh.captions[0])
        stored = {"view": known["image"], "caption": known["text"][: end - start]}
        yield row, stored, {"view": np.stack([view[place] for view in views]), "caption": captions[start:end]}
        start = end


def _other_picture(one: NDArray[np.uint8], other: NDArray[np.uint8]) -> bool:
    """Whether two pictures differ by more than decoders do: by a level in the mean."""
    return bool(np.abs(one.astype(np.int16) - other).mean() >= 1)


def _cosines(vectors: NDArray[Any], stored: NDArray[Any]) -> list[float]:
    """Cosine of each of ``vectors`` (N, D) with that of ``stored`` (N, D)."""
    one, other = vectors.astype(np.float64), stored.astype(np.float64)
    with np.errstate(invalid="ignore"):
        lengths = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
        found: list[float] = ((one * other).sum(axis=1) / lengths).tolist()
    return found


def _findings(wrong: dict[str, list[int]], lowest: float, lowest_at: str) -> Iterator[Finding]:
    described = {
        "data": (
            "the image or the captions have changed",
            "the data that was embedded",
            "pass the right --data",
        ),
        "masked": ("masked in the cache and not in the data, or the other way round", "the same", _ANEW),
        "pixels": ("the stored pixels are of another picture", "the image, resized", _ANEW),
        "cosine": (
            f"the teacher gives other vectors (cosine {lowest:.4f} at {lowest_at})",
            f"at least {LEAST_COSINE}",
            f"pass the right --teacher; if it is, {_ANEW}",
        ),
    }
    for kind, rows in wrong.items():
        if rows:
            shown = tuple(sorted(rows)[:5])
            yield Finding(f"reencode {kind}", "data", *described[kind], rows=shown, count=len(rows))
