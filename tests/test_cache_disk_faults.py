"""A disk that is full or fails at a write: an error in one line, what is there is whole, and it goes on from there.

CI breaks a few writes of each command; `make torture` breaks every one of them, in each way.
"""

import errno
import os
import random
from collections import Counter

import pytest
from cache_processes import SHARDS, Process, check_what_is_there, contents, file_operations

FULL = os.environ.get("MMKD_FULL", "0") not in {"", "0"}
FEW = 8
# A full disk stays full; a failing one may fail once. With a quota each file is cut at a size instead.
FAULTS = {"full": (errno.ENOSPC, 1), "failing": (errno.EIO, 0)}
pytestmark = pytest.mark.slow


def check_refusal(process: Process) -> None:
    """One line for people, and no traceback."""
    errors = [line for line in process.said.splitlines() if line.startswith("mmkd: ")]
    assert process.code == 1, process.said
    assert len(errors) == 1, process.said
    assert "Traceback" not in process.said


@pytest.mark.parametrize("kind", ["build", "import"])
@pytest.mark.parametrize("fault", list(FAULTS))
def test_a_disk_that_fails_at_a_write(processes, workload, tmp_path, kind, fault) -> None:
    number, lasting = FAULTS[fault]
    command, expected = workload.command(kind, tmp_path / "cache"), workload.expected(kind)
    operations = file_operations(processes.run(command))
    assert contents(command.folder) == expected
    places = [place for place, line in enumerate(operations, 1) if not line.startswith("remove")]
    if not FULL:
        places = sorted(random.Random(0).sample(places, FEW))
    outcomes: Counter[str] = Counter()
    for place in places:
        folder = tmp_path / f"cache-{place}"
        command = workload.command(kind, folder)
        broken = processes.run(command, at=place, error=number, lasting=lasting)
        committed = check_what_is_there(folder, expected)
        name = operations[place - 1]
        if broken.code == 0:  # what failed was no part of the cache: a lock's own words, say
            assert contents(folder) == expected, f"{name} failed unnoticed"
        else:
            check_refusal(broken)
            assert not any(one.startswith(".") and one.endswith(".tmp") for one in contents(folder)), name
        outcomes["unharmed" if broken.code == 0 else "refused"] += 1
        again = processes.run(command)
        assert again.code == 0, again.said
        assert contents(folder) == expected, name
        assert not committed & set(again.embedded), f"shards made twice after {name}"
    assert outcomes["refused"] > len(places) // 2, outcomes
    print(f"\n{kind}, {fault}: {dict(outcomes)} of {len(operations)} operations")


def test_a_quota_on_the_size_of_a_file(processes, workload, tmp_path) -> None:
    command, expected = workload.command("build", tmp_path / "cache"), workload.expected("build")
    refused = processes.run(command, file_size=2_000)
    check_refusal(refused)
    assert check_what_is_there(command.folder, expected) == set()
    again = processes.run(command)
    assert again.code == 0, again.said
    assert contents(command.folder) == expected
    assert sorted(again.embedded) == list(range(SHARDS))
