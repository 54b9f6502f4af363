"""The data sets that are known by name: where their images are, and how their classes are put into words."""

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from typing import Any

import yaml

from mmkd.data import LabelledDataset, open_labelled
from mmkd.errors import ConfigError, DataError


@dataclass(frozen=True)
class BuiltinSet:
    """A data set known by name; the fields are the keys of its file in ``configs/zero_shot``.

    Attributes:
        name: what to call it.
        data: hub id.
        split: the split to evaluate on.
        label_column: column of the labels.
        class_names: the K names as they are put into the templates; a name may be that of two classes.
        templates: sentences with ``{}``.
        image_column: column of the images; ``None``: guessed.
        files: the hub's files that hold ``split``, so that no other is downloaded; ``None``: all.
        numbered: the hub's label ``i`` is class ``i``, whatever its names.
        label_names: the names that copies of the data give the K classes, where those are others.
        aliases: the data's own label names that differ from ``class_names`` in more than case or underscores.
        synonyms: further names of a class, averaged with its own.
        images: of the published set, where scores were published; ``None``: not held against.
        published: published scores in percent, by model and metric.
    """

    name: str
    data: str
    split: str
    label_column: str
    class_names: tuple[str, ...]
    templates: tuple[str, ...]
    image_column: str | None = None
    files: str | None = None
    numbered: bool = False
    label_names: tuple[str, ...] = ()
    aliases: Mapping[str, str] = field(default_factory=dict)
    synonyms: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    images: int | None = None
    published: Mapping[str, Mapping[str, float]] = field(default_factory=dict)


@cache
def builtin_sets() -> dict[str, BuiltinSet]:
    """All built-in sets by name."""
    folder = files("mmkd.configs").joinpath("zero_shot")
    # The C parser, where PyYAML has it: ImageNet's thousand names take the other half a second.
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    found = {}
    for file in sorted(folder.iterdir(), key=lambda entry: entry.name):
        if file.name.endswith(".yaml"):
            values = yaml.load(file.read_text(encoding="utf-8"), loader)
            found[values["name"]] = values
    return {name: _builtin(values, found) for name, values in found.items()}


def find_builtin(name: str) -> BuiltinSet:
    """A built-in set by name.

    Raises:
        ConfigError: there is none of that name; names the nearest and all there are.
    """
    known = builtin_sets()
    if name in known:
        return known[name]
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    raise ConfigError(
        f"no built-in data set {name!r}, and no such file; {hint}Built in: {', '.join(known)}; "
        "other data by file, folder or hub id (owner/name)"
    )


def open_builtin(
    builtin: BuiltinSet, local: str | None = None
) -> tuple[LabelledDataset, tuple[int, ...] | None]:
    """Open a built-in set's images, or a local copy of them.

    Returns:
        The images, and the class of each label; ``None``: label ``i`` is class ``i``.

    Raises:
        DataError: the data cannot be opened, or its classes are not the built-in's.
    """
    if local is not None:
        data = open_labelled(local)
    else:
        data = open_labelled(
            builtin.data, builtin.split, builtin.image_column, builtin.label_column, files=builtin.files
        )
    if builtin.numbered and (local is None or not data.class_names):
        return data, None
    return data, match_classes(data.class_names, builtin, local or builtin.data)


def match_classes(names: Sequence[str], builtin: BuiltinSet, where: str) -> tuple[int, ...]:
    """The built-in's class of each of the data's labels, matched by name; case, ``_`` and ``-`` do not count.

    Raises:
        DataError: the names are not the built-in's, one for one.
    """
    own = bool(builtin.label_names) and set(names) == set(builtin.label_names)
    known = builtin.label_names if own else builtin.class_names
    aliases = {_plain(alias): _plain(name) for alias, name in builtin.aliases.items()}
    numbers = {_plain(name): number for number, name in enumerate(known)}
    plain = [aliases.get(_plain(name), _plain(name)) for name in names]
    strange = [name for name, key in zip(names, plain, strict=True) if key not in numbers]
    missing = [name for name in known if _plain(name) not in plain]
    if strange or missing or len(plain) != len(numbers):
        found = f"found {_some(strange)}" if strange else f"found {len(names)} labels"
        lacks = f", lacks {_some(missing)}" if missing else ""
        raise DataError(
            f"the labels of {where} are not those of {builtin.name}: {found}{lacks}; expected the "
            f"{len(numbers)} names {_some(known)}; rename them, or leave out '{builtin.name}='"
        )
    return tuple(numbers[key] for key in plain)


def _builtin(values: dict[str, Any], all_values: Mapping[str, dict[str, Any]]) -> BuiltinSet:
    """A set from its file's keys; ``prompts_of`` takes another's words, ``members`` some of its classes."""
    own = dict(values)
    if (source := own.pop("prompts_of", None)) is not None:
        members = own.pop("members", None)
        for key in ("class_names", "label_names"):
            names = all_values[source][key]
            own[key] = names if members is None else [names[member] for member in members]
        own["templates"] = all_values[source]["templates"]
    for key in ("class_names", "label_names", "templates"):
        own[key] = tuple(own.get(key, ()))
    own["synonyms"] = {name: tuple(more) for name, more in own.get("synonyms", {}).items()}
    return BuiltinSet(**own)


def _plain(name: str) -> str:
    return " ".join(name.casefold().replace("_", " ").replace("-", " ").split())


def _some(names: Sequence[str], most: int = 5) -> str:
    more = f", ... ({len(names)} in all)" if len(names) > most else ""
    return ", ".join(repr(name) for name in names[:most]) + more
