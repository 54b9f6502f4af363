"""What the person at the terminal sees: results on stdout, everything on the way to them on stderr."""

import os
import sys
from typing import TYPE_CHECKING, TextIO

from rich.console import Console

if TYPE_CHECKING:
    from rich.progress import Progress


def process_rank() -> int:
    """This process's rank under ``accelerate launch``; 0 where there is only one."""
    return int(os.environ.get("RANK", "0"))


def _console(stream: TextIO, *, stderr: bool) -> Console:
    # Logs and pipes get wide lines instead of rich's 80 columns, which would wrap tables.
    width = None if stream.isatty() or "COLUMNS" in os.environ else 120
    return Console(stderr=stderr, width=width, highlight=False, quiet=process_rank() != 0)


console = _console(sys.stdout, stderr=False)
"""Results: tables, scores, paths. Silent in all processes but the first."""

status = _console(sys.stderr, stderr=True)
"""What a command takes for granted, how far it is, what it warns of."""


def harmless(text: str) -> str:
    """Text from anywhere without what a terminal would obey; a manifest's reach many messages."""
    return "".join(one if one.isprintable() or one == "\n" else "\N{REPLACEMENT CHARACTER}" for one in text)


def printable(text: str, *, limit: int | None = None) -> str:
    """Text from anywhere as one line for a terminal: no escape sequences, no line breaks, nothing unencodable."""
    line = harmless(" ".join(text.split()))
    return line if limit is None or len(line) <= limit else line[: limit - 1] + "…"


def say(label: str, text: str) -> None:
    """Print one line of status: ``teacher   openai/clip-vit-base-patch32 · 512-d``."""
    status.print(f"{label:<9}", style="bold", end=" ")
    status.print(harmless(text), markup=False, soft_wrap=True)


def warn(text: str) -> None:
    """Print one line about something that the result suffers from."""
    status.print(f"{'warning':<9}", style="bold yellow", end=" ")
    status.print(harmless(text), markup=False, soft_wrap=True)


def duration(seconds: float) -> str:
    """``45 s``, ``20 min``, ``3 h 05 min``."""
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60:02d} min"


def progress(unit: str = "pairs") -> "Progress":
    """A bar with count, rate, time left and a note: ``bar.add_task("caching", total=n, note="3 masked")``.

    Every task has the field ``note``, which may be left out. Silent where stderr is not a terminal.
    """
    from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn
    from rich.text import Text

    class Numbers(ProgressColumn):
        def render(self, task: Task) -> Text:
            total = "?" if task.total is None else f"{task.total:,.0f}"
            parts = [f"{task.completed:,.0f} of {total}"]
            speed = task.finished_speed or task.speed
            if speed:
                parts.append(f"{speed:,.0f} {unit}/s" if speed >= 10 else f"{speed:.1f} {unit}/s")
            if task.time_remaining:
                parts.append(f"{duration(task.time_remaining)} left")
            if note := task.fields.get("note"):
                parts.append(str(note))
            return Text(" · ".join(parts))

    return Progress(
        TextColumn("{task.description:<9}", style="bold"),
        BarColumn(bar_width=30),
        TextColumn("{task.percentage:>3.0f} %"),
        Numbers(),
        console=status,
        disable=not status.is_terminal,
    )
