"""The training loop: one student, one objective, one stream of batches, under Accelerate."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from mmkd.batches import BatchStream, DistillBatch
from mmkd.distributed import gather, gather_rows
from mmkd.errors import TrainingError
from mmkd.heads import ProjectionHead
from mmkd.losses.negatives import select_negatives
from mmkd.objective import LossReport, Objective

if TYPE_CHECKING:
    from accelerate import Accelerator
    from transformers import CLIPModel

MAX_LOG_SCALE = math.log(100)  # CLIP's own bound, arXiv 2103.00020, section 2.5


@dataclass(frozen=True)
class Schedule:
    """Linear warm-up, then a cosine to zero.

    Attributes:
        steps: optimiser steps of the whole run.
        warmup: steps of the warm-up.
        peak: learning rate at its end.
    """

    steps: int
    warmup: int
    peak: float

    def lr(self, step: int) -> float:
        """Learning rate of the 0-based ``step``."""
        if step < self.warmup:
            return self.peak * (step + 1) / self.warmup
        share = (step - self.warmup) / max(1, self.steps - self.warmup)
        return self.peak * 0.5 * (1 + math.cos(math.pi * share))


class PairStudent(nn.Module):
    """The student as the training loop calls it: both towers in one forward pass, so that DDP sees one module.

    Args:
        clip: the student.
        head: its projection into the teacher's space, trained with it, where their dimensions differ.
        learns_logit_scale: whether a loss has a gradient for the logit scale.
    """

    def __init__(
        self, clip: "CLIPModel", head: ProjectionHead | None = None, *, learns_logit_scale: bool
    ) -> None:
        super().__init__()
        self.clip = clip
        self.head = head
        clip.logit_scale.requires_grad_(learns_logit_scale)

    def forward(
        self, pixel_values: Tensor, input_ids: Tensor, attention_mask: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Unnormalised image and text embeddings, each (B, D), and the scalar logit scale."""
        image = self.clip.get_image_features(pixel_values=pixel_values.to(self.clip.dtype)).pooler_output
        text = self.clip.get_text_features(input_ids=input_ids, attention_mask=attention_mask).pooler_output
        if self.head is not None:
            image, text = self.head(image, text)
        log_scale = self.clip.logit_scale.float().reshape(())
        # Bounded in value, but with its gradient, so that a scale at the bound can come down again.
        bounded = log_scale + (log_scale.clamp(max=MAX_LOG_SCALE) - log_scale).detach()
        return image, text, bounded.exp()


