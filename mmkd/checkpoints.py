"""Checkpoints: written whole or not at all, found again by themselves."""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmkd.errors import MmkdError, TrainingError
from mmkd.files import fsync, fsync_tree, read_json, write_json

if TYPE_CHECKING:
    from mmkd.training import Prepared

RECORD = "checkpoint.json"
LOWER_IS_BETTER = ("val/loss",)


def better(metric: str, one: float, other: float) -> bool:
    """Whether ``one`` is a better value of ``metric`` than ``other``."""
    return one < other if metric in LOWER_IS_BETTER else one > other


@dataclass(frozen=True)
class Checkpoints:
    """The checkpoints of one run.

    Attributes:
        folder: holds ``step-N``, one folder a checkpoint.
        run_id: tells the run from every other, so that a checkpoint that was copied here is refused.
        keep: how many of the newest are kept.
        best_by: the metric whose best checkpoint is kept beside them.
    """

    folder: Path
    run_id: str
    keep: int = 2
    best_by: str | None = None

    def steps(self) -> list[int]:
        """Steps of the whole checkpoints, oldest first."""
        found = [path.name.removeprefix("step-") for path in self.folder.glob("step-*") if path.is_dir()]
        return sorted(int(step) for step in found if step.isdecimal())

    def save(self, prepared: "Prepared", step: int, evaluations: list[dict[str, float]]) -> None:
        """Save weights, optimizer and random states as ``step-N``; every process must call it.

        Args:
            prepared: student and optimizer.
            step: steps done.
            evaluations: all of the run so far, each ``{"step": N, metric: value, ...}``.
        """
        accelerator = prepared.accelerator
        temporary = (
            self.folder / f".step-{step}.tmp"
        )  # one name for all processes, which write into it together
        if accelerator.is_main_process:
            self._remove_leftovers()
            temporary.mkdir(parents=True)
        accelerator.wait_for_everyone()
        accelerator.save_state(str(temporary))
        accelerator.wait_for_everyone()
        if accelerator.is_main_process:
            if prepared.average is not None:
                prepared.average.save(temporary)
            record = {"run": self.run_id, "step": step, "processes": accelerator.num_processes}
            write_json(temporary / RECORD, {**record, "evaluations": evaluations})
            fsync_tree(temporary)
            self._remove(step)
            temporary.rename(self.folder / f"step-{step}")
            fsync(self.folder)
            self._prune(evaluations)
        accelerator.wait_for_everyone()

    def load(self, prepared: "Prepared", step: int | None = None) -> tuple[int, list[dict[str, float]]]:
        """Load the newest checkpoint, or that of ``step``; every process must call it.

        Returns:
            Its step and the evaluations up to it; 0 and none where there is no checkpoint.

        Raises:
            TrainingError: it is another run's, of another student, or damaged.
        """
        steps = self.steps()
        if step is None and not steps:
            return 0, []
        folder = self.folder / f"step-{steps[-1] if step is None else step}"
        record = self._record(folder)
        try:
            prepared.accelerator.load_state(str(folder))
        except (OSError, RuntimeError, ValueError, KeyError) as error:
            reason = " ".join(str(error).split())[:200]
            raise TrainingError(
                f"{folder} is not a checkpoint of this student ({reason}); remove it to go on from the one before"
            ) from error
        if prepared.average is not None:
            prepared.average.load(folder)
        return record["step"], record["evaluations"]

    def best(self, evaluations: list[dict[str, float]]) -> int | None:
        """Step of the best evaluation by ``best_by``, the earliest of equals."""
        if self.best_by is None or not evaluations:
            return None
        first = evaluations[0]
        for entry in evaluations[1:]:
            if better(self.best_by, entry[self.best_by], first[self.best_by]):
                first = entry
        return int(first["step"])

    def _record(self, folder: Path) -> dict[str, Any]:
        try:
            record: dict[str, Any] = read_json(folder / RECORD)
            run, step, evaluations = record["run"], int(record["step"]), list(record["evaluations"])
        except (MmkdError, ValueError, TypeError, KeyError) as error:
            raise TrainingError(
                f"{folder} has no readable {RECORD}; remove it to go on from the checkpoint before"
            ) from error
        if run != self.run_id:
            raise TrainingError(
                f"{folder} is a checkpoint of another run (started {run}, this one {self.run_id}); remove it"
            )
        return {"step": step, "evaluations": evaluations}

    def _prune(self, evaluations: list[dict[str, float]]) -> None:
        best = self.best(evaluations)
        for step in self.steps()[: -self.keep]:
            if step != best:
                self._remove(step)

    def _remove(self, step: int) -> None:
        # Renamed first: killed half-way through, it must not look like a whole checkpoint.
        folder, leftover = self.folder / f"step-{step}", self.folder / f".step-{step}.old.tmp"
        if folder.is_dir():
            folder.rename(leftover)
            shutil.rmtree(leftover)

    def _remove_leftovers(self) -> None:
        for leftover in self.folder.glob(".step-*.tmp"):
            shutil.rmtree(leftover)
