"""Which images, class names and templates a ``--data`` spec stands for."""

import glob
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmkd.data import LabelledDataset, open_labelled
from mmkd.errors import ConfigError, DataError, MmkdError
from mmkd.evaluation.builtin_sets import BuiltinSet, builtin_sets, find_builtin, open_builtin
from mmkd.evaluation.zero_shot_task import ZeroShotTask, check_templates
from mmkd.parse import read_text, read_yaml

# For data of one's own, where nobody has tuned a list.
DEFAULT_TEMPLATES = ("a photo of a {}.",)


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
    data, classes = open_builtin(builtin, local)
    return ZeroShotTask(
        builtin.name,
        data,
        builtin.class_names,
        tuple(templates or builtin.templates),
        classes,
        _describe(data) + ("" if classes is not None else ", by number"),
        builtin.synonyms,
        shared_names=len(set(builtin.class_names)) < len(builtin.class_names),
    )


def _describe(data: LabelledDataset) -> str:
    return f"{data.source.spec} · {data.source.split} · image: {data.source.image_column} · label: " + str(
        data.source.caption_column
    )
