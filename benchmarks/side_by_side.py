"""Ways to do the same thing, timed by turns in one run; what came of it as a table and as JSON.

Every benchmark of a claim is a file of its own that measures through this one, so that all of them print and write the
same: medians of both sides, the ratio that the claim is about, and whether it holds.
"""

import argparse
import gc
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from mmkd.files import write_json

SCHEMA, SCHEMA_VERSION = "mmkd-benchmark", 1
OUT = Path("build/bench")
REPEATS = 5
_PACKAGES = (
    "mmkd",
    "torch",
    "transformers",
    "numpy",
    "h5py",
    "faiss-cpu",
    "pillow",
    "datasets",
    "accelerate",
)


@dataclass
class Side:
    """Seconds of each turn of one way to do it.

    Attributes:
        wall: by the clock on the wall.
        cpu: of all threads of this process together, which other programs on the machine change least.
    """

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)

    def seconds(self, clock: str) -> list[float]:
        """By ``wall`` or ``cpu``."""
        return self.cpu if clock == "cpu" else self.wall

    def median(self, clock: str) -> float:
        """The median turn."""
        return statistics.median(self.seconds(clock))


@dataclass(frozen=True)
class Timed:
    """Seconds that a way took somewhere else, in a peer's process: they count instead of ours."""

    wall: float
    cpu: float


@dataclass(frozen=True)
class Figure:
    """A number that a claim is about.

    Attributes:
        name: what it is, in words.
        value: what was measured; None: it could not be, and ``note`` says why.
        at_least: the claim; None: there is none of this kind.
        at_most: the claim; None: there is none of this kind.
        note: what a reader needs beside it.
    """

    name: str
    value: float | None
    at_least: float | None = None
    at_most: float | None = None
    note: str = ""

    @property
    def holds(self) -> bool | None:
        """Whether the claim was met; None: nothing was measured, or nothing claimed."""
        if self.value is None or (self.at_least is None and self.at_most is None):
            return None
        return (self.at_least is None or self.value >= self.at_least) and (
            self.at_most is None or self.value <= self.at_most
        )

    @property
    def claim(self) -> str:
        """``at least 0.9``."""
        if self.at_least is not None:
            return f"at least {self.at_least:g}"
        return "" if self.at_most is None else f"at most {self.at_most:g}"


def alternate(
    ways: Mapping[str, Callable[[], Any]],
    *,
    repeats: int = REPEATS,
    before: Callable[[], None] = lambda: None,
    warm: bool = True,
) -> dict[str, Side]:
    """Time each way once a turn, in turns that run forwards and backwards, so that a busy moment hits both.

    Args:
        ways: what to time, by name.
        repeats: turns.
        before: done, untimed, before each call: ``os.sync``, say.
        warm: call each once beforehand, untimed.
    """
    for way in ways.values() if warm else ():
        before()
        way()
    sides = {name: Side() for name in ways}
    gc.collect()
    gc.disable()  # what one way leaves behind is not to be collected while another is timed
    try:
        for turn in range(repeats):
            for name in list(ways)[:: -1 if turn % 2 else 1]:
                before()
                spent = _clocked(ways[name])
                sides[name].wall.append(spent.wall)
                sides[name].cpu.append(spent.cpu)
    finally:
        gc.enable()
    return sides


def _clocked(way: Callable[[], Any]) -> Timed:
    wall, cpu = time.perf_counter(), time.process_time()
    said = way()
    spent = Timed(time.perf_counter() - wall, time.process_time() - cpu)
    return said if isinstance(said, Timed) else spent


def ratio(sides: Mapping[str, Side], over: str, under: str, clock: str = "wall") -> float:
    """The one's median seconds over the other's."""
    return sides[over].median(clock) / sides[under].median(clock)


