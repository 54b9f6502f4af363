"""Which data sets ``mmkd eval zero-shot`` goes through, and whether published scores are reproduced on them."""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from mmkd.cli.console import console, warn
from mmkd.cli.models import distinct_names
from mmkd.cli.tables import align
from mmkd.errors import ConfigError, DataError, MmkdError

if TYPE_CHECKING:
    from pathlib import Path

    from mmkd.evaluation.published import Reproduction
    from mmkd.evaluation.zero_shot_task import ZeroShotTask

DEFAULT_DATA = ("cifar10", "cifar100", "stl10")


def choose_sets(data: Sequence[str] | None, *, every: bool, check: bool, models: Sequence[str]) -> list[str]:
    """The ``--data`` specs to evaluate.

    Args:
        data: those that were named.
        every: all built-in sets, too; a local copy that was named takes its set's place.
        check: only sets on which a score of one of ``models`` was published.
        models: hub ids.

    Raises:
        ConfigError: ``check`` finds no set.
    """
    from mmkd.evaluation.builtin_sets import builtin_sets
    from mmkd.evaluation.published import published_sets

    named = list(data or ())
    if every:
        taken = {spec.partition("=")[0] for spec in named}
        named += [name for name in builtin_sets() if name not in taken]
    if not check:
        return named or list(DEFAULT_DATA)
    known = published_sets(models)
    chosen = [spec for spec in named if spec.partition("=")[0] in known] if named else known
    if not chosen:
        raise ConfigError(
            f"no published score on {', '.join(named)} is known; expected --data among {', '.join(known)}"
        )
    return chosen


def open_sets(
    specs: Sequence[str], templates: Sequence[str] | None, *, lenient: bool
) -> "tuple[list[ZeroShotTask], dict[str, str]]":
    """Open each set; where ``lenient``, those that cannot be opened are left out, with the reason by name.

    Sets of one name, such as ``a/test.parquet`` and ``b/test.parquet``, are told apart by their place.

    Raises:
        DataError: a set cannot be opened, or, where ``lenient``, none can.
    """
    from mmkd.evaluation.tasks import open_task

    tasks, left_out = [], {}
    for spec in specs:
        try:
            tasks.append(open_task(spec, templates))
        except DataError as error:
            if not lenient:
                raise
            left_out[spec.partition("=")[0]] = str(error)
            warn(f"{spec} is left out: {error}")
    if not tasks:
        first, reason = next(iter(left_out.items()))
        raise DataError(f"none of {len(left_out)} data sets can be opened; of {first}: {reason}")
    names = distinct_names([task.name for task in tasks], reserved=None)
    return [replace(task, name=name) for task, name in zip(tasks, names, strict=True)], left_out


def check_options(limit: int | None, templates: "Path | None") -> None:
    """Refuse what makes a score another than the published one.

    Raises:
        ConfigError: fewer images, or other templates, were asked for.
    """
    for given, option in ((limit, "--limit"), (templates, "--templates")):
        if given is not None:
            raise ConfigError(
                f"published scores are of all images and the built-in templates; leave out {option}, or --check"
            )


def report_checks(checks: "Sequence[Reproduction]", sets: Sequence[str]) -> None:
    """Print each published score beside the one that was found.

    Args:
        checks: of the sets that were evaluated.
        sets: all that were to be checked.

    Raises:
        MmkdError: one was not reproduced, or could not be asked for.
    """
    from mmkd.evaluation.published import TOLERANCE

    rows = [["top-1, percent", "model", "published", "found", ""]]
    for one in checks:
        word = "reproduced" if one.reproduced else "NOT reproduced"
        if not one.complete:
            word = f"NOT reproduced: {one.images:,} images of {one.published_images:,}"
        rows.append(
            [
                one.set,
                one.model,
                f"{one.published:.2f}",
                f"{one.found:.2f}",
                f"{word} ({one.found - one.published:+.2f})",
            ]
        )
    for line in ["", *align(rows)]:
        console.print(line, markup=False, soft_wrap=True)
    wrong = [one for one in checks if not one.reproduced]
    if wrong:
        found = ", ".join(
            f"{one.found:.2f} on {one.set}{'' if one.complete else f' ({one.images:,} images)'} where "
            f"{one.published:.2f}{'' if one.complete else f' (of {one.published_images:,})'} was"
            for one in wrong
        )
        raise MmkdError(
            f"published scores are not reproduced: {found} expected, give or take {TOLERANCE}; check the data "
            "(complete, undamaged, not recompressed) and the versions of transformers and Pillow"
        )
    asked = {one.set for one in checks}
    if missing := [name for name in sets if name not in asked]:
        raise MmkdError(
            f"{', '.join(missing)} could not be held against a published score; see what is left out"
        )
