"""A step taken in parts, with one tower, and from a bank."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from gradient_worker import BATCH, global_batch
from torch import Tensor

from mmkd.batches import DistillBatch
from mmkd.distributed import start_accelerator
from mmkd.objective import LOSSES, Objective
from mmkd.step import PairStudent, backward_step
from mmkd.students import halve

EVERY_LOSS = " + ".join(LOSSES)


def gradients(
    teacher: Path, batch: DistillBatch, losses: str, chunks: int
) -> tuple[float, dict[str, Tensor]]:
    objective = Objective(losses)
    student = PairStudent(
        halve(teacher),
        learns_logit_scale=objective.uses_logit_scale,
        learns_logit_bias=objective.uses_logit_bias,
    )
    accelerator = start_accelerator(precision="fp32")
    report = backward_step(accelerator, student, objective, batch, chunks=chunks)
    found = {name: p.grad for name, p in student.named_parameters() if p.grad is not None}
    return report.total.item(), found


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    """The gradient of every weight: to 1e-5 of its norm or, for the smallest, of a tenth of the largest norm.

    Some gradients are rounding alone: a shift of all keys, for one, changes no attention.
    """
    assert found.keys() == expected.keys()
    norms = {name: float(gradient.norm()) for name, gradient in expected.items()}
    for name, gradient in expected.items():
        error = float((found[name] - gradient).norm()) / max(norms[name], max(norms.values()) / 10)
        assert error <= 1e-5, f"{name}: {error:.1e}"


@pytest.mark.parametrize("losses", [*LOSSES, EVERY_LOSS])
def test_parts_add_up_to_the_whole_batch(tiny_clip: Path, losses: str) -> None:
    batch = global_batch(bank="bank" in LOSSES[losses].needs if losses in LOSSES else True)
    total, whole = gradients(tiny_clip, batch, losses, chunks=1)
    parts_total, parts = gradients(tiny_clip, batch, losses, chunks=5)  # 12 rows: parts of 3, 3, 2, 2 and 2
    assert parts_total == pytest.approx(total, rel=1e-6)
    assert_same(parts, whole)


class _Widest(torch.nn.Module):
    """Counts the most rows that one forward pass with a graph was given."""

    def __init__(self, student: PairStudent) -> None:
        super().__init__()
        self.student, self.rows = student, 0

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        self.rows = max(self.rows, len(inputs[0]))
        return self.student(*inputs)


def test_no_more_than_a_part_is_held_at_a_time(tiny_clip: Path) -> None:
    student = _Widest(PairStudent(halve(tiny_clip)))
    accelerator = start_accelerator(precision="fp32")
    backward_step(accelerator, student, Objective("triplet + cos"), global_batch(bank=False), chunks=4)
    assert student.rows == BATCH // 4


@pytest.mark.parametrize("trained", ["image", "text"])
def test_the_other_tower_is_the_teachers_own_embedding(tiny_clip: Path, trained: str) -> None:
    nothing = torch.empty(BATCH, 0)
    one_side = (
        {"input_ids": nothing.long(), "attention_mask": nothing.long()}
        if trained == "image"
        else {"pixel_values": nothing}
    )
    batch = replace(global_batch(bank=False), **one_side)
    objective = Objective("clip + cos")
    student = PairStudent(halve(tiny_clip), learns_logit_scale=True)
    report = backward_step(start_accelerator(precision="fp32"), student, objective, batch, chunks=1)
    trained_tower, other = ("vision", "text") if trained == "image" else ("text", "vision")
    with_gradient = {name for name, p in student.named_parameters() if p.grad is not None}
    assert any(trained_tower in name for name in with_gradient)
    assert not any(other in name for name in with_gradient)
    # The other side costs the cosine nothing, since it is the target itself: half of what both would cost.
    ours = student(batch.pixel_values, batch.input_ids, batch.attention_mask)[0 if trained == "image" else 1]
    theirs = batch.teacher_image if trained == "image" else batch.teacher_text
    expected = (1 - torch.cosine_similarity(ours, theirs)).mean() / 2
    assert report.terms["cos"].item() == pytest.approx(expected.item(), abs=1e-6)


def test_a_bank_gives_more_negatives(tiny_clip: Path) -> None:
    # Icl without a teacher's filter of its own: each of the bank's rows adds to the denominator.
    batch = global_batch(bank=True)
    far = replace(batch, bank_image=-batch.teacher_image[:5], bank_text=-batch.teacher_text[:5])
    without, _ = gradients(tiny_clip, replace(batch, bank_ids=batch.bank_ids[:0]), "clip + cos", chunks=1)
    with_bank, _ = gradients(tiny_clip, far, "clip + cos", chunks=1)
    assert with_bank > without
