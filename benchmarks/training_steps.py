"""Steps of a training as ``mmkd train`` takes them, on batches that are in memory, for benchmarks to time."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from clip_models import random_clip, random_pixels, random_tokens
from transformers import CLIPImageProcessorPil

from mmkd.batches import DistillBatch
from mmkd.objective import LossReport, Objective
from mmkd.optimizer import make_optimizer
from mmkd.pixels import pixel_levels
from mmkd.step import PairStudent, distill_step

RECIPE = "triplet + mse + cos"  # the default of `mmkd train --kd mse+cos`


def made_up_batch(pairs: int, tokens: int, dim: int = 512, *, seed: int = 0) -> DistillBatch:
    """Random pixels, captions of one length, and random targets."""
    ids = random_tokens(pairs, tokens, seed=seed)
    draw = torch.Generator().manual_seed(seed)
    nothing = torch.empty(0, 0)
    return DistillBatch(
        pixel_values=random_pixels(pairs, seed=seed),
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        caption_ids=torch.arange(pairs),
        image_ids=torch.arange(pairs),
        teacher_image=torch.randn(pairs, dim, generator=draw),
        teacher_text=torch.randn(pairs, dim, generator=draw),
        bank_image=nothing,
        bank_text=nothing,
        bank_ids=nothing.long(),
    )


class Trainer:
    """A student of half a teacher's layers with its optimizer: one call, one step.

    Args:
        size: the teacher's, as ``clip_models`` names it.
        device: where it trains.
        precision: ``fp32``, or ``bf16`` by autocast, as Accelerate has it.
        compiled: compile both towers, as ``mmkd train --compile`` does.
    """

    def __init__(
        self, size: str, *, device: str = "cpu", precision: str = "fp32", compiled: bool = False
    ) -> None:
        self.device = torch.device(device)
        levels = pixel_levels(CLIPImageProcessorPil())
        self.student = PairStudent(random_clip(size, half=True), levels=levels)
        self.student.train().to(self.device)
        self.optimizer = make_optimizer(self.student, lr=1e-5, weight_decay=0.1)
        self.objective = Objective(RECIPE)
        self.precision = precision
        self.call: Any = torch.compile(self.student) if compiled else self.student

    def autocast(self) -> torch.autocast:
        """The precision of forward passes."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16")

    def wait(self) -> None:
        """Until the device has done what it was told."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def __call__(self, batch: DistillBatch) -> LossReport:
        """One step."""
        with self.autocast():
            report = distill_step(self.call, self.objective, batch)
        report.total.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        self.optimizer.zero_grad()
        return report


def with_teacher_in_loop(trainer: Trainer, teacher: Any) -> Callable[[DistillBatch], LossReport]:
    """The same step, its targets made by the teacher's forward pass first, as open_clip's ``--distill-model`` does."""

    def step(batch: DistillBatch) -> LossReport:
        with torch.no_grad(), trainer.autocast():
            image = teacher.get_image_features(pixel_values=batch.pixel_values).pooler_output
            text = teacher.get_text_features(
                input_ids=batch.input_ids, attention_mask=batch.attention_mask
            ).pooler_output
        return trainer(replace(batch, teacher_image=image.float(), teacher_text=text.float()))

    return step
