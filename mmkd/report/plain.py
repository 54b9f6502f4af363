"""Values of JSON that anybody may have written, as what a report expects of them or not at all."""

import math
from typing import Any

LONGEST = 300


def text(value: Any, *, limit: int = LONGEST) -> str:
    """One line of printable text, cut at ``limit``; empty for what is no text, number or truth value."""
    if not isinstance(value, str | int | float) or value is None:
        return ""
    line = " ".join(str(value).split())
    line = "".join(one if one.isprintable() else "\N{REPLACEMENT CHARACTER}" for one in line)
    return line if len(line) <= limit else line[: limit - 1] + "…"


def number(value: Any) -> float | None:
    """A finite number, or ``None``."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        found = float(value)
    except OverflowError:
        return None
    return found if math.isfinite(found) else None


def whole(value: Any) -> int | None:
    """A whole number of at least 0, or ``None``."""
    found = number(value)
    return int(found) if found is not None and found >= 0 and found == int(found) else None


def mapping(value: Any) -> dict[str, Any]:
    """The object, or an empty one."""
    return value if isinstance(value, dict) else {}


def listing(value: Any, *, limit: int = 100_000) -> list[Any]:
    """The list, or an empty one, cut at ``limit``."""
    return value[:limit] if isinstance(value, list) else []


def texts(value: Any, *, limit: int = 100) -> list[str]:
    """The texts of a list, without what is none."""
    return [line for one in listing(value, limit=limit) if (line := text(one))]
