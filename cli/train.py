"""``mmkd train``: a half-depth student against a cache, or a CLIP from scratch."""

import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from mmkd.cli.option_groups import takes_option_groups
from mmkd.cli.options import DEFAULT_WORK, Config, Work
from mmkd.cli.train_options import (
    DataOptions,
    LossOptions,
    MiningOptions,
    RunOptions,
    StepOptions,
    StudentOptions,
    ValidationOptions,
)

if TYPE_CHECKING:
    from accelerate import Accelerator

    from mmkd.recipe import Recipe
    from mmkd.runs import Run


@takes_option_groups
def train(
    ctx: typer.Context,
    *,
    losses: LossOptions,
    data: DataOptions,
    student: StudentOptions,
    mining: MiningOptions,
    steps: StepOptions,
    validation: ValidationOptions,
    run_options: RunOptions,
    config: Config = None,  # noqa: ARG001 (its callback reads the file)
    work: Work = DEFAULT_WORK,
) -> None:
    """Train a half-depth student against the teacher's cache.

    \b
    Examples:
      accelerate launch mmkd train --kd mse+cos      (from the checkout)
      accelerate launch -m mmkd train --kd mse+cos   (anywhere)
      mmkd train --kd "2000*mse + affinity@0.05" --task clip --epochs 20
      mmkd train --kd none --task clip --init random      the fair baseline: same shape, no teacher

    \b
    Task losses for --task (a bare name takes the weight in brackets):
      triplet    the pair nearer than one negative (1; FaceNet)
      clip       contrastive cross-entropy (1; CLIP)
      siglip     a yes or a no for each image and text (1; SigLIP)
      soft-clip  clip with targets softened by the teacher, temperature 0.05 (1; ALBEF)

    \b
    KD losses for --kd:
      mse        squared error of unit vectors (2000; CLIP-KD)
      cos        one minus the cosine (1)
      l1         absolute error of unit vectors (100)
      huber      squared error of unit vectors, linear for the large (4000)
      kl         KL over the dimensions of an embedding, temperature 0.05 (1)
      nst        second moments of the batch's unit vectors (50; NST)
      mse-raw    squared error of the vectors before they are normalised (10)
      affinity   KL of in-batch similarities, temperature 0.05 (1; TinyCLIP)
      crd        the same, the student at its learnt scale, temperature 0.01 (1; CLIP-KD)
      icl        student images against teacher texts, and the reverse (1; CLIP-KD)
      gd         gradients of the contrastive loss, temperature 0.05 (0.01; CLIP-KD)
      rkd        distances and angles between rows (25; RKD)
    """
    settings: dict[str, Any] = {}
    for group in (losses, data, student, mining, steps, validation, run_options):
        settings |= vars(group)
    from mmkd.cli.training_inputs import (
        CHANGEABLE,
        check_resumed,
        open_inputs,
        run_to_resume,
        saved_settings,
    )
    from mmkd.cli.training_loop import TrainingLoop
    from mmkd.cli.training_validation import open_validator, settings_to_save
    from mmkd.distributed import default_precision, start_accelerator
    from mmkd.files import remove_leftovers
    from mmkd.recipe import Recipe
    from mmkd.runs import new_run_folder
    from mmkd.validation import watched_metric

    run = run_to_resume(run_options.out, work / "runs") if run_options.resume else None
    if run is not None:
        settings |= saved_settings(run, settings, typed=_typed(ctx))
    recipe = Recipe(**{name: settings[name] for name in Recipe.__dataclass_fields__})
    machine_precision = recipe.precision or default_precision()
    accelerator = start_accelerator(precision=machine_precision, tracker=run_options.tracker)
    inputs = open_inputs(
        recipe,
        cache=settings["cache"] or work / "cache",
        data=settings["data"],
        teacher=settings["teacher"],
        model_config=settings["model_config"],
    )
    recipe = recipe.resolve(
        pairs=len(inputs.rows),
        processes=accelerator.num_processes,
        accelerated=accelerator.device.type != "cpu",
        precision=machine_precision,
        views=inputs.views,
        init=inputs.default_init(recipe),
    )
    # All that can be refused is refused before the run's folder is made.
    built = inputs.build_student(recipe)
    validator = open_validator(settings, inputs, built, accelerator.device)
    watched = watched_metric(
        recipe.keep_best, [] if validator is None else validator.metrics, patience=recipe.patience
    )
    recipe = replace(recipe, keep_best=watched)
    mined = inputs.mine(recipe, accelerator, settings["mining_memory"])
    inputs.describe(recipe, built)
    if run is None:
        data_options = {**inputs.settings(), **settings_to_save(settings)}
        for name in ("mining_memory", *CHANGEABLE):
            if settings[name] is not None:
                data_options[name.replace("_", "-")] = settings[name]
        folder = run_options.out or new_run_folder(work / "runs", recipe.name)
        run = _new_run(recipe, inputs.record(), data_options, accelerator, folder)
    else:
        check_resumed(run, inputs)
        if accelerator.is_main_process:
            remove_leftovers(run.folder)
    memory = settings["mining_memory"]
    run_options = replace(run_options, **{name: settings[name] for name in CHANGEABLE})
    TrainingLoop(recipe, inputs, built, mined, validator, accelerator, run, run_options, memory).train()


def _typed(ctx: typer.Context) -> set[str]:
    """The options that stand on the command line."""
    sources = {name: ctx.get_parameter_source(name) for name in ctx.params}
    return {name for name, source in sources.items() if source is not None and source.name == "COMMANDLINE"}


def _new_run(
    recipe: "Recipe",
    record: dict[str, Any],
    data_options: dict[str, Any],
    accelerator: "Accelerator",
    folder: Path,
) -> "Run":
    """Claim a new run's folder; the first process decides for all."""
    import yaml

    from mmkd.distributed import broadcast
    from mmkd.files import write_text
    from mmkd.runs import claim_run_folder, library_versions, read_run

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
