"""Which captions are worth keeping: rules that need no model and no language."""

import re
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

from mmkd.errors import ConfigError, DataError

FILTERED = "filtered: "
MIN_LETTERS = 0.5
MAX_REPEATS = 5
MAX_REGEX = 1_000
_URL = re.compile(r"https?://|www\.", re.IGNORECASE)
_REPEATS = re.compile(rf"(\S)\1{{{MAX_REPEATS},}}")


@dataclass(frozen=True)
class CaptionFilter:
    """Drops captions; a row is masked when none of its captions is left.

    Attributes:
        min_words: fewest words, as white space parts them.
        max_words: most words.
        regex: what a caption holds somewhere; Python's ``re.search``.
        clean: drop captions with a URL, with less than ``MIN_LETTERS`` letters (of any script, marks included) among
            what is no white space, or with a character more than ``MAX_REPEATS`` times in a row.
    """

    min_words: int | None = None
    max_words: int | None = None
    regex: str | None = None
    clean: bool = False

    def __post_init__(self) -> None:
        for name in ("min_words", "max_words"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"--{name.replace('_', '-')} {value} is not at least 1")
        if self.min_words is not None and self.max_words is not None and self.min_words > self.max_words:
            raise ConfigError(f"--min-words {self.min_words} is more than --max-words {self.max_words}")
        if self.regex is not None and len(self.regex) > MAX_REGEX:
            raise ConfigError(
                f"--caption-regex has {len(self.regex):,} characters; expected {MAX_REGEX:,} at most"
            )
        try:
            re.compile(self.regex or "")
        except (re.error, RecursionError, OverflowError) as error:
            raise ConfigError(f"--caption-regex {self.regex!r} is no regular expression: {error}") from error

    def __bool__(self) -> bool:
        return self != NO_FILTER

    def reason(self, caption: str) -> str | None:
        """Why a caption is dropped, a phrase fit for counting; None where it is kept."""
        words = len(caption.split()) if self.min_words or self.max_words else 0
        if self.min_words is not None and words < self.min_words:
            return f"{FILTERED}too few words"
        if self.max_words is not None and words > self.max_words:
            return f"{FILTERED}too many words"
        if self._pattern is not None and not self._pattern.search(caption):
            return f"{FILTERED}no match"
        return self._unclean(caption) if self.clean else None

    def to_json(self) -> dict[str, Any]:
        """What was asked for, as a JSON object; empty where nothing was."""
        return {name: value for name, value in vars(self).items() if name in _NAMES and value}

    @classmethod
    def from_json(cls, value: Any) -> "CaptionFilter":
        """Read what ``to_json`` wrote.

        Raises:
            DataError: a key is unknown or of the wrong type.
        """
        kinds = {"min_words": int, "max_words": int, "regex": str, "clean": bool}
        sound = isinstance(value, dict) and all(type(item) is kinds.get(key) for key, item in value.items())
        if not sound or not value:
            raise DataError(f"found filters {value!r}; expected some of {', '.join(kinds)}")
        try:
            return cls(**value)
        except ConfigError as error:
            raise DataError(f"found filters {value!r}: {error}") from error

    def describe(self) -> str:
        """In words: ``3 to 40 words, matching 'dog', clean``."""
        least, most = self.min_words, self.max_words
        words = f"{least} to {most} words" if least and most else f"at least {least} words" if least else ""
        parts = [
            words or (f"at most {most} words" if most else ""),
            f"matching {self.regex!r}" if self.regex else "",
            "clean" if self.clean else "",
        ]
        return ", ".join(part for part in parts if part)

    @cached_property
    def _pattern(self) -> re.Pattern[str] | None:
        return None if self.regex is None else re.compile(self.regex)

    @staticmethod
    def _unclean(caption: str) -> str | None:
        if _URL.search(caption):
            return f"{FILTERED}URL"
        if _REPEATS.search(caption):
            return f"{FILTERED}repeated character"
        solid = [character for character in caption if not character.isspace()]
        # Vowel signs of Indic scripts are marks, not letters, and as much part of a word.
        letters = sum(character.isalpha() or _is_mark(character) for character in solid)
        return f"{FILTERED}few letters" if letters < MIN_LETTERS * len(solid) else None


NO_FILTER = CaptionFilter()
_NAMES = tuple(field.name for field in fields(CaptionFilter))


def _is_mark(character: str) -> bool:
    import unicodedata

    return unicodedata.category(character).startswith("M")
