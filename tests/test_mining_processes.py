"""Mining shared by processes gives what one gives, to the bit."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

WORKER = Path(__file__).parent / "mining_worker.py"


@pytest.mark.parametrize("method", ["exact", "ivf", "ivf-pq"])
def test_any_number_of_processes_mines_the_same(tmp_path: Path, method: str) -> None:
    found = {}
    for processes in (1, 2, 3):
        launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
        # A lone process with all threads, as people start it; several with one each, as launchers start them.
        threads = {} if processes == 1 else {"OMP_NUM_THREADS": "1"}
        environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
        command = [
            sys.executable,
            *(launcher if processes > 1 else []),
            str(WORKER),
            str(tmp_path / str(processes)),
            method,
        ]
        done = subprocess.run(
            command, env=environment | threads, timeout=300, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        parts = [np.load(tmp_path / f"{processes}-{rank}.npz") for rank in range(processes)]
        for part in parts:
            assert np.array_equal(part["rows"], parts[0]["rows"])
        found[processes] = parts[0]
    for processes in (2, 3):
        for name in ("rows", "said", "method"):
            assert np.array_equal(found[processes][name], found[1][name]), name
    assert (found[1]["rows"] >= 0).mean() > 0.3
    assert not list(tmp_path.glob(".mining*"))
