"""Word lists from files: the built-in ones in ``configs/bias``, and one's own."""

from dataclasses import replace
from difflib import get_close_matches
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml

from mmkd.errors import ConfigError
from mmkd.evaluation.bias.words import BiasWords, Reference, check_words
from mmkd.parse import read_yaml

SOURCE_KEYS = ("name", "source", "year", "licence")
# WinoBias calls an occupation of women when they are the majority in its own table.
MAJORITY = 50.0
_LAST_SOURCES = ("controls", "knowledge")  # of the built-in sources, what the last two are of
_KEYS = {
    "name": str,
    "attributes": dict,
    "paired": bool,
    "neutral": list,
    "targets": (list, dict),
    "templates": list,
    "article": bool,
    "controls": list,
    "knowledge": dict,
    "references": dict,
    "source": str,
    "year": int,
    "licence": str,
}


@cache
def builtin_words() -> BiasWords:
    """Gender and professions: the lists of ``configs/bias``."""
    gender, professions, percent, controls = (
        _builtin(name) for name in ("gender", "professions", "percent_women", "controls")
    )
    (one, first), (other, second) = gender["attributes"].items()
    lists, nouns, knowledge = professions["lists"], controls["neutral_nouns"], controls["knowledge"]
    references = tuple(Reference(**table, unit=percent["unit"]) for table in percent["tables"])
    share = references[0].values
    words = BiasWords(
        name=gender["name"],
        attributes=(one, other),
        first=tuple(first),
        second=tuple(second),
        paired=gender["paired"],
        neutral=tuple(gender["neutral"]),
        targets=tuple(dict.fromkeys(word for one in lists for word in one["professions"])),
        groups={
            "mostly women": tuple(word for word in share if share[word] > MAJORITY),
            "mostly men": tuple(word for word in share if share[word] <= MAJORITY),
        },
        controls=tuple(nouns["words"]),
        knowledge=tuple(knowledge["pairs"].items()),
        templates=tuple(gender["templates"]),
        references=references,
        sources=tuple({key: one[key] for key in SOURCE_KEYS} for one in (gender, *lists, nouns, knowledge)),
    )
    check_words(words, "the built-in lists")
    return words


def read_words(path: Path) -> BiasWords:
    """One's own attributes and targets from YAML; what a file leaves out is as in the built-in lists.

    Required are ``attributes`` (two names, each with its terms) and ``targets`` (a list, or two lists by name).
    Optional are ``name``, ``paired``, ``neutral``, ``templates``, ``article``, ``controls``, ``knowledge`` (word:
    word), ``references`` (name: {target: number}), ``source``, ``year`` and ``licence``.

    Raises:
        MmkdError: the file cannot be read, has another key or another kind of value, or lists that no test can be made
            of (see ``check_words``).
    """
    values = read_yaml(path)
    _check_keys(values, path)
    attributes, targets = values["attributes"], values["targets"]
    if len(attributes) != 2:
        raise ConfigError(f"{path}: {len(attributes)} attributes; expected two, each a name with its terms")
    groups = targets if isinstance(targets, dict) else {}
    if groups and len(groups) != 2:
        raise ConfigError(f"{path}: targets in {len(groups)} groups; expected a list, or two groups by name")
    base = builtin_words()
    (one, first), (other, second) = attributes.items()
    source = {"name": str(values.get("name", path.stem)), **{key: values.get(key) for key in SOURCE_KEYS[1:]}}
    given: dict[str, Any] = {
        key: _texts(values[key], key, path) for key in ("neutral", "templates", "controls") if key in values
    }
    if "knowledge" in values:
        given["knowledge"] = tuple((str(a), str(b)) for a, b in values["knowledge"].items())
    listed = [word for group in groups.values() for word in _texts(group, "targets", path)]
    words = replace(
        base,
        name=source["name"],
        attributes=(str(one), str(other)),
        first=_texts(first, str(one), path),
        second=_texts(second, str(other), path),
        paired=values.get("paired", False),
        targets=tuple(dict.fromkeys(listed)) if groups else _texts(targets, "targets", path),
        groups={str(name): _texts(group, "targets", path) for name, group in groups.items()},
        article=values.get("article", True),
        references=_references(values, path),
        # The built-in lists' own sources, as far as the file leaves these lists as they are.
        sources=(
            source,
            *(one for key, one in zip(_LAST_SOURCES, base.sources[-2:], strict=True) if key not in values),
        ),
        **{"neutral": (), **given},
    )
    if len(listed) != len(set(listed)):
        raise ConfigError(f"{path}: a word stands in both groups of targets; expected each in one")
    check_words(words, str(path))
    taken = {*words.targets, *words.terms, *words.neutral}
    return replace(words, controls=tuple(word for word in words.controls if word not in taken))


def _builtin(name: str) -> Any:
    file = files("mmkd.configs").joinpath("bias", f"{name}.yaml")
    return yaml.safe_load(file.read_text(encoding="utf-8"))


def _check_keys(values: Any, path: Path) -> None:
    if not isinstance(values, dict):
        raise ConfigError(f"{path} holds no mapping; expected 'attributes' and 'targets'")
    for key, value in values.items():
        if key not in _KEYS:
            near = get_close_matches(str(key), _KEYS, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"expected some of: {', '.join(_KEYS)}"
            raise ConfigError(f"{path}: unknown key {key!r}; {hint}")
        if not isinstance(value, _KEYS[key]):  # type: ignore[arg-type]
            raise ConfigError(
                f"{path}: {key!r} is of type {type(value).__name__}; see docs/bias.md for an example"
            )
    if missing := [key for key in ("attributes", "targets") if key not in values]:
        raise ConfigError(f"{path} has no {missing[0]!r}; expected at least 'attributes' and 'targets'")


def _texts(values: Any, name: str, path: Path) -> tuple[str, ...]:
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        # YAML reads a bare `no` or `off` as a truth value.
        raise ConfigError(f"{path}: {name!r} is no list of words; expected one, such as [nurse, 'no']")
    return tuple(values)


def _references(values: Any, path: Path) -> tuple[Reference, ...]:
    found = []
    for name, table in values.get("references", {}).items():
        if not isinstance(table, dict) or not all(
            isinstance(value, int | float) and not isinstance(value, bool) for value in table.values()
        ):
            raise ConfigError(f"{path}: reference {name!r} is no table; expected targets with a number each")
        numbers = {str(word): float(value) for word, value in table.items()}
        found.append(
            Reference(
                str(name),
                numbers,
                str(values.get("source")),
                values.get("year"),
                str(values.get("licence")),
            )
        )
    return tuple(found)
