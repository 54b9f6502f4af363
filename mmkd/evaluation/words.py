"""The words of a bias probe, and the grammar that puts them into sentences."""

from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

import yaml

# Spelt with a vowel but said with a consonant, and the other way round.
_SAID_WITH_CONSONANT = ("uni", "use", "usu", "uti", "eu", "one", "once", "ewe")
_SAID_WITH_VOWEL = ("hour", "honest", "honor", "honour", "heir")
_LETTERS_SAID_WITH_VOWEL = frozenset("AEFHILMNORSX")


@dataclass(frozen=True)
class BiasWords:
    """What a bias probe asks.

    Attributes:
        female: terms; ``female[i]`` and ``male[i]`` differ in gender only.
        male: terms.
        targets: the professions, each once.
        templates: sentences with ``{}`` where a noun goes with its article.
        sources: where the lists come from: name, source, year, licence.
    """

    female: tuple[str, ...]
    male: tuple[str, ...]
    targets: tuple[str, ...]
    templates: tuple[str, ...]
    sources: tuple[dict[str, Any], ...]

    @property
    def terms(self) -> tuple[str, ...]:
        """Female terms, then male ones."""
        return self.female + self.male


@cache
def builtin_words() -> BiasWords:
    """The gender terms, professions and templates of ``configs/bias``."""
    folder = files("mmkd.configs").joinpath("bias")
    gender, professions = (
        yaml.safe_load(folder.joinpath(name).read_text(encoding="utf-8"))
        for name in ("gender.yaml", "professions.yaml")
    )
    lists = professions["lists"]
    keys = ("name", "source", "year", "licence")
    return BiasWords(
        female=tuple(pair["female"] for pair in gender["pairs"]),
        male=tuple(pair["male"] for pair in gender["pairs"]),
        targets=tuple(dict.fromkeys(word for one in lists for word in one["professions"])),
        templates=tuple(gender["templates"]),
        sources=tuple({key: one[key] for key in keys} for one in (gender, *lists)),
    )


def with_article(noun: str) -> str:
    """``a nurse``, ``an actor``, ``a CEO``, ``an hour``."""
    word = noun.split(maxsplit=1)[0]
    if word.isupper():
        vowel = word[0] in _LETTERS_SAID_WITH_VOWEL
    elif word.lower().startswith(_SAID_WITH_CONSONANT):
        vowel = False
    else:
        vowel = word[0].lower() in "aeiou" or word.lower().startswith(_SAID_WITH_VOWEL)
    return f"{'an' if vowel else 'a'} {noun}"


def sentence(template: str, noun: str) -> str:
    """The template with the noun and its article in place of ``{}``."""
    return template.replace("{}", with_article(noun))


def is_known(word: str, tokenizer: Any) -> bool:
    """Whether a tokenizer has the word, whole or in pieces of two letters and more on average.

    A word that becomes the unknown token, nothing at all, or single letters is one it never met.

    Args:
        word: a single word.
        tokenizer: a Hugging Face tokenizer.
    """
    ids = tokenizer(word, add_special_tokens=False)["input_ids"]
    if not ids or tokenizer.unk_token_id in ids:
        return False
    return 2 * len(ids) <= max(2, len(word))