def make_optimizer(model: nn.Module, *, lr: float, weight_decay: float) -> torch.optim.AdamW:
    """AdamW with CLIP's betas; no decay on norms, biases, the class embedding and the logit scale."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=lr, betas=(0.9, 0.98), eps=1e-6, fused=True)


def distill_step(student: nn.Module, objective: Objective, batch: DistillBatch) -> LossReport:
    """Losses of one step over the embeddings of all processes, with exact gradients."""
    image, text, logit_scale = student(batch.pixel_values, batch.input_ids, batch.attention_mask)
    ours = gather(image, text)
    teacher = None if batch.teacher is None else gather(batch.teacher_image, batch.teacher_text)
    ids = gather_rows(torch.stack([batch.caption_ids, batch.image_ids], dim=1))
    negatives = select_negatives(ids[:, 0], ids[:, 1], teacher if objective.needs_teacher else None)
    return objective(ours, teacher, negatives, logit_scale)


class _Window:
    """Means over the steps since the last log line, kept on the device until they are read."""

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {}
        self.steps = 0
        self.first_bad: Tensor | None = None
        self.started = time.perf_counter()

    def add(self, step: int, values: dict[str, Tensor]) -> None:
        self.steps += 1
        for name, value in values.items():
            earlier = self.sums.get(name)
            self.sums[name] = value.detach().float() + (0 if earlier is None else earlier)
        bad = ~torch.isfinite(values["loss"].detach())
        before = torch.full_like(bad, -1, dtype=torch.long) if self.first_bad is None else self.first_bad
        self.first_bad = torch.where((before < 0) & bad, step, before)

    def refuse_nan(self) -> None:
        if self.first_bad is not None and (step := int(self.first_bad)) >= 0:
            raise TrainingError(
                f"the loss is not a number at step {step:,}; nothing was saved since the last checkpoint: "
                "try a smaller --lr, more --warmup or --precision fp32"
            )

    def read(self, pairs: int) -> dict[str, float]:
        self.refuse_nan()
        means = {name: float(value) / self.steps for name, value in self.sums.items()}
        means["pairs_per_second"] = pairs * self.steps / (time.perf_counter() - self.started)
        self.sums, self.steps, self.started = {}, 0, time.perf_counter()
        return means


@dataclass(frozen=True)
class Prepared:
    """A student and its optimizer, both wrapped by Accelerate."""

    accelerator: "Accelerator"
    student: nn.Module
    optimizer: Any

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
) -> Prepared:
    """Hand student and optimizer to Accelerate.

    Args:
        accelerator: from ``start_accelerator``.
        student: on the CPU.
        optimizer: of the student's parameters.
        batch: rows of one process's step; DeepSpeed wants it named, since our own loader is not prepared.
        clip_grad: DeepSpeed clips by itself, at this norm.
    """
    plugin = accelerator.state.deepspeed_plugin
    if plugin is not None:
        plugin.deepspeed_config["train_micro_batch_size_per_gpu"] = batch
        plugin.deepspeed_config["gradient_clipping"] = clip_grad
        # DeepSpeed 0.19 broadcasts each weight viewed as bytes, which a scalar, the logit scale, cannot be.
        for parameter in student.parameters():
            if parameter.ndim == 0:
                parameter.data = parameter.data.reshape(1)
    wrapped, wrapped_optimizer = accelerator.prepare(student, optimizer)
    return Prepared(accelerator, wrapped, wrapped_optimizer)


def fit(
    prepared: Prepared,
    objective: Objective,
    stream: BatchStream,
    schedule: Schedule,
    *,
    clip_grad: float,
    first_step: int,
    log_every: int,
    save_every: int,
    on_log: Callable[[int, dict[str, float]], None],
    on_save: Callable[[int], None],
) -> None:
    """Train from ``first_step`` to the schedule's end.

    Args:
        prepared: student and optimizer.
        objective: what is minimised.
        stream: this process's batches.
        schedule: steps and learning rates.
        clip_grad: largest norm of the gradient; 0 leaves it as it is.
        first_step: 0, or the step a checkpoint was written at.
        log_every: steps between two calls of ``on_log(steps_done, means)``.
        save_every: steps between two calls of ``on_save(steps_done)``; the last step is always saved.
        on_log: receives the means since the last call.
        on_save: writes a checkpoint.

    Raises:
        TrainingError: the loss became NaN or infinite; the message names the step.
    """
    accelerator, student, optimizer = prepared.accelerator, prepared.student, prepared.optimizer
    student.train()
    window = _Window()
    batches = stream.from_step(first_step)
    for step in range(first_step, schedule.steps):
        for group in optimizer.param_groups:
            group["lr"] = schedule.lr(step)
        report = distill_step(student, objective, next(batches).to(accelerator.device))
        accelerator.backward(report.total)
        norm = accelerator.clip_grad_norm_(student.parameters(), clip_grad) if clip_grad else None
        optimizer.step()
        optimizer.zero_grad()
        window.add(step + 1, _values(report, norm))
        done = step + 1
        if done % log_every == 0 or done == schedule.steps:
            means = window.read(stream.plan.global_batch)
            on_log(done, {**means, "lr": schedule.lr(step)})
        if done % save_every == 0 or done == schedule.steps:
            window.refuse_nan()
            on_save(done)


def _values(report: LossReport, norm: Any) -> dict[str, Tensor]:
    values = {"loss": report.total.detach(), **report.terms}
    if isinstance(norm, Tensor):  # under DeepSpeed the engine knows the norm only after its step
        values["grad_norm"] = norm
    return values


def trained_weights(prepared: Prepared) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The CLIP's weights and its head's, float32 on the CPU, gathered from wherever ZeRO keeps them.

    Where the student has no head, the second is empty.

    Every process must call it.
    """
    weights = prepared.accelerator.get_state_dict(prepared.student)
    clip, head = (
        {
            name.removeprefix(part): tensor.detach().float().cpu()
            for name, tensor in (weights or {}).items()
            if name.startswith(part)
        }
        for part in ("clip.", "head.")
    )
    if "logit_scale" in clip:
        clip["logit_scale"] = clip["logit_scale"].reshape(()).clamp(max=MAX_LOG_SCALE)
    return clip, head
