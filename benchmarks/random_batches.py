"""Random batches of 1,024 rows from a cache, against a gather in RAM, h5py on the same file, and h5py on a chunked one.

    python benchmarks/random_batches.py [--rows 1000000]

A million rows of 512 numbers. The gather is of the stored vectors, float16, of one side: what differs between the ways.
What training asks for on top, both sides as float32 unit vectors with their lengths (``store.read``), is timed beside
the same arithmetic on a gather in RAM. h5py wants its rows sorted, so they are sorted for it. h5py's ways read fewer
batches a turn; all are per batch. Files are in the page cache.
"""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from numpy.typing import NDArray
from side_by_side import Bench, arguments
from stored_caches import write_cache

from mmkd.cache.store import open_cache
from mmkd.embeddings import Embeddings

BATCH = 1024
OURS, RAM = "mmkd: gather from the mapped cache", "gather in RAM"
H5PY, CHUNKED = "h5py, the same file", "h5py, a chunked file"
READ, RAM_READ = "mmkd: store.read, both sides, float32", "the same arithmetic on a gather in RAM"


def main() -> None:
    """Measure, print and write the result."""
    parser = arguments(__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--folder", type=Path, default=Path("build"))
    options = parser.parse_args()
    rows = 20_000 if options.small else options.rows
    batches = {OURS: 200, RAM: 200, H5PY: 4, CHUNKED: 1, READ: 50, RAM_READ: 50}
    bench = Bench(__file__, options)
    options.folder.mkdir(parents=True, exist_ok=True)
    draw = np.random.default_rng(0)
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        ways = make_ways(folder, rows)
        chosen = [draw.integers(0, rows, BATCH) for _ in range(max(batches.values()))]

        def turn(way: str) -> Callable[[], None]:
            def read() -> None:
                for which in chosen[: batches[way]]:
                    ways[way](which)

            return read

        sides = bench.time({way: turn(way) for way in ways})
        each = {way: sides[way].median(options.clock) / batches[way] for way in ways}
    bench.settings = {"rows": rows, "batch": BATCH, "batches_a_turn": batches}
    bench.figure("random batches, of a gather in RAM", each[RAM] / each[OURS], at_least=0.85)
    bench.figure("random batches, times h5py on the same file", each[H5PY] / each[OURS], at_least=30)
    bench.figure("random batches, times h5py on a chunked file", each[CHUNKED] / each[OURS], at_least=200)
    bench.figure("store.read, of the same arithmetic in RAM", each[RAM_READ] / each[READ])
    bench.figure("random batches, million rows/s", BATCH / each[OURS] / 1e6)
    bench.close()


def make_ways(folder: Path, rows: int) -> dict[str, Callable[[NDArray[np.int64]], Any]]:
    """Each way to read some rows, by name."""
    settings = write_cache(folder / "cache", rows, 512)
    store = open_cache(folder / "cache", verify=False)
    held = {
        field: np.concatenate([np.array(store.shard(index)[field][:, 0]) for index in range(settings.shards)])
        for field in ("image", "text", "image_norm", "text_norm")
    }
    plain, chunked = folder / "plain.h5", folder / "chunked.h5"
    for path, chunks in ((plain, None), (chunked, (min(rows, BATCH), 512))):
        with h5py.File(path, "w") as file:
            file.create_dataset("image", data=held["image"], chunks=chunks)
    files = [h5py.File(path, "r")["image"] for path in (plain, chunked)]

    def read_in_ram(which: NDArray[np.int64]) -> Embeddings:
        sides = (held[side][which] * held[f"{side}_norm"][which, None] for side in ("image", "text"))
        return Embeddings(*(torch.from_numpy(side) for side in sides))

    return {
        OURS: lambda which: store._gather("image", which),
        RAM: lambda which: held["image"][which],
        H5PY: lambda which: files[0][np.unique(which)],
        CHUNKED: lambda which: files[1][np.unique(which)],
        READ: store.read,
        RAM_READ: read_in_ram,
    }


if __name__ == "__main__":
    main()
