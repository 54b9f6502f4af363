"""Evaluation: zero-shot classification and bias. Each submodule is imported when it is first named."""

from importlib import import_module
from typing import Any

_SUBMODULES = (
    "bias",
    "calibration",
    "embedded",
    "paired",
    "permutation",
    "plots",
    "statistics",
    "tasks",
    "zero_shot",
    "zero_shot_report",
)


def __getattr__(name: str) -> Any:
    if name in _SUBMODULES:
        return import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
