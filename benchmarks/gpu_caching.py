"""On a GPU, in bf16: caching by ViT-L/14 end to end, against a bare loop of its forward passes, and its utilisation.

python benchmarks/gpu_caching.py [--images 4096 --batch 256]
"""

from caching import measure
from gpu import device_for, gpu_figure, utilisation
from side_by_side import Bench, arguments


def main() -> None:
    """Measure, print and write the result."""
    parser = arguments(__doc__)
    parser.add_argument("--teacher", default="l14")
    parser.add_argument("--images", type=int, default=4096)
    parser.add_argument("--batch", type=int, default=256)
    options = parser.parse_args()
    device_for(options)
    bench = Bench(__file__, options)
    share, rate = measure(bench, options)
    bench.figures.clear()
    gpu_figure(bench, "GPU: caching by ViT-L/14, of a bare forward loop", share)
    gpu_figure(bench, "GPU: MFU of caching by ViT-L/14, end to end", utilisation(rate), at_least=0.40)
    bench.close()


if __name__ == "__main__":
    main()
