"""Each row's nearest other captions in the teacher's space, by FAISS: the hard negatives of a batch."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mmkd.embeddings import Embeddings, TeacherStore
from mmkd.losses.negatives import false_negative_threshold

EXACT_LIMIT = 200_000  # distinct captions; beyond it exact search takes hours on a CPU
_BLOCK = 65_536


@dataclass(frozen=True)
class Neighbours:
    """Mined negatives.

    Attributes:
        rows: int32 (R, K): neighbours of each row, nearest first, -1 where one was dropped or there is none.
        dropped: share of the candidates dropped as false negatives.
        method: how they were searched, for people.
    """

    rows: NDArray[np.int32]
    dropped: float
    method: str


def mine_neighbours(store: TeacherStore, rows: NDArray[np.int64], *, k: int, seed: int) -> Neighbours:
    """Find each row's ``k`` nearest other captions and, for each, a row that carries it.

    Identical captions count as one, so that no row is its own negative; a candidate whose teacher similarity to
    the row's image exceeds 0.95 of the row's own caption's is dropped as a false negative.

    Args:
        store: the teacher's embeddings.
        rows: int64 (N,): the rows to mine among.
        k: candidates a row.
        seed: chooses which of several rows with one caption stands for it.

    Source: NV-Retriever, arXiv 2407.15831 (positive-aware filter).
    """
    _, first, caption_of = np.unique(store.row_hashes[rows, 1], return_index=True, return_inverse=True)
    k = min(k, len(first) - 1)
    mined = np.full((len(store), max(k, 0)), -1, dtype=np.int32)
    if k < 1:
        return Neighbours(mined, 0.0, "one distinct caption only")
    texts = read_all(store, rows[first]).text.numpy()
    nearest, method = _search(texts, k)

    by_caption = np.argsort(caption_of, kind="stable")
    starts = np.searchsorted(caption_of[by_caption], np.arange(len(first) + 1))
    generator = np.random.default_rng((seed, 0x6D696E65))
    dropped = total = 0
    for start in range(0, len(rows), _BLOCK):
        block = rows[start : start + _BLOCK]
        candidates = nearest[caption_of[start : start + _BLOCK]]
        found = candidates >= 0
        candidates = candidates.clip(min=0)
        false = _false_negatives(store.read(block), texts, candidates)
        counts = starts[candidates + 1] - starts[candidates]
        picks = starts[candidates] + (generator.random(candidates.shape) * counts).astype(np.int64)
        mined[block] = np.where(found & ~false, rows[by_caption[picks]], -1)
        dropped += int((false & found).sum())
        total += int(found.sum())
    return Neighbours(mined, dropped / max(total, 1), method)


def read_all(store: TeacherStore, rows: NDArray[np.int64]) -> Embeddings:
    """Embeddings of many rows, read block by block."""
    blocks = [store.read(rows[start : start + _BLOCK]) for start in range(0, len(rows), _BLOCK)]
    return Embeddings(
        torch.cat([block.image for block in blocks]), torch.cat([block.text for block in blocks])
    )


def _search(texts: NDArray[np.float32], k: int) -> tuple[NDArray[np.int64], str]:
    """The ``k`` nearest other captions of each, int64 (M, k), nearest first, -1 where fewer were found."""
    import faiss

    index: Any
    if len(texts) <= EXACT_LIMIT:
        index, method = faiss.IndexFlatIP(texts.shape[1]), "exact"
    else:
        lists = int(4 * len(texts) ** 0.5)
        index = faiss.index_factory(texts.shape[1], f"IVF{lists},Flat", faiss.METRIC_INNER_PRODUCT)
        index.train(
            texts[np.random.default_rng(0).choice(len(texts), min(len(texts), 40 * lists), replace=False)]
        )
        index.nprobe, method = 16, f"IVF{lists}, 16 probes"
    index.add(texts)
    _, found = index.search(texts, k + 1)
    itself = found == np.arange(len(texts))[:, None]
    # A caption that is not among its own neighbours (a tie, or an approximate search) gives up its last one.
    itself[~itself.any(axis=1), -1] = True
    return found[~itself].reshape(len(texts), k), method


def _false_negatives(
    own: Embeddings, texts: NDArray[np.float32], candidates: NDArray[np.int64]
) -> NDArray[np.bool_]:
    positive = (own.image * own.text).sum(dim=1)
    similarity = torch.einsum("bd,bkd->bk", own.image, torch.from_numpy(texts)[candidates])
    false: NDArray[np.bool_] = (similarity > false_negative_threshold(positive)[:, None]).numpy()
    return false
