"""The training loop: one student, one objective, one stream of batches, under Accelerate."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from mmkd.averaging import MovingAverage
from mmkd.batches import BatchStream
from mmkd.errors import ConfigError, TrainingError
from mmkd.objective import LossReport, Objective
from mmkd.optimizer import Schedule
from mmkd.step import MAX_LOG_SCALE, PairStudent, backward_step

if TYPE_CHECKING:
    from accelerate import Accelerator
    from transformers import CLIPModel


class _Window:
    """Means over the steps since the last log line, kept on the device until they are read.

    Args:
        skips: the optimizer leaves out steps whose gradient is not finite, as a scaler of fp16 does.
    """

    def __init__(self, *, skips: bool = False) -> None:
        self.checked = ("loss",) if skips else ("loss", "grad_norm")
        self.sums: dict[str, Tensor] = {}
        self.steps = 0
        self.first_bad: Tensor | None = None
        self.started = time.perf_counter()

    def add(self, step: int, values: dict[str, Tensor]) -> None:
        self.steps += 1
        for name, value in values.items():
            earlier = self.sums.get(name)
            self.sums[name] = value.detach().float() + (0 if earlier is None else earlier)
        bad = ~torch.stack(
            [torch.isfinite(values[name].detach()).all() for name in self.checked if name in values]
        ).all()
        before = torch.full_like(bad, -1, dtype=torch.long) if self.first_bad is None else self.first_bad
        self.first_bad = torch.where((before < 0) & bad, step, before)

    def refuse_nan(self) -> None:
        if self.first_bad is not None and (step := int(self.first_bad)) >= 0:
            raise TrainingError(
                f"the loss is not a number at step {step:,} (or its gradient is not); nothing was saved since the last "
                "checkpoint: try a smaller --lr, more --warmup or --precision fp32"
            )

    def read(self, pairs: int) -> dict[str, float]:
        self.refuse_nan()
        means = {name: float(value) / self.steps for name, value in self.sums.items()}
        means["pairs_per_second"] = pairs * self.steps / (time.perf_counter() - self.started)
        self.sums, self.steps, self.started = {}, 0, time.perf_counter()
        return means


@dataclass(frozen=True)
class Prepared:
    """A student and its optimizer, both wrapped by Accelerate.

    Attributes:
        accelerator: that wrapped them.
        student: the wrapped ``PairStudent``.
        optimizer: the wrapped optimizer.
        average: the moving average of the weights, if wanted.
        frozen: weights that are not trained, as they came: DeepSpeed rounds its own to the run's precision.
    """

    accelerator: "Accelerator"
    student: nn.Module
    optimizer: Any
    average: MovingAverage | None = None
    frozen: dict[str, Tensor] = field(default_factory=dict)

    @property
    def clip(self) -> "CLIPModel":
        """The bare student."""
        clip: CLIPModel = self.accelerator.unwrap_model(self.student).clip
        return clip


def prepare(
    accelerator: "Accelerator",
    student: PairStudent,
    optimizer: torch.optim.Optimizer,
    *,
    batch: int,
    clip_grad: float,
    ema: float = 0.0,
) -> Prepared:
    """Hand student and optimizer to Accelerate.

    Args:
        accelerator: from ``start_accelerator``.
        student: on the CPU.
        optimizer: of the student's parameters.
        batch: rows of one process's forward pass; DeepSpeed wants it named, since our own loader is not prepared.
        clip_grad: DeepSpeed clips by itself, at this norm.
        ema: decay of the moving average of the weights; 0 for none.

    Raises:
        ConfigError: an average is asked for where ZeRO 3 leaves no process the whole weights.
    """
    plugin = accelerator.state.deepspeed_plugin
    if plugin is not None:
        if ema and plugin.zero_stage == 3:
            raise ConfigError(
                "--ema needs the whole weights on each process, which ZeRO 3 splits; use configs/accelerate/zero2.yaml"
            )
        _configure_deepspeed(plugin.deepspeed_config, student, batch=batch, clip_grad=clip_grad)
    frozen = {name: p.detach().clone() for name, p in student.named_parameters() if not p.requires_grad}
    wrapped, wrapped_optimizer = accelerator.prepare(student, optimizer)
    average = MovingAverage(accelerator.unwrap_model(wrapped), ema) if ema else None
    return Prepared(accelerator, wrapped, wrapped_optimizer, average, frozen if plugin is not None else {})


def _configure_deepspeed(
    config: dict[str, Any], student: PairStudent, *, batch: int, clip_grad: float
) -> None:
    config["train_micro_batch_size_per_gpu"] = batch
    config["gradient_accumulation_steps"] = 1  # backward_step says which chunk is the last
    config["gradient_clipping"] = clip_grad
    # Its own 500 million elements are a buffer of 1 GB in bf16, more than a half-depth B/32 and its optimizer.
    zero = config.setdefault("zero_optimization", {})
    trained = sum(parameter.numel() for parameter in student.parameters() if parameter.requires_grad)
    if zero.get("reduce_bucket_size", "auto") == "auto":
        zero["reduce_bucket_size"] = min(500_000_000, trained)
    # DeepSpeed 0.19 broadcasts each weight viewed as bytes, which a scalar, the logit scale, cannot be.
    for parameter in student.parameters():
        if parameter.ndim == 0:
            parameter.data = parameter.data.reshape(1)


@dataclass(frozen=True)
class Hooks:
    """What a training does besides stepping, and how often; every process calls each of them.

    Attributes:
        on_log: receives the steps done and the means since the last call.
        log_every: steps between two logs; there is one before each checkpoint, too.
        on_save: writes a checkpoint after so many steps.
        save_every: steps between two checkpoints; the last step is always saved.
        evaluate: judges the student after so many steps, and says whether to stop early.
        evaluate_every: steps between two evaluations, each followed by a checkpoint; ``None`` for none.
        on_step: receives the steps done after each; the host's count, which a GPU may be behind.
        interrupted: asked after each step, and given the steps done: whether to save a checkpoint and leave.
    """

    on_log: Callable[[int, dict[str, float]], None]
    log_every: int
    on_save: Callable[[int], None]
    save_every: int
    evaluate: Callable[[int], bool] = lambda _: False
    evaluate_every: int | None = None
    on_step: Callable[[int], None] = lambda _: None
    interrupted: Callable[[int], bool] = lambda _: False


def fit(
    prepared: Prepared,
    objective: Objective,
    stream: BatchStream,
    schedule: Schedule,
    hooks: Hooks,
    *,
    clip_grad: float,
    first_step: int = 0,
    chunks: int = 1,
) -> int:
    """Train from ``first_step`` to the schedule's end, or to where an evaluation or an interruption says to stop.

    Args:
        prepared: student and optimizer.
        objective: what is minimised.
        stream: this process's batches.
        schedule: steps and learning rates.
        hooks: logs, checkpoints and evaluations.
        clip_grad: largest norm of the gradient; 0 leaves it as it is.
        first_step: 0, or the step a checkpoint was written at.
        chunks: parts that each step's batch is taken in, to save memory.

    Returns:
        The steps done.

    Raises:
        TrainingError: the loss or its gradient became NaN or infinite; the message names the step.
    """
    accelerator, student, optimizer = prepared.accelerator, prepared.student, prepared.optimizer
    student.train()
    window = _Window(skips=accelerator.mixed_precision == "fp16")
    batches = stream.from_step(first_step)
    done, stop = first_step, False
    while done < schedule.steps and not stop:
        schedule.set_lr(optimizer, done)
        report = backward_step(accelerator, student, objective, next(batches), chunks=chunks)
        # Clipped at infinity, gradients stay as they are, to the bit, and their norm is known.
        norm = accelerator.clip_grad_norm_(student.parameters(), clip_grad or math.inf)
        optimizer.step()
        optimizer.zero_grad()
        done += 1
        if prepared.average is not None:
            prepared.average.update(accelerator.unwrap_model(student), done)
        window.add(done, _values(report, norm))
        hooks.on_step(done)
        left = hooks.interrupted(done)
        last = done == schedule.steps
        evaluated = hooks.evaluate_every is not None and (last or done % hooks.evaluate_every == 0)
        saved = last or evaluated or left or done % hooks.save_every == 0
        # Means end at every checkpoint, so that those of a resumed run are over the same steps.
        if saved or done % hooks.log_every == 0:
            means = window.read(stream.plan.global_batch)
            hooks.on_log(done, {**means, "lr": schedule.lr(done - 1)})
        if saved:
            stop = (evaluated and hooks.evaluate(done)) or left
            student.train()
            hooks.on_save(done)
    return done


def _values(report: LossReport, norm: Any) -> dict[str, Tensor]:
    values = {"loss": report.total.detach(), **report.terms}
    if isinstance(norm, Tensor):  # under DeepSpeed the engine knows the norm only after its step
        values["grad_norm"] = norm
    return values


def trained_weights(prepared: Prepared) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The CLIP's weights and its head's, float32 on the CPU, gathered from wherever ZeRO keeps them.

    They are the moving averages where those are kept; where the student has no head, the second is empty.

    Every process must call it.
    """
    weights = prepared.accelerator.get_state_dict(prepared.student) or {}
    if prepared.accelerator.distributed_type == "DEEPSPEED":
        exact = _exact_weights(prepared)  # a collective, too
        weights = {name: exact.get(name, tensor) for name, tensor in weights.items()}
    if prepared.average is not None and weights:
        weights = prepared.average.over(weights)
    clip, head = (
        {
            name.removeprefix(part): tensor.detach().float().cpu()
            for name, tensor in weights.items()
            if name.startswith(part)
        }
        for part in ("clip.", "head.")
    )
    if "logit_scale" in clip and "logit_bias" not in clip:  # a SigLIP's scale is (1,) and unbounded
        clip["logit_scale"] = clip["logit_scale"].reshape(()).clamp(max=MAX_LOG_SCALE)
    return clip, head


def _exact_weights(prepared: Prepared) -> dict[str, Tensor]:
    """Under DeepSpeed, which trains in bf16 or fp16 on float32 masters: the masters, and what was never trained."""
    from deepspeed.utils import safe_get_full_fp32_param

    masters = {
        name: safe_get_full_fp32_param(parameter)
        for name, parameter in prepared.accelerator.unwrap_model(prepared.student).named_parameters()
        if parameter.requires_grad
    }
    found = {name: master for name, master in masters.items() if master is not None}  # ZeRO 0 keeps none
    return {**found, **prepared.frozen}
