"""Each row's hard negatives in a space of embeddings, mined by all processes together."""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mmkd.embeddings import TeacherStore
from mmkd.mining.approximate import (
    SAMPLE,
    Lists,
    build_lists,
    map_lists,
    probes_for,
    save_lists,
)
from mmkd.mining.plan import SearchOptions
from mmkd.mining.rules import NegativeRules
from mmkd.mining.search import (
    Indices,
    OnProgress,
    Vectors,
    block_rows,
    chunks,
    found_scores,
    hold,
    search_exact,
)
from mmkd.mining.sharing import Share
from mmkd.mining.spaces import Captions, CaptionVectors, Space, StoreSpace

_SILENT: OnProgress = lambda *_: None  # noqa: E731
_ALONE = Share()
_DEFAULT_RULES, _DEFAULT_SEARCH = NegativeRules(), SearchOptions()


@dataclass(frozen=True)
class Neighbours:
    """Mined negatives.

    Attributes:
        rows: int32 (R, K): negatives of each row, hardest first, -1 where there is none.
        dropped: share of the candidates dropped as false negatives.
        method: how they were searched, for people.
        recall: share of the exact nearest that the search found, on a sample of the captions.
        seconds: that mining took.
    """

    rows: NDArray[np.int32]
    dropped: float
    method: str
    recall: float = 1.0
    seconds: float = 0.0


def mine_neighbours(
    store: TeacherStore,
    rows: NDArray[np.int64],
    caption_ids: NDArray[np.integer],
    *,
    rules: NegativeRules = _DEFAULT_RULES,
    seed: int,
    search: SearchOptions = _DEFAULT_SEARCH,
    share: Share = _ALONE,
    on_progress: OnProgress = _SILENT,
) -> Neighbours:
    """Mine among some rows of a teacher's store; see ``mine_embeddings``.

    Args:
        store: the teacher's embeddings.
        rows: int64 (N,): the rows to mine among; of each, the first caption.
        caption_ids: int (N,): equal where first captions are, as ``first_caption_ids`` gives them.
        rules: which of the nearest are negatives.
        seed: chooses which of several rows with one caption stands for it.
        search: how captions are searched.
        share: this process's part.
        on_progress: receives what is being done.
    """
    return mine_embeddings(
        StoreSpace(store, rows),
        caption_ids,
        rules=rules,
        seed=seed,
        search=search,
        share=share,
        on_progress=on_progress,
    ).spread(rows, len(store))


@dataclass(frozen=True)
class MinedPositions:
    """``Neighbours`` by position among the pairs that were mined."""

    positions: NDArray[np.int32]
    dropped: float
    method: str
    recall: float
    seconds: float

    def spread(self, rows: NDArray[np.int64], total: int) -> Neighbours:
        """By row of a store of ``total`` rows, where position i is ``rows[i]``."""
        mined = np.full((total, self.positions.shape[1]), -1, dtype=np.int32)
        mined[rows] = np.where(self.positions >= 0, rows[self.positions], -1)
        return Neighbours(mined, self.dropped, self.method, self.recall, self.seconds)


