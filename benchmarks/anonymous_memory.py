"""Anonymous memory of reading and of training, with 10^5 rows and with 10^7.

    python benchmarks/anonymous_memory.py [--rows 100000 10000000]

Caches of 8-d vectors, really written (0.65 GB for 10^7 rows). Each is read, and trained on, in a process of its own:
300 random batches; then 20 steps of a small student through the training's own plan, reader and stream, negatives
random. ``RssAnon`` is what a process holds itself; mapped files are the kernel's. The pair that each row shows is one
and the same picture, since pictures are no question of rows.
"""

import io
import multiprocessing
from pathlib import Path
from typing import Any

import numpy as np
from cache_scale import BATCH, DIM, own_memory, write_cache
from side_by_side import Bench, arguments

STEPS = 20
READING, TRAINING = "reading", "training"


class OnePair:
    """A data set whose every row is the same pair; what a cache says of its hashes is taken for granted."""

    sides: tuple[str, ...] = ()  # so the reader takes the cache's hashes for the data's

    def __init__(self) -> None:
        from PIL import Image

        from mmkd.pairs import Pair

        stream = io.BytesIO()
        Image.new("RGB", (32, 32)).save(stream, "PNG")
        self.pair = Pair(stream.getvalue(), ("a picture",))

    def __getitem__(self, row: int) -> Any:
        return self.pair


def read(folder: Path, rows: int) -> float:
    """MB held after random batches."""
    from mmkd.cache.store import open_cache

    store, draw = open_cache(folder, verify=False), np.random.default_rng(0)
    for _ in range(300):
        chosen = draw.integers(0, rows, BATCH)
        store.read(chosen, np.zeros_like(chosen))
        store.hashes(chosen)
    return own_memory()


def train(folder: Path, rows: int) -> float:  # noqa: ARG001
    """MB held after some steps of a training in the midst of an epoch."""
    from clip_models import config_of, random_encoder
    from transformers import CLIPModel

    from mmkd.batches import BatchReader, BatchStream
    from mmkd.cache.store import open_cache
    from mmkd.objective import Objective
    from mmkd.optimizer import make_optimizer
    from mmkd.sampling import BatchPlan
    from mmkd.step import PairStudent, distill_step

    store, encoder = open_cache(folder, verify=False), random_encoder("tiny")
    config = config_of("tiny", half=True)
    config.projection_dim = DIM
    student = PairStudent(CLIPModel(config))
    optimizer, objective = (
        make_optimizer(student, lr=1e-4, weight_decay=0.1),
        Objective("triplet + mse + cos"),
    )
    pairs: Any = OnePair()
    reader = BatchReader(pairs, encoder.image_processor, encoder.tokenizer, 77, store)
    plan = BatchPlan(store.usable, 64, seed=0)
    batches = BatchStream(reader, plan, rank=0, world=1, workers=0).from_step(0)
    for _ in range(STEPS):
        distill_step(student, objective, next(batches)).total.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad()
    return own_memory()


def in_process(function: Any, *values: Any) -> float:
    """A function's result, in a fresh process."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return float(pool.apply(function, values))


def main() -> None:
    """Measure, print and write the result."""
    parser = arguments(__doc__)
    parser.add_argument("--rows", type=int, nargs=2, default=[10**5, 10**7])
    parser.add_argument("--folder", type=Path, default=Path("build/anonymous-memory"))
    options = parser.parse_args()
    few, many = [20_000, 40_000] if options.small else options.rows
    bench = Bench(__file__, options)
    for rows in (few, many):
        folder = options.folder / f"rows-{rows}"
        if not (folder / "manifest.json").is_file():
            write_cache(folder, rows)
    bench.settings = {"rows": [few, many], "dim": DIM, "steps": STEPS}
    for name, function in ((READING, read), (TRAINING, train)):
        held = [
            float(
                np.median([in_process(function, options.folder / f"rows-{rows}", rows) for _ in range(turns)])
            )
            for rows, turns in ((few, options.repeats), (many, options.repeats))
        ]
        for rows, megabytes in zip((few, many), held, strict=True):
            bench.figure(f"{name}, {rows:,} rows: MB", megabytes)
        bench.figure(
            f"{name}: memory of {many:,} rows, times that of {few:,}", held[1] / held[0], at_most=1.05
        )
    bench.close()


if __name__ == "__main__":
    main()
