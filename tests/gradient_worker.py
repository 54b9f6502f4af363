"""Started by test_distributed.py on several processes: the gradients of one global batch, for every loss."""

import sys
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from itertools import groupby
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import Tensor

from mmkd.batches import DistillBatch
from mmkd.distributed import start_accelerator
from mmkd.objective import LOSSES, Objective
from mmkd.optimizer import make_optimizer
from mmkd.step import PairStudent, backward_step, distill_step
from mmkd.students import halve
from mmkd.training import prepare

BATCH = 12
BANK = 5


@dataclass(frozen=True)
class Case:
    """One gradient: of which losses, with a bank or without, and in how many chunks."""

    losses: str
    bank: bool = False
    chunks: int = 1

    def __str__(self) -> str:
        return self.losses + ", bank" * self.bank + f", {self.chunks} chunks" * (self.chunks > 1)


def cases() -> Iterator[Case]:
    """Each loss alone, those that know a bank with one too, and all together in chunks."""
    for name, loss in LOSSES.items():
        yield Case(name)
        if "bank" in loss.needs:
            yield Case(name, bank=True)
    yield Case(" + ".join(LOSSES), bank=True, chunks=2)


def global_batch(*, bank: bool) -> DistillBatch:
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(0, 250, (BATCH, 9), generator=generator)
    tokens[:, -1] = 257  # the end token, which the text tower pools at
    batch = DistillBatch(
        pixel_values=torch.randn(BATCH, 3, 32, 32, generator=generator),
        input_ids=tokens,
        attention_mask=torch.ones_like(tokens),
        caption_ids=torch.arange(BATCH) % 10,
        image_ids=torch.arange(BATCH),
        teacher_image=torch.randn(BATCH, 32, generator=generator),
        teacher_text=torch.randn(BATCH, 32, generator=generator),
        bank_image=torch.randn(BANK, 32, generator=generator),
        bank_text=torch.randn(BANK, 32, generator=generator),
        bank_ids=torch.arange(8, 8 + BANK)[:, None].expand(-1, 2) + BATCH * torch.tensor([0, 1]),
    )
    return batch if bank else replace(batch, bank_ids=batch.bank_ids[:0])


def local_rows(batch: DistillBatch, rank: int, world: int) -> DistillBatch:
    """What one process sees of it: its share of the rows, and the whole bank."""
    rows = slice(rank * BATCH // world, (rank + 1) * BATCH // world)
    shared = ("bank_image", "bank_text", "bank_ids")
    return DistillBatch(
        *(getattr(batch, f.name) if f.name in shared else getattr(batch, f.name)[rows] for f in fields(batch))
    )


def learnt_scalars(case: Case) -> tuple[bool, bool]:
    objective = Objective(case.losses)
    return objective.uses_logit_scale, objective.uses_logit_bias


def make_student(teacher: str, objective: Objective) -> PairStudent:
    return PairStudent(
        halve(teacher),
        learns_logit_scale=objective.uses_logit_scale,
        learns_logit_bias=objective.uses_logit_bias,
    )


def trained_gradients(student: torch.nn.Module) -> dict[str, Tensor]:
    return {name: p.grad.clone() for name, p in student.named_parameters() if p.grad is not None}


def gradients_alone(teacher: str, case: Case) -> tuple[Tensor, dict[str, Tensor]]:
    """What all others are held to: one process, the whole batch, no accelerator and no chunks."""
    objective = Objective(case.losses)
    student = make_student(teacher, objective)
    report = distill_step(student, objective, global_batch(bank=case.bank))
    report.total.backward()
    return report.total.detach(), trained_gradients(student)


class Together:
    """The same by ``backward_step`` on all processes, each of which must call it."""

    def __init__(self, accelerator: Accelerator, teacher: str, objective: Objective) -> None:
        student = make_student(teacher, objective)
        optimizer = make_optimizer(student, lr=0.0, weight_decay=0.1)  # so that no case changes the weights
        self.accelerator, self.world = accelerator, accelerator.num_processes
        self.prepared = prepare(accelerator, student, optimizer, batch=BATCH // self.world, clip_grad=0.0)
        self.deepspeed = accelerator.state.deepspeed_plugin is not None
        self.found: dict[str, Tensor] = {}
        if self.deepspeed:  # backward_step steps too, and with that the gradients are gone
            engine = self.prepared.student
            step = engine.step
            engine.step = lambda: (self._keep_gradients(), step())

    def _keep_gradients(self) -> None:
        from deepspeed.utils import safe_get_full_grad

        for name, parameter in self.prepared.student.module.named_parameters():
            if parameter.requires_grad:
                self.found[name] = safe_get_full_grad(parameter).clone()

    def gradients(self, case: Case) -> tuple[Tensor, dict[str, Tensor]]:
        mine = local_rows(global_batch(bank=case.bank), self.accelerator.process_index, self.world)
        student, objective = self.prepared.student, Objective(case.losses)
        self.found = {}
        report = backward_step(self.accelerator, student, objective, mine, chunks=case.chunks)
        if not self.deepspeed:
            self.found = trained_gradients(self.accelerator.unwrap_model(student))
        self.prepared.optimizer.step()
        self.prepared.optimizer.zero_grad()
        return report.total.detach(), self.found


def main(teacher: str, out: str) -> None:
    accelerator = start_accelerator(precision="fp32")
    plugin = accelerator.state.deepspeed_plugin
    results = {}
    # An engine for each case would take minutes, and Accelerate knows one at a time.
    for _, group in groupby(sorted(cases(), key=learnt_scalars), key=learnt_scalars):
        same = list(group)
        together = Together(accelerator, teacher, Objective(same[0].losses))
        results |= {str(case): together.gradients(case) for case in same}
        accelerator.free_memory()
    if accelerator.is_main_process:
        engine = "ddp" if plugin is None else f"zero{plugin.zero_stage}"
        place = {"engine": engine, "processes": accelerator.num_processes}
        torch.save({**place, "results": results}, Path(out))
    accelerator.wait_for_everyone()
    accelerator.end_training()


if __name__ == "__main__":
    main(*sys.argv[1:])
