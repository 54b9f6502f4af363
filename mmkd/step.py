"""One step: forward pass, losses over all processes' embeddings, and the whole gradient."""

import math
from collections.abc import Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from mmkd.batches import DistillBatch
from mmkd.distributed import gather, gather_rows
from mmkd.families import FIRST_LOGIT_BIAS, own_bias
from mmkd.heads import ProjectionHead
from mmkd.losses.negatives import select_negatives
from mmkd.objective import LossReport, Objective
from mmkd.pixels import normalise_pixels

if TYPE_CHECKING:
    from accelerate import Accelerator
    from transformers import CLIPModel

MAX_LOG_SCALE = math.log(100)  # CLIP's own bound, arXiv 2103.00020, section 2.5


class PairStudent(nn.Module):
    """A CLIP or SigLIP as the training loop calls it: both towers in one forward pass, so that DDP sees one module.

    Args:
        clip: the student.
        head: maps both sides' embeddings to the teacher's width, where the student's differs.
        learns_logit_scale: whether a loss has a gradient for the scale.
        learns_logit_bias: whether a loss has one for the bias; a CLIP has none, so it is not exported.
        logit_bias: what it starts from; a SigLIP has its own.
        levels: float32 (3, 256), what stored pixels are normalised by (``mmkd.pixels.pixel_levels``).
    """

    def __init__(
        self,
        clip: "CLIPModel",
        head: ProjectionHead | None = None,
        *,
        learns_logit_scale: bool = False,
        learns_logit_bias: bool = False,
        logit_bias: float = FIRST_LOGIT_BIAS,
        levels: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.clip = clip
        self.head = head
        clip.logit_scale.requires_grad_(learns_logit_scale)
        bias = own_bias(clip)
        if bias is not None:
            bias.requires_grad_(learns_logit_bias)
        else:
            self.logit_bias = nn.Parameter(torch.tensor([logit_bias]), requires_grad=learns_logit_bias)
        self._levels = levels  # no buffer, which DDP would send around and DeepSpeed would round

    def forward(
        self, pixel_values: Tensor, input_ids: Tensor, attention_mask: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Unnormalised image and text embeddings, each (B, D), and the scalar logit scale and bias.

        Pixels of uint8 are normalised here, on the device that the student is on.
        A side whose input is (B, 0) is not computed; its embeddings are (B, 0).
        """
        clip = self.clip
        image, text = input_ids.new_empty(len(input_ids), 0), input_ids.new_empty(len(input_ids), 0)
        if pixel_values.shape[1]:
            if pixel_values.dtype == torch.uint8:
                pixel_values = self._normalise(pixel_values)
            image = clip.get_image_features(pixel_values=pixel_values.to(clip.dtype)).pooler_output
        if input_ids.shape[1]:
            text = clip.get_text_features(input_ids=input_ids, attention_mask=attention_mask).pooler_output
        if self.head is not None:
            image, text = self.head(image, text)
        log_scale = clip.logit_scale.float().reshape(())
        if (bias := own_bias(clip)) is not None:
            return image, text, log_scale.exp(), bias.float().reshape(())
        # Bounded in value, but with its gradient, so that a scale at the bound can come down again.
        bounded = log_scale + (log_scale.clamp(max=MAX_LOG_SCALE) - log_scale).detach()
        return image, text, bounded.exp(), self.logit_bias.float().reshape(())

    def _normalise(self, pixels: Tensor) -> Tensor:
        if self._levels is None:
            raise ValueError("found pixels as they were stored, uint8, and no levels to normalise them by")
        self._levels = self._levels.to(pixels.device)
        return normalise_pixels(pixels, self._levels)


def distill_step(student: nn.Module, objective: Objective, batch: DistillBatch) -> LossReport:
    """Losses of one step over the embeddings of all processes, with exact gradients."""
    outputs = student(batch.pixel_values, batch.input_ids, batch.attention_mask)
    return _losses(objective, batch, *outputs)


def _losses(
    objective: Objective, batch: DistillBatch, image: Tensor, text: Tensor, scale: Tensor, bias: Tensor
) -> LossReport:
    """Losses of all processes' embeddings; a side that was not computed is the teacher's own."""
    ours = gather(
        image.float() if image.shape[1] else batch.teacher_image,
        text.float() if text.shape[1] else batch.teacher_text,
    )
    has_teacher = batch.teacher is not None
    teacher = gather(batch.teacher_image, batch.teacher_text) if has_teacher else None
    ids = gather_rows(torch.stack([batch.caption_ids, batch.image_ids], dim=1))
    bank = batch.bank
    known = teacher if objective.needs_teacher or bank is not None else None
    negatives = select_negatives(ids[:, 0], ids[:, 1], known, bank)
    return objective(ours, teacher, negatives, scale, bias, bank)


def backward_step(
    accelerator: "Accelerator", student: nn.Module, objective: Objective, batch: DistillBatch, *, chunks: int
) -> LossReport:
    """Losses of one step and, in the parameters, their whole gradient.

    With several chunks the activations of only one are held at a time: the embeddings of all come first and
    without a graph, the losses give the gradient of each embedding, and a second forward pass carries it, chunk
    by chunk, into the weights. The gradient is that of one large batch, contrastive terms included.

    Args:
        accelerator: that ``student`` was prepared by.
        student: a prepared ``PairStudent``; it must be deterministic, which a CLIP without dropout is.
        objective: what is minimised.
        batch: this process's rows, on any device.
        chunks: parts to take the batch in; they need not divide it evenly.

    Source: GradCache, arXiv 2101.06983.
    """
    device = accelerator.device
    if chunks == 1:
        report = distill_step(student, objective, batch.to(device))
        accelerator.backward(report.total)
        return report
    parts = batch.inputs(chunks)
    with torch.no_grad():
        outputs = [student(*_to(part, device)) for part in parts]
    image, text = (torch.cat([output[side] for output in outputs]).float() for side in (0, 1))
    leaves = [tensor.detach().requires_grad_() for tensor in (image, text, *outputs[0][2:])]
    report = _losses(objective, batch.targets().to(device), *leaves)
    report.total.backward()  # type: ignore[no-untyped-call]
    gradients = [torch.zeros_like(leaf) if leaf.grad is None else leaf.grad for leaf in leaves]
    _carry_into_weights(accelerator, student, parts, gradients)
    return report


def _carry_into_weights(
    accelerator: "Accelerator", student: nn.Module, parts: Sequence[Sequence[Tensor]], gradients: list[Tensor]
) -> None:
    first = 0
    for number, part in enumerate(parts):
        last = number == len(parts) - 1
        rows = slice(first, first + len(part[0]))
        first = rows.stop
        # DDP reduces in the last chunk's backward pass only; DeepSpeed steps there, told by sync_gradients.
        accelerator.sync_gradients = last
        context: Any = nullcontext() if last else accelerator.no_sync(student)
        with context:
            image, text, scale, bias = student(*_to(part, accelerator.device))
            carried = (image.float() * gradients[0][rows]).sum() + (text.float() * gradients[1][rows]).sum()
            accelerator.backward(carried + (scale * gradients[2] + bias * gradients[3]) / len(parts))


def _to(tensors: Sequence[Tensor], device: torch.device) -> list[Tensor]:
    return [tensor.to(device, non_blocking=True) for tensor in tensors]
