"""The words of a bias probe, and the grammar that puts them into sentences."""

from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, replace
from itertools import takewhile
from typing import Any

from mmkd.errors import ConfigError

FEWEST_TERMS = 2
# Spelt with a vowel but said with a consonant, and the other way round.
_SAID_WITH_CONSONANT = (
    *(
        "uni",
        "use",
        "usu",
        "uti",
        "utop",
        "uter",
        "uran",
        "uri",
        "urol",
        "urug",
        "ubiq",
        "ugan",
        "ukr",
        "ukulele",
    ),
    *("eu", "once", "oneself", "ewe"),
)
_SAID_WITH_VOWEL = ("hour", "honest", "honor", "honour", "heir")
_SAID_WITH_VOWEL_AFTER_ALL = ("unid", "unim", "unin")
_LETTERS_SAID_WITH_VOWEL = frozenset("AEFHILMNORSX")


@dataclass(frozen=True)
class Reference:
    """A number for some of the targets, such as the percent of women in an occupation.

    Attributes:
        name: of the table.
        values: by target.
        source: where the table comes from.
        year: of the table.
        licence: of the table.
        unit: what the numbers are.
    """

    name: str
    values: Mapping[str, float]
    source: str
    year: int | None
    licence: str
    unit: str = "number"


@dataclass(frozen=True)
class BiasWords:
    """What a bias probe asks: which targets lie nearer to the first attribute's terms than to the second's.

    Attributes:
        name: what the two attributes are of, such as gender.
        attributes: their two names, such as female and male.
        first: terms of the first.
        second: terms of the second.
        paired: ``first[i]`` and ``second[i]`` differ in the attribute only.
        neutral: terms of neither; measured beside both, never part of the difference.
        targets: the words that may lean, such as professions, each once.
        groups: two sets of targets by name, for the tests that set one against the other; may be empty.
        controls: neutral nouns, whose spread is the unit of the gaps.
        knowledge: pairs of words that belong together, to see whether a model knows what words mean.
        templates: sentences with ``{}`` where a noun goes.
        article: whether the noun goes there with its article.
        references: numbers to correlate the gaps with.
        sources: where the lists come from: name, source, year, licence.
    """

    name: str
    attributes: tuple[str, str]
    first: tuple[str, ...]
    second: tuple[str, ...]
    paired: bool
    neutral: tuple[str, ...]
    targets: tuple[str, ...]
    groups: Mapping[str, tuple[str, ...]]
    controls: tuple[str, ...]
    knowledge: tuple[tuple[str, str], ...]
    templates: tuple[str, ...]
    article: bool = True
    references: tuple[Reference, ...] = ()
    sources: tuple[dict[str, Any], ...] = ()

    @property
    def terms(self) -> tuple[str, ...]:
        """The first attribute's terms, then the second's."""
        return self.first + self.second

    @property
    def all(self) -> tuple[str, ...]:
        """Every word once: targets, terms, neutral terms, controls, and what knowledge is asked by."""
        known = tuple(word for pair in self.knowledge for word in pair)
        return tuple(dict.fromkeys((*self.targets, *self.terms, *self.neutral, *self.controls, *known)))

    def sentence(self, template: str, noun: str) -> str:
        """The template with the noun in place of ``{}``, with its article where the words want one."""
        return sentence(template, noun) if self.article else template.replace("{}", noun)

    def only(self, known: Collection[str]) -> "BiasWords":
        """These words as far as they are among ``known``; a pair goes when one of its words does.

        Raises:
            ConfigError: fewer than two terms of an attribute, or no target, is left.
        """
        have = set(known)
        first, second = (tuple(word for word in side if word in have) for side in (self.first, self.second))
        if self.paired:
            pairs = [pair for pair in zip(self.first, self.second, strict=True) if have.issuperset(pair)]
            first, second = tuple(a for a, _ in pairs), tuple(b for _, b in pairs)
        left = replace(
            self,
            first=first,
            second=second,
            neutral=tuple(word for word in self.neutral if word in have),
            targets=tuple(word for word in self.targets if word in have),
            groups={
                name: tuple(word for word in group if word in have) for name, group in self.groups.items()
            },
            controls=tuple(word for word in self.controls if word in have),
            knowledge=tuple(pair for pair in self.knowledge if have.issuperset(pair)),
        )
        check_words(
            left, f"the words that the vectors have ({some([w for w in self.all if w not in have])} missing)"
        )
        return left

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self)


