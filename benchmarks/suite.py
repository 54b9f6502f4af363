"""All benchmarks of a claim, one after another; their ratios held against those recorded; the tables of the document.

python benchmarks/suite.py run          what this machine can run (make bench)
python benchmarks/suite.py check        name each ratio that fell by more than 10 % (make bench-check)
python benchmarks/suite.py record       take the ratios of build/bench for the recorded ones
python benchmarks/suite.py write        write the tables of docs/performance.md from build/bench
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from side_by_side import OUT, read_results

from mmkd.files import write_json, write_text

HERE = Path(__file__).parent
RECORDED, DOCUMENT = HERE / "recorded.json", HERE.parent / "docs" / "performance.md"
TOLERANCE = 0.10
CPU = (
    "cache_write",
    "cache_read",
    "random_batches",
    "caching",
    "cached_step",
    "in_loop",
    "caption_trimming",
    "exact_mining",
    "mining_peer",
    "approximate_mining",
    "anonymous_memory",
    "large_jpegs",
    "zero_shot_pipeline",
    "start_up",
    "growth",
)
GPU = ("gpu_training", "gpu_in_loop", "gpu_caching", "gpu_mining", "gpu_tiled_loss", "gpu_open_clip")
MARKS = "<!-- {}: written by benchmarks/suite.py -->\n", "<!-- end of {} -->\n"
Results = Mapping[str, Mapping[str, Any]]


def has_gpu() -> bool:
    """Whether there is one that PyTorch can use."""
    import torch

    return torch.cuda.is_available()


def run(out: Path, names: list[str], small: bool) -> int:
    """Run the benchmarks, each in a process of its own; how many failed."""
    chosen = names or [*CPU, *(GPU if has_gpu() else ())]
    if not names and not has_gpu():
        print(f"no GPU: {', '.join(GPU)} are left out, and their figures stay not measured\n")
    failed = 0
    for name in chosen:
        (out / f"{name}.json").unlink(missing_ok=True)  # of an earlier run: one that fails now has no figures
        command = [
            sys.executable,
            str(HERE / f"{name}.py"),
            "--out",
            str(out),
            *(["--small"] if small else []),
        ]
        failed += subprocess.run(command, check=False).returncode != 0
    ran = {name: result for name, result in read_results(out).items() if name in chosen}
    missed = [(name, figure) for name, figure in figures(ran) if figure["holds"] is False]
    print(f"\n{len(chosen) - failed} benchmarks ran, {failed} failed; {len(missed)} claims fall short:")
    for name, figure in missed:
        print(f"  {name}: {figure['name']} is {figure['value']:.4g}; expected {claim(figure)}")
    return failed


def figures(results: Results) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every figure of every benchmark."""
    for name, result in results.items():
        for figure in result["figures"]:
            yield name, figure


def claim(figure: Mapping[str, Any]) -> str:
    """``at least 0.9``; empty where nothing is claimed."""
    if figure["at_least"] is not None:
        return f"at least {figure['at_least']:g}"
    return "" if figure["at_most"] is None else f"at most {figure['at_most']:g}"


def ratios(results: Results) -> dict[str, dict[str, float]]:
    """What is recorded: the figures that something is claimed of, by benchmark and name, and which way is better."""
    found: dict[str, dict[str, float]] = {}
    for name, figure in figures(results):
        if figure["value"] is not None and claim(figure) and not results[name]["small"]:
            found.setdefault(name, {})[figure["name"]] = figure["value"]
    return found


def fallen(results: Results, recorded: Mapping[str, Mapping[str, float]]) -> list[str]:
    """A line for each figure that is worse than recorded by more than ``TOLERANCE``."""
    lines = []
    for name, figure in figures(results):
        before, now = recorded.get(name, {}).get(figure["name"]), figure["value"]
        if before is None or now is None or results[name]["small"]:
            continue
        low, high = before * (1 - TOLERANCE), before * (1 + TOLERANCE)
        if (figure["at_least"] is not None and now < low) or (figure["at_most"] is not None and now > high):
            lines.append(f"{name}: {figure['name']} is {now:.4g}, and {before:.4g} is recorded")
    return lines


def check(out: Path) -> int:
    """Print what fell; how many did."""
    results, recorded = read_results(out), json.loads(RECORDED.read_text(encoding="utf-8"))
    lines = fallen(results, recorded)
    for line in lines:
        print(line)
    missing = sorted(recorded.keys() - results.keys())
    print(
        f"{len(lines)} figures fell by more than {TOLERANCE:.0%}"
        + (f"; not run: {', '.join(missing)}" if missing else "")
    )
    return len(lines)


def shown(value: float | None) -> str:
    """Four digits, or that it was not measured."""
    return "not measured" if value is None else f"{value:,.4g}" if abs(value) < 1000 else f"{value:,.0f}"


def table(results: Results, names: tuple[str, ...]) -> str:
    """Figures of some benchmarks, with claim and command, as Markdown."""
    lines = ["| figure | claim | measured | |", "| --- | --- | ---: | --- |"]
    for name in names:
        if name not in results or results[name]["small"]:
            lines.append(f"| `{name}.py` | | **not measured** | |")
            continue
        for figure in results[name]["figures"]:
            verdict = {True: "holds", False: "**falls short**", None: ""}[figure["holds"]]
            lines.append(f"| {figure['name']} | {claim(figure)} | {shown(figure['value'])} | {verdict} |")
    return "\n".join(lines)


def runs(results: Results, names: tuple[str, ...]) -> str:
    """With what command, when, by which clock and under which load each was run, as Markdown."""
    lines = ["| command | date | clock | threads | load |", "| --- | --- | --- | ---: | ---: |"]
    for name in names:
        if name in results and not results[name]["small"]:
            one = results[name]
            load = f"{one['load']['before']:.1f} to {one['load']['after']:.1f}"
            threads = one["machine"].get("threads", "")
            lines.append(f"| `{one['command']}` | {one['date']} | {one['clock']} | {threads} | {load} |")
    return "\n".join(lines)


def write(out: Path) -> None:
    """Put the tables between their marks in the document."""
    results, text = read_results(out), DOCUMENT.read_text(encoding="utf-8")
    parts = {"figures": table(results, CPU), "gpu": table(results, GPU), "runs": runs(results, (*CPU, *GPU))}
    for name, part in parts.items():
        first, last = (mark.format(name) for mark in MARKS)
        before, _, rest = text.partition(first)
        text = f"{before}{first}\n{part}\n\n{last}{rest.partition(last)[2]}"
    write_text(DOCUMENT, text)


def main() -> None:
    """Do what the first word says."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("run", "check", "record", "write"))
    parser.add_argument("names", nargs="*", help="benchmarks to run; default: all that the machine can")
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--small", action="store_true")
    options = parser.parse_args()
    if options.what == "run":
        sys.exit(run(options.out, options.names, options.small) > 0)
    if options.what == "check":
        sys.exit(check(options.out) > 0)
    if options.what == "record":
        write_json(RECORDED, ratios(read_results(options.out)))
    else:
        write(options.out)


if __name__ == "__main__":
    main()
