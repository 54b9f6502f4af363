"""What the benchmarks for a GPU share: finding it, what it can do at most, and what becomes of figures without one."""

import argparse
import sys
from typing import Any

import torch
from side_by_side import Bench

# Dense bfloat16 products and sums a second, of NVIDIA's data sheets.
PEAK_FLOPS = {
    "H100": 989e12,
    "H200": 989e12,
    "GH200": 989e12,
    "A100": 312e12,
    "L40S": 362e12,
    "RTX 4090": 165e12,
}


def device_for(options: argparse.Namespace) -> str:
    """``cuda``; without a GPU ``cpu``, and only at small size, to see that the script runs."""
    if torch.cuda.is_available():
        return "cuda"
    if not options.small:
        print(
            "no GPU here: nothing was measured; --small runs the same on the CPU at a size that says nothing"
        )
        sys.exit(0)
    return "cpu"


def peak_flops() -> float | None:
    """Of this GPU; None: not in the table, or there is none."""
    if not torch.cuda.is_available():
        return None
    name = torch.cuda.get_device_name()
    return next((PEAK_FLOPS[key] for key in sorted(PEAK_FLOPS, key=len, reverse=True) if key in name), None)


def gpu_figure(bench: Bench, name: str, value: float | None, **bar: Any) -> None:
    """A figure that counts only where a GPU gave it."""
    if torch.cuda.is_available():
        bench.figure(name, value, **bar)
    else:
        bench.figure(name, None, **bar, note="no GPU")


def utilisation(flops_a_second: float) -> float | None:
    """Model FLOPs utilisation, of the GPU's peak in bfloat16."""
    peak = peak_flops()
    return None if peak is None else flops_a_second / peak
