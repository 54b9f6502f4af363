"""What a manifest's values are held against; it comes from anywhere, so nothing in it is taken on trust.

Each raises CacheError.
"""

import re
from reprlib import Repr
from typing import Any

from mmkd.errors import CacheError

_HASH = re.compile(r"[0-9a-f]{32}")
_LARGEST = 1e300
_SHORT = Repr()
_SHORT.maxstring = _SHORT.maxlong = _SHORT.maxother = 80


def shown(value: Any) -> str:
    """A value as a message can hold it, however large it is."""
    return _SHORT.repr(value)


def expect_keys(value: Any, keys: set[str], what: str) -> None:
    """Refuse anything but an object of exactly these keys."""
    if not isinstance(value, dict) or set(value) != keys:
        found = ", ".join(sorted(map(str, value))) if isinstance(value, dict) else type(value).__name__
        raise CacheError(f"found {found[:300]} in {what}; expected {', '.join(sorted(keys))}")


def number(value: dict[str, Any], key: str, least: int, most: int = 1 << 48) -> int:
    """A whole number from ``least`` to ``most``."""
    number = value[key]
    if not isinstance(number, int) or isinstance(number, bool) or not least <= number <= most:
        raise CacheError(f"found {key} {shown(number)}; expected a whole number from {least} to {most}")
    return number


def text(value: dict[str, Any], key: str) -> str:
    """A text."""
    if not isinstance(value[key], str):
        raise CacheError(f"found {key} {shown(value[key])}; expected text")
    return str(value[key])


def positive(value: dict[str, Any], key: str) -> float:
    """A finite number above 0."""
    number = value[key]
    # Held against the bounds as it is: a whole number of JSON may be too large for a float.
    if type(number) not in (int, float) or not 0 < number <= _LARGEST:
        raise CacheError(f"found {key} {shown(number)}; expected a number above 0")
    return float(number)


def hash_text(value: dict[str, Any], key: str) -> str:
    """32 hexadecimal digits."""
    if not _HASH.fullmatch(text(value, key)):
        raise CacheError(f"found {key} {shown(value[key])}; expected 32 hexadecimal digits")
    return str(value[key])


def counts(value: Any) -> dict[str, int]:
    """Counts by reason."""
    if not isinstance(value, dict):
        raise CacheError(f"found masked {shown(value)}; expected counts by reason")
    return {str(reason): number(value, reason, 0) for reason in value}
