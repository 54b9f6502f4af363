"""A durable cache write, hash and all, against ``np.save`` and fsync of the same bytes.

    python benchmarks/cache_write.py [--rows 1000000]

Shards of 16,384 rows of 512 numbers, image and text, are written as a build writes them: HDF5, hashed, synced, renamed.
The other side saves the same arrays, a file a shard, and syncs each. Both start from a synced disk.
"""

import os
import shutil
import tempfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from side_by_side import Bench, arguments
from stored_caches import SHARD_ROWS, made_up_arrays, made_up_settings

from mmkd.cache.shard import write_shard
from mmkd.files import fsync

OURS, THEIRS = "mmkd: HDF5, hashed, synced, renamed", "np.save and fsync"


def main() -> None:
    """Measure, print and write the result."""
    parser = arguments(__doc__)
    parser.add_argument("--rows", type=int, default=500_000)
    parser.add_argument("--folder", type=Path, default=Path("build"), help="on the disk to measure")
    options = parser.parse_args()
    # Whole shards, so that both sides write the same bytes.
    rows = SHARD_ROWS * max(1, (0 if options.small else options.rows) // SHARD_ROWS)
    settings = made_up_settings(rows, dim=512)
    bench = Bench(__file__, options)
    options.folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        arrays = made_up_arrays(settings, 0)
        plain = np.frombuffer(b"".join(array.tobytes() for array in arrays.values()), np.uint8)
        total = plain.nbytes * settings.shards

        def clean() -> None:
            for path in folder.iterdir():
                shutil.rmtree(path)
            (folder / "ours").mkdir()
            (folder / "theirs").mkdir()
            os.sync()

        def ours() -> None:
            for index in range(settings.shards):
                write_shard(folder / "ours", index, settings, arrays, {})

        def theirs() -> None:
            for index in range(settings.shards):
                save(folder / "theirs" / f"{index}.npy", plain)

        sides = bench.time({OURS: ours, THEIRS: theirs}, before=clean)
        bench.settings = {"rows": rows, "shards": settings.shards, "gigabytes": total / 1e9}
        bench.figure("durable write, of np.save + fsync", bench.ratio(THEIRS, OURS), at_least=0.90)
        bench.figure("durable write, GB/s", total / 1e9 / sides[OURS].median("wall"))
    bench.close()


def save(path: Path, array: NDArray[np.uint8]) -> None:
    """``np.save``, and onto the disk."""
    np.save(path, array)
    fsync(path)


if __name__ == "__main__":
    main()
