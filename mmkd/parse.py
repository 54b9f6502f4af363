"""JSON and YAML that may come from anybody: what cannot be read plainly is refused, in one line, within bounds."""

import json
from functools import cache
from pathlib import Path
from typing import Any

from mmkd.errors import MmkdError

MAX_JSON = 8 << 20  # parsed, the worst of that size takes some 250 MB
MAX_YAML = 256 << 10  # the parser takes some seconds for that many
MAX_DEPTH = 32


def read_json(path: Path, *, limit: int = MAX_JSON) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        MmkdError: the file is missing, larger than ``limit`` bytes, or holds no JSON object; or keys repeat, numbers
            are not finite, texts are no Unicode, or it is nested deeper than ``MAX_DEPTH``.
    """
    text = read_text(path, limit)
    try:
        value = json.loads(text, object_pairs_hook=_object, parse_constant=_no_number)
        _check_tree(value)
    except (ValueError, RecursionError) as error:
        raise MmkdError(f"{path} is not valid JSON: {_line(error)}") from error
    if not isinstance(value, dict):
        raise MmkdError(f"{path} holds a {type(value).__name__}; expected a JSON object")
    return value


def read_yaml(path: Path) -> Any:
    """Read plain YAML: no tags, no anchors and aliases, no repeated keys.

    Raises:
        MmkdError: the file is missing, larger than ``MAX_YAML`` bytes, or holds anything else.
    """
    import yaml

    text = read_text(path)
    try:
        value = yaml.load(text, _plain_loader())
        _check_tree(value)
    except (yaml.YAMLError, ValueError, RecursionError, OverflowError) as error:
        raise MmkdError(f"{path} is not valid YAML: {_line(error)}") from error
    return value


def read_text(path: Path, limit: int = MAX_YAML) -> str:
    """Read a UTF-8 text file.

    Raises:
        MmkdError: it is missing, no ordinary file, larger than ``limit`` bytes, or not UTF-8.
    """
    try:
        if not path.is_file() and path.exists():  # a pipe would be waited for
            raise MmkdError(f"{path} is no ordinary file")
        with path.open("rb") as stream:
            data = stream.read(limit + 1)
    except OSError as error:
        raise MmkdError(f"cannot read {path}: {error.strerror}") from error
    if len(data) > limit:
        raise MmkdError(f"{path} is larger than the {limit:,} bytes that such a file may have")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise MmkdError(f"{path} is not UTF-8: byte {error.start:,}: {error.reason}") from error


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):  # which of the two counts differs from parser to parser
        raise ValueError("a key stands twice in one object")
    return value


def _no_number(name: str) -> None:
    raise ValueError(f"found {name}; expected a finite number")


def _check_tree(value: Any) -> None:
    """Refuse what breaks later, where nobody expects it: depth in ``repr`` and ``==``, surrogates in ``print``."""
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [*_inner(level)]
        if not level:
            return
    raise ValueError(f"it is nested deeper than {MAX_DEPTH} levels")


def _inner(level: list[Any]) -> list[Any]:
    found: list[Any] = []
    for node in level:
        if isinstance(node, dict):
            found += node.keys()
            found += node.values()
        elif isinstance(node, list | tuple | set):
            found += node
        elif isinstance(node, str) and not node.isascii():
            node.encode("utf-8")  # a lone surrogate raises a ValueError
    return found


@cache
def _plain_loader() -> Any:
    import yaml

    class Plain(yaml.SafeLoader):
        """A few shared nodes can stand for 10^9 values, which any message about them would spell out."""

        def compose_node(self, parent: Any, index: Any) -> Any:
            if self.check_event(yaml.AliasEvent):
                raise yaml.YAMLError("found an alias; write the value out")
            return super().compose_node(parent, index)

        def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
            value: dict[Any, Any] = super().construct_mapping(node, deep)
            if len(value) != len(node.value):
                raise yaml.YAMLError(f"a key stands twice{node.start_mark}")
            return value

    return Plain


def _line(error: Exception) -> str:
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    if isinstance(error, UnicodeEncodeError):
        return "it holds half a surrogate pair; expected Unicode text"
    return " ".join(str(error).split())[:300]
