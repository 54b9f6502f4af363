"""The panel that a terminal shows while a student trains."""

import time
from typing import TYPE_CHECKING

from mmkd.cli.console import duration

if TYPE_CHECKING:
    from rich.console import RenderableType

_BAR = 24


class TrainingPanel:
    """What a training has reached; drawn anew some times a second, so that the time left runs on.

    Args:
        title: the run's name.
        steps: of the whole training.
        batch: pairs a step.
        first_step: where it starts, 0 unless it is resumed.
    """

    def __init__(self, title: str, steps: int, batch: int, first_step: int) -> None:
        self.title, self.steps, self.batch, self.first_step = title, steps, batch, first_step
        self.step = first_step
        self.started = time.monotonic()
        self.losses: dict[str, float] = {}
        self.judged: dict[str, float] = {}
        self.facts: dict[str, str] = {}
        self.rate: float | None = None
        self.note = "waiting for the first batch"

    def seconds_left(self) -> float | None:
        """At the pace since the start, evaluations and checkpoints included; ``None`` before the first step."""
        done = self.step - self.first_step
        if not done:
            return None
        return (time.monotonic() - self.started) / done * (self.steps - self.step)

    def headline(self) -> str:
        """``step 4,200 of 28,300 · 10,915 pairs/s · 37 min left``."""
        parts = [f"step {self.step:,} of {self.steps:,}"]
        if self.rate is not None:
            parts.append(f"{self.rate:,.0f} pairs/s")
        left = self.seconds_left()
        if left is not None and self.step < self.steps:
            parts.append(f"{duration(left)} left")
        return " · ".join(parts)

    def __rich__(self) -> "RenderableType":
        from rich.box import ROUNDED
        from rich.columns import Columns
        from rich.panel import Panel
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        grid = Table.grid(padding=(0, 2))
        grid.add_column(style="bold")
        grid.add_column(overflow="fold")
        bar = Table.grid(padding=(0, 2))
        share = f"{100 * self.step // max(1, self.steps):>3.0f} %"
        bar.add_row(ProgressBar(self.steps, self.step, width=_BAR), share, Text(self.headline()))
        grid.add_row("training", bar)
        if self.losses:
            terms = [
                Text.assemble((f"{name} ", "dim"), f"{value:.3g}") for name, value in self.losses.items()
            ]
            grid.add_row("loss", Columns(terms, padding=(0, 3)))
        if self.judged:
            found = [
                Text.assemble((f"{name} ", "dim"), f"{value:.3g}") for name, value in self.judged.items()
            ]
            grid.add_row("judged", Columns(found, padding=(0, 3)))
        facts = " · ".join([*(f"{name} {value}" for name, value in self.facts.items()), self.note])
        grid.add_row("", Text(facts.strip(" ·"), style="dim"))
        return Panel(grid, title=Text(self.title), title_align="left", box=ROUNDED, border_style="dim")


def memory_used() -> str:
    """``11.3 of 80.0 GB`` at most so far, of the accelerator where there is one, else of this process."""
    import torch

    if torch.cuda.is_available():
        total = torch.cuda.get_device_properties(0).total_memory
        return f"{torch.cuda.max_memory_allocated() / 1e9:.1f} of {total / 1e9:.1f} GB"
    import resource
    import sys

    unit = 1 if sys.platform == "darwin" else 1024  # macOS counts bytes
    return f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9:.1f} GB"
