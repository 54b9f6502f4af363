"""Started by test_mining_processes.py on several processes: mines a store in memory and saves what it finds."""

import os
import sys
from pathlib import Path

import numpy as np
from stores import random_store
from torch import distributed as dist

from mmkd.mining import NegativeRules, SearchOptions, Share, mine_neighbours


def main(out: str, method: str) -> None:
    if "WORLD_SIZE" in os.environ:
        dist.init_process_group("gloo")
    share = Share.current()
    store = random_store(1500, 16, captions=1203)
    rows = np.arange(0, 1500)
    search = SearchOptions(method, 32 << 20, None, Path(out).parent)
    mined = mine_neighbours(store, rows, rules=NegativeRules(8), seed=5, search=search, share=share)
    np.savez(
        f"{out}-{share.rank}.npz", rows=mined.rows, said=[mined.dropped, mined.recall], method=mined.method
    )
    if share.world > 1:
        dist.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