def mine_embeddings(
    space: Space,
    caption_ids: NDArray[np.integer],
    *,
    judge: Space | None = None,
    rules: NegativeRules = _DEFAULT_RULES,
    seed: int,
    search: SearchOptions = _DEFAULT_SEARCH,
    share: Share = _ALONE,
    on_progress: OnProgress = _SILENT,
) -> MinedPositions:
    """Find each pair's nearest other captions and, for each that may be a negative, a pair that carries it.

    Nearest by caption, hardest by image: the candidates of a pair are the captions nearest to its own; they are
    sorted by their similarity to its image, and dropped where the judge finds them too similar to that image. That
    is retrieving and rescoring, as sentence-transformers' ``mine_hard_negatives`` does with a ``cross_encoder``, and
    gives the same negatives. Identical captions count as one, so that no pair is its own negative.

    Args:
        space: the N pairs' embeddings that are searched.
        caption_ids: int (N,): equal where captions are.
        judge: the same pairs' embeddings that the margins look at; ``None``: those of ``space``.
        rules: which of the nearest are negatives.
        seed: chooses which of several pairs with one caption stands for it.
        search: how captions are searched.
        share: this process's part; every process gets the whole result, the same for any number of them.
        on_progress: receives what is being done, how much of it is done, and how much there is.
    """
    started = time.perf_counter()
    captions = Captions.distinct(caption_ids)
    k = min(rules.candidates, len(captions) - 1)
    if k < 1:
        none = np.empty((len(space), 0), dtype=np.int32)
        return MinedPositions(none, 0.0, "one distinct caption only", 1.0, 0.0)
    width = min(rules.neighbours, k)
    texts = hold(CaptionVectors(space, captions), search.memory)
    searcher = _open_searcher(texts, k, seed, search, share, on_progress)
    judged = (space, texts)
    if judge is not None:
        judged = (judge, hold(CaptionVectors(judge, captions), search.memory // 2))
    chooser = _Chooser((space, texts), judged, captions, rules, seed, width)
    bounds = share.bounds(len(captions))
    mine = slice(bounds[share.rank], bounds[share.rank + 1])
    found = [np.empty((0, width), dtype=np.int32)]
    for block in chunks(mine.stop - mine.start, block_rows(search.memory, texts.dim, k)):
        queries = np.arange(mine.start + block.start, mine.start + block.stop)
        size = block.stop - block.start

        def report(part: float, done: int = block.start, size: int = size) -> None:
            on_progress("mining", done + int(part * size), mine.stop - mine.start)

        nearest = searcher.find(queries, report)
        found.append(chooser.choose(queries, nearest, search.memory))
        report(1.0)
    starts = captions.starts[bounds]
    gathered = share.gather(np.concatenate(found), np.diff(starts).tolist())
    positions = np.empty((len(space), width), dtype=np.int32)
    positions[captions.positions] = gathered
    dropped, total = share.gather(np.array([[chooser.dropped, chooser.seen]]), [1] * share.world).sum(axis=0)
    seconds = time.perf_counter() - started
    return MinedPositions(
        positions, float(dropped / max(total, 1)), searcher.method, searcher.recall, seconds
    )


class _Chooser:
    """Turns nearest captions into negatives, and counts."""

    def __init__(
        self,
        space: tuple[Space, Vectors],
        judge: tuple[Space, Vectors],
        captions: Captions,
        rules: NegativeRules,
        seed: int,
        width: int,
    ) -> None:
        self.space, self.judge, self.captions, self.rules = space, judge, captions, rules
        self.seed, self.width = seed, width
        self.dropped = self.seen = 0

    def choose(self, queries: Indices, nearest: Indices, memory: int) -> NDArray[np.int32]:
        """Negatives int32 (n, width) of all pairs that carry the captions ``queries``, in the captions' order."""
        captions = self.captions
        first, end = captions.starts[queries[0]], captions.starts[queries[-1] + 1]
        chosen = np.empty((end - first, self.width), dtype=np.int32)
        size = max(1, memory // 8 // (128 * (nearest.shape[1] + 1) + 16 * self.space[0].dim))
        for chunk in chunks(end - first, size):
            positions = captions.positions[first + chunk.start : first + chunk.stop]
            candidates = nearest[captions.of[positions] - queries[0]]
            scores = judged = self._scores(self.space, positions, candidates)
            if self.judge[0] is not self.space[0]:
                judged = self._scores(self.judge, positions, candidates)
            negatives, dropped = self.rules.choose(candidates, scores[:, 1:], judged[:, 1:], judged[:, 0])
            negatives = negatives[:, : self.width]
            carriers = captions.carrier(positions, negatives.clip(min=0), self.seed)
            chosen[chunk] = np.where(negatives >= 0, carriers, -1)
            self.dropped += dropped
            self.seen += int((candidates >= 0).sum())
        return chosen

    def _scores(
        self, space: tuple[Space, Vectors], positions: Indices, candidates: Indices
    ) -> NDArray[np.float32]:
        """Similarities of the pairs' images to their own caption and to the candidates, (B, 1 + K)."""
        wanted = np.concatenate([self.captions.of[positions][:, None], candidates.clip(min=0)], axis=1)
        return found_scores(space[0].images(positions), space[1], wanted)


@dataclass(frozen=True)
class _Searcher:
    """Finds the ``k`` nearest other captions of captions."""

    texts: Vectors
    k: int
    options: SearchOptions
    lists: Lists | None = None
    probes: int = 0
    recall: float = 1.0

    @property
    def method(self) -> str:
        if self.lists is None:
            return "exact search"
        kind = "IVF-PQ" if self.options.method == "ivf-pq" else "IVF"
        return f"{kind}, {self.probes} of {len(self.lists.centroids):,} lists"

    def find(self, queries: Indices, report: Callable[[float], None] = lambda _: None) -> Indices:
        """int64 (n, k), nearest first, -1 where there are fewer."""
        vectors, memory = self.texts.take(queries), self.options.memory
        if self.lists is not None:
            return self.lists.search(
                vectors, self.texts, self.k, probes=self.probes, exclude=queries, memory=memory
            )
        return search_exact(
            vectors,
            self.texts,
            self.k,
            exclude=queries,
            memory=memory,
            device=self.options.device,
            on_block=report,
        )


def _open_searcher(
    texts: Vectors, k: int, seed: int, options: SearchOptions, share: Share, on_progress: OnProgress
) -> _Searcher:
    """Make what the search needs, and measure what it finds where it is approximate."""
    if options.method == "exact":
        return _Searcher(texts, k, options)
    lists = _shared_lists(texts, seed, options, share, on_progress)
    measured = None
    if share.rank == 0:
        generator = np.random.default_rng((seed, 0x53616D70))
        sample = generator.choice(len(texts), min(SAMPLE, len(texts)), replace=False)
        measured = probes_for(
            lambda probes: _Searcher(texts, k, options, lists, probes).find(sample),
            _Searcher(texts, k, options).find(sample),
            lists=len(lists.centroids),
        )
    probes, recall = share.first(measured)
    return _Searcher(texts, k, options, lists, probes, recall)


def _shared_lists(
    texts: Vectors, seed: int, options: SearchOptions, share: Share, on_progress: OnProgress
) -> Lists:
    """Inverted lists that the first process makes and the others map."""
    name = share.first(f".mining-lists-{os.getpid()}.faiss")
    file = None if share.world == 1 or options.scratch is None else options.scratch / name
    if file is None or share.rank == 0:
        compressed = options.method == "ivf-pq"
        built = build_lists(
            texts, compressed=compressed, seed=seed, memory=options.memory, on_progress=on_progress
        )
        if file is None:
            return built
        save_lists(built, file)
    share.wait()
    lists = map_lists(file)
    share.wait()
    if share.rank == 0:  # what is mapped stays
        file.unlink()
        file.with_suffix(".npy").unlink()
    return lists
