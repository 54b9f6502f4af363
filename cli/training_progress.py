"""What a training shows and records on its way."""

import json
from types import TracebackType
from typing import TYPE_CHECKING

from mmkd.cli.console import progress, say, status
from mmkd.files import write_text
from mmkd.runs import Run

if TYPE_CHECKING:
    from accelerate import Accelerator

    from mmkd.optimizer import Schedule
    from mmkd.validation import EvaluationLog

_NOT_LOSSES = {"loss", "grad_norm", "lr", "pairs_per_second"}
_LINES = 20  # lines of progress where there is no terminal to draw a bar on


class TrainingProgress:
    """A bar on the terminal, a line a log step in ``metrics.jsonl``, and the trackers."""

    def __init__(
        self, run: Run, schedule: "Schedule", batch: int, first_step: int, accelerator: "Accelerator"
    ) -> None:
        self.run, self.schedule, self.batch, self.accelerator = run, schedule, batch, accelerator
        self.bar = progress()
        self.task = self.bar.add_task("training", total=schedule.steps * batch, completed=first_step * batch)
        self.next_line = first_step
        if accelerator.is_main_process:
            self._forget_after(first_step)

    def __enter__(self) -> "TrainingProgress":
        self.bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.bar.stop()
        if isinstance(error, KeyboardInterrupt):
            say(
                "^C",
                f"stopped; go on from the last checkpoint with: mmkd train --resume --out {self.run.folder}",
            )

    def log(self, step: int, means: dict[str, float]) -> None:
        """Record and show the means since the last call."""
        self.accelerator.log(means, step=step)
        if not self.accelerator.is_main_process:
            return
        self._write({"step": step, **means})
        losses = "  ".join(f"{name} {value:.3g}" for name, value in means.items() if name not in _NOT_LOSSES)
        note = f"step {step:,} of {self.schedule.steps:,} · {losses} · lr {means['lr']:.1e}"
        self.bar.update(self.task, completed=step * self.batch, note=note)
        if not status.is_terminal and (step >= self.next_line or step == self.schedule.steps):
            say("training", f"{note} · {means['pairs_per_second']:,.0f} pairs/s")
            self.next_line += max(1, self.schedule.steps // _LINES)

    def mining(self, stage: str, done: int, total: int) -> None:
        """Show how far mining in the student's space is."""
        self.bar.update(self.task, note=f"mining again: {stage}, {done:,} of {total:,}")

    def evaluated(self, log: "EvaluationLog") -> None:
        """Record and show the latest evaluation."""
        step, found = int(log.entries[-1]["step"]), {**log.entries[-1]}
        del found["step"]
        self.accelerator.log(found, step=step)
        if self.accelerator.is_main_process:
            self._write({"step": step, **found})
            say(
                "judged",
                f"step {step:,} · " + "  ".join(f"{name} {value:.3g}" for name, value in found.items()),
            )

    def _write(self, line: dict[str, float]) -> None:
        with self.run.metrics.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    def _forget_after(self, step: int) -> None:
        # A run killed after its last checkpoint has metrics of steps that are now done again.
        if self.run.metrics.is_file():
            lines = self.run.metrics.read_text(encoding="utf-8").splitlines()
            kept = [line for line in lines if _step_of(line) <= step]
            write_text(self.run.metrics, "".join(line + "\n" for line in kept))


def _step_of(line: str) -> float:
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError):
        return float("inf")  # a line cut off by the kill
