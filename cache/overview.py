"""What is in a cache: how spread its vectors are, whether pairs belong together, who is next to whom."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmkd.cache.contents import iterate_blocks
from mmkd.cache.duplicates import hash_vectors
from mmkd.cache.rows import RowReader
from mmkd.evaluation.statistics import Geometry, geometry

SAMPLE = 2048
KINDS = (("image", "image"), ("image", "text"), ("text", "text"))
_HASH = {"image": 0, "text": 1}


@dataclass(frozen=True)
class Neighbour:
    """A row near to another.

    Attributes:
        row: which.
        cosine: how near, from -1 to 1.
    """

    row: int
    cosine: float


@dataclass(frozen=True)
class Neighbourhood:
    """What lies next to one row, over the whole cache; of equal images or captions the first one only.

    Attributes:
        row: whose.
        near: by ``image to image``, ``image to text`` and ``text to text``, nearest first; as far as the cache has
            these sides. The row's own image and caption are left out, but for ``image to text``, where it should
            be near.
    """

    row: int
    near: dict[str, list[Neighbour]]


@dataclass(frozen=True)
class Overview:
    """What a look at a cache shows.

    Attributes:
        sampled: rows that the numbers are of: random ones that are not masked.
        spread: by side, how the vectors lie (first view, first caption).
        matched: mean cosine of an image and its own caption; None where the cache has but one side.
        unmatched: mean cosine of an image and the caption of another row of the sample; likewise.
        neighbourhoods: of a few random rows.
    """

    sampled: int
    spread: dict[str, Geometry]
    matched: float | None
    unmatched: float | None
    neighbourhoods: list[Neighbourhood]

    def to_json(self) -> dict[str, Any]:
        """As a JSON object."""
        return {
            "sampled": self.sampled,
            "spread": {side: found.to_json() for side, found in self.spread.items()},
            "matched": self.matched,
            "unmatched": self.unmatched,
            "neighbours": [
                {"row": one.row, **{kind: [n.__dict__ for n in near] for kind, near in one.near.items()}}
                for one in self.neighbourhoods
            ],
        }


def overview(
    reader: RowReader,
    *,
    queries: int = 3,
    neighbours: int = 3,
    seed: int = 0,
    on_progress: Callable[[int], None] = lambda _: None,
) -> Overview:
    """Look at random rows of a cache, and search the whole of it for what is next to a few of them.

    Memory does not grow with the rows. Nothing is hashed: ``verify_cache`` says whether it is whole.

    Args:
        reader: of the cache.
        queries: rows to show the neighbours of.
        neighbours: how many of each kind.
        seed: of what is random.
        on_progress: called with the number of rows searched.

    Raises:
        CacheError: a shard is missing, or is not built as the format says.
    """
    generator = np.random.default_rng(seed)
    rows, units = _sample(reader, generator)
    spread = {side: geometry(found) for side, found in units.items() if len(rows) > 1}
    matched = unmatched = None
    if len(units) == 2 and len(rows) > 1:
        own = np.einsum("nd,nd->", units["image"], units["text"])
        total = units["image"].sum(axis=0) @ units["text"].sum(axis=0)
        matched, unmatched = float(own / len(rows)), float((total - own) / (len(rows) * (len(rows) - 1)))
    places = np.sort(generator.permutation(len(rows))[:queries])
    found = _search(reader, rows[places], neighbours, on_progress) if len(places) else []
    return Overview(len(rows), spread, matched, unmatched, found)


def _sample(
    reader: RowReader, generator: np.random.Generator
) -> tuple[NDArray[np.int64], dict[str, NDArray[np.float64]]]:
    """Rows that are not masked, and their first image and first caption as unit vectors (N, D)."""
    rows: list[int] = []
    vectors: dict[str, list[NDArray[np.float64]]] = {side: [] for side in reader.settings.sides}
    for row in reader.sample(SAMPLE, generator).tolist():
        values = reader[row]
        found = {side: values[side][0].astype(np.float64) for side in vectors}
        lengths = {side: float(np.linalg.norm(vector)) for side, vector in found.items()}
        if values["valid"] == 0 or not all(0 < length < np.inf for length in lengths.values()):
            continue  # masked, or damaged, which is for `verify` to tell
        rows.append(row)
        for side, vector in found.items():
            vectors[side].append(vector / lengths[side])
    return np.array(rows, np.int64), {side: np.array(found) for side, found in vectors.items()}


class _Nearest:
    """The nearest of all rows seen so far to each of Q queries, one a content."""

    def __init__(self, queries: NDArray[np.float32], skip: NDArray[np.uint64] | None, count: int) -> None:
        self._queries, self._skip, self._count = queries, skip, count
        self._found: list[dict[int, tuple[float, int]]] = [{} for _ in queries]

    def add(
        self, vectors: NDArray[np.float32], contents: NDArray[np.uint64], rows: NDArray[np.int64]
    ) -> None:
        contents, first = np.unique(contents, return_index=True)
        with np.errstate(all="ignore"):
            scores = np.nan_to_num(self._queries @ vectors[first].T, nan=-2.0, posinf=-2.0, neginf=-2.0)
        few = min(self._count + 1, len(first))
        for query, best in enumerate(np.argpartition(-scores, few - 1, axis=1)[:, :few]):
            found = self._found[query]
            for place in best.tolist():
                content, score = int(contents[place]), float(scores[query, place])
                own = self._skip is not None and content == int(self._skip[query])
                if not own and score > -2.0 and content not in found:
                    found[content] = score, int(rows[first[place]])
            kept = sorted(found.items(), key=lambda item: (-item[1][0], item[1][1]))[: self._count]
            self._found[query] = dict(kept)

    def result(self) -> Iterator[list[Neighbour]]:
        for found in self._found:
            yield [Neighbour(row, score) for score, row in found.values()]


def _contents(rows: Mapping[str, NDArray[Any]], side: str) -> NDArray[np.uint64]:
    """uint64 (B,): equal where rows have the same image or, as far as its vector tells, the same first caption."""
    if side == "text" and rows["text"].shape[1] > 1:  # the hash is of all of a row's captions
        return hash_vectors(rows["text"][:, 0])
    found: NDArray[np.uint64] = rows["row_hash"][:, _HASH[side]]
    return found


def _search(
    reader: RowReader, rows: NDArray[np.int64], count: int, on_progress: Callable[[int], None]
) -> list[Neighbourhood]:
    values = [reader[row] for row in rows.tolist()]
    settings, sides = reader.settings, reader.settings.sides
    searches: dict[tuple[str, str], _Nearest] = {}
    for source, target in KINDS:
        if source in sides and target in sides:
            # Of several teachers the cosine is the mean of theirs: all vectors have the length of √T.
            queries = np.stack([one[source][0].astype(np.float32) for one in values])
            queries /= np.float32(len(settings.teachers))
            own = np.concatenate([_contents({k: v[None] for k, v in one.items()}, target) for one in values])
            searches[source, target] = _Nearest(queries, own if source == target else None, count)
    for start, arrays in reader.shards():
        wanted = {name: arrays[name] for name in ("valid", "row_hash", *sides)}
        for inside, block in iterate_blocks(wanted):
            valid = np.flatnonzero(block["valid"])
            if len(valid):
                vectors = {side: block[side][valid, 0].astype(np.float32) for side in sides}
                for (_, target), nearest in searches.items():
                    contents = _contents(block, target)[valid]
                    nearest.add(vectors[target], contents, valid + start + inside)
            on_progress(start + inside + len(block["valid"]))
    results = {f"{source} to {target}": list(found.result()) for (source, target), found in searches.items()}
    return [
        Neighbourhood(row, {kind: found[place] for kind, found in results.items()})
        for place, row in enumerate(rows.tolist())
    ]
