"""The training itself, put together from the recipe, its inputs and the launched processes."""

import os
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from mmkd.batches import BatchReader, BatchStream
from mmkd.checkpoints import Checkpoints
from mmkd.cli.console import say
from mmkd.cli.interruption import Interruption
from mmkd.cli.mining_progress import say_mined
from mmkd.cli.pixel_inputs import reads_pixels
from mmkd.cli.run_state import run_state
from mmkd.cli.training_progress import TrainingProgress
from mmkd.distributed import broadcast
from mmkd.encoders import max_text_length
from mmkd.families import FIRST_LOGIT_BIAS, family_of
from mmkd.files import atomic_folder
from mmkd.heads import save_head
from mmkd.losses.task import fitting_logit_bias
from mmkd.mining import Share
from mmkd.mining.refresh import Refresher, embed_rows
from mmkd.model_card import write_model_card
from mmkd.optimizer import Schedule, make_optimizer
from mmkd.pixels import pixel_levels
from mmkd.runs import FINISHED, Run, now
from mmkd.sampling import BatchPlan
from mmkd.step import PairStudent
from mmkd.students import Student
from mmkd.training import Hooks, Prepared, fit, prepare, trained_weights
from mmkd.validation import EvaluationLog

if TYPE_CHECKING:
    from accelerate import Accelerator

    from mmkd.cli.train_options import RunOptions
    from mmkd.cli.training_inputs import Inputs
    from mmkd.mining import Neighbours
    from mmkd.recipe import Recipe
    from mmkd.validation import Validator

LOG_EVERY = 10  # steps
SIDES = {"image": ("image",), "text": ("text",)}


def plan_batches(recipe: "Recipe", inputs: "Inputs", mined: "Neighbours | None") -> BatchPlan:
    """Which rows each step of a training sees.

    Raises:
        ConfigError: the batch or the bank is larger than the data, or tars are to be shuffled where there are none.
    """
    views = None if recipe.mismatched else recipe.views or 1
    rows, window = inputs.rows, recipe.shuffle_tars
    tars = None if window is None else inputs.pairs.tar_starts()
    neighbours = None if mined is None else mined.rows
    return BatchPlan(
        rows, recipe.global_batch, recipe.seed, neighbours, recipe.bank, views, tars, window or 1
    )


