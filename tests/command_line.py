"""The command line, run in this process."""

import contextlib
import io
from dataclasses import dataclass
from pathlib import Path

import pytest

SMALL = ["--batch-size", "16", "--epochs", "2", "--workers", "0"]


@dataclass(frozen=True)
class Done:
    returncode: int
    stderr: str


def mmkd(*arguments: str | Path) -> Done:
    """Run the command line in this process, as the script does: a start of its own costs many seconds."""
    from accelerate.state import AcceleratorState

    from mmkd.cli import app

    stderr = io.StringIO()
    AcceleratorState._reset_state(reset_partial_state=True)
    with contextlib.redirect_stderr(stderr), pytest.raises(SystemExit) as end:
        app.run([str(argument) for argument in arguments])
    return Done(int(end.value.code or 0), stderr.getvalue())
