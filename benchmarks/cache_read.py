"""A sequential read of a cache's vectors, against memcpy of as many bytes.

    python benchmarks/cache_read.py [--rows 1000000]

Every shard's image and text vectors, mapped, are copied into a buffer that is there already; the other side copies
arrays of the same sizes, in memory already, into the same buffer. The cache is in the page cache and mapped.
"""

import tempfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from side_by_side import Bench, arguments
from stored_caches import write_cache

from mmkd.cache.store import open_cache

OURS, THEIRS = "mmkd: mapped shards", "memcpy"


def main() -> None:
    """Measure, print and write the result."""
    parser = arguments(__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--folder", type=Path, default=Path("build"))
    options = parser.parse_args()
    rows = 20_000 if options.small else options.rows
    bench = Bench(__file__, options)
    options.folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        settings = write_cache(Path(name), rows, 512)
        store = open_cache(name, verify=False)
        mapped = [store.shard(index)[side] for index in range(settings.shards) for side in ("image", "text")]
        held = [np.array(array) for array in mapped]
        target = np.empty_like(held[0])

        def copy_all(arrays: list[NDArray[np.float16]]) -> None:
            for array in arrays:
                np.copyto(target[: len(array)], array)

        bench.time({OURS: lambda: copy_all(mapped), THEIRS: lambda: copy_all(held)})
        total = sum(array.nbytes for array in held)
        bench.settings = {"rows": rows, "shards": settings.shards, "gigabytes": total / 1e9}
        bench.figure("sequential read, of memcpy", bench.ratio(THEIRS, OURS), at_least=0.95)
        bench.figure("sequential read, GB/s", total / 1e9 / bench.sides[OURS].median("wall"))
    bench.close()


if __name__ == "__main__":
    main()
