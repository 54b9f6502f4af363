"""From the options of a training to the loop that runs it: all that can be refused is refused first."""

import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from mmkd.cli.train_options import RunOptions
from mmkd.cli.training_inputs import (
    CHANGEABLE,
    Inputs,
    check_resumed,
    open_inputs,
    run_to_resume,
    saved_settings,
)
from mmkd.cli.training_loop import TrainingLoop, plan_batches
from mmkd.cli.training_validation import open_validator, settings_to_save
from mmkd.distributed import broadcast, default_precision, start_accelerator
from mmkd.files import remove_leftovers, write_text
from mmkd.recipe import Recipe
from mmkd.runs import Run, claim_run_folder, library_versions, new_run_folder, read_run
from mmkd.validation import watched_metric

if TYPE_CHECKING:
    from accelerate import Accelerator


def run_training(settings: dict[str, Any], options: RunOptions, *, typed: set[str], work: Path) -> None:
    """Train with these options, or go on with the run that they name.

    Args:
        settings: every option by name.
        options: those of the run.
        typed: the options that stand on the command line.
        work: the workspace.
    """
    run = run_to_resume(options.out, work / "runs") if options.resume else None
    if run is not None:
        settings = settings | saved_settings(run, settings, typed=typed)
    recipe = Recipe(**{name: settings[name] for name in Recipe.__dataclass_fields__})
    precision = recipe.precision or default_precision()
    accelerator = start_accelerator(precision=precision, tracker=options.tracker)
    inputs = open_inputs(
        recipe,
        cache=settings["cache"] or work / "cache",
        data=settings["data"],
        teacher=settings["teacher"],
        model_config=settings["model_config"],
        pick_teacher=settings["pick_teacher"],
    )
    recipe = recipe.resolve(
        pairs=len(inputs.rows),
        processes=accelerator.num_processes,
        accelerated=accelerator.device.type != "cpu",
        precision=precision,
        views=inputs.views,
        init=inputs.default_init(recipe),
        synthetic=any(source.synthetic_columns for source in inputs.pairs.sources),
    )
    student = inputs.build_student(recipe)
    validator = open_validator(settings, inputs, student, accelerator.device)
    measured = [] if validator is None else validator.metrics
    recipe = replace(recipe, keep_best=watched_metric(recipe.keep_best, measured, patience=recipe.patience))
    memory = settings["mining_memory"]
    mined = inputs.mine(recipe, accelerator, memory)
    plan = plan_batches(recipe, inputs, mined)
    inputs.describe(recipe, student)
    if run is None:
        folder = options.out or new_run_folder(work / "runs", recipe.name)
        run = _new_run(recipe, inputs.record(), _options_to_save(settings, inputs), accelerator, folder)
    else:
        check_resumed(run, inputs)
        if accelerator.is_main_process:
            remove_leftovers(run.folder)
    options = replace(options, **{name: settings[name] for name in CHANGEABLE})
    TrainingLoop(recipe, inputs, student, plan, validator, accelerator, run, options, memory).train()


def _options_to_save(settings: dict[str, Any], inputs: Inputs) -> dict[str, Any]:
    """The options beside the recipe's, as ``mmkd train --config`` reads them."""
    others = {
        name.replace("_", "-"): settings[name]
        for name in ("mining_memory", *CHANGEABLE)
        if settings[name] is not None
    }
    return {**inputs.settings(), **settings_to_save(settings), **others}


def _new_run(
    recipe: Recipe,
    record: dict[str, Any],
    data_options: dict[str, Any],
    accelerator: "Accelerator",
    folder: Path,
) -> Run:
    """Claim a new run's folder; the first process decides for all."""
    record |= {
        "recipe": recipe.to_dict(),
        "command": ["mmkd", *sys.argv[1:]],
        "processes": accelerator.num_processes,
        "versions": library_versions(),
    }
    folder = broadcast(folder, accelerator.num_processes)
    if accelerator.is_main_process:
        run = claim_run_folder(folder, record)
        settings = {
            key.replace("_", "-"): value for key, value in recipe.to_dict().items() if value is not None
        }
        write_text(run.config, yaml.safe_dump({**settings, **data_options}, sort_keys=True))
    accelerator.wait_for_everyone()
    return read_run(folder)
