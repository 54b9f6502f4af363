"""``mmkd plan``: hours and gigabytes, before anything long is started."""

import os
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import typer

from mmkd.cli.cache_options import TEACHER, CachingOptions, PairOptions, TeacherOptions
from mmkd.cli.console import console, say, warn
from mmkd.cli.option_groups import Renamed, SectionedCommand, takes_option_groups
from mmkd.cli.options import DEFAULT_WORK, Config, Work
from mmkd.cli.train_options import LossOptions, MiningOptions, StepOptions, StudentOptions

if TYPE_CHECKING:
    from mmkd.cli.plan_result import Plan
    from mmkd.recipe import Recipe


@dataclass(frozen=True)
class RunPlanOptions:
    """The run."""

    train_limit: Annotated[
        int | None, typer.Option(help="Pairs of the training, as --limit of `mmkd train`; default: all.")
    ] = None
    workers: Annotated[
        int | None, typer.Option(help="Loader processes of the training; default: by the number of cores.")
    ] = None
    save_every: Annotated[
        int | None, typer.Option(help="Steps between checkpoints; default: an epoch, at least 200.")
    ] = None
    keep: Annotated[int, typer.Option(min=1, help="Newest checkpoints to keep.")] = 2
    compile: Annotated[bool, typer.Option("--compile", help="Compile the towers.")] = False


class PlanCommand(SectionedCommand):
    """Takes from a workspace's mmkd.yaml what the two commands that it plans would take."""

    borrows: ClassVar[dict[str, dict[str, str]]] = {
        "cache-teacher": {"batch_size": "cache_batch_size"},
        "train": {"limit": "train_limit"},
    }


@takes_option_groups
def plan(
    *,
    teacher: TeacherOptions,
    data: PairOptions,
    caching: Annotated[CachingOptions, Renamed("batch_size", "cache_batch_size")],
    losses: LossOptions,
    student: StudentOptions,
    mining: MiningOptions,
    steps: StepOptions,
    run: RunPlanOptions,
    seconds: Annotated[
        float,
        typer.Option(min=1, help="To measure each of the three for: caching, training, teacher in the loop."),
    ] = 15,
    json: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the same as JSON.")] = None,
    config: Config = None,  # noqa: ARG001 - read by its callback
    work: Work = DEFAULT_WORK,
) -> None:
    """Say how long `mmkd cache-teacher` and `mmkd train` will take here, and whether they fit the disk.

    A small cache of rows from all over the data is made, and real steps are taken from it, with the cache and with
    the teacher in the loop; nothing of that is kept. Options are those of the two commands, with their defaults, but
    for --cache-batch-size and --train-limit. For one process; several divide the hours at best.

    \b
    Examples:
      mmkd plan
      mmkd plan --views 5 --epochs 30
      mmkd plan --store-pixels --json plan.json
    """
    from mmkd.cli.plan_result import table
    from mmkd.errors import ConfigError
    from mmkd.files import write_json
    from mmkd.recipe import Recipe

    if student.model_config is not None:
        raise ConfigError(
            "--model-config trains without a cache, and a plan is of caching and training; leave it out"
        )
    asked: dict[str, Any] = {"limit": run.train_limit}
    for group in (losses, student, mining, steps):
        asked |= {field.name: getattr(group, field.name) for field in fields(group)}
    recipe = Recipe(**{name: value for name, value in asked.items() if name in Recipe.__dataclass_fields__})
    found = _plan(recipe, (teacher, data, caching), mining, run, seconds, work)
    for line in table(found):
        console.print(line, markup=False, soft_wrap=True)
    if not found.fits:
        warn(f"the disk of {work} is too small; pass another --work, or see what takes most of it above")
    if json is not None:
        write_json(json, found.to_json())
        say("saved", str(json))


def _plan(
    recipe: "Recipe",
    caching: tuple[TeacherOptions, PairOptions, CachingOptions],
    mining: MiningOptions,
    run: RunPlanOptions,
    seconds: float,
    work: Path,
) -> "Plan":
    from mmkd.cli.cache_teacher import open_caching
    from mmkd.cli.plan_result import make_plan
    from mmkd.cli.train_options import RunOptions
    from mmkd.errors import ConfigError

    if (launched := os.environ.get("WORLD_SIZE", "1")) != "1":
        raise ConfigError(
            f"{launched} processes were launched, and a plan measures one; start `mmkd plan` by itself"
        )
    if len(named := caching[0].teacher or [TEACHER]) > 1:
        raise ConfigError(
            f"{len(named)} teachers are named, and a plan is of one; plan each by itself, and add up the hours"
        )
    encoders, pairs, settings = open_caching(*caching)
    options = RunOptions(workers=run.workers, save_every=run.save_every, keep=run.keep, compile=run.compile)
    return make_plan(
        recipe,
        encoders[0],
        pairs,
        settings,
        options,
        model=named[0],
        mining_memory=mining.mining_memory,
        seconds=seconds,
        work=work,
    )
