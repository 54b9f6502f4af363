"""``mmkd train``: a half-depth student against a cache, or a CLIP from scratch."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mmkd.cli.options import DEFAULT_WORK, Config, Work

if TYPE_CHECKING:
    from accelerate import Accelerator

    from mmkd.cli.training_inputs import Inputs
    from mmkd.recipe import Recipe
    from mmkd.runs import Run
    from mmkd.training import Prepared, Schedule


def train(
    kd: Annotated[
        str, typer.Option(help="KD losses: [weight*]name[@temperature] joined by '+', or none.")
    ] = "mse+cos",
    task: Annotated[
        str, typer.Option(help="What is learnt from the pairs: triplet, clip or none.")
    ] = "triplet",
    cache: Annotated[Path | None, typer.Option(help="The teacher's cache; default: the workspace's.")] = None,
    data: Annotated[
        list[str] | None, typer.Option(help="The pairs, where they moved since they were cached.")
    ] = None,
    teacher: Annotated[
        str | None, typer.Option(help="The teacher, where it moved since it was cached.")
    ] = None,
    model_config: Annotated[
        Path | None,
        typer.Option(
            help="config.json of a CLIP to train from scratch, with tokenizer and processor beside it."
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="The run's folder; default: <work>/runs/<day>-<kd>.")
    ] = None,
    init: Annotated[
        str, typer.Option(help="Student's weights: alternate (every other layer), first or random.")
    ] = ("alternate"),
    depth: Annotated[
        int | None, typer.Option(help="Layers of each tower; default: half the teacher's.")
    ] = None,
    limit: Annotated[int | None, typer.Option(help="Train on a random subset of this many pairs.")] = None,
    epochs: Annotated[int, typer.Option(help="Passes over the pairs.")] = 10,
    batch_size: Annotated[
        int | None,
        typer.Option(help="Pairs a step, over all processes; default: 1024 on a GPU, 128 on a CPU."),
    ] = None,
    lr: Annotated[float, typer.Option(help="Peak learning rate of AdamW.")] = 1e-3,
    warmup: Annotated[
        int | None, typer.Option(help="Steps of warm-up; default: a tenth, 2,000 at most.")
    ] = None,
    weight_decay: Annotated[float, typer.Option(help="On matrices; norms and biases have none.")] = 0.1,
    clip_grad: Annotated[float, typer.Option(help="Largest norm of the gradient; 0 for no clipping.")] = 1.0,
    precision: Annotated[
        str | None, typer.Option(help="fp32, bf16 or fp16; default: bf16 on a GPU, fp32 on a CPU.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of everything random.")] = 0,
    neighbours: Annotated[int, typer.Option(help="Mined negatives a row, for the triplet loss.")] = 32,
    workers: Annotated[
        int | None, typer.Option(help="Loader processes; default: by the number of cores.")
    ] = None,
    save_every: Annotated[
        int | None, typer.Option(help="Steps between checkpoints; default: an epoch, at least 200.")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the last checkpoint of --out or the latest run.")
    ] = False,
    tracker: Annotated[str | None, typer.Option(help="Also log to tensorboard, wandb or trackio.")] = None,
    config: Config = None,
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
    KD losses (a bare name takes the weight in brackets):
      mse       squared error of unit vectors (2000; CLIP-KD)
      cos       one minus the cosine (1)
      l1        absolute error of unit vectors (10)
      affinity  KL of in-batch similarities, temperature 0.05 (1; TinyCLIP)
    """
    from mmkd.recipe import Recipe

    settings = dict(locals())
    recipe = Recipe(**{name: settings[name] for name in Recipe.__dataclass_fields__})
    objective = recipe.objective  # an unknown loss is refused before anything is opened
    if resume and out is None:
        from mmkd.cli.training_inputs import unfinished_run

        out = unfinished_run(work / "runs").folder
    from mmkd.cli.training_inputs import open_inputs
    from mmkd.distributed import default_precision, start_accelerator

    resolved_precision = recipe.precision or default_precision()
    accelerator = start_accelerator(
        precision=resolved_precision, tracker=tracker, folder=out or work / "runs"
    )
    inputs = open_inputs(
        recipe,
        needs_teacher=objective.needs_teacher,
        cache=cache or work / "cache",
        data=data,
        teacher=teacher,
        model_config=model_config,
    )
    recipe = recipe.resolve(
        pairs=len(inputs.rows), accelerated=accelerator.device.type != "cpu", precision=resolved_precision
    )
    _check_batch(recipe, accelerator.num_processes)
    _train(
        recipe,
        inputs,
        accelerator,
        run=_open_run(recipe, inputs, accelerator, out=out, runs=work / "runs", resume=resume),
        workers=_default_workers(accelerator.num_processes) if workers is None else workers,
        save_every=save_every,
        tracker=tracker,
    )


def _check_batch(recipe: "Recipe", processes: int) -> None:
    from mmkd.errors import ConfigError

    if (recipe.batch_size or 0) % processes:
        raise ConfigError(f"--batch-size {recipe.batch_size} cannot be divided among {processes} processes")


