"""Started by test_mining_processes.py on several processes: mines a store in memory and saves what it finds."""

import os
import sys
from pathlib import Path

import numpy as np
from stores import random_store
from torch import distributed as dist

from mmkd.mining import METHODS, NegativeRules, SearchOptions, Share, mine_neighbours


def main(out: str) -> None:
    if "WORLD_SIZE" in os.environ:
        dist.init_process_group("gloo")
    share = Share.current()
    store, rows = random_store(1500, 16, captions=1203), np.arange(1500)
    found = {}
    for method in METHODS:
        search = SearchOptions(method, 32 << 20, None, Path(out).parent)
        mined = mine_neighbours(
            store, rows, store.caption_ids, rules=NegativeRules(8), seed=5, search=search, share=share
        )
        said = f"{mined.method} {mined.dropped} {mined.recall}"
        found |= {method: mined.rows, f"{method} said": np.array(said)}
    np.savez(f"{out}-{share.rank}.npz", **found)
    if share.world > 1:
        dist.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
