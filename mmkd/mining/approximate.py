"""Approximate search for very many captions: inverted lists, whole or compressed, probed until they find enough.

The lists are made by the first process and read by all, and their centroids and probes are found by exact search, so
the answer is the same for any number of processes.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmkd.mining.search import (
    Floats,
    Held,
    Indices,
    OnProgress,
    Vectors,
    block_rows,
    chunks,
    rank,
    search_exact,
)

TARGET_RECALL = 0.95
FIRST_PROBES = 8
MOST_PROBED = 32  # at most one list in so many: beyond it exact search is nearly as fast
SAMPLE = 1_000  # queries that recall is measured on
_ITERATIONS = 10
_POINTS_PER_LIST = 40
_CODE_DIMS = 8  # dimensions a byte of a compressed vector stands for


@dataclass(frozen=True)
class Lists:
    """Inverted lists over all captions.

    Attributes:
        index: FAISS's.
        centroids: float32 (L, D).
        widen: how many proposals are scored again for each that is kept.
    """

    index: Any
    centroids: Held
    widen: int

    def search(
        self, queries: Floats, database: Vectors, k: int, *, probes: int, exclude: Indices, memory: int
    ) -> Indices:
        """The ``k`` best in the ``probes`` nearest lists of each query; arguments as of ``search_exact``."""
        near = search_exact(queries, self.centroids, probes, memory=memory)
        coarse = np.zeros(near.shape, dtype=np.float32)
        if hasattr(self.index, "pq"):  # compressed vectors are differences from their list's centroid
            coarse = np.einsum(
                "bkd,bd->bk", self.centroids.take(near.reshape(-1)).reshape(*near.shape, -1), queries
            )
        self.index.nprobe = probes
        width = min((k + 1) * self.widen, len(database))
        _, found = self.index.search_preassigned(queries, width, near, coarse)
        best, _ = rank(queries, database, found, min(k, width), exclude=exclude)
        return best


def count_lists(captions: int) -> int:
    """4 times the square root, as FAISS's guide has it, but no list of fewer than about 40 captions."""
    return max(1, min(int(4 * captions**0.5), captions // _POINTS_PER_LIST))


def build_lists(
    database: Vectors, *, compressed: bool, seed: int, memory: int, on_progress: OnProgress
) -> Lists:
    """Cluster a sample of the captions and put every caption into the list of its nearest centroid."""
    import faiss

    lists = count_lists(len(database))
    generator = np.random.default_rng((seed, 0x497646))
    chosen = generator.choice(len(database), min(len(database), _POINTS_PER_LIST * lists), replace=False)
    points = database.take(np.sort(chosen))
    centroids = Held(cluster(points, lists, generator, memory=memory, on_progress=on_progress))
    quantizer = faiss.IndexFlatIP(database.dim)
    quantizer.add(centroids.values)
    index: Any
    if compressed:
        index = faiss.IndexIVFPQ(
            quantizer, database.dim, lists, _code_bytes(database.dim), 8, faiss.METRIC_INNER_PRODUCT
        )
        threads = faiss.omp_get_max_threads()
        faiss.omp_set_num_threads(1)  # so that the codebook does not depend on their number
        index.train(points[: 256 * 128])
        faiss.omp_set_num_threads(threads)
    else:
        index = faiss.IndexIVFFlat(quantizer, database.dim, lists, faiss.METRIC_INNER_PRODUCT)
        index.is_trained = True
    for block in chunks(len(database), block_rows(memory, database.dim, 16)):
        ids = np.arange(block.start, block.stop)
        vectors = database.take(ids)
        nearest = np.ascontiguousarray(search_exact(vectors, centroids, 1, memory=memory)[:, 0])
        pointers = (faiss.swig_ptr(array) for array in (vectors, ids, nearest))
        index.add_core(len(ids), *pointers)
        on_progress("indexing", block.stop, len(database))
    return Lists(index, centroids, _widen(index))


def save_lists(lists: Lists, file: Path) -> None:
    """Write the lists to a file that other processes map."""
    import faiss

    faiss.write_index(lists.index, str(file))
    with file.with_suffix(".npy").open("wb") as stream:
        np.save(stream, lists.centroids.values)


def map_lists(file: Path) -> Lists:
    """Lists that ``save_lists`` wrote, shared with every process that maps them."""
    import faiss

    index = faiss.read_index(str(file), faiss.IO_FLAG_MMAP | faiss.IO_FLAG_READ_ONLY)
    centroids = Held(np.load(file.with_suffix(".npy"), allow_pickle=False))
    return Lists(index, centroids, _widen(index))


def cluster(
    points: Floats,
    count: int,
    generator: np.random.Generator,
    *,
    memory: int,
    on_progress: OnProgress = lambda *_: None,
) -> Floats:
    """Spherical k-means whose centroids are a function of the points and the generator alone, (count, D)."""
    centroids = points[np.sort(generator.choice(len(points), count, replace=False))]
    block = block_rows(memory, points.shape[1], 16)
    for turn in range(_ITERATIONS):
        nearest = np.concatenate(
            [
                search_exact(points[chunk], Held(centroids), 1, memory=memory)[:, 0]
                for chunk in chunks(len(points), block)
            ]
        )
        order = np.argsort(nearest, kind="stable")
        taken, starts = np.unique(nearest[order], return_index=True)
        sums = np.add.reduceat(points[order], starts, axis=0)
        lengths = np.sqrt(np.einsum("ld,ld->l", sums, sums))[:, None]
        centroids = centroids.copy()  # an empty list keeps its centroid
        centroids[taken] = np.where(lengths > 0, sums / np.maximum(lengths, 1e-12), centroids[taken])
        on_progress("clustering", turn + 1, _ITERATIONS)
    return centroids


def probes_for(find: Callable[[int], NDArray[np.int64]], exact: Indices, *, lists: int) -> tuple[int, float]:
    """The fewest probes, doubled from 8 on, that find ``TARGET_RECALL`` of the exact answers, and what they find.

    Args:
        find: answers of the sample with so many probes.
        exact: int64 (S, k): the sample's exact answers.
        lists: all lists; at most one in ``MOST_PROBED`` of them is probed, whatever is found.
    """
    most = min(lists, max(FIRST_PROBES, lists // MOST_PROBED))
    probes = min(FIRST_PROBES, most)
    while True:
        recall = recall_of(find(probes), exact)
        if recall >= TARGET_RECALL or probes >= most:
            return probes, recall
        probes = min(2 * probes, most)


def recall_of(found: Indices, exact: Indices) -> float:
    """Share of the exact answers that were found."""
    hits = (exact[:, :, None] == found[:, None, :]).any(axis=2) & (exact >= 0)
    return float(hits.sum() / max(1, (exact >= 0).sum()))


def _code_bytes(dim: int) -> int:
    """Bytes of a compressed vector: about one for 8 dimensions, and a divisor of D."""
    wanted = max(1, dim // _CODE_DIMS)
    return max(size for size in range(1, wanted + 1) if dim % size == 0)


def _widen(index: Any) -> int:
    return 4 if hasattr(index, "pq") else 1
