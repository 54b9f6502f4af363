"""Started by test_distributed.py on several processes: losses and gradients of one global batch."""

import sys

import torch

from mmkd.batches import DistillBatch
from mmkd.distributed import start_accelerator
from mmkd.objective import Objective
from mmkd.students import halve
from mmkd.training import PairStudent, distill_step, make_optimizer, prepare

BATCH = 12


def global_batch() -> DistillBatch:
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(0, 250, (BATCH, 9), generator=generator)
    tokens[:, -1] = 257  # the end token, which the text tower pools at
    return DistillBatch(
        pixel_values=torch.randn(BATCH, 3, 32, 32, generator=generator),
        input_ids=tokens,
        attention_mask=torch.ones_like(tokens),
        caption_ids=torch.arange(BATCH) % 10,
        image_ids=torch.arange(BATCH),
        teacher_image=torch.randn(BATCH, 32, generator=generator),
        teacher_text=torch.randn(BATCH, 32, generator=generator),
    )


def main(teacher: str, expression: str, out: str) -> None:
    accelerator = start_accelerator(precision="fp32")
    world, rank = accelerator.num_processes, accelerator.process_index
    local = BATCH // world
    objective = Objective(expression)
    student = PairStudent(halve(teacher), learns_logit_scale=objective.uses_logit_scale)
    optimizer = make_optimizer(student, lr=1e-3, weight_decay=0.1)
    prepared = prepare(accelerator, student, optimizer, batch=local, clip_grad=0.0)
    whole = global_batch()
    mine = DistillBatch(
        *(getattr(whole, name)[rank * local : (rank + 1) * local] for name in whole.__slots__)
    )
    report = distill_step(prepared.student, objective, mine)
    accelerator.backward(report.total)
    if accelerator.is_main_process:
        gradients = {name: p.grad for name, p in prepared.clip.named_parameters() if p.grad is not None}
        torch.save({"loss": report.total.detach(), "gradients": gradients}, out)
    accelerator.wait_for_everyone()
    accelerator.end_training()


if __name__ == "__main__":
    main(*sys.argv[1:])