@dataclass(frozen=True)
class TrainingLoop:
    """All that a training runs on; ``plan`` says which rows each step sees."""

    recipe: "Recipe"
    inputs: "Inputs"
    student: Student
    plan: BatchPlan
    validator: "Validator | None"
    accelerator: "Accelerator"
    run: Run
    options: "RunOptions"
    mining_memory: str | None = None

    def train(self) -> None:
        """Train from the last checkpoint on, if there is one, and save the student."""
        with run_state(self.run, self.accelerator, steps=self.schedule.steps):
            self._train()

    def _train(self) -> None:
        recipe, accelerator = self.recipe, self.accelerator
        checkpoints = Checkpoints(
            self.run.checkpoints, str(self.run.record["started"]), self.options.keep, recipe.keep_best
        )
        prepared = self.prepare_student()
        first_step, evaluations = checkpoints.load(prepared)
        if first_step:
            say("resumed", f"from step {first_step:,} of {self.schedule.steps:,}")
        log = EvaluationLog(recipe.keep_best, recipe.patience, evaluations)
        if self.options.tracker:
            accelerator.project_configuration.logging_dir = str(self.run.folder)
            accelerator.init_trackers("mmkd", config=recipe.to_dict())
        steps = self._fit(prepared, checkpoints, log, first_step)
        if log.exhausted:
            say("stopped", f"at step {steps:,}: {recipe.patience} evaluations without a better {log.metric}")
        if (best := checkpoints.best(log.entries)) is not None and best != steps:
            steps, _ = checkpoints.load(prepared, best)
            say("best", f"{recipe.keep_best} was best at step {steps:,}: that student is saved")
        self._save_student(prepared, steps)
        accelerator.end_training()  # last: under ZeRO 3 the processes gather what is saved

    def _fit(self, prepared: Prepared, checkpoints: Checkpoints, log: EvaluationLog, first_step: int) -> int:
        """Train to the end, or until it is interrupted: the steps done.

        Raises:
            KeyboardInterrupt: it was asked to stop; a checkpoint is saved.
        """
        if log.exhausted:
            return first_step
        recipe, accelerator = self.recipe, self.accelerator
        with (
            Interruption(accelerator, every=LOG_EVERY) as interruption,
            TrainingProgress(
                self.run, self.schedule, self.plan.global_batch, first_step, accelerator
            ) as progress,
        ):
            hooks = self._hooks(prepared, checkpoints, log, progress, interruption)
            steps = fit(
                prepared,
                recipe.objective,
                self.stream(prepared, progress),
                self.schedule,
                hooks,
                clip_grad=recipe.clip_grad,
                first_step=first_step,
                chunks=recipe.accumulate,
            )
            if interruption.wanted and steps < self.schedule.steps and not log.exhausted:
                raise KeyboardInterrupt
        return steps

    @cached_property
    def schedule(self) -> Schedule:
        """Steps and learning rates."""
        return Schedule(
            self.plan.steps_per_epoch * self.recipe.epochs, self.recipe.warmup or 0, self.recipe.lr
        )

    def prepare_student(self) -> Prepared:
        """The student and its optimizer, as the engine wants them."""
        recipe, clip = self.recipe, self.student.clip
        if recipe.gradient_checkpointing:
            # Renamed in the midst of transformers 5.
            enable = getattr(clip, "activation_checkpointing_enable", clip.gradient_checkpointing_enable)
            enable({"use_reentrant": False})
        student = PairStudent(
            clip,
            self.student.head,
            learns_logit_scale=recipe.objective.uses_logit_scale,
            learns_logit_bias=recipe.objective.uses_logit_bias,
            logit_bias=self._first_logit_bias(),
            levels=pixel_levels(self.inputs.image_processor)
            if reads_pixels(self.inputs.store, recipe)
            else None,
        )
        optimizer = make_optimizer(
            student,
            lr=recipe.lr,
            weight_decay=recipe.weight_decay,
            layer_decay=recipe.layer_decay,
            text_lr=recipe.text_lr,
        )
        forward = recipe.global_batch // self.accelerator.num_processes // recipe.accumulate
        prepared = prepare(
            self.accelerator, student, optimizer, batch=forward, clip_grad=recipe.clip_grad, ema=recipe.ema
        )
        if self.options.compile:
            # In place, so that the names of the weights stay; captions differ in length from batch to batch.
            clip.vision_model.compile()
            clip.text_model.compile(dynamic=True)
        return prepared

    def _first_logit_bias(self) -> float:
        """SigLIP's own for a student that knows nothing yet, else what fits the teacher's pairs."""
        store, recipe = self.inputs.store, self.recipe
        if store is None or recipe.init == "random" or not recipe.objective.uses_logit_bias:
            return FIRST_LOGIT_BIAS
        rows = self.inputs.rows.take(np.linspace(0, len(self.inputs.rows) - 1, 1_024, dtype=np.int64))
        return fitting_logit_bias(store.read(rows), float(self.student.clip.logit_scale.detach().exp()))

    def _hooks(
        self,
        prepared: Prepared,
        checkpoints: Checkpoints,
        log: EvaluationLog,
        progress: TrainingProgress,
        interruption: Interruption,
    ) -> Hooks:
        def evaluate(step: int) -> bool:
            weights = trained_weights(prepared)  # a collective under ZeRO-3
            assert self.validator is not None
            found = self.validator.measure(*weights) if self.accelerator.is_main_process else {}
            log.add(step, broadcast(found, self.accelerator.num_processes))
            progress.evaluated(log)
            return log.exhausted

        epoch = self.plan.steps_per_epoch
        every = (self.recipe.eval_every or epoch) if self.validator is not None else None

        def save(step: int) -> None:
            checkpoints.save(prepared, step, log.entries)
            progress.saved(step)

        return Hooks(
            on_log=progress.log,
            log_every=LOG_EVERY,
            on_save=save,
            save_every=self.options.save_every or max(epoch, 200),
            evaluate=evaluate,
            evaluate_every=every,
            on_step=progress.step,
            interrupted=interruption,
        )

    def stream(self, prepared: Prepared, progress: TrainingProgress | None = None) -> BatchStream:
        """This process's batches; without ``progress`` nothing is mined again."""
        inputs, world = self.inputs, self.accelerator.num_processes
        reader = BatchReader(
            inputs.pairs,
            inputs.image_processor,
            inputs.tokenizer,
            max_text_length(self.student.clip),
            inputs.store,
            sides=SIDES.get(self.recipe.towers, ("image", "text")),
            mismatched=self.recipe.mismatched,
            synthetic_share=self.recipe.synthetic_share,
            family=family_of(self.student.clip.config),
            first_captions=None if progress is None else self._first_captions(),
        )
        workers = self.options.workers
        if workers is None:
            workers = max(0, min(8, (os.cpu_count() or 1) // world - 1))
        return BatchStream(
            reader,
            self.plan,
            rank=self.accelerator.process_index,
            world=world,
            workers=workers,
            on_epoch=None if progress is None else self._refresher(prepared, reader, workers, progress),
        )

    def _first_captions(self) -> NDArray[np.uint64] | None:
        """By row of the store, for the bank."""
        inputs = self.inputs
        if not self.plan.bank or inputs.store is None:
            return None
        found = np.zeros(len(inputs.store), np.uint64)
        found[inputs.rows.to_array()] = inputs.first_captions
        return found

    def _refresher(
        self, prepared: Prepared, reader: BatchReader, workers: int, progress: TrainingProgress
    ) -> Refresher | None:
        """Mines again in the student's space, where that is asked for."""
        recipe, inputs, accelerator = self.recipe, self.inputs, self.accelerator
        if not recipe.refresh_every or inputs.store is None:
            return None
        share, rows = Share.current(), inputs.rows.to_array()
        search = inputs.search_options(recipe, accelerator, self.mining_memory)
        return Refresher(
            every=recipe.refresh_every,
            folder=self.run.folder,
            store=inputs.store,
            rows=rows,
            caption_ids=inputs.first_captions,
            embed=lambda: embed_rows(
                prepared.student,
                reader,
                rows,
                batch=recipe.global_batch // share.world // recipe.accumulate,
                workers=workers,
                device=accelerator.device,
                share=share,
                on_progress=progress.mining,
            ),
            rules=recipe.rules,
            seed=recipe.seed,
            search=replace(search, scratch=self.run.folder),
            share=share,
            on_progress=progress.mining,
            on_mined=lambda found: say_mined(found, recipe.neighbours, "in the student's space"),
        )

    def _save_student(self, prepared: Prepared, steps: int) -> None:
        """Save the student as a Hugging Face folder and mark the run as finished."""
        weights, head = trained_weights(prepared)  # a collective under ZeRO-3
        if not self.accelerator.is_main_process:
            return
        ended = {"state": FINISHED, "finished": now(), "steps": steps, "error": None}
        ended["planned_steps"] = self.schedule.steps
        run = Run(self.run.folder, {**self.run.record, **ended})
        with atomic_folder(run.student) as folder:
            prepared.clip.save_pretrained(folder, state_dict=weights)
            if head:
                save_head(head, folder)
            self.inputs.image_processor.save_pretrained(folder)
            self.inputs.tokenizer.save_pretrained(folder)
            write_model_card(folder, run)
        run.update()  # only now: a run that is finished is not resumed
        say("saved", f"{run.student} · next: mmkd eval zero-shot")
