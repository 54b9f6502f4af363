"""Which images, class names and templates a ``--data`` spec stands for."""

import difflib
import glob
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml

from mmkd.data import LabelledDataset, open_labelled
from mmkd.errors import ConfigError, DataError, MmkdError
from mmkd.evaluation.zero_shot import ZeroShotTask, check_templates
from mmkd.parse import read_text, read_yaml

# For data of one's own, where nobody has tuned a list.
DEFAULT_TEMPLATES = ("a photo of a {}.",)


@dataclass(frozen=True)
class BuiltinSet:
    """A data set known by name; the fields are the keys of its file in ``configs/zero_shot``.

    Attributes:
        name: what to call it.
        data: hub id.
        split: the split to evaluate on.
        image_column: column of the images.
        label_column: column of the labels.
        class_names: names as they are put into the templates.
        templates: sentences with ``{}``.
        aliases: the data's own label names that differ from ``class_names`` in more than case or underscores.
    """

    name: str
    data: str
    split: str
    image_column: str
    label_column: str
    class_names: tuple[str, ...]
    templates: tuple[str, ...]
    aliases: Mapping[str, str] = field(default_factory=dict)


@cache
def builtin_sets() -> dict[str, BuiltinSet]:
    """All built-in sets by name."""
    folder = files("mmkd.configs").joinpath("zero_shot")
    found = {}
    for file in sorted(folder.iterdir(), key=lambda entry: entry.name):
        if file.name.endswith(".yaml"):
            values = yaml.safe_load(file.read_text(encoding="utf-8"))
            lists = {key: tuple(values[key]) for key in ("class_names", "templates")}
            found[values["name"]] = BuiltinSet(**{**values, **lists})
    return found


def open_task(spec: str, templates: Sequence[str] | None = None) -> ZeroShotTask:
    """Open what ``--data`` names.

    Args:
        spec: a built-in name (``cifar10``), a built-in name with other data (``cifar10=FOLDER_OR_FILE``), or
            labelled data of one's own.
        templates: used instead of the set's own.

    Raises:
        ConfigError: no such built-in name.
        DataError: the data cannot be opened, has no class names, or its classes are not the built-in's.
    """
    name, given, path = spec.partition("=")
    if given and not Path(spec).exists():
        return _builtin_task(find_builtin(name), templates, local=path)
    if spec in builtin_sets():
        return _builtin_task(builtin_sets()[spec], templates, local=None)
    if not given and "/" not in spec and not Path(spec).exists() and not glob.has_magic(spec):
        find_builtin(spec)
    data = open_labelled(spec)
    if not data.class_names:
        raise DataError(
            f"{spec} has bare numbers in its column {data.source.caption_column!r}; expected class names "
            "(a ClassLabel column, or text) to put into the templates"
        )
    return ZeroShotTask(
        data.name, data, data.class_names, tuple(templates or DEFAULT_TEMPLATES), None, _describe(data)
    )


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


def match_classes(names: Sequence[str], builtin: BuiltinSet, where: str) -> tuple[int, ...]:
    """The built-in's class of each of the data's labels, matched by name; case, ``_`` and ``-`` do not count.

    Raises:
        DataError: the names are not the built-in's, one for one.
    """
    aliases = {_plain(alias): _plain(name) for alias, name in builtin.aliases.items()}
    numbers = {_plain(name): number for number, name in enumerate(builtin.class_names)}
    plain = [aliases.get(_plain(name), _plain(name)) for name in names]
    strange = [name for name, key in zip(names, plain, strict=True) if key not in numbers]
    missing = [name for name in builtin.class_names if _plain(name) not in plain]
    if strange or missing or len(plain) != len(numbers):
        found = f"found {_some(strange)}" if strange else f"found {len(names)} labels"
        lacks = f", lacks {_some(missing)}" if missing else ""
        raise DataError(
            f"the labels of {where} are not those of {builtin.name}: {found}{lacks}; expected the "
            f"{len(numbers)} names {_some(builtin.class_names)}; rename them, or leave out '{builtin.name}='"
        )
    return tuple(numbers[key] for key in plain)


def read_templates(path: Path) -> tuple[str, ...]:
    """Read templates: a YAML list (``.yaml``, ``.yml``), else one a line, without blank and ``#`` lines.

    Raises:
        ConfigError: the file cannot be read, or holds no templates.
    """
    try:
        listed = path.suffix in (".yaml", ".yml")
        values: Any = read_yaml(path) if listed else read_text(path).splitlines()
    except MmkdError as error:
        raise ConfigError(f"cannot read templates from {path}: {' '.join(str(error).split())}") from error
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise ConfigError(f"{path} is no list of texts; expected templates such as 'a photo of a {{}}.'")
    templates = tuple(v for value in values if (v := value.strip()) and not v.startswith("#"))
    check_templates(templates, str(path))
    return templates


def _builtin_task(builtin: BuiltinSet, templates: Sequence[str] | None, *, local: str | None) -> ZeroShotTask:
    if local is None:
        data = open_labelled(builtin.data, builtin.split, builtin.image_column, builtin.label_column)
    else:
        data = open_labelled(local)
    return ZeroShotTask(
        builtin.name,
        data,
        builtin.class_names,
        tuple(templates or builtin.templates),
        match_classes(data.class_names, builtin, local or builtin.data),
        _describe(data),
    )


def _describe(data: LabelledDataset) -> str:
    return f"{data.source.spec} · {data.source.split} · image: {data.source.image_column} · label: " + str(
        data.source.caption_column
    )


def _plain(name: str) -> str:
    return " ".join(name.casefold().replace("_", " ").replace("-", " ").split())


def _some(names: Sequence[str], most: int = 5) -> str:
    more = f", ... ({len(names)} in all)" if len(names) > most else ""
    return ", ".join(repr(name) for name in names[:most]) + more
