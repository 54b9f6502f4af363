"""What a manifest's values are held against; it comes from anywhere, so nothing in it is taken on trust.

Each raises CacheError.
"""

import re
from typing import Any

from mmkd.errors import CacheError

_HASH = re.compile(r"[0-9a-f]{32}")


def expect_keys(value: Any, keys: set[str], what: str) -> None:
    """Refuse anything but an object of exactly these keys."""
    if not isinstance(value, dict) or set(value) != keys:
        found = ", ".join(sorted(map(str, value))) if isinstance(value, dict) else type(value).__name__
        raise CacheError(f"found {found} in {what}; expected {', '.join(sorted(keys))}")


def number(value: dict[str, Any], key: str, least: int, most: int = 1 << 48) -> int:
    """A whole number from ``least`` to ``most``."""
    number = value[key]
    if not isinstance(number, int) or isinstance(number, bool) or not least <= number <= most:
        raise CacheError(f"found {key} {number!r}; expected a whole number from {least} to {most}")
    return number


def text(value: dict[str, Any], key: str) -> str:
    """A text."""
    if not isinstance(value[key], str):
        raise CacheError(f"found {key} {value[key]!r}; expected text")
    return str(value[key])


def hash_text(value: dict[str, Any], key: str) -> str:
    """32 hexadecimal digits."""
    if not _HASH.fullmatch(text(value, key)):
        raise CacheError(f"found {key} {value[key]!r}; expected 32 hexadecimal digits")
    return str(value[key])


def counts(value: Any) -> dict[str, int]:
    """Counts by reason."""
    if not isinstance(value, dict):
        raise CacheError(f"found masked {value!r}; expected counts by reason")
    return {str(reason): number(value, reason, 0) for reason in value}
