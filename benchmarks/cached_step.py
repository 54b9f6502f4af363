"""A step on targets from a cache, against the same step on constant targets that are in memory already.

    python benchmarks/cached_step.py [--batch 16]

Both decode the same images and tokenise the same captions through the training's own reader; the one looks every row
up in the cache, holds its hashes against the data's and reads its targets, the other has them. The student is a
half-depth B/32 with random weights. The time that the cache itself takes of a step is timed beside them.
"""

import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from clip_models import random_encoder
from pixels import draw_photos
from side_by_side import Bench, arguments
from training_steps import Trainer

from mmkd.batches import BatchReader
from mmkd.cache.build import build_cache
from mmkd.cache.store import open_cache
from mmkd.data import DataSource, open_pairs
from mmkd.row_set import RowSet
from mmkd.sampling import BatchPlan, StepRows

CACHED, CONSTANT = "step on targets from the cache", "step on constant targets"
READING = "the cache's part of it: hashes and targets"


def main() -> None:
    """Measure, print and write the result."""
    parser = arguments(__doc__, clock="cpu")
    parser.add_argument("--batch", type=int, default=16)
    options = parser.parse_args()
    batch = 4 if options.small else options.batch
    bench = Bench(__file__, options)
    trainer = Trainer("tiny" if options.small else "b32")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        encoder = random_encoder("tiny")  # what made the targets costs a step nothing
        pairs = open_pairs([DataSource(str(draw_photos(folder / "photos.parquet", 4 * batch)))])
        build_cache(encoder, pairs, folder / "cache")
        store = open_cache(folder / "cache")
        readers = [
            BatchReader(pairs, encoder.image_processor, encoder.tokenizer, 77, given)
            for given in (store, None)
        ]
        plan = BatchPlan(RowSet.all_of(len(pairs)), batch, seed=0)
        steps = [
            StepRows(rows, draws, np.zeros(0, np.int64), np.zeros(batch, np.int64))
            for rows, draws in plan.batches(0)
        ]
        targets = torch.randn(2, batch, 512)
        turn = iter(range(10**9))

        def cached() -> None:
            trainer(readers[0].__getitems__(steps[next(turn) // 2 % len(steps)]))

        def constant() -> None:
            found = readers[1].__getitems__(steps[next(turn) // 2 % len(steps)])
            trainer(replace(found, teacher_image=targets[0], teacher_text=targets[1]))

        def reading() -> None:
            for step in steps:
                store.hashes(step.rows)
                store.read(step.rows, np.zeros_like(step.rows), step.views)

        bench.time({CACHED: cached, CONSTANT: constant})
        bench.time({READING: reading})
        bench.settings = {"student": "ViT-B/32, 6 + 6 layers", "batch": batch}
        bench.figure(
            "cached step, times one on constant targets", bench.ratio(CACHED, CONSTANT), at_most=1.02
        )
        part = bench.sides[READING].median(options.clock) / len(steps)
        whole = bench.sides[CONSTANT].median(options.clock)
        bench.figure("the same from the cache's own part of a step", 1 + part / whole, at_most=1.02)
    bench.close()


if __name__ == "__main__":
    main()
