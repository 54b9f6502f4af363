"""On a GPU: exact mining among as many captions as Conceptual Captions has, random vectors in clusters.

    python benchmarks/gpu_mining.py [--captions 2900000]

One turn only, since it takes minutes. Recall is held against a search of 1,000 captions on the CPU.
"""

import numpy as np
import torch
from gpu import device_for, gpu_figure
from numpy.typing import NDArray
from side_by_side import Bench, arguments

from mmkd.mining import ArraySpace, NegativeRules, SearchOptions, mine_embeddings
from mmkd.mining.approximate import recall_of
from mmkd.mining.search import Held, search_exact

MINING = "mining, end to end"


def main() -> None:
    """Measure, print and write the result."""
    parser = arguments(__doc__)
    parser.add_argument("--captions", type=int, default=2_900_000)
    parser.add_argument("--k", type=int, default=32)
    options = parser.parse_args()
    device, bench = torch.device(device_for(options)), Bench(__file__, options)
    count = 2_000 if options.small else options.captions
    texts = clusters(count)
    search = SearchOptions("exact", 16 << 30, device)

    def mine() -> None:
        mine_embeddings(
            ArraySpace(texts, texts), np.arange(count), rules=NegativeRules(options.k), seed=0, search=search
        )

    seconds = bench.time({MINING: mine}, repeats=1, warm=False)[MINING].median("wall")
    sample = np.random.default_rng(0).choice(count, min(1_000, count), replace=False)
    found, exact = (
        search_exact(texts[sample], Held(texts), options.k, exclude=sample, memory=16 << 30, device=on)
        for on in (device, None)
    )
    bench.settings = {"captions": count, "dim": texts.shape[1], "k": options.k, "search": "exact"}
    gpu_figure(bench, f"GPU: mining {count:,} captions, seconds", seconds, at_most=300)
    gpu_figure(bench, "GPU: recall of its search", recall_of(found, exact), at_least=0.999)
    bench.close()


def clusters(count: int, dim: int = 512) -> NDArray[np.float32]:
    """Unit vectors (count, dim) around random centres, some hundred to each."""
    draw = np.random.default_rng(0)
    centres = draw.standard_normal((max(1, count // 200), dim), dtype=np.float32)
    vectors = centres[draw.integers(0, len(centres), count)]
    vectors += 0.7 * draw.standard_normal((count, dim), dtype=np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors


if __name__ == "__main__":
    main()