def check_words(words: BiasWords, where: str) -> None:
    """Refuse word lists that no test can be made of.

    Raises:
        ConfigError: a set is empty or of one word, two sets are equal or overlap, a word is blank or stands twice,
            pairs are of unequal sizes, or a template has no ``{}``.
    """
    for name, terms in zip(words.attributes, (words.first, words.second), strict=True):
        if len(terms) < FEWEST_TERMS:
            raise ConfigError(
                f"{where}: attribute {name!r} has {len(terms)} terms ({', '.join(terms) or 'none'}); expected at "
                f"least {FEWEST_TERMS}"
            )
    if words.attributes[0] == words.attributes[1] or set(words.first) == set(words.second):
        raise ConfigError(f"{where}: the two attributes are the same; expected two to tell apart")
    if shared := sorted(set(words.first) & set(words.second)):
        raise ConfigError(f"{where}: {some(shared)} belong to both attributes; expected each term in one")
    if words.paired and len(words.first) != len(words.second):
        raise ConfigError(
            f"{where}: {len(words.first)} terms of {words.attributes[0]!r} and {len(words.second)} of "
            f"{words.attributes[1]!r}; expected as many of each, or 'paired: false'"
        )
    if not words.targets:
        raise ConfigError(f"{where}: no target is left; expected at least one word that may lean")
    if both := sorted(set(words.targets) & set(words.terms)):
        raise ConfigError(
            f"{where}: {some(both)} are targets and terms of an attribute; expected one of the two"
        )
    for kind in ("first", "second", "targets", "controls", "neutral", "templates"):
        listed = getattr(words, kind)
        if any(not word.strip() for word in listed):
            raise ConfigError(f"{where}: a blank word among the {kind}; expected words")
        if twice := sorted({word for word in listed if listed.count(word) > 1}):
            raise ConfigError(f"{where}: {some(twice)} twice among the {kind}; expected each once")
    if bad := [one for one in words.templates if one.count("{}") != 1]:
        raise ConfigError(f"{where}: template {bad[0]!r}; expected one {{}} where the noun goes")
    if not words.templates:
        raise ConfigError(f"{where}: no templates; expected at least one, such as 'a photo of {{}}.'")


def some(words: "list[str] | tuple[str, ...]", most: int = 8) -> str:
    """The first few of a list, and how many there are."""
    shown = ", ".join(repr(word) for word in words[:most])
    return f"{shown}, ... ({len(words)} in all)" if len(words) > most else shown


def with_article(noun: str) -> str:
    """``a nurse``, ``an actor``, ``a CEO``, ``an hour``, ``an X-ray``, ``an 8-year-old``."""
    word = noun.split(maxsplit=1)[0]
    low, head = word.lower(), word.partition("-")[0]
    if digits := "".join(takewhile(str.isdecimal, word)):
        vowel = digits[0] == "8" or (digits[:2] in ("11", "18") and len(digits) % 3 == 2)
    elif (word.isupper() and len(word) > 1) or (len(head) == 1 and head != word):
        vowel = word[0].upper() in _LETTERS_SAID_WITH_VOWEL
    elif low.startswith((*_SAID_WITH_VOWEL, *_SAID_WITH_VOWEL_AFTER_ALL)):
        vowel = True
    else:  # a one-man band, but an onerous task
        consonant = low.startswith(_SAID_WITH_CONSONANT) or head.lower() in ("one", "ones")
        vowel = low[0] in "aeiou" and not consonant
    return f"{'an' if vowel else 'a'} {noun}"


def sentence(template: str, noun: str) -> str:
    """The template with the noun and its article in place of ``{}``."""
    return template.replace("{}", with_article(noun))


def token_count(word: str, tokenizer: Any) -> int:
    """Tokens of a word, without those that start and end a text."""
    return len(tokenizer(word, add_special_tokens=False)["input_ids"])


def is_known(word: str, tokenizer: Any) -> bool:
    """Whether a tokenizer has the word, whole or in pieces of two letters and more on average.

    A word that becomes the unknown token, nothing at all, or single letters is one it never met.

    Args:
        word: one or several words.
        tokenizer: a Hugging Face tokenizer.
    """
    ids = tokenizer(word, add_special_tokens=False)["input_ids"]
    if not ids or tokenizer.unk_token_id in ids:
        return False
    return 2 * len(ids) <= max(2, len(word))
