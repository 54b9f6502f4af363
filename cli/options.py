"""Options that several commands share, and the YAML files that give options their defaults.

Precedence: flag, environment variable, ``--config`` file, the workspace's ``mmkd.yaml``, built-in default.
"""

from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any

import typer

from mmkd.cache.checks import shown
from mmkd.cli.workspace import Workspace
from mmkd.errors import ConfigError
from mmkd.parse import read_yaml

DEFAULT_WORK = Path("work")
_NOT_IN_FILES = {"work", "config", "debug", "help"}
_LAYERS = "mmkd.cli.options.layers"


def read_settings(path: Path) -> dict[str, Any]:
    """Read a YAML mapping; an empty file is an empty mapping.

    Raises:
        MmkdError: the file is missing, is not plain YAML, or holds something else than a mapping.
    """
    value = read_yaml(path)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise ConfigError(
            f"{path} holds a {type(value).__name__}; expected option names and values, as in 'lr: 1e-3'"
        )
    return value


def unknown_key(key: str, name: str, known: list[str], file: Path) -> ConfigError:
    """The error for a key that nothing reads: ``key`` in full, ``name`` its last part."""
    near = get_close_matches(name, known, n=1)
    hint = f"did you mean '{near[0]}'?" if near else f"expected one of: {', '.join(known)}"
    return ConfigError(f"unknown key {shown(key)} in {file}; {hint}")


def _option_names(command: Any) -> dict[str, Any]:
    """Every option of a command that a file may set, by its long name without dashes."""
    names = {}
    for param in command.params:
        long = next((opt[2:] for opt in param.opts if opt.startswith("--")), None)
        if param.param_type_name == "option" and long and long not in _NOT_IN_FILES:
            names[long] = param
    return names


def _as_typed(value: Any, param: Any, key: str, file: Path) -> Any:
    """The value as if it had been typed, so that one parser judges it wherever it came from."""
    if param.is_flag:
        if not isinstance(value, bool):
            raise ConfigError(f"'{key}' in {file} is {shown(value)}; expected true or false")
        return value
    if param.multiple:
        return [_scalar(item, key, file) for item in (value if isinstance(value, list) else [value])]
    return _scalar(value, key, file)


def _scalar(value: Any, key: str, file: Path) -> str:
    # YAML reads a bare `no`, `off` or `yes` as a truth value, and an empty value as null.
    if isinstance(value, str | int | float) and not isinstance(value, bool):
        return str(value)
    raise ConfigError(
        f"'{key}' in {file} is read as {shown(value)}; expected a number or a text (quote it: \"no\")"
    )


def _defaults(section: Any, command: Any, prefix: str, file: Path) -> dict[str, Any]:
    """Check a section against its command, and all sections below; give it in click's own names."""
    if not isinstance(section, Mapping):
        where = f"'{prefix.rstrip('.')}' in {file}" if prefix else str(file)
        raise ConfigError(f"{where} is {shown(section)}; expected option names and values")
    commands = getattr(command, "commands", None)
    options = _option_names(command)
    known = sorted(commands or options)
    found: dict[str, Any] = {}
    for raw_key, value in section.items():
        name = str(raw_key).replace("_", "-")
        if name not in known:
            raise unknown_key(f"{prefix}{raw_key}", name, known, file)
        if commands:
            found[name] = _defaults(value, commands[name], f"{prefix}{name}.", file)
        else:
            found[options[name].name] = _as_typed(value, options[name], f"{prefix}{raw_key}", file)
    return found


def _command_path(ctx: typer.Context) -> list[str]:
    names: list[str] = []
    here: Any = ctx
    while here.parent is not None:
        names.insert(0, here.info_name)
        here = here.parent
    return names


def _apply(ctx: typer.Context, layer: str, values: dict[str, Any]) -> None:
    # --work and --config are both eager and come in the order they were typed; the file beats the workspace.
    layers = ctx.meta.setdefault(_LAYERS, {})
    layers[layer] = values
    ctx.default_map = {**layers.get("work", {}), **layers.get("config", {})}


def _borrowed(sections: dict[str, Any], command: Any) -> dict[str, Any]:
    """What other commands' sections say of the options that ``command`` has after them."""
    found: dict[str, Any] = {}
    for section, renamed in getattr(command, "borrows", {}).items():
        own = {param.name for param in command.params}
        values = {renamed.get(name, name): value for name, value in sections.get(section, {}).items()}
        found |= {name: value for name, value in values.items() if name in own}
    return found


def _load_work(ctx: typer.Context, value: Path) -> Path:
    file = Workspace(value).settings
    if not ctx.resilient_parsing and file.is_file():
        values = _defaults(read_settings(file), ctx.find_root().command, "", file)
        borrowed = _borrowed(values, ctx.command)
        for name in _command_path(ctx):
            values = values.get(name, {})
        _apply(ctx, "work", borrowed | values)
    return value


def _load_config(ctx: typer.Context, value: Path | None) -> Path | None:
    if value is not None and not ctx.resilient_parsing:
        _apply(ctx, "config", _defaults(read_settings(value), ctx.command, "", value))
    return value


Work = Annotated[
    Path,
    typer.Option(
        "--work",
        envvar="MMKD_WORK",
        is_eager=True,
        callback=_load_work,
        help="Workspace: the folder with cache/ and runs/. Its mmkd.yaml, if any, holds defaults.",
    ),
]
"""``work: Work = DEFAULT_WORK``"""

Config = Annotated[
    Path | None,
    typer.Option(
        "--config",
        metavar="FILE",
        is_eager=True,
        callback=_load_config,
        help="YAML with this command's options, e.g. 'epochs: 8'; a flag beats the file.",
    ),
]
"""``config: Config = None``"""

Debug = Annotated[bool, typer.Option("--debug", help="Show the whole traceback of an error.")]
"""``debug: Debug = False``; ``--debug`` works anywhere on the line, whether or not a command declares it."""
