"""Options in groups: a dataclass a group, a section of ``--help`` a group, a field an option."""

import inspect
from collections.abc import Callable
from dataclasses import MISSING, dataclass, fields
from typing import Any, get_type_hints

from typer.core import TyperCommand


@dataclass(frozen=True)
class Renamed:
    """Beside a group in ``Annotated``: fields whose options have other names here, where two groups share one."""

    field: str
    option: str


def takes_option_groups(function: Callable[..., None]) -> Callable[..., None]:
    """Let a command take dataclasses: each field of theirs becomes an option, and the command gets them filled.

    A field is ``name: Annotated[type, typer.Option(...)] = default``, as a command's own parameter would be; the
    first line of the dataclass's docstring is the title of its section in ``--help``.
    """
    hints = get_type_hints(function, include_extras=True)
    own = inspect.signature(function).parameters
    groups, renamed = {}, {}
    for name in own:
        group = getattr(hints[name], "__origin__", hints[name])
        if hasattr(group, "__dataclass_fields__"):
            groups[name] = group
            notes = getattr(hints[name], "__metadata__", ())
            renamed[name] = {note.field: note.option for note in notes if isinstance(note, Renamed)}
    parameters = [own[name].replace(annotation=hints[name]) for name in own if name not in groups]
    for name, group in groups.items():
        parameters += _options(group, renamed[name])

    def command(**values: Any) -> None:
        filled = {
            name: group(
                **{
                    field.name: values.pop(renamed[name].get(field.name, field.name))
                    for field in fields(group)
                }
            )
            for name, group in groups.items()
        }
        function(**values, **filled)

    keyword_only = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in parameters]
    command.__name__, command.__doc__ = function.__name__, function.__doc__
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in keyword_only}
    command.__dict__["__signature__"] = inspect.Signature(keyword_only)
    return command


def _options(group: type, renamed: dict[str, str]) -> list[inspect.Parameter]:
    hints = get_type_hints(group, include_extras=True)
    title = (group.__doc__ or "").splitlines()[0].rstrip(".")
    parameters = []
    for field in fields(group):
        hints[field.name].__metadata__[0].rich_help_panel = title
        default = inspect.Parameter.empty if field.default is MISSING else field.default
        parameters.append(
            inspect.Parameter(
                renamed.get(field.name, field.name),
                inspect.Parameter.KEYWORD_ONLY,
                default=default,
                annotation=hints[field.name],
            )
        )
    return parameters


class SectionedCommand(TyperCommand):
    """A command whose plain ``--help`` has a section a group of options."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the options under the titles of their groups, those without a group last."""
        sections: dict[str, list[tuple[str, str]]] = {}
        for param in self.get_params(ctx):
            record = param.get_help_record(ctx)
            if record is not None:
                title = getattr(param, "rich_help_panel", None) or "General"
                sections.setdefault(title, []).append(record)
        general = sections.pop("General", [])
        for title, records in [*sections.items(), ("General", general)]:
            with formatter.section(title):
                formatter.write_dl(records)
