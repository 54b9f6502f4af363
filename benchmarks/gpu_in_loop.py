"""On a GPU, in bf16: a step with the teacher in the loop, against a cached step, as in_loop.py has it.

python benchmarks/gpu_in_loop.py [--batch 512]
"""

from pathlib import Path

from clip_models import MEDIAN_TOKENS, NAMES
from gpu import device_for, gpu_figure
from in_loop import measure
from side_by_side import Bench, arguments


def main() -> None:
    """Measure, print and write the result."""
    parser = arguments(__doc__)
    parser.add_argument("--batch", type=int, default=512)
    parser.add_argument("--folder", type=Path, default=Path("build"))
    options = parser.parse_args()
    device, bench = device_for(options), Bench(__file__, options)
    student, teachers, batch = (
        ("tiny", ["tiny"], 4) if options.small else ("b32", ["b32", "b16", "l14"], options.batch)
    )
    bench.settings = {"student": NAMES[student], "batch": batch, "tokens": MEDIAN_TOKENS}
    bench.figures.clear()
    shares = measure(
        bench, student, teachers, batch, options.folder / "in-loop-cache", device=device, bar=0.85
    )
    bench.figures.clear()  # those of a CPU are no figures of this benchmark
    for name, share in zip(teachers, shares, strict=True):
        gpu_figure(bench, f"GPU, {NAMES[name]}: of the ratio of the FLOPs", share, at_least=0.85)
    bench.close()


if __name__ == "__main__":
    main()
