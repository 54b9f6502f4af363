"""Mining shared by processes gives what one gives, to the bit."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mmkd.mining import METHODS
from mmkd.mining.refresh import load_neighbours

WORKER = Path(__file__).parent / "mining_worker.py"


def test_any_number_of_processes_mines_the_same(tmp_path: Path) -> None:
    alone: dict[str, np.ndarray] = {}
    for processes in (1, 2, 3):
        launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
        command = [
            sys.executable,
            *(launcher if processes > 1 else []),
            str(WORKER),
            str(tmp_path / str(processes)),
        ]
        # A lone process with all threads, as people start it; several with one each, as launchers start them.
        environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
        threads = {} if processes == 1 else {"OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            command, env=environment | threads, timeout=300, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        for rank in range(processes):
            with np.load(tmp_path / f"{processes}-{rank}.npz") as found:
                alone = alone or dict(found)
                for name, expected in alone.items():
                    assert np.array_equal(found[name], expected), (processes, rank, name)
    for method in METHODS:
        assert (alone[method] >= 0).mean() > 0.3
    assert not list(tmp_path.glob(".mining*"))


@pytest.mark.slow
def test_two_processes_mine_in_the_students_space(tiny_cache: Path, tmp_path: Path) -> None:
    """95 rows, so that one of the two embeds a row more."""
    arguments = (
        f"train --cache {tiny_cache} --batch-size 16 --epochs 2 --workers 0 --kd cos --refresh-every 1"
    )
    launchers = {"one": [], "two": ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]}
    mined = {}
    for name, launcher in launchers.items():
        out = tmp_path / name
        options = [
            *arguments.split(),
            "--neighbours",
            "6",
            "--limit",
            "95",
            "--clip-grad",
            "0",
            "--out",
            str(out),
        ]
        done = subprocess.run(
            [sys.executable, *launcher, "-m", "mmkd", *options],
            env={**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"},
            timeout=300,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert done.stderr.count("in the student's space") == 1
        mined[name] = load_neighbours(out / "neighbours-epoch-1.npz", 96)
    assert (mined["one"] >= 0).any()
    # Gradients are summed in another order, so a student may differ in its last bits.
    assert (mined["one"] == mined["two"]).mean() > 0.98
