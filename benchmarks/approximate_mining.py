"""Approximate mining by inverted lists, against exact mining, and what building the lists takes.

    python benchmarks/approximate_mining.py [--captions 100000 --queries 10000]

The figure is of the searches, at the fewest probes that find 0.97 of the exact 50 nearest; building the lists is
timed once and reported beside it, and so is the ratio with building spread over a search of all captions.
"""

from functools import partial

import numpy as np
from mining import search_exact_in_blocks, vectors
from side_by_side import Bench, arguments

from mmkd.mining.approximate import Lists, build_lists, recall_of
from mmkd.mining.search import Held

RECALL, MEMORY = 0.97, 1 << 30
EXACT, LISTS, BUILD = "mmkd exact", "mmkd IVF", "building the lists"


def main() -> None:
    """Measure, print and write the result."""
    parser = arguments(__doc__, clock="cpu")
    for name, default in (("captions", 100_000), ("queries", 10_000), ("k", 50)):
        parser.add_argument(f"--{name}", type=int, default=default)
    options = parser.parse_args()
    count, asked = (4_000, 500) if options.small else (options.captions, options.queries)
    bench = Bench(__file__, options)
    texts, said = vectors(count)
    held, queries, own, k = Held(texts), texts[:asked], np.arange(asked), options.k
    built: list[Lists] = []

    def build() -> None:
        built[:] = [build_lists(held, compressed=False, seed=0, memory=MEMORY, on_progress=lambda *_: None)]

    bench.time({BUILD: build}, repeats=1, warm=False)
    (lists,) = built
    exact = search_exact_in_blocks(queries, texts, k, own)
    sample = np.random.default_rng(0).choice(asked, min(1000, asked), replace=False)
    probes, recall = 1, 0.0
    while recall < RECALL and probes < len(lists.centroids):
        probes += 1 if probes < 8 else probes // 4
        found = lists.search(queries[sample], held, k, probes=probes, exclude=sample, memory=MEMORY)
        recall = recall_of(found, exact[sample])
    search = partial(lists.search, queries, held, k, probes=probes, exclude=own, memory=MEMORY)
    bench.time({EXACT: partial(search_exact_in_blocks, queries, texts, k, own), LISTS: search})
    sides = bench.sides
    bench.settings = {"captions": count, "queries": asked, "k": k, "vectors": said, "probes": probes}
    bench.settings["lists"] = len(lists.centroids)
    bench.figure("approximate search, times as fast as exact", bench.ratio(EXACT, LISTS), at_least=8)
    bench.figure(f"recall@{k}", recall_of(search(), exact), at_least=RECALL)
    whole = {name: sides[name].median(options.clock) * count / asked for name in (EXACT, LISTS)}
    building = sides[BUILD].median(options.clock)
    bench.figure("with building, all captions searched", whole[EXACT] / (whole[LISTS] + building))
    bench.close()


if __name__ == "__main__":
    main()
