"""A step with the teacher in the loop, against a cached step of the same student, recipe, captions and batch.

    python benchmarks/in_loop.py [--teachers b32 b16 l14] [--student b32]

What the cache saves is bounded by arithmetic: a step with the teacher costs its forward pass more. The figure is the
ratio of the times over the ratio of the FLOPs, which PyTorch counts. Weights are random, and cost what trained ones do.
The student is that of B/32, 6 + 6 layers; a B/16 teacher has the same width, and an L/14's is cut to it.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from clip_models import MEDIAN_TOKENS, NAMES, config_of, flops, random_clip
from side_by_side import Bench, arguments
from stored_caches import write_cache
from training_steps import Trainer, made_up_batch, with_teacher_in_loop

from mmkd.batches import DistillBatch
from mmkd.cache.store import open_cache
from mmkd.objective import LossReport


def main() -> None:
    """Measure, print and write the result."""
    parser = arguments(__doc__, clock="cpu")
    parser.add_argument("--teachers", nargs="+", default=["b32", "b16", "l14"])
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--folder", type=Path, default=Path("build"))
    options = parser.parse_args()
    student, teachers = ("tiny", ["tiny"]) if options.small else ("b32", options.teachers)
    bench = Bench(__file__, options)
    bench.settings = {"student": NAMES[student], "batch": options.batch, "tokens": MEDIAN_TOKENS}
    measure(bench, student, teachers, options.batch, options.folder / "in-loop-cache")
    bench.close()


def measure(
    bench: Bench,
    student: str,
    teachers: list[str],
    pairs: int,
    cache: Path,
    *,
    device: str = "cpu",
    bar: float = 0.9,
) -> list[float]:
    """Both ways for each teacher; the ratios of the times over those of the FLOPs."""
    trainer, shares = Trainer(student, device=device, precision="fp32" if device == "cpu" else "bf16"), []
    write_cache(cache, 20_000, 512)
    store = open_cache(cache, verify=False)
    batch = made_up_batch(pairs, MEDIAN_TOKENS).to(trainer.device)
    rows = np.random.default_rng(0).integers(0, 20_000, pairs)
    step_flops = flops(config_of(student, half=True), MEDIAN_TOKENS, training=True)

    def cached() -> None:
        found = store.read(rows)
        image, text = (side.to(trainer.device) for side in (found.raw_image, found.raw_text))
        trainer(replace(batch, teacher_image=image, teacher_text=text))
        trainer.wait()

    for name in teachers:
        teacher = random_clip(name).eval().requires_grad_(False)
        if teacher.config.projection_dim != 512:  # L/14's joint space is wider; the student's stays
            teacher.visual_projection = torch.nn.Linear(
                teacher.config.vision_config.hidden_size, 512, bias=False
            )
            teacher.text_projection = torch.nn.Linear(teacher.config.text_config.hidden_size, 512, bias=False)
        teacher.to(trainer.device)
        step = with_teacher_in_loop(trainer, teacher)

        def in_loop(step: Callable[[DistillBatch], LossReport] = step) -> None:
            step(batch)
            trainer.wait()

        bound = 1 + flops(config_of(name), MEDIAN_TOKENS, training=False) / step_flops
        ways = {
            f"cached step, beside {NAMES[name]}": cached,
            f"{NAMES[name]} in the loop": in_loop,
        }
        bench.time(ways)
        times = bench.ratio(*list(ways)[::-1])
        bench.figure(
            f"{NAMES[name]} in the loop, times a cached step", times, note=f"FLOPs allow {bound:.2f}"
        )
        bench.figure(f"{NAMES[name]}: of the ratio of the FLOPs", times / bound, at_least=bar)
        shares.append(times / bound)
    return shares


if __name__ == "__main__":
    main()
