"""Exact search whose answer does not depend on blocks, threads, processes or device.

A matrix product only proposes: floating-point sums differ in their last bits with the shape of a block and the number
of threads. What it proposes, and a few more, is scored again one pair at a time in a fixed order of summation, and
sorted by (score descending, index ascending). A query whose cut lies closer than the products may err is proposed
again with more candidates.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Floats = NDArray[np.float32]
Indices = NDArray[np.int64]
OnProgress = Callable[[str, int, int], None]
"""Receives what is being done, how much of it is done and how much there is."""

SLACK = 8  # candidates beyond k that are scored again
WIDEST = 512  # candidates of a query whose cut is still uncertain; more captions as near as rounding are one caption
_MAX_BLOCK = 16_384
_MIN_BLOCK = 64
_GATHERED = 4 << 20  # bytes of vectors that are gathered at a time to be scored


class Vectors(Protocol):
    """Unit vectors, read as they are asked for."""

    def __len__(self) -> int: ...

    @property
    def dim(self) -> int:
        """D."""
        ...

    def take(self, indices: Indices) -> Floats:
        """float32 (n, D)."""
        ...


@dataclass(frozen=True)
class Held:
    """Vectors in memory, float32 (M, D), and on devices that they were asked for on."""

    values: Floats
    _copies: dict[torch.device, Tensor] = field(default_factory=dict, compare=False, repr=False)

    def __len__(self) -> int:
        return len(self.values)

    @property
    def dim(self) -> int:
        """D."""
        return int(self.values.shape[1])

    def take(self, indices: Indices) -> Floats:
        """float32 (n, D)."""
        taken: Floats = self.values.take(indices, axis=0)
        return taken

    def on(self, device: torch.device) -> Tensor:
        """All of them on ``device``, where they stay: every block of queries needs them."""
        if device not in self._copies:
            self._copies[device] = torch.from_numpy(self.values).to(device)
        return self._copies[device]


def hold(vectors: Vectors, memory: int) -> Vectors:
    """Read all vectors into memory if that takes no more than half of ``memory`` bytes."""
    if isinstance(vectors, Held) or len(vectors) * vectors.dim * 4 > memory // 2:
        return vectors
    held = np.empty((len(vectors), vectors.dim), dtype=np.float32)
    for start in range(0, len(vectors), _MAX_BLOCK):
        block = np.arange(start, min(start + _MAX_BLOCK, len(vectors)))
        held[block] = vectors.take(block)
    return Held(held)


def pair_scores(queries: Floats, candidates: Floats) -> Floats:
    """Inner products float32 (B, K) of (B, D) with (B, K, D), each summed by itself in the order of D."""
    scores: Floats = np.einsum("bkd,bd->bk", candidates, queries)
    return scores


def found_scores(queries: Floats, database: Vectors, found: Indices) -> Floats:
    """``pair_scores`` of (B, D) with the vectors of ``found``, (B, K), gathered a few at a time; -1 stands for any.

    What is gathered stays in the processor's cache until it is scored, which takes half the time.
    """
    scores = np.empty(found.shape, dtype=np.float32)
    for chunk in chunks(len(queries), max(1, _GATHERED // (found.shape[1] * database.dim * 4))):
        index = found[chunk]
        vectors = database.take(index.clip(min=0).reshape(-1)).reshape(*index.shape, -1)
        scores[chunk] = pair_scores(queries[chunk], vectors)
    return scores


def block_rows(memory: int, dim: int, width: int) -> int:
    """Queries and vectors a block, so that two blocks and the running best of one take half of ``memory`` bytes."""
    return int(np.clip(memory // 2 // (8 * dim + 64 * width), _MIN_BLOCK, _MAX_BLOCK))


def chunks(total: int, size: int) -> list[slice]:
    """0 to ``total`` in slices of ``size``."""
    return [slice(start, min(start + size, total)) for start in range(0, total, size)]


def rank(
    queries: Floats, database: Vectors, found: Indices, k: int, *, exclude: Indices | None
) -> tuple[Indices, Floats]:
    """Score what was proposed again and keep the best.

    Args:
        queries: (B, D).
        database: (M, D).
        found: int64 (B, W): distinct proposals of each query, -1 where there is none.
        k: how many to keep, at most W.
        exclude: int64 (B,): an index that is never an answer of its query.

    Returns:
        Indices int64 (B, k), best first and ties by index, -1 where there are fewer; their scores float32 (B, k).
    """
    score = found_scores(queries, database, found)
    score[found < 0] = -np.inf
    if exclude is not None:
        score[found == exclude[:, None]] = -np.inf
    order = np.lexsort((found, -score), axis=-1)[:, :k]
    scores, best = np.take_along_axis(score, order, axis=1), np.take_along_axis(found, order, axis=1)
    best[np.isneginf(scores)] = -1
    return best, scores


def search_exact(
    queries: Floats,
    database: Vectors,
    k: int,
    *,
    exclude: Indices | None = None,
    memory: int,
    device: torch.device | None = None,
    on_block: Callable[[float], None] = lambda _: None,
) -> Indices:
    """The ``k`` best of ``database`` for each query, by inner product of unit vectors.

    The answer is a function of the vectors alone, unless over 500 candidates of a query lie within rounding (about
    1e-4) of its last answer; which of those stand there may then depend on threads.

    Args:
        queries: (Q, D); a few thousand, since all of them stay in memory.
        database: (M, D), streamed by block.
        k: answers a query.
        exclude: int64 (Q,): an index that is never an answer of its query: the query itself.
        memory: bytes that may be used.
        device: of the matrix products; default: the CPU, by FAISS.
        on_block: receives the share of the database that was seen.

    Returns:
        int64 (Q, k), best first and ties by index, -1 where there are fewer.
    """
    spare = k + (exclude is not None)
    width = min(spare + SLACK, len(database))
    found, floor = _propose(queries, database, width, memory, device, on_block)
    best, scores = rank(queries, database, found, k, exclude=exclude)
    uncertain = np.flatnonzero(scores[:, -1] <= floor + _error(database.dim))
    wider = min(max(WIDEST, 4 * width), len(database))
    if len(uncertain) and width < wider:
        for chunk in chunks(len(uncertain), max(_MIN_BLOCK, memory // 8 // (64 * wider))):
            again = uncertain[chunk]
            found, _ = _propose(queries[again], database, wider, memory, device, lambda _: None)
            own = None if exclude is None else exclude[again]
            best[again], _ = rank(queries[again], database, found, k, exclude=own)
    return best


def _error(dim: int) -> float:
    """How far two float32 sums of D products of unit vectors may differ: twice the worst case of one (Higham)."""
    return 2 * dim * 2.0**-24


def _propose(
    queries: Floats,
    database: Vectors,
    width: int,
    memory: int,
    device: torch.device | None,
    on_block: Callable[[float], None],
) -> tuple[Indices, Floats]:
    """The ``width`` best by matrix product in any order, int64 (Q, W), and what the rest does not exceed, (Q,)."""
    if device is not None and device.type != "cpu":
        return _propose_on(device, queries, database, width, memory, on_block)
    total = len(database)
    found = np.full((len(queries), width), -1, dtype=np.int64)
    scores = np.full((len(queries), width), -np.inf, dtype=np.float32)
    for block in chunks(total, block_rows(memory, database.dim, width)):
        vectors = database.take(np.arange(block.start, block.stop))
        score, index = _product(queries, vectors, min(width, len(vectors)))
        score, index = (
            np.concatenate([scores, score], axis=1),
            np.concatenate([found, index + block.start], axis=1),
        )
        keep = np.argpartition(-score, width - 1, axis=1)[:, :width]
        scores, found = np.take_along_axis(score, keep, axis=1), np.take_along_axis(index, keep, axis=1)
        on_block(block.stop / total)
    floor = np.full(len(queries), -np.inf, np.float32) if width == total else scores.min(axis=1)
    return found, floor


def _product(queries: Floats, vectors: Floats, k: int) -> tuple[Floats, Indices]:
    import faiss

    score, index = faiss.knn(queries, vectors, k, metric=faiss.METRIC_INNER_PRODUCT)
    return score, index


@torch.no_grad()
def _propose_on(
    device: torch.device,
    queries: Floats,
    database: Vectors,
    width: int,
    memory: int,
    on_block: Callable[[float], None],
) -> tuple[Indices, Floats]:
    """``_propose`` by a GPU, where the running best stays, too."""
    total, asked = len(database), torch.from_numpy(queries).to(device)
    whole = database.on(device) if isinstance(database, Held) and _fits(database, device) else None
    scores = asked.new_full((len(queries), 0), -torch.inf)
    found = torch.empty((len(queries), 0), dtype=torch.int64, device=device)
    for block in chunks(total, block_rows(memory, database.dim, width)):
        vectors = (
            torch.from_numpy(database.take(np.arange(block.start, block.stop))).to(device)
            if whole is None
            else whole[block]
        )
        top = (asked @ vectors.T).topk(min(width, len(vectors)))
        scores, found = (
            torch.cat([scores, top.values], dim=1),
            torch.cat([found, top.indices + block.start], dim=1),
        )
        best = scores.topk(min(width, scores.shape[1]))
        scores, found = best.values, found.gather(1, best.indices)
        on_block(block.stop / total)
    floor = torch.full_like(scores[:, 0], -torch.inf) if width == total else scores.min(dim=1).values
    return found.cpu().numpy(), floor.cpu().numpy()


def _fits(database: Held, device: torch.device) -> bool:
    """Whether all vectors take no more than half of what is free on the device."""
    if device.type != "cuda":
        return True
    free, _ = torch.cuda.mem_get_info(device)
    return device in database._copies or 2 * database.values.nbytes <= free
