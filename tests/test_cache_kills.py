"""Caching, the manifest's writing and an import that are killed end as if nothing had happened.

``MMKD_KILLS`` is the number of kills; `make torture` asks for many.
"""

import collections
import itertools
import os
import random
import shutil
import time
from pathlib import Path

import pytest
from cache_processes import (
    SHARDS,
    Process,
    Processes,
    Workload,
    check_what_is_there,
    contents,
    file_operations,
    shards_written,
)

KILLS = int(os.environ.get("MMKD_KILLS", "6"))
SEED = int(os.environ.get("MMKD_KILLS_SEED", "0"))
STAGES = ("build", "import", "build manifest", "import manifest")
HOW = ("operation", "moment", "write")
KILLED = -9
pytestmark = pytest.mark.slow


class Course:
    """One cache, killed on its way again and again."""

    def __init__(self, workload: Workload, stage: str, folder: Path) -> None:
        self.kind, _, last = stage.partition(" ")
        self.command = workload.command(self.kind, folder)
        self.expected = workload.expected(self.kind)
        self.begun: collections.Counter[int] = collections.Counter()
        self.kills = 0
        if last:  # all but the manifest is there
            shutil.copytree(workload.reference[self.kind], folder)
            (folder / "manifest.json").unlink()
        self.committed = check_what_is_there(folder, self.expected)

    def check(self, *processes: Process) -> None:
        """What processes that ran together left, and what each did."""
        for process in processes:
            assert process.code in (0, KILLED), process.said
            self.kills += process.code == KILLED
            redone = self.committed & {*process.embedded, *shards_written(process)}
            assert not redone, f"shards {redone} were committed and made again"
            self.begun.update(process.embedded if self.kind == "build" else shards_written(process))
        before, self.committed = self.committed, check_what_is_there(self.command.folder, self.expected)
        assert before <= self.committed, "a committed shard is lost"

    def check_end(self) -> None:
        """All files are those of an undisturbed run, none is left over, and little was done twice."""
        assert contents(self.command.folder) == self.expected
        assert sum(self.begun.values()) <= SHARDS + self.kills, self.begun


@pytest.fixture(scope="module")
def undisturbed(processes, workload, tmp_path_factory) -> dict[str, tuple[list[str], float]]:
    """Of each stage: what it does to files, and how long it takes."""
    found = {}
    for stage in STAGES:
        course = Course(workload, stage, tmp_path_factory.mktemp("undisturbed") / "cache")
        started = time.perf_counter()
        process = processes.run(course.command)
        course.check(process)
        course.check_end()
        found[stage] = file_operations(process), time.perf_counter() - started
    return found


def kill_once(
    processes: Processes,
    course: Course,
    how: str,
    operations: list[str],
    seconds: float,
    chance: random.Random,
) -> Process:
    if how == "moment":
        process = processes.start(course.command)
        process.has_ended(chance.uniform(0, seconds))
        process.kill()
        return process
    places = [
        number for number, line in enumerate(operations, 1) if how != "write" or line.startswith("write")
    ]
    return processes.run(course.command, at=chance.choice(places))


def test_killed_at_random_it_ends_as_if_nothing_had_happened(
    processes,
    workload,
    undisturbed,
    tmp_path,
) -> None:
    chance = random.Random(SEED)
    kills: collections.Counter[str] = collections.Counter()
    hows, caches = itertools.cycle(HOW), 0
    for stage in itertools.cycle(STAGES):
        if kills.total() >= KILLS:
            break
        course, caches = Course(workload, stage, tmp_path / "cache"), caches + 1
        for _ in range(4):
            how = next(hows)
            process = kill_once(processes, course, how, *undisturbed[stage], chance)
            course.check(process)
            kills[f"{stage}, {how}"] += process.code == KILLED
            if process.code == 0 or kills.total() >= KILLS:
                break
        course.check(processes.run(course.command))
        course.check_end()
        shutil.rmtree(tmp_path / "cache")
    print(f"\n{kills.total()} kills over {caches} caches: {dict(kills)}")
    if KILLS >= 60:  # fewer may by chance all be alike
        assert min(kills[f"{stage}, {how}"] for stage in STAGES for how in HOW) > 0


def start_pair(processes: Processes, course: Course, **fault: int) -> list[Process]:
    """Two processes as a launcher starts them; the second has the fault."""
    places = [{"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"} for rank in range(2)]
    first = processes.start(course.command, environment=places[0])
    return [first, processes.start(course.command, environment=places[1], **fault)]


def test_two_processes_are_killed(processes, workload, undisturbed, tmp_path) -> None:
    """Both at a random moment; then the second alone, whose shards the first one takes over."""
    chance = random.Random(SEED)
    operations, seconds = undisturbed["build"]
    kills = 0
    while kills < max(2, KILLS // 5):
        course = Course(workload, "build", tmp_path / "cache")
        pair = start_pair(processes, course)
        pair[0].has_ended(chance.uniform(0.2, 1) * seconds)
        for process in pair:
            process.kill()
        course.check(*pair)
        pair = start_pair(processes, course, at=chance.randint(1, len(operations) // 2))
        for process in reversed(pair):
            process.wait()
        course.check(*pair)
        assert pair[0].code == 0, pair[0].said
        # One that is killed after the other has ended leaves its lock, which the next command takes away.
        assert contents(course.command.folder).keys() - course.expected.keys() <= {".writing.lock"}
        course.check(processes.run(course.command))
        course.check_end()
        kills += course.kills
        shutil.rmtree(tmp_path / "cache")
    print(f"\n{kills} kills of one of two processes")
