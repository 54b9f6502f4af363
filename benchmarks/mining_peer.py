"""Mining, against sentence-transformers' ``mine_hard_negatives`` on the same given vectors.

    python benchmarks/mining_peer.py [--captions 20000]

Both are given unit vectors and the same rules, and return the same negatives, which is checked. The peer is installed
into an environment of its own below build/peers (torch as mmkd bounds it), and times itself; its model is a table of
the vectors. Without FAISS it multiplies everything and takes torch's ``topk``; with it, it searches a flat index.
"""

import tempfile
from functools import partial
from pathlib import Path

import numpy as np
from mining import vectors
from numpy.typing import NDArray
from peers import Peer, peer_python, this_python
from side_by_side import Bench, Timed, arguments

from mmkd.mining import ArraySpace, NegativeRules, SearchOptions, mine_embeddings

OURS = "mmkd: exact mining"
PEERS = {False: "mine_hard_negatives without FAISS", True: "mine_hard_negatives with FAISS"}
CLAIMS = {False: 2.0, True: 1.0}
REQUIREMENTS = ("sentence-transformers>=6.2,<7", "datasets>=4,<6", "faiss-cpu>=1.11")


def main() -> None:
    """Measure, print and write the result."""
    parser = arguments(__doc__, clock="cpu")
    parser.add_argument("--captions", type=int, default=20_000)
    parser.add_argument("--negatives", type=int, default=32)
    parser.add_argument(
        "--here", action="store_true", help="use the sentence-transformers of this environment"
    )
    options = parser.parse_args()
    count = 400 if options.small else options.captions
    bench = Bench(__file__, options)
    python = this_python() if options.here else peer_python("sentence-transformers", *REQUIREMENTS)
    texts, said = vectors(count)
    rules = {"range_max": options.negatives + 10, "relative_margin": 0.05}
    mine = partial(
        mine_embeddings,
        ArraySpace(texts, texts),
        np.arange(count),
        rules=NegativeRules(options.negatives, **rules),
        seed=0,
        search=SearchOptions(),
    )
    peer = Peer(python, Path(__file__).with_name("peer_hard_negatives.py"))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        np.save(folder / "vectors.npy", texts)
        request = {"vectors": str(folder / "vectors.npy"), "negatives": options.negatives, **rules}

        def ask(faiss: bool) -> Timed:
            out = str(folder / f"{faiss}.npy")
            return peer.time(**request, faiss=faiss, out=out, threads=options.threads)

        try:
            bench.time({OURS: mine, **{PEERS[faiss]: partial(ask, faiss) for faiss in PEERS}})
        finally:
            peer.close()
        ours = mine().positions
        same = {faiss: agreement(ours, np.load(folder / f"{faiss}.npy")) for faiss in PEERS}
    bench.settings = {"captions": count, "dim": texts.shape[1], "vectors": said, **request} | {
        "vectors": said
    }
    for faiss, what in PEERS.items():
        bench.figure(f"mining, times as fast as {what}", bench.ratio(what, OURS), at_least=CLAIMS[faiss])
        bench.figure(f"rows whose negatives are those of {what}", same[faiss], at_least=0.999)
    bench.close()


def agreement(ours: NDArray[np.int32], theirs: NDArray[np.int64]) -> float:
    """Share of the rows with the same negatives; the order of equal scores is left open."""
    return float((np.sort(ours, axis=1) == np.sort(theirs, axis=1)).all(axis=1).mean())


if __name__ == "__main__":
    main()
