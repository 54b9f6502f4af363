"""What a person sees of mining: a bar where it takes longer than a moment, then one line."""

import time
from types import TracebackType
from typing import TYPE_CHECKING

from mmkd.cli.console import duration, progress, say

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from mmkd.mining import Neighbours

_PATIENCE = 2.0  # seconds without a bar


class MiningProgress:
    """A bar for each stage of mining, once it has taken two seconds."""

    def __init__(self) -> None:
        self.started = time.perf_counter()
        self.mined = False
        self._bar: Progress | None = None
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> "MiningProgress":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Show that ``done`` of ``total`` captions (or rounds) of a stage are done."""
        self.mined = True
        if time.perf_counter() - self.started < _PATIENCE:
            return
        if self._bar is None:
            self._bar = progress("captions")
            self._bar.start()
        if stage not in self._tasks:
            self._tasks[stage] = self._bar.add_task(stage, total=total)
        self._bar.update(self._tasks[stage], completed=done, total=total)


def say_mined(found: "Neighbours", asked: int, where: str, *, kept: bool = False) -> None:
    """Say how negatives were mined and what came of it.

    Args:
        found: what was mined.
        asked: negatives a row that were asked for.
        where: among what.
        kept: whether they were mined by an earlier run.
    """
    width = found.rows.shape[1]
    count = f"{width} negatives a row" + (f" of {asked} asked for" if width < asked else "")
    recall = "" if found.recall == 1 else f", recall {found.recall:.3f}"
    dropped = f"{100 * found.dropped:.1f} % dropped as false negatives"
    spent = "kept from an earlier run" if kept else duration(found.seconds)
    say("mined", f"{count} {where}, {found.method}{recall} · {dropped} · {spent}")
