"""Mining's searches side by side: seconds of the processor, ratio to a bare matrix product, recall.

    python benchmarks/mining.py [--captions 50000] [--queries 4000] [--k 32] [--repeat 1]

The vectors are sums of two of CLIP's real text embeddings where ../shared/data has them, else random ones in clusters.
"""

import argparse
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import torch

from mmkd.mining.approximate import build_lists, probes_for, recall_of
from mmkd.mining.search import Floats, Held, Indices, search_exact

LVIS = Path(__file__).resolve().parents[2] / "shared/data/clip-embeddings/lvis_text_vitb32.npz"
BLOCK = 16_384
MEMORY = 2 << 30


def vectors(count: int) -> tuple[Floats, str]:
    """Unit vectors (count, 512), and what they are."""
    generator = np.random.default_rng(0)
    if LVIS.is_file():
        words = np.load(LVIS)["embeddings"].astype(np.float32)
        words /= np.linalg.norm(words, axis=1, keepdims=True)
        said = "sums of two CLIP text embeddings"
    else:
        words, said = generator.standard_normal((1203, 512), dtype=np.float32), "random, in clusters"
    first, second = generator.integers(len(words), size=(2, count))
    mixed = words[first] + 0.5 * words[second]
    mixed += 0.01 * generator.standard_normal(mixed.shape, dtype=np.float32)
    return mixed / np.linalg.norm(mixed, axis=1, keepdims=True), said


def timed(function: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds of all threads together of one call, which other programs on the machine change least; its result."""
    start = time.process_time()
    result = function()
    return time.process_time() - start, result


def product(queries: Floats, base: Floats) -> None:
    """Every inner product, kept nowhere."""
    for start in range(0, len(base), BLOCK):
        torch.from_numpy(queries) @ torch.from_numpy(base[start : start + BLOCK]).T


def torch_topk(queries: Floats, base: Floats, k: int) -> Indices:
    """As sentence-transformers searches without FAISS: every inner product of some queries, then ``torch.topk``."""
    whole = torch.from_numpy(base)
    parts = [
        (torch.from_numpy(queries[i : i + 2048]) @ whole.T).topk(k).indices
        for i in range(0, len(queries), 2048)
    ]
    return torch.cat(parts).numpy()


def without_itself(found: Indices, k: int) -> Indices:
    """The first ``k`` of each row that are not the row's own number."""
    return np.stack([row[row != number][:k] for number, row in enumerate(found)])


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    for name, default in (("captions", 50_000), ("queries", 4_000), ("k", 32), ("repeat", 1)):
        parser.add_argument(f"--{name}", type=int, default=default)
    options = parser.parse_args()
    base, said = vectors(options.captions)
    queries, own, k = base[: options.queries], np.arange(options.queries), options.k
    print(
        f"{options.queries:,} queries on {options.captions:,} x {base.shape[1]}, k = {k}, {said}, "
        f"{torch.get_num_threads()} threads, best of {options.repeat}\n"
    )
    whole: dict[str, Callable[[], Any]] = {
        "bare matrix product": lambda: product(queries, base),
        "mmkd exact": lambda: search_exact_in_blocks(queries, base, k, own),
        "faiss.knn": lambda: faiss.knn(queries, base, k + 1, metric=faiss.METRIC_INNER_PRODUCT)[1],
        "torch topk": lambda: torch_topk(queries, base, k + 1),
    }
    seconds = dict.fromkeys(whole, float("inf"))
    found: dict[str, Any] = {}
    for _ in range(options.repeat):  # in turns, so that a busy moment does not hit one alone
        for name, search in whole.items():
            spent, found[name] = timed(search)
            seconds[name] = min(seconds[name], spent)
    exact, bare = found["mmkd exact"], seconds["bare matrix product"]
    print(f"{'':34} {'build s':>8} {'search s':>9} {'x product':>10} {'recall':>8}")

    def line(name: str, build: float, search: float, recall: float | None) -> None:
        shown = "" if recall is None else f"{recall:8.4f}"
        print(f"{name:34} {build:8.1f} {search:9.2f} {search / bare:10.2f} {shown}", flush=True)

    line("bare matrix product", 0, bare, None)
    line("mmkd exact", 0, seconds["mmkd exact"], 1.0)
    for name in ("faiss.knn", "torch topk"):
        line(name, 0, seconds[name], recall_of(without_itself(found[name], k), exact))
    approximate(base, queries, exact, line)


def search_exact_in_blocks(queries: Floats, base: Floats, k: int, own: Indices) -> Indices:
    """As mining calls it."""
    starts = range(0, len(queries), BLOCK)
    held = Held(base)
    return np.concatenate(
        [
            search_exact(queries[i : i + BLOCK], held, k, exclude=own[i : i + BLOCK], memory=MEMORY)
            for i in starts
        ]
    )


def approximate(base: Floats, queries: Floats, exact: Indices, line: Callable[..., None]) -> None:
    """mmkd's inverted lists, whole and compressed, and FAISS's HNSW."""
    k, own, held = exact.shape[1], np.arange(len(queries)), Held(base)
    sample = np.random.default_rng(0).choice(len(queries), min(1000, len(queries)), replace=False)
    for compressed in (False, True):
        build, lists = timed(
            partial(
                build_lists, held, compressed=compressed, seed=0, memory=MEMORY, on_progress=lambda *_: None
            )
        )
        search_sample = partial(lists.search, base[sample], held, k, exclude=sample, memory=MEMORY)

        def search_probes(probes: int, search: Callable[..., Indices] = search_sample) -> Indices:
            return search(probes=probes)

        probes, _ = probes_for(search_probes, exact[sample], lists=len(lists.centroids))
        search, found = timed(
            partial(lists.search, queries, held, k, probes=probes, exclude=own, memory=MEMORY)
        )
        kind = "IVF-PQ" if compressed else "IVF"
        line(
            f"mmkd {kind}, {probes} of {len(lists.centroids):,} lists", build, search, recall_of(found, exact)
        )
    index = faiss.IndexHNSWFlat(base.shape[1], 32, faiss.METRIC_INNER_PRODUCT)
    build, _ = timed(lambda: index.add(base))
    index.hnsw.efSearch = 64
    search, found = timed(lambda: index.search(queries, k + 1)[1])
    line("FAISS HNSW32, efSearch 64", build, search, recall_of(without_itself(found, k), exact))


if __name__ == "__main__":
    main()
