"""What a training shows and records on its way."""

import json
import os
import shlex
import time
from types import TracebackType
from typing import TYPE_CHECKING

from mmkd.cli.console import say, status
from mmkd.cli.training_panel import TrainingPanel, memory_used
from mmkd.files import write_text
from mmkd.runs import Run

if TYPE_CHECKING:
    from accelerate import Accelerator

    from mmkd.optimizer import Schedule
    from mmkd.validation import EvaluationLog

_NOT_LOSSES = {"loss", "grad_norm", "lr", "pairs_per_second"}
# Where there is no terminal to draw on: a line so often, whichever comes first, and never more often than that.
_LINES, _SECONDS, _AT_MOST_EVERY = 20, 600.0, 5.0


class TrainingProgress:
    """A panel on the terminal, or a line now and then in a log; ``metrics.jsonl``, and the trackers."""

    def __init__(
        self, run: Run, schedule: "Schedule", batch: int, first_step: int, accelerator: "Accelerator"
    ) -> None:
        from rich.live import Live

        self.run, self.schedule, self.accelerator = run, schedule, accelerator
        self.panel = TrainingPanel(run.folder.name, schedule.steps, batch, first_step)
        drawn = status.is_terminal and accelerator.is_main_process
        self.live = Live(self.panel, console=status, refresh_per_second=4) if drawn else None
        self.saved_at = first_step
        self.last_line = (first_step, float("-inf"))
        if accelerator.is_main_process:
            self._forget_after(first_step)

    def __enter__(self) -> "TrainingProgress":
        if self.live is not None:
            self.live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.live is not None:
            self.live.stop()
        if isinstance(error, KeyboardInterrupt):
            again = f"{_launched_by()}mmkd train --resume --out {shlex.quote(str(self.run.folder))}"
            saved = (
                f"saved at step {self.saved_at:,} of {self.schedule.steps:,}"
                if self.saved_at
                else "nothing saved yet"
            )
            say("stopped", f"{saved}; go on with: {again}")

    def step(self, step: int) -> None:
        """Show that so many steps are done; nothing is read from the device."""
        self.panel.step, self.panel.note = step, ""

    def saved(self, step: int) -> None:
        """Show and remember the last checkpoint."""
        self.saved_at = step
        self.panel.facts["saved at step"] = f"{step:,}"

    def log(self, step: int, means: dict[str, float]) -> None:
        """Record and show the means since the last call."""
        self.accelerator.log(means, step=step)
        if not self.accelerator.is_main_process:
            return
        self._write({"step": step, **means})
        terms = {name: value for name, value in means.items() if name not in _NOT_LOSSES}
        panel = self.panel
        panel.step, panel.rate, panel.note = step, means["pairs_per_second"], ""
        panel.losses = terms if len(terms) == 1 else {"total": means["loss"], **terms}
        panel.facts |= {"lr": f"{means['lr']:.1e}", "gradient": f"{means.get('grad_norm', float('nan')):.3g}"}
        if "grad_norm" not in means:  # DeepSpeed knows it only after its step
            del panel.facts["gradient"]
        panel.facts["memory"] = memory_used()
        if not status.is_terminal and self._line_is_due(step):
            losses = "  ".join(f"{name} {value:.3g}" for name, value in terms.items())
            say("training", f"{panel.headline()} · {losses} · lr {means['lr']:.1e}")

    def _line_is_due(self, step: int) -> bool:
        (last, at), now = self.last_line, time.monotonic()
        enough = step - last >= max(1, self.schedule.steps // _LINES) and now - at >= _AT_MOST_EVERY
        if not (enough or now - at >= _SECONDS or step == self.schedule.steps):
            return False
        self.last_line = step, now
        return True

    def mining(self, stage: str, done: int, total: int) -> None:
        """Show how far mining in the student's space is."""
        self.panel.note = "" if done == total else f"mining again: {stage}, {done:,} of {total:,}"

    def evaluated(self, log: "EvaluationLog") -> None:
        """Record and show the latest evaluation."""
        step, found = int(log.entries[-1]["step"]), {**log.entries[-1]}
        del found["step"]
        self.accelerator.log(found, step=step)
        if self.accelerator.is_main_process:
            self._write({"step": step, **found})
            self.panel.judged = found
            said = "  ".join(f"{name} {value:.3g}" for name, value in found.items())
            say("judged", f"step {step:,} · {said}")

    def _write(self, line: dict[str, float]) -> None:
        with self.run.metrics.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    def _forget_after(self, step: int) -> None:
        # A run killed after its last checkpoint has metrics of steps that are now done again.
        if self.run.metrics.is_file():
            lines = self.run.metrics.read_text(encoding="utf-8").splitlines()
            kept = [line for line in lines if _step_of(line) <= step]
            write_text(self.run.metrics, "".join(line + "\n" for line in kept))


def _launched_by() -> str:
    """How the processes were started, as far as the environment tells."""
    return "the same accelerate launch ... " if os.environ.get("WORLD_SIZE", "1") != "1" else ""


def _step_of(line: str) -> float:
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError):
        return float("inf")  # a line cut off by the kill
