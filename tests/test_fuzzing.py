"""The targets of ``make fuzz``, for a moment each; and that a fault does not go by unnoticed."""

import os
import signal
import time

import fuzzing
import pytest
from fuzzing import SEEN, TARGETS, HungError, clock, fuzz, in_child, only_own_errors

from mmkd.errors import MmkdError

EXAMPLES = {"shard": 2, "image": 2}


@pytest.mark.parametrize("name", TARGETS)
def test_nothing_but_our_own_errors_comes_out(name):
    before = SEEN.copy()
    fuzz(name, EXAMPLES.get(name, 25))
    assert SEEN[f"{name} refused"] > before[f"{name} refused"]


def hang() -> None:
    time.sleep(5)


def crash() -> None:
    signal.signal(signal.SIGBUS, signal.SIG_DFL)  # pytest would print a traceback first
    os.kill(os.getpid(), signal.SIGBUS)


def eat() -> None:
    bytearray(2 * fuzzing.MEMORY)


def refuse() -> None:
    raise MmkdError("no")


def test_a_fault_is_a_fault(monkeypatch):
    monkeypatch.setattr(fuzzing, "HANG", 1)
    with pytest.raises(HungError), clock():
        hang()
    for action, message in (
        (hang, "SIGALRM"),
        (crash, "SIGBUS"),
        (eat, "MemoryError"),
        (dict.fromkeys, "TypeError"),
    ):
        with pytest.raises(AssertionError, match=message):
            in_child("test", [refuse, action])
    with pytest.raises(KeyError):
        only_own_errors("test", lambda: {}["a"])
    in_child("test", [refuse, refuse, dict])
    assert (SEEN.pop("test refused"), SEEN.pop("test taken")) == (2, 1)
