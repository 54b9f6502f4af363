"""On a GPU: how much of it a training uses, in bf16, and how long it waits for its data from stored pixels.

    python benchmarks/gpu_training.py [--batch 1024]

The utilisation is of constant batches, already on the device: the student's own arithmetic, forward and backward, as
PyTorch counts it, over the time and the GPU's dense peak. Waiting for data is how much longer steps take that get their
batches from the training's own stream: rows of a cache's stored pixels, captions tokenised, targets read, by workers.
"""

from pathlib import Path
from typing import Any

import torch
from clip_models import MEDIAN_TOKENS, NAMES, config_of, flops, random_encoder, real_captions
from gpu import device_for, gpu_figure, utilisation
from side_by_side import Bench, arguments
from stored_caches import write_cache
from training_steps import Trainer, made_up_batch

from mmkd.batches import BatchReader, BatchStream
from mmkd.cache.store import open_cache
from mmkd.pairs import Pair
from mmkd.row_set import RowSet
from mmkd.sampling import BatchPlan

CLAIMS = {"b32": 0.35, "b16": 0.45}
STEPS = 20


class Captions:
    """Real captions without images, for a cache that holds the pixels; its hashes are taken for granted."""

    sides: tuple[str, ...] = ()

    def __init__(self) -> None:
        self.texts = real_captions()

    def __getitem__(self, row: int) -> Pair:
        return Pair(b"", (self.texts[row % len(self.texts)],))


def main() -> None:
    """Measure, print and write the result."""
    parser = arguments(__doc__)
    parser.add_argument("--batch", type=int, default=1024)
    parser.add_argument("--rows", type=int, default=20_480, help="of the cache: 150 KB of pixels each")
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--folder", type=Path, default=Path("build"))
    options = parser.parse_args()
    device, bench = device_for(options), Bench(__file__, options)
    batch, rows, steps = (4, 12, 2) if options.small else (options.batch, options.rows, STEPS)
    folder = options.folder / f"pixels-{rows}"
    write_cache(folder, rows, 512, pixels=224)
    bench.settings = {
        "batch": batch,
        "steps_a_turn": steps,
        "tokens": MEDIAN_TOKENS,
        "workers": options.workers,
    }
    for size in ("tiny",) if options.small else tuple(CLAIMS):
        trainer = Trainer(size, device=device, precision="bf16", compiled=device == "cuda")
        constant = made_up_batch(batch, MEDIAN_TOKENS).to(trainer.device)
        batches = stream(folder, batch, 0 if options.small else options.workers)

        def on_constants(trainer: Trainer = trainer, constant: Any = constant) -> None:
            for _ in range(steps):
                trainer(constant)
            trainer.wait()

        def on_stream(trainer: Trainer = trainer, batches: Any = batches) -> None:
            for _ in range(steps):
                trainer(next(batches).to(trainer.device))
            trainer.wait()

        names = [
            f"{NAMES[size]}: {steps} steps on constants",
            f"{NAMES[size]}: {steps} steps from stored pixels",
        ]
        sides = bench.time(dict(zip(names, (on_constants, on_stream), strict=True)))
        each = flops(config_of(size, half=True), MEDIAN_TOKENS, training=True)
        rate = each * batch * steps / sides[names[0]].median("wall")
        gpu_figure(
            bench, f"MFU of training, {NAMES[size]} 6+6, bf16", utilisation(rate), at_least=CLAIMS.get(size)
        )
        waiting = max(0.0, bench.ratio(names[1], names[0]) - 1)
        gpu_figure(bench, f"waiting for data, share of a step, {NAMES[size]}", waiting, at_most=0.02)
    bench.close()


def stream(folder: Path, batch: int, workers: int) -> Any:
    """Endless batches as a training gets them."""
    store, encoder = open_cache(folder, verify=False), random_encoder("tiny")
    pairs: Any = Captions()
    reader = BatchReader(pairs, encoder.image_processor, encoder.tokenizer, 77, store)
    plan = BatchPlan(RowSet.all_of(len(store)), batch, seed=0)
    return BatchStream(reader, plan, rank=0, world=1, workers=workers).from_step(0)


if __name__ == "__main__":
    torch.set_float32_matmul_precision("high")
    main()
