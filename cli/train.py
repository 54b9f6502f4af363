"""``mmkd train``: a half-depth student against a cache, or a CLIP from scratch."""

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from mmkd.cli.console import say
from mmkd.cli.option_groups import takes_option_groups
from mmkd.cli.options import DEFAULT_WORK, Config, Work
from mmkd.cli.train_options import (
    DataOptions,
    LossOptions,
    MiningOptions,
    RunOptions,
    StepOptions,
    StudentOptions,
)

if TYPE_CHECKING:
    from accelerate import Accelerator

    from mmkd.batches import BatchStream
    from mmkd.cli.training_inputs import Inputs
    from mmkd.mining import Neighbours
    from mmkd.recipe import Recipe
    from mmkd.runs import Run
    from mmkd.sampling import BatchPlan
    from mmkd.students import Student
    from mmkd.training import Prepared, Schedule


@takes_option_groups
def train(
    ctx: typer.Context,
    *,
    losses: LossOptions,
    data: DataOptions,
    student: StudentOptions,
    mining: MiningOptions,
    steps: StepOptions,
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
    KD losses (a bare name takes the weight in brackets):
      mse       squared error of unit vectors (2000; CLIP-KD)
      cos       one minus the cosine (1)
      l1        absolute error of unit vectors (10)
      affinity  KL of in-batch similarities, temperature 0.05 (1; TinyCLIP)
    """
    settings: dict[str, Any] = {}
    for group in (losses, data, student, mining, steps, run_options):
        settings |= vars(group)
    from mmkd.cli.training_inputs import check_resumed, open_inputs, run_to_resume, saved_settings
    from mmkd.distributed import default_precision, start_accelerator
    from mmkd.recipe import Recipe

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
    )
    # All that can be refused is refused before the run's folder is made.
    built, mined = inputs.build_student(recipe), inputs.mine(recipe, accelerator)
    inputs.describe(recipe, built, mined)
    if run is None:
        run = _new_run(recipe, inputs, accelerator, out=run_options.out, runs=work / "runs")
    else:
        check_resumed(run, inputs)
    _Loop(recipe, inputs, built, mined, accelerator, run, run_options).train()


def _typed(ctx: typer.Context) -> set[str]:
    """The options that stand on the command line."""
    sources = {name: ctx.get_parameter_source(name) for name in ctx.params}
    return {name for name, source in sources.items() if source is not None and source.name == "COMMANDLINE"}


def _new_run(
    recipe: "Recipe", inputs: "Inputs", accelerator: "Accelerator", *, out: Path | None, runs: Path
) -> "Run":
    """Claim a new run's folder; the first process decides for all."""
    import yaml

    from mmkd.files import write_text
    from mmkd.runs import claim_run_folder, library_versions, new_run_folder, read_run

    record = {
        "recipe": recipe.to_dict(),
        **inputs.record(),
        "command": ["mmkd", *sys.argv[1:]],
        "processes": accelerator.num_processes,
        "versions": library_versions(),
    }
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


@dataclass(frozen=True)
class _Loop:
    """All that a training runs on."""

    recipe: "Recipe"
    inputs: "Inputs"
    student: "Student"
    mined: "Neighbours | None"
    accelerator: "Accelerator"
    run: "Run"
    options: RunOptions

    def train(self) -> None:
        """Train from the last checkpoint on, if there is one, and save the student."""
        from mmkd.checkpoints import load_checkpoint, save_checkpoint
        from mmkd.cli.training_progress import TrainingProgress
        from mmkd.sampling import BatchPlan
        from mmkd.training import PairStudent, Schedule, fit, make_optimizer, prepare

        recipe, accelerator, run = self.recipe, self.accelerator, self.run
        batch, warmup = recipe.batch_size or 0, recipe.warmup or 0
        mined = None if self.mined is None else self.mined.rows
        plan = BatchPlan(self.inputs.rows, batch, recipe.seed, mined)
        schedule = Schedule(plan.steps_per_epoch * recipe.epochs, warmup, recipe.lr)
        student = PairStudent(
            self.student.clip, self.student.head, learns_logit_scale=recipe.objective.uses_logit_scale
        )
        optimizer = make_optimizer(student, lr=recipe.lr, weight_decay=recipe.weight_decay)
        local = batch // accelerator.num_processes
        prepared = prepare(accelerator, student, optimizer, batch=local, clip_grad=recipe.clip_grad)
        first_step = load_checkpoint(accelerator, run.checkpoints)
        if first_step:
            say("resumed", f"from step {first_step:,} of {schedule.steps:,}")
        if self.options.tracker:
            accelerator.project_configuration.logging_dir = str(run.folder)
            accelerator.init_trackers("mmkd", config=recipe.to_dict())
        with TrainingProgress(run, schedule, batch, first_step, accelerator) as progress:
            fit(
                prepared,
                recipe.objective,
                self._stream(plan),
                schedule,
                clip_grad=recipe.clip_grad,
                first_step=first_step,
                log_every=10,
                save_every=self.options.save_every or max(plan.steps_per_epoch, 200),
                on_log=progress.log,
                on_save=lambda step: save_checkpoint(accelerator, run.checkpoints, step),
            )
        accelerator.end_training()
        _finish(prepared, self.inputs, run, schedule)

    def _stream(self, plan: "BatchPlan") -> "BatchStream":
        from mmkd.batches import BatchReader, BatchStream
        from mmkd.encoders import max_text_length

        inputs, accelerator = self.inputs, self.accelerator
        length = max_text_length(self.student.clip)
        reader = BatchReader(inputs.pairs, inputs.image_processor, inputs.tokenizer, length, inputs.store)
        rank, world = accelerator.process_index, accelerator.num_processes
        workers = self.options.workers
        if workers is None:
            workers = max(0, min(8, (os.cpu_count() or 1) // world - 1))
        return BatchStream(reader, plan, rank=rank, world=world, workers=workers)


def _finish(prepared: "Prepared", inputs: "Inputs", run: "Run", schedule: "Schedule") -> None:
    """Save the student as a Hugging Face folder and mark the run as finished."""
    from mmkd.files import atomic_folder
    from mmkd.heads import save_head
    from mmkd.model_card import write_model_card
    from mmkd.runs import FINISHED, now
    from mmkd.training import trained_weights

    weights, head = trained_weights(prepared)  # a collective under ZeRO-3
    if not prepared.accelerator.is_main_process:
        return
    run = run.update(state=FINISHED, finished=now(), steps=schedule.steps)
    with atomic_folder(run.student) as folder:
        prepared.clip.save_pretrained(folder, state_dict=weights)
        if head:
            save_head(head, folder)
        inputs.image_processor.save_pretrained(folder)
        inputs.tokenizer.save_pretrained(folder)
        write_model_card(folder, run)
    say("saved", f"{run.student} · next: mmkd eval zero-shot")
