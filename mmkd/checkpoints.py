"""Checkpoints: written whole or not at all, found again by themselves."""

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from mmkd.errors import TrainingError
from mmkd.files import fsync_tree, write_json

if TYPE_CHECKING:
    from accelerate import Accelerator

KEEP = 2  # a second one in case the newest is lost with the disk's cache


def checkpoint_steps(folder: Path) -> list[int]:
    """Steps of the whole checkpoints in ``folder``, oldest first."""
    return sorted(int(path.name.removeprefix("step-")) for path in folder.glob("step-*") if path.is_dir())


def save_checkpoint(accelerator: "Accelerator", folder: Path, step: int) -> None:
    """Save weights, optimizer and random states as ``folder/step-N``; every process must call it."""
    temporary = folder / f".step-{step}.tmp"  # one name for all processes, which write into it together
    if accelerator.is_main_process:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
    accelerator.wait_for_everyone()
    accelerator.save_state(str(temporary))
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        write_json(temporary / "checkpoint.json", {"step": step, "processes": accelerator.num_processes})
        fsync_tree(temporary)
        final = folder / f"step-{step}"
        shutil.rmtree(final, ignore_errors=True)
        temporary.rename(final)
        for old in checkpoint_steps(folder)[:-KEEP]:
            shutil.rmtree(folder / f"step-{old}")
    accelerator.wait_for_everyone()


def load_checkpoint(accelerator: "Accelerator", folder: Path) -> int:
    """Load the newest checkpoint and give its step; 0 where there is none.

    Raises:
        TrainingError: it cannot be loaded into this student.
    """
    steps = checkpoint_steps(folder)
    if not steps:
        return 0
    newest = folder / f"step-{steps[-1]}"
    try:
        accelerator.load_state(str(newest))
    except (OSError, RuntimeError, ValueError, KeyError) as error:
        raise TrainingError(f"{newest} is not a checkpoint of this student: {error}") from error
    return steps[-1]
