"""Exact mining with all its filters, against ``faiss.knn`` alone on the same vectors.

    python benchmarks/exact_mining.py [--captions 100000 --processes 10]

A tenth of the captions is searched against all, as one process of ten does. Mining also scores what was found again, so
that the answer is the same on any machine, scores the pairs' images, drops false negatives and picks a row for each
caption. Memory is bounded as in a training. Recall is held against ``faiss.knn`` with the row itself left out.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import faiss
import numpy as np
from mining import vectors, without_itself
from numpy.typing import NDArray
from side_by_side import Bench, arguments

from mmkd.mining import ArraySpace, NegativeRules, SearchOptions, Share, mine_embeddings
from mmkd.mining.approximate import recall_of
from mmkd.mining.search import Floats, Held, Indices, search_exact

OURS, KNN = "mmkd: exact mining with all its filters", "faiss.knn alone"


@dataclass(frozen=True)
class OneOf(Share):
    """The first of several processes, without the others: their parts stay empty."""

    def first(self, value: Any) -> Any:
        """Its own."""
        return value

    def wait(self) -> None:
        """For nobody."""

    def gather(self, local: NDArray[Any], lengths: Sequence[int]) -> NDArray[Any]:
        """Its own part, and nothing of the others."""
        return np.concatenate([local, np.zeros((sum(lengths) - len(local), *local.shape[1:]), local.dtype)])


def main() -> None:
    """Measure, print and write the result."""
    parser = arguments(__doc__, clock="cpu")
    parser.add_argument("--captions", type=int, default=100_000)
    parser.add_argument("--processes", type=int, default=10)
    parser.add_argument("--k", type=int, default=50)
    options = parser.parse_args()
    count = 2_000 if options.small else options.captions
    bench = Bench(__file__, options)
    texts, said = vectors(count)
    images = np.ascontiguousarray(texts[::-1])
    ids, rules = np.arange(count), NegativeRules(options.k, relative_margin=0.05)
    share = OneOf(0, options.processes)
    mine = partial(
        mine_embeddings,
        ArraySpace(images, texts),
        ids,
        rules=rules,
        seed=0,
        search=SearchOptions(),
        share=share,
    )
    queries = texts[: share.bounds(count)[1]]
    bench.time({OURS: mine, KNN: partial(knn, queries, options.k, texts)})
    bench.settings = {
        "captions": count,
        "queries": len(queries),
        "dim": texts.shape[1],
        "k": options.k,
        "vectors": said,
    }
    bench.figure("exact mining, times faiss.knn alone", bench.ratio(OURS, KNN), at_most=1.10)
    few = np.arange(min(2_000, count))
    exact = search_exact(texts[few], Held(texts), options.k, memory=1 << 30, exclude=few)
    theirs = without_itself(knn(texts[few], options.k, texts), options.k)
    bench.figure("recall, of faiss.knn's answers", recall_of(exact, theirs), at_least=0.9999)
    bench.close()


def knn(queries: Floats, k: int, base: Floats) -> Indices:
    """FAISS's exact neighbours, the row itself among them: int64 (Q, k + 1)."""
    found: Indices = faiss.knn(queries, base, k + 1, metric=faiss.METRIC_INNER_PRODUCT)[1]
    return found


if __name__ == "__main__":
    main()