def arguments(doc: str | None, *, clock: str = "wall") -> argparse.ArgumentParser:
    """The options that every benchmark has."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=REPEATS, help=f"turns (default {REPEATS})")
    parser.add_argument("--out", type=Path, default=OUT, help=f"folder of the JSON (default {OUT})")
    parser.add_argument(
        "--clock", choices=("wall", "cpu"), default=clock, help=f"what ratios are of (default {clock})"
    )
    parser.add_argument(
        "--threads", type=int, default=1, help="of each process's arithmetic; 0: as many as cores (default 1)"
    )
    parser.add_argument("--small", action="store_true", help="sizes that say nothing, to see that it runs")
    return parser


class Bench:
    """One benchmark's run: its options, what it found, and where that goes.

    Args:
        file: the benchmark's ``__file__``.
        options: of ``arguments``.
    """

    def __init__(self, file: str, options: argparse.Namespace) -> None:
        self.name, self.options = Path(file).stem, options
        self.sides: dict[str, Side] = {}
        self.figures: list[Figure] = []
        self.settings: dict[str, Any] = {}
        self._load, self._started = _load(), time.perf_counter()
        set_threads(options.threads)
        print(f"{self.name}", flush=True)

    def time(self, ways: Mapping[str, Callable[[], Any]], **options: Any) -> dict[str, Side]:
        """``alternate`` as often as asked, printed and kept."""
        options = {"repeats": self.options.repeats} | options
        sides = alternate(ways, **options)
        for name, side in sides.items():
            print(
                f"  {name:<58} {side.median('wall'):10.4f} s   cpu {side.median('cpu'):10.4f} s", flush=True
            )
        self.sides |= sides
        return sides

    def ratio(self, over: str, under: str) -> float:
        """Of two sides that were timed by turns, by the clock that was asked for."""
        return ratio(self.sides, over, under, self.options.clock)

    def figure(self, name: str, value: float | None, **bar: Any) -> None:
        """Print and keep a figure; ``bar`` as of ``Figure``."""
        found = Figure(name, value, **bar)
        said = "not measured" if value is None else f"{value:.4g}"
        verdict = {True: "holds", False: "FALLS SHORT", None: ""}[found.holds]
        print(f"  {name:<58} {said:>12}   {found.claim} {verdict} {found.note}".rstrip(), flush=True)
        self.figures.append(found)

    def close(self) -> None:
        """Write ``<out>/<name>.json``."""
        value = {
            "schema": SCHEMA,
            "schema_version": SCHEMA_VERSION,
            "benchmark": self.name,
            "command": f"python benchmarks/{self.name}.py {' '.join(_told(sys.argv[1:]))}".strip(),
            "small": self.options.small,
            "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
            "seconds": time.perf_counter() - self._started,
            "clock": self.options.clock,
            "machine": machine(),
            "versions": versions(),
            "load": {"before": self._load, "after": _load()},
            "settings": self.settings,
            "sides": {
                name: asdict(side) | {"median_wall": side.median("wall"), "median_cpu": side.median("cpu")}
                for name, side in self.sides.items()
            },
            "figures": [asdict(figure) | {"holds": figure.holds} for figure in self.figures],
        }
        write_json(self.options.out / f"{self.name}.json", value)


def set_threads(count: int) -> None:
    """Let PyTorch and FAISS use ``count`` threads, where they are loaded; 0: as many as they like."""
    if count and "torch" in sys.modules:
        import torch

        torch.set_num_threads(count)
    if count and "faiss" in sys.modules:
        import faiss

        faiss.omp_set_num_threads(count)


def _told(words: Sequence[str]) -> list[str]:
    """The options as typed, but for where the JSON goes."""
    kept = [w for i, w in enumerate(words) if w != "--out" and (i == 0 or words[i - 1] != "--out")]
    return [word for word in kept if not word.startswith("--out=")]


def machine() -> dict[str, Any]:
    """What it ran on, without what names it."""
    found: dict[str, Any] = {"system": platform.system(), "architecture": platform.machine()}
    with Path("/proc/cpuinfo").open(encoding="utf-8") as stream:
        models = [line.partition(":")[2].strip() for line in stream if line.startswith("model name")]
    found["cpu"] = f"{len(models)} x {models[0] if models else 'unknown'}"
    found["memory_gb"] = round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1)
    if "torch" in sys.modules:
        import torch

        found["threads"] = torch.get_num_threads()
        found["gpu"] = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return found


def versions() -> dict[str, str]:
    """Of Python and what does the work."""
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def _load() -> float:
    return os.getloadavg()[0]


def read_results(folder: Path) -> dict[str, dict[str, Any]]:
    """What ``Bench.close`` wrote into ``folder``, by benchmark."""
    found = {}
    for path in sorted(folder.glob("*.json")):
        value = json.loads(path.read_text(encoding="utf-8"))
        if value.get("schema") == SCHEMA and value.get("schema_version") == SCHEMA_VERSION:
            found[value["benchmark"]] = value
    return found