def _default_workers(processes: int) -> int:
    import os

    return max(0, min(8, (os.cpu_count() or 1) // processes - 1))


def _open_run(
    recipe: "Recipe",
    inputs: "Inputs",
    accelerator: "Accelerator",
    *,
    out: Path | None,
    runs: Path,
    resume: bool,
) -> "Run":
    """Claim a new run's folder, or find the one to go on with; the first process decides for all."""
    import sys

    import yaml

    from mmkd.errors import ConfigError
    from mmkd.files import write_text
    from mmkd.runs import claim_run_folder, new_run_folder, read_run

    record = {"recipe": recipe.to_dict(), **inputs.record(), "command": ["mmkd", *sys.argv[1:]]}
    if resume:
        assert out is not None
        run = read_run(out)
        changed = [key for key in ("recipe", "cache", "data") if run.record.get(key) != record.get(key)]
        if changed:
            raise ConfigError(
                f"{out} was started with another {changed[0]}; resume with the same settings as in {run.config}"
            )
        return run
    folder = _decided_by_first(accelerator, lambda: out or new_run_folder(runs, recipe.name))
    if accelerator.is_main_process:
        run = claim_run_folder(folder, record)
        settings = {
            key.replace("_", "-"): value for key, value in recipe.to_dict().items() if value is not None
        }
        write_text(run.config, yaml.safe_dump({**settings, **inputs.settings()}, sort_keys=True))
    accelerator.wait_for_everyone()
    return read_run(folder)


def _decided_by_first(accelerator: "Accelerator", choose: Any) -> Any:
    from accelerate.utils import broadcast_object_list

    box = [choose() if accelerator.is_main_process else None]
    if accelerator.num_processes > 1:
        broadcast_object_list(box)
    return box[0]


def _train(
    recipe: "Recipe",
    inputs: "Inputs",
    accelerator: "Accelerator",
    *,
    run: "Run",
    workers: int,
    save_every: int | None,
    tracker: str | None,
) -> None:
    from mmkd.batches import BatchReader, BatchStream
    from mmkd.checkpoints import load_checkpoint, save_checkpoint
    from mmkd.cli.console import say
    from mmkd.cli.training_progress import TrainingProgress
    from mmkd.encoders import max_text_length
    from mmkd.sampling import BatchPlan
    from mmkd.training import PairStudent, Schedule, fit, make_optimizer, prepare

    objective, world = recipe.objective, accelerator.num_processes
    assert recipe.batch_size is not None
    assert recipe.warmup is not None
    mined = inputs.mine(recipe, accelerator)
    plan = BatchPlan(inputs.rows, recipe.batch_size, recipe.seed, None if mined is None else mined.rows)
    schedule = Schedule(plan.steps_per_epoch * recipe.epochs, recipe.warmup, recipe.lr)
    clip = inputs.build_student(recipe)
    inputs.describe(recipe, clip, mined)
    student = PairStudent(clip, learns_logit_scale=objective.uses_logit_scale)
    optimizer = make_optimizer(student, lr=recipe.lr, weight_decay=recipe.weight_decay)
    prepared = prepare(
        accelerator, student, optimizer, batch=recipe.batch_size // world, clip_grad=recipe.clip_grad
    )
    first_step = load_checkpoint(accelerator, run.checkpoints)
    if first_step:
        say("resumed", f"from step {first_step:,} of {schedule.steps:,}")
    if tracker:
        accelerator.init_trackers("mmkd", config=recipe.to_dict())
    reader = BatchReader(
        inputs.pairs,
        inputs.image_processor,
        inputs.tokenizer,
        max_text_length(clip),
        inputs.store,
    )
    stream = BatchStream(reader, plan, rank=accelerator.process_index, world=world, workers=workers)
    with TrainingProgress(run, schedule, recipe.batch_size, first_step, accelerator) as progress:
        fit(
            prepared,
            objective,
            stream,
            schedule,
            clip_grad=recipe.clip_grad,
            first_step=first_step,
            log_every=10,
            save_every=save_every or max(plan.steps_per_epoch, 200),
            on_log=progress.log,
            on_save=lambda step: save_checkpoint(accelerator, run.checkpoints, step),
        )
    accelerator.end_training()
    _finish(prepared, inputs, run, schedule)


def _finish(prepared: "Prepared", inputs: "Inputs", run: "Run", schedule: "Schedule") -> None:
    """Save the student as a Hugging Face folder and mark the run as finished."""
    from mmkd.cli.console import say
    from mmkd.files import atomic_folder
    from mmkd.model_card import write_model_card
    from mmkd.runs import FINISHED, now
    from mmkd.training import trained_weights

    weights = trained_weights(prepared)  # a collective under ZeRO-3
    if not prepared.accelerator.is_main_process:
        return
    run = run.update(state=FINISHED, finished=now(), steps=schedule.steps)
    with atomic_folder(run.student) as folder:
        prepared.clip.save_pretrained(folder, state_dict=weights)
        inputs.image_processor.save_pretrained(folder)
        inputs.tokenizer.save_pretrained(folder)
        write_model_card(folder, run)
    say("saved", f"{run.student} · next: mmkd eval zero-shot")
