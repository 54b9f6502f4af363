"""Ctrl-C, or a batch system's SIGTERM, while a student trains: the step is finished and saved before the end."""

import signal
import threading
import time
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any

from mmkd.cli.console import say

if TYPE_CHECKING:
    from accelerate import Accelerator

SIGNALS = (signal.SIGINT, signal.SIGTERM)
_AGAIN = 1.0  # seconds between a signal and a second one that is meant


class Interruption:
    """Within it, the first signal asks for an end at the next step, and a second Ctrl-C ends the process at once.

    Args:
        accelerator: of the processes that must agree on the step they save.
        every: steps after which several processes agree, where they wait for the device anyway.
    """

    def __init__(self, accelerator: "Accelerator", *, every: int) -> None:
        self._accelerator, self._every = accelerator, every
        self._before: dict[signal.Signals, Any] = {}
        self._asked_at = 0.0
        self.wanted = False

    def __enter__(self) -> "Interruption":
        if threading.current_thread() is threading.main_thread():  # elsewhere Python allows no handlers
            self._before = {one: signal.signal(one, self._asked) for one in SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for one, handler in self._before.items():
            signal.signal(one, handler)

    def __call__(self, step: int) -> bool:
        """Whether to leave after ``step``; the same in every process."""
        if self._accelerator.num_processes == 1:
            return self.wanted
        if step % self._every:
            return False
        import torch

        flag = torch.tensor(float(self.wanted), device=self._accelerator.device)
        self.wanted = bool(self._accelerator.reduce(flag, reduction="sum"))
        return self.wanted

    def _asked(self, number: int, _frame: FrameType | None) -> None:
        # A launcher passes on what its processes have had from the terminal already: that is no second time.
        if self.wanted and number == signal.SIGINT and time.monotonic() - self._asked_at > _AGAIN:
            raise KeyboardInterrupt
        if not self.wanted:
            self.wanted, self._asked_at = True, time.monotonic()
            name = "^C" if number == signal.SIGINT else "SIGTERM"
            say(name, "finishing this step and saving it; ^C once more to stop without")
