"""The YAML of ``mmkd study``, checked key by key before anything is opened."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmkd.cache.checks import shown
from mmkd.cli.options import read_settings, unknown_key
from mmkd.errors import ConfigError

KEYS = {
    "about": "what the study asks, in words",
    "base": "settings that all arms share",
    "arms": "what is varied, by name",
    "seeds": "a number of seeds, or a list of them",
    "cache": "the teacher's cache",
    "teacher": "hub id or folder",
    "data": "the pairs",
    "template": "for labelled data: 'a photo of a {}.'",
    "evaluate": "what every student is judged by",
    "rank-by": "the metric that ranks",
    "workers": "loader processes of a training",
}
_EVALUATE = ("zero-shot", "retrieval", "templates", "limit")


@dataclass(frozen=True)
class StudyFile:
    """What a study's YAML says, in its own words; what it leaves out is ``None`` or empty."""

    about: str | None = None
    base: Mapping[str, Any] = None  # type: ignore[assignment]
    arms: Mapping[str, Mapping[str, Any]] = None  # type: ignore[assignment]
    seeds: tuple[Any, ...] = (0, 1, 2)
    cache: str | None = None
    teacher: str | None = None
    data: tuple[str, ...] = ()
    template: str | None = None
    zero_shot: tuple[str, ...] = ()
    retrieval: tuple[str, ...] = ()
    templates: str | None = None
    limit: int | None = None
    rank_by: str | None = None
    workers: int | None = None


def read_study_file(path: Path) -> StudyFile:
    """Read a study's YAML; paths in it are relative to where the command is run, as on the command line.

    Raises:
        MmkdError: it cannot be read, has an unknown key, or a value of another kind than expected.
    """
    values = _normal(read_settings(path), list(KEYS), "", path)
    evaluate = _normal(_mapping(values.get("evaluate"), "evaluate", path), list(_EVALUATE), "evaluate.", path)
    return StudyFile(
        about=_text(values.get("about"), "about", path),
        base=_recipe_keys(_mapping(values.get("base"), "base", path)),
        arms=_arms(values.get("arms"), path),
        seeds=seed_list(values.get("seeds", 3)),
        cache=_text(values.get("cache"), "cache", path),
        teacher=_text(values.get("teacher"), "teacher", path),
        data=_specs(values.get("data"), "data", path),
        template=_text(values.get("template"), "template", path),
        zero_shot=_specs(evaluate.get("zero-shot"), "evaluate.zero-shot", path),
        retrieval=_specs(evaluate.get("retrieval"), "evaluate.retrieval", path),
        templates=_text(evaluate.get("templates"), "evaluate.templates", path),
        limit=_count(evaluate.get("limit"), "evaluate.limit", path, least=2),
        rank_by=_text(values.get("rank-by"), "rank-by", path),
        workers=_count(values.get("workers"), "workers", path, least=0),
    )


def seed_list(value: Any) -> tuple[Any, ...]:
    """``3`` stands for the seeds 0, 1 and 2."""
    if isinstance(value, int) and not isinstance(value, bool):
        return tuple(range(min(max(value, 0), 1000)))
    if isinstance(value, list):
        return tuple(value)
    raise ConfigError(f"'seeds' is {shown(value)}; expected how many, or a list such as [0, 1, 2]")


def parse_assignment(text: str) -> tuple[str, Any]:
    """``lr=5e-4`` of ``--set`` as a recipe's field and its value, read as in a file.

    Raises:
        ConfigError: it has no ``=``, or its value is no plain one.
    """
    key, given, value = text.partition("=")
    if not given or not key.strip():
        raise ConfigError(
            f"--set {text!r} sets nothing; expected a setting and its value, such as --set lr=5e-4"
        )
    return key.strip().replace("-", "_"), _value(value.strip())


def _value(text: str) -> Any:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return {"true": True, "false": False}.get(text, text)


def _normal(values: Mapping[Any, Any], known: list[str], prefix: str, file: Path) -> dict[str, Any]:
    found = {}
    for raw, value in values.items():
        name = str(raw).replace("_", "-")
        if name not in known:
            raise unknown_key(f"{prefix}{raw}", name, known, file)
        found[name] = value
    return found


def _mapping(value: Any, key: str, file: Path) -> Mapping[Any, Any]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise ConfigError(f"'{key}' in {file} is {shown(value)}; expected names and values, as in 'lr: 1e-3'")
    return value


def _recipe_keys(values: Mapping[Any, Any]) -> dict[str, Any]:
    return {str(key).replace("-", "_"): _number(value) for key, value in values.items()}


def _number(value: Any) -> Any:
    # YAML 1.1 reads 1e-3, without a point, as a text.
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return value
    return value


def _arms(value: Any, file: Path) -> dict[str, dict[str, Any]]:
    if value is None:
        return {}
    if isinstance(value, list) and all(isinstance(kd, str) for kd in value):
        if len(set(value)) < len(value):
            raise ConfigError(f"'arms' in {file} has an arm twice; give each once")
        return {kd: {"kd": kd} for kd in value}
    if not isinstance(value, dict):
        raise ConfigError(
            f"'arms' in {file} is {shown(value)}; expected each arm's name and settings, or a list of --kd expressions"
        )
    return {str(name): _recipe_keys(_mapping(arm, f"arms.{name}", file)) for name, arm in value.items()}


def _specs(value: Any, key: str, file: Path) -> tuple[str, ...]:
    if isinstance(value, dict):
        value = [f"{name}={spec}" for name, spec in value.items()]
    values: Sequence[Any] = [] if value is None else value if isinstance(value, list) else [value]
    if not all(isinstance(one, str) and one for one in values):
        raise ConfigError(f"'{key}' in {file} is {shown(value)}; expected a data set, or a list of them")
    return tuple(values)


def _text(value: Any, key: str, file: Path) -> str | None:
    if value is None or (isinstance(value, str) and value):
        return value
    raise ConfigError(f"'{key}' in {file} is {shown(value)}; expected a text")


def _count(value: Any, key: str, file: Path, *, least: int) -> int | None:
    if value is None or (isinstance(value, int) and not isinstance(value, bool) and value >= least):
        return value
    raise ConfigError(f"'{key}' in {file} is {shown(value)}; expected a whole number, {least} or more")
