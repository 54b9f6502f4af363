"""Which state a run is in: what its training wrote into ``run.json``, and whether that training still lives."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from mmkd.cache.locks import SHARED, Lock
from mmkd.errors import CacheError, TrainingError, first_line
from mmkd.runs import FAILED, FINISHED, INTERRUPTED, TRAINING, Run, read_run

if TYPE_CHECKING:
    from accelerate import Accelerator


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
    lock = Lock.take(run.lock)
    if lock is None:
        raise TrainingError(
            f"{run.folder} is being trained by another process; wait for it, or stop it first"
        )
    try:
        run.update(state=TRAINING, error=None, planned_steps=steps)
        yield
    except KeyboardInterrupt:
        _leave(run, state=INTERRUPTED)
        raise
    except Exception as error:
        _leave(run, state=FAILED, error=first_line(error)[:500])
        raise
    finally:
        lock.release()


def _leave(run: Run, **changes: str) -> None:
    now = read_run(run.folder)
    if not now.finished:  # the student is saved: what fails after that takes nothing away
        now.update(**changes)


def state_of(run: Run) -> str:
    """``finished``, ``training``, ``interrupted`` or ``failed``; a training that was killed was interrupted."""
    said = run.record.get("state")
    if said != TRAINING:
        return said if said in {FINISHED, INTERRUPTED, FAILED} else "unknown"
    if not run.lock.exists():
        return INTERRUPTED
    try:
        lock = Lock.take(run.lock, SHARED)
    except (OSError, CacheError):
        return TRAINING  # another's folder, which may not be written to
    if lock is None:
        return TRAINING
    sure = lock.sure
    lock.release()
    return INTERRUPTED if sure else TRAINING
