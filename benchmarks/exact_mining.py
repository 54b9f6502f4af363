"""Exact mining with all its filters, against ``faiss.knn`` alone on the same vectors.

    python benchmarks/exact_mining.py [--captions 40000]

All captions are searched against all. Mining also scores what was found again, so that the answer is the same on any
machine, scores the pairs' images, drops false negatives and picks a row for each caption. Memory is bounded as in a
training. Recall is held against ``faiss.knn`` with the row itself left out.
"""

from collections.abc import Callable
from functools import partial

import faiss
import numpy as np
from mining import vectors, without_itself
from side_by_side import Bench, arguments

from mmkd.mining import ArraySpace, NegativeRules, SearchOptions, mine_embeddings
from mmkd.mining.approximate import recall_of
from mmkd.mining.search import Floats, Held, search_exact

OURS, KNN = "mmkd: exact mining with all its filters", "faiss.knn alone"
SEARCH = "mmkd: its search alone"


def main() -> None:
    """Measure, print and write the result."""
    parser = arguments(__doc__, clock="cpu")
    parser.add_argument("--captions", type=int, default=40_000)
    parser.add_argument("--k", type=int, default=50)
    options = parser.parse_args()
    count = 2_000 if options.small else options.captions
    bench = Bench(__file__, options)
    texts, said = vectors(count)
    images = np.ascontiguousarray(texts[::-1])
    ids, rules = np.arange(count), NegativeRules(options.k, relative_margin=0.05)
    mine = partial(mine_embeddings, ArraySpace(images, texts), ids, rules=rules, seed=0, search=SearchOptions())
    bench.time({OURS: mine, KNN: partial(knn, texts, options.k)})
    bench.settings = {"captions": count, "dim": texts.shape[1], "k": options.k, "vectors": said}
    bench.figure("exact mining, times faiss.knn alone", bench.ratio(OURS, KNN), at_most=1.10)
    few = np.arange(min(2_000, count))
    search: Callable[..., np.ndarray] = partial(search_exact, memory=1 << 30, exclude=few)
    exact = search(texts[few], Held(texts), options.k)
    theirs = without_itself(knn(texts[few], options.k, texts), options.k)
    bench.figure("recall, of faiss.knn's answers", recall_of(exact, theirs), at_least=0.9999)
    bench.close()


def knn(queries: Floats, k: int, base: Floats | None = None) -> np.ndarray:
    """FAISS's exact neighbours, the row itself among them: int64 (Q, k + 1)."""
    base = queries if base is None else base
    found: np.ndarray = faiss.knn(queries, base, k + 1, metric=faiss.METRIC_INNER_PRODUCT)[1]
    return found


if __name__ == "__main__":
    main()
