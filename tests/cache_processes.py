"""Commands that write caches, in processes of their own that are killed or whose disk fails, at little cost."""

import json
import os
import select
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import draw_pair, save_pairs

HERE = Path(__file__).parent
ROWS, SHARDS = 36, 5
SIZES = ("--shard-rows", "8")


class Processes:
    """Starts ``mmkd`` without its imports."""

    def __init__(self, folder: Path) -> None:
        if shutil.which("cc") is None:
            pytest.skip("faults are injected by a C library, and there is no C compiler")
        library = folder / "disk_faults.so"
        subprocess.run(
            ["cc", "-shared", "-fPIC", "-O1", "-o", library, HERE / "disk_faults.c", "-ldl"], check=True
        )
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "LD_PRELOAD": str(library)}
        self.server = subprocess.Popen(
            [sys.executable, str(HERE / "cache_worker.py")],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.folder = folder
        self.started = 0

    def ask(self, **job: Any) -> int:
        self.server.stdin.write(json.dumps(job) + "\n")
        self.server.stdin.flush()
        return int(self.server.stdout.readline())

    def start(self, command: "Command", **fault: Any) -> "Process":
        """Start a command; ``fault``: ``at``, ``error``, ``lasting``, ``file_size``, ``environment``."""
        self.started += 1
        log = self.folder / f"{self.started}.log"
        child = self.ask(arguments=command.arguments, folder=str(command.folder), log=str(log), **fault)
        return Process(self, child, log)

    def run(self, command: "Command", **fault: Any) -> "Process":
        """Run a command to its end."""
        process = self.start(command, **fault)
        process.wait()
        return process

    def close(self) -> None:
        self.server.stdin.close()
        self.server.wait(60)
        self.server.stdout.close()


@dataclass
class Process:
    """A started command."""

    of: Processes
    child: int
    log: Path
    code: int | None = None
    ended: int = field(init=False)

    def __post_init__(self) -> None:
        self.ended = os.pidfd_open(self.child)

    def wait(self, seconds: float = 120) -> int:
        """Its exit code."""
        if self.code is None:
            assert self.has_ended(seconds), f"it hangs: {self.said}"
            os.close(self.ended)
            self.code = self.of.ask(wait=self.child)
        return self.code

    def has_ended(self, seconds: float = 0) -> bool:
        """Whether it has, or does in so many seconds."""
        return bool(select.select([self.ended], [], [], seconds)[0])

    def kill(self) -> int:
        """Kill it; its exit code, which is another than -SIGKILL where it was faster."""
        os.kill(self.child, signal.SIGKILL)
        return self.wait()

    @property
    def said(self) -> str:
        return self.log.read_text() if self.log.exists() else ""

    @property
    def done(self) -> list[str]:
        """What it did to files, and which shards it began to embed."""
        file = self.log.with_suffix(".done")
        return file.read_text().splitlines() if file.exists() else []

    @property
    def embedded(self) -> list[int]:
        return [int(line.split()[1]) for line in self.done if line.startswith("embed ")]


@dataclass(frozen=True)
class Command:
    """A command and the folder that it writes."""

    arguments: list[str]
    folder: Path


@dataclass(frozen=True)
class Workload:
    """Commands on small data, with what they write undisturbed."""

    build: list[str]
    imports: list[str]
    reference: dict[str, Path]

    def command(self, kind: str, folder: Path) -> Command:
        """``build`` or ``import`` into ``folder``."""
        words = self.build if kind == "build" else self.imports
        return Command([*words, *SIZES, "--out", str(folder)], folder)

    def expected(self, kind: str) -> dict[str, bytes]:
        """The files that it writes when nothing disturbs it."""
        return contents(self.reference[kind])


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a folder, hidden ones included."""
    return {path.name: path.read_bytes() for path in folder.iterdir()} if folder.exists() else {}


def make_workload(folder: Path, teacher: Path, processes: Processes) -> Workload:
    """36 pairs to embed and 36 to import, 5 shards each; both done once."""
    images, captions = zip(*(draw_pair(row) for row in range(ROWS)), strict=True)
    data = save_pairs(folder / "pairs.parquet", list(images), list(captions))
    random = np.random.default_rng(0)
    columns = {
        name: pa.array(list(random.standard_normal((ROWS, 32)).astype(np.float32))) for name in ("one", "two")
    }
    columns |= {"caption": list(captions), "key": [f"{row:09d}" for row in range(ROWS)]}
    pq.write_table(pa.table(columns), folder / "vectors.parquet")
    build = ["cache-teacher", "--teacher", str(teacher), "--data", str(data), "--batch-size", "4"]
    imports = ["cache", "import", str(folder / "vectors.parquet"), "--image-column", "one"]
    imports += ["--text-column", "two", "--caption-column", "caption"]
    found = Workload(build, imports, {kind: folder / kind / "cache" for kind in ("build", "import")})
    for kind, out in found.reference.items():
        process = processes.run(found.command(kind, out))
        assert process.code == 0, process.said
    return found


def file_operations(process: Process) -> list[str]:
    """What a process did to files, in the order by which ``at`` counts."""
    return [line for line in process.done if not line.startswith("embed ")]


def check_what_is_there(folder: Path, expected: dict[str, bytes]) -> set[int]:
    """Whatever has a name of its own is whole and right; the numbers of the shards that are committed."""
    found = {name: value for name, value in contents(folder).items() if not name.startswith(".")}
    for name, value in found.items():
        assert value == expected[name], f"{name} is not what an undisturbed run writes"
    shards = {int(name[6:11]) for name in found if name.startswith("shard-") and name.endswith(".json")}
    assert all(f"shard-{index:05d}.h5" in found for index in shards)
    assert "manifest.json" not in found or len(shards) == SHARDS
    return shards


def shards_written(process: Process) -> list[int]:
    """The shards that a process was about to give their names, one entry a time."""
    names = [line.split()[1] for line in process.done if line.startswith("rename shard-")]
    return [int(name[6:11]) for name in names if name.endswith(".h5")]
