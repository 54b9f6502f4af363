"""On a GPU: what a contrastive loss over a batch of 32,768 adds to the memory of a step.

    python benchmarks/gpu_tiled_loss.py [--batch 32768 --chunks 64]

A step in parts (GradCache), as ``mmkd train --accumulate`` takes it, with losses that compare every row with every
other, worked out by blocks of rows; against the same step with ``mse`` alone, which compares each row with its own
target: that one holds embeddings and activations, and nothing else. A matrix of all similarities would be 4 GB.
"""

from dataclasses import replace

import torch
from accelerate import Accelerator
from clip_models import MEDIAN_TOKENS
from gpu import device_for, gpu_figure
from side_by_side import Bench, arguments
from training_steps import Trainer, made_up_batch

from mmkd.batches import DistillBatch
from mmkd.objective import Objective
from mmkd.step import backward_step

TILED, PLAIN = "clip + triplet + affinity + mse", "mse"


def main() -> None:
    """Measure, print and write the result."""
    parser = arguments(__doc__)
    parser.add_argument("--batch", type=int, default=32_768)
    parser.add_argument("--chunks", type=int, default=64)
    options = parser.parse_args()
    device, bench = device_for(options), Bench(__file__, options)
    size, batch, chunks = ("tiny", 16, 4) if options.small else ("b32", options.batch, options.chunks)
    accelerator = Accelerator(cpu=device == "cpu", mixed_precision="no" if device == "cpu" else "bf16")
    trainer = Trainer(size, device=device)
    student = accelerator.prepare(trainer.student)
    few = made_up_batch(batch, MEDIAN_TOKENS) if options.small else many_pairs(batch)
    peaks = {}
    for expression in (PLAIN, TILED):
        objective = Objective(expression)

        def step(objective: Objective = objective) -> None:
            if device == "cuda":
                torch.cuda.reset_peak_memory_stats()
            backward_step(accelerator, student, objective, few, chunks=chunks)
            trainer.optimizer.zero_grad()
            trainer.wait()

        bench.time({f"step, {expression}": step}, repeats=min(options.repeats, 2))
        peaks[expression] = torch.cuda.max_memory_allocated() / 1e9 if device == "cuda" else 1.0
        gpu_figure(bench, f"GPU: peak memory of a step with {expression}, GB", peaks[expression])
    bench.settings = {"batch": batch, "chunks": chunks}
    gpu_figure(
        bench, "GPU: peak memory, times that without a matrix", peaks[TILED] / peaks[PLAIN], at_most=1.1
    )
    bench.close()


def many_pairs(batch: int) -> DistillBatch:
    """A batch on the host, its pixels as they are stored: 4.9 GB for 32,768 pairs."""
    found = made_up_batch(8, MEDIAN_TOKENS)
    draw = torch.Generator().manual_seed(0)
    ids = found.input_ids.repeat(batch // 8, 1)
    return replace(
        found,
        pixel_values=torch.randint(0, 256, (batch, 3, 224, 224), dtype=torch.uint8, generator=draw),
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        caption_ids=torch.arange(batch),
        image_ids=torch.arange(batch),
        teacher_image=torch.randn(batch, 512, generator=draw),
        teacher_text=torch.randn(batch, 512, generator=draw),
    )


if __name__ == "__main__":
    main()
