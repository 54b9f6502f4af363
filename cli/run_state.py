"""Which state a run is in: what its training wrote into ``run.json``, and whether that training still lives."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from mmkd.errors import TrainingError, first_line
from mmkd.runs import FAILED, FINISHED, INTERRUPTED, TRAINING, Run, read_run

if TYPE_CHECKING:
    from accelerate import Accelerator


_HELD: set[int] = set()


def _let_go() -> None:
    for descriptor in _HELD:
        os.close(descriptor)
    _HELD.clear()


# A loader's process outlives a killed training by seconds, and would keep its lock.
os.register_at_fork(after_in_child=_let_go)


@contextmanager
def run_state(run: Run, accelerator: "Accelerator", *, steps: int) -> Iterator[None]:
    """Hold the run's lock while it trains, and leave in ``run.json`` how that ended, unless it came to its end.

    Args:
        run: that is trained.
        accelerator: of its processes; the first writes.
        steps: planned.

    Raises:
        TrainingError: another process trains this run.
    """
    if not accelerator.is_main_process:
        yield
        return
    held = _lock(run.folder, fcntl.LOCK_EX)
    if held is None:
        raise TrainingError(
            f"{run.folder} is being trained by another process; wait for it, or stop it first"
        )
    _HELD.add(held)
    try:
        begun = {"state": TRAINING, "error": None, "planned_steps": steps}
        if any(run.record.get(name) != value for name, value in begun.items()):
            run.update(**begun)
        yield
    except KeyboardInterrupt:
        _leave(run, state=INTERRUPTED)
        raise
    except Exception as error:
        _leave(run, state=FAILED, error=first_line(error)[:500])
        raise
    finally:
        _HELD.discard(held)
        os.close(held)


def _leave(run: Run, **changes: str) -> None:
    now = read_run(run.folder)
    if not now.finished:  # the student is saved: what fails after that takes nothing away
        now.update(**changes)


def state_of(run: Run) -> str:
    """``finished``, ``training``, ``interrupted`` or ``failed``; a training that was killed was interrupted."""
    said = run.record.get("state")
    if said != TRAINING:
        return said if said in {FINISHED, INTERRUPTED, FAILED} else "unknown"
    held = _lock(run.folder, fcntl.LOCK_SH)
    if held is None:
        return TRAINING
    os.close(held)
    return INTERRUPTED


def _lock(folder: Path, kind: int) -> int | None:
    """Lock the folder itself, which leaves nothing behind and which the kernel frees with its holder.

    Returns:
        The open descriptor; ``None`` where another process holds the lock. On a file system without locks nobody does.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    except OSError:
        pass
    return descriptor
