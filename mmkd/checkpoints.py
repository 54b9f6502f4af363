"""Checkpoints: written whole or not at all, found again by themselves."""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmkd.errors import MmkdError, TrainingError
from mmkd.files import fsync, fsync_tree, write_json
from mmkd.parse import read_json

if TYPE_CHECKING:
    from accelerate import Accelerator

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
        hook = accelerator.register_save_state_pre_hook(_name_as_in_one_process)
        accelerator.save_state(str(temporary))
        hook.remove()
        accelerator.wait_for_everyone()
        if accelerator.is_main_process:
            if prepared.average is not None:
                prepared.average.save(temporary)
            record = {"run": self.run_id, "step": step, "evaluations": evaluations}
            write_json(temporary / RECORD, {**record, **_launched(accelerator)})
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
            TrainingError: it is another run's, of another student, damaged, or of an engine that cannot read it.
        """
        accelerator = prepared.accelerator
        if accelerator.is_main_process:
            self._remove_leftovers()
        steps = self.steps()
        if step is None and not steps:
            return 0, []
        folder = self.folder / f"step-{steps[-1] if step is None else step}"
        record = self._record(folder)
        _check_engine(folder, record, accelerator)
        hook = accelerator.register_load_state_pre_hook(lambda models, _: _unwrap(accelerator, models))
        try:
            accelerator.load_state(str(folder))
        except (OSError, RuntimeError, ValueError, KeyError) as error:
            reason = " ".join(str(error).split())[:200]
            raise TrainingError(
                f"{folder} is not a checkpoint of this student ({reason}); remove it to go on from the one before"
            ) from error
        finally:
            hook.remove()
        if prepared.average is not None:
            prepared.average.load(folder)
        accelerator.wait_for_everyone()
        if accelerator.is_main_process:
            self._prune(record["evaluations"])  # a kill may have come between a checkpoint and this
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
            run, record["step"] = record["run"], int(record["step"])
            record["evaluations"] = list(record["evaluations"])
        except (MmkdError, ValueError, TypeError, KeyError) as error:
            raise TrainingError(
                f"{folder} has no readable {RECORD}; remove it to go on from the checkpoint before"
            ) from error
        if run != self.run_id:
            raise TrainingError(
                f"{folder} is a checkpoint of another run (started {run}, this one {self.run_id}); remove it"
            )
        return record

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


def _launched(accelerator: "Accelerator") -> dict[str, Any]:
    plugin = accelerator.state.deepspeed_plugin
    engine = "no DeepSpeed" if plugin is None else f"ZeRO {plugin.zero_stage}"
    return {"processes": accelerator.num_processes, "engine": engine}


def _check_engine(folder: Path, record: dict[str, Any], accelerator: "Accelerator") -> None:
    """Refuse what DeepSpeed would refuse at length, or read nothing of and go on."""
    launched = _launched(accelerator)
    found, here = record.get("engine"), launched["engine"]
    if found != here:
        raise TrainingError(
            f"{folder} was written under {found}, and this is {here}; resume with the launch file of its start"
        )
    before, now = record.get("processes"), launched["processes"]
    if before != now and accelerator.state.deepspeed_plugin is not None:
        raise TrainingError(
            f"{folder} is divided among {before} processes by {here}, and {now} were launched; resume with "
            f"--num_processes {before}"
        )


def _name_as_in_one_process(_models: Any, weights: list[dict[str, Any]], _folder: str) -> None:
    # DDP puts its own name before each, and one process could not read what several wrote.
    for number, state in enumerate(weights):
        weights[number] = {name.removeprefix("module."): tensor for name, tensor in state.items()}


def _unwrap(accelerator: "Accelerator", models: list[Any]) -> None:
    models[:] = [accelerator.unwrap_model(model) for model in models]
