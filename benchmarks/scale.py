"""What data sets of 3 million to a billion pairs cost: counted arithmetic and bytes, no GPU needed and none timed.

    python benchmarks/scale.py [--write docs/scale.md]

Products and sums are counted by PyTorch (clip_models.py), bytes from the cache's own format. Hours are those of one
H100 at its data-sheet peak, which nothing reaches: divide by the utilisation that gpu_training.py and gpu_caching.py
measure.
"""

import argparse
import math
from pathlib import Path

from clip_models import MEDIAN_TOKENS, NAMES, config_of, flops
from gpu import PEAK_FLOPS
from stored_caches import made_up_settings

from mmkd.cache.settings import MAX_SHARDS
from mmkd.cache.shard import shard_fields
from mmkd.files import write_text

SETS = {"CC3M": 2.9e6, "CC12M": 12.4e6, "LAION-400M": 400e6, "a billion": 1e9}
PAIRS_LOOP = (("b32", "b32"), ("b32", "b16"), ("b32", "l14"), ("b16", "b16"), ("b16", "l14"))
SEEN = 10  # epochs of one training
NEIGHBOURS = 32  # mined for each row: int32 each, and int64 for the row's place in an epoch
MARKS = "<!-- scale: written by benchmarks/scale.py -->\n", "<!-- end of scale -->\n"


def row_bytes(dim: int, pixels: int | None = None) -> float:
    """Bytes a row of a cache of one view and one caption."""
    settings = made_up_settings(2048, dim, pixels)
    return float(sum(field.bytes for field in shard_fields(settings, 0).values())) / 2048


def hours(operations: float) -> float:
    """Of one H100 at its peak."""
    return operations / PEAK_FLOPS["H100"] / 3600


def number(value: float) -> str:
    """Three digits, without a power of ten."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def table(header: list[str], rows: list[list[str]]) -> str:
    """A Markdown table, its numbers to the right."""
    lines = ["| " + " | ".join(header) + " |", "| --- |" + " ---: |" * (len(header) - 1)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])


def report() -> str:
    """The tables of docs/scale.md."""
    forward = {size: flops(config_of(size), MEDIAN_TOKENS, training=False) for size in ("b32", "b16", "l14")}
    step = {size: flops(config_of(size, half=True), MEDIAN_TOKENS, training=True) for size in ("b32", "b16")}
    parts = [
        f"GFLOP a pair at {MEDIAN_TOKENS} tokens: "
        + ", ".join(f"{NAMES[size]} teacher forward {forward[size] / 1e9:.1f}" for size in forward)
        + "; "
        + ", ".join(f"{NAMES[size]} 6+6 student's step {step[size] / 1e9:.1f}" for size in step)
        + "."
    ]
    bytes_ = {
        "512-d": row_bytes(512),
        "768-d": row_bytes(768),
        "pixels": row_bytes(512, 224) - row_bytes(512),
    }
    rows = []
    for name, pairs in SETS.items():
        shard = 16_384 * 2 ** max(0, math.ceil(math.log2(pairs / 16_384 / MAX_SHARDS)))
        rows.append(
            [
                f"{name}, {pairs / 1e6:,.4g} million",
                *(f"{number(pairs * each / 1e12)}" for each in bytes_.values()),
                f"{shard:,}",
                number(pairs * (4 * NEIGHBOURS + 8) / 1e9),
            ]
        )
    heads = ["", "cache of B/32 or B/16, TB", "of L/14, TB", "pixels on top, TB", "least --shard-rows"]
    parts.append(table([*heads, f"{NEIGHBOURS} negatives a row and their order, GB"], rows))
    rows = [
        [name, *(number(hours(pairs * forward[size])) for size in forward)] for name, pairs in SETS.items()
    ]
    parts.append(
        "Caching once, H100-hours at the peak:\n\n" + table(["", *(NAMES[s] for s in forward)], rows)
    )
    rows = []
    for student, teacher in PAIRS_LOOP:
        once, cached = forward[teacher], step[student]
        loop = cached + once
        rows.append(
            [
                f"{NAMES[teacher]} teaches {NAMES[student]} 6+6",
                *(
                    f"{number(hours(pairs * cached * SEEN))} / {number(hours(pairs * loop * SEEN))}"
                    for pairs in SETS.values()
                ),
                *(f"{loop * n * SEEN / (once + cached * n * SEEN):.2f}" for n in (1, 5)),
            ]
        )
    heads = ["", *SETS, "times, one training", "times, five"]
    parts.append(
        f"One training of {SEEN} epochs, H100-hours at the peak, cached / with the teacher in the loop; and how many\n"
        "times as much the loop costs when caching is paid, by one training or shared by five:\n\n"
        + table(heads, rows)
    )
    return "\n\n".join(parts)


def main() -> None:
    """Print the tables, and put them into the document."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--write", type=Path)
    options = parser.parse_args()
    text = report()
    print(text)
    if options.write is not None:
        before, _, rest = options.write.read_text(encoding="utf-8").partition(MARKS[0])
        write_text(options.write, f"{before}{MARKS[0]}\n{text}\n\n{MARKS[1]}{rest.partition(MARKS[1])[2]}")


if __name__ == "__main__":
    main()
