"""Processes: how a run starts on them, and how embeddings are gathered with exact gradients."""

import os
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch import distributed as dist

from mmkd.embeddings import Embeddings
from mmkd.errors import ConfigError, TrainingError

if TYPE_CHECKING:
    from accelerate import Accelerator

MINING_TIMEOUT = timedelta(hours=4)  # the others wait while the first process mines
PRECISIONS = {"fp32": "no", "bf16": "bf16", "fp16": "fp16"}


def default_precision() -> str:
    """``bf16`` on a CUDA device that has it, else ``fp32``."""
    return "bf16" if torch.cuda.is_available() and torch.cuda.is_bf16_supported() else "fp32"


def start_accelerator(*, precision: str, tracker: str | None = None) -> "Accelerator":
    """An ``Accelerator`` on the processes and the engine that the launcher asked for.

    Raises:
        ConfigError: the precision is unknown, or fp16 on a CPU; the tracker is unknown or not installed.
        TrainingError: fewer processes joined than were launched, or the engine is not the one asked for.
    """
    from accelerate import Accelerator, InitProcessGroupKwargs
    from accelerate.utils import DistributedType

    if precision not in PRECISIONS:
        raise ConfigError(f"--precision {precision} is unknown; expected one of {', '.join(PRECISIONS)}")
    _check_tracker(tracker)
    if precision == "fp16" and not torch.accelerator.is_available():
        raise ConfigError(
            "--precision fp16 needs an accelerator, and this machine has none; use fp32 or bf16"
        )
    # Without a backend by name, DeepSpeed on CPUs leaves every process alone with the same rows; named where
    # nothing was launched, accelerate looks for a process group that does not exist.
    backend = "nccl" if torch.cuda.is_available() else "gloo"
    group = InitProcessGroupKwargs(backend=backend, timeout=MINING_TIMEOUT)
    handlers = [group] if "LOCAL_RANK" in os.environ else []  # by which Accelerate knows a launch
    accelerator = Accelerator(
        mixed_precision=PRECISIONS[precision],
        log_with=tracker,
        project_dir=".",  # a tracker wants one now; the run's folder takes its place before anything is written
        kwargs_handlers=handlers,
    )
    launched = int(os.environ.get("WORLD_SIZE", "1"))
    if accelerator.num_processes != launched:
        raise TrainingError(
            f"{launched} processes were launched, but only {accelerator.num_processes} joined, so each would train "
            "alone on the same rows; start with `accelerate launch --config_file configs/accelerate/...`"
        )
    wants_deepspeed = os.environ.get("ACCELERATE_USE_DEEPSPEED", "false") == "true"
    if wants_deepspeed != (accelerator.distributed_type == DistributedType.DEEPSPEED):
        raise TrainingError(
            f"DeepSpeed was {'' if wants_deepspeed else 'not '}asked for, but the engine is "
            f"{accelerator.distributed_type.value}; check the accelerate configuration"
        )
    if launched > 1 and accelerator.distributed_type == DistributedType.NO:
        # Seen without a GPU: Accelerate counts the processes, but neither wraps the student nor waits.
        raise TrainingError(
            f"{launched} processes were launched, but found no engine to average their gradients, so each would "
            "train another student; without GPUs set ACCELERATE_USE_CPU=true, or use a zero*.yaml launch file"
        )
    if wants_deepspeed:
        # Under ZeRO 3 transformers would make every model in pieces, before its weights are loaded into it; whole
        # on each process at first, it is divided when it is prepared.
        from transformers.integrations.deepspeed import unset_hf_deepspeed_config

        unset_hf_deepspeed_config()  # type: ignore[no-untyped-call]
    return accelerator


def _check_tracker(tracker: str | None) -> None:
    # Accelerate leaves out, without a word, a tracker whose package is missing.
    from accelerate.tracking import get_available_trackers

    installed = sorted(str(found) for found in get_available_trackers())
    if tracker is not None and tracker not in installed:
        raise ConfigError(
            f"--tracker {tracker} is unknown or not installed; installed here: {', '.join(installed) or 'none'} "
            "(pip install tensorboard, wandb or trackio)"
        )


class _GatherRows(torch.autograd.Function):
    """All processes' rows in rank order; the gradient of one's own rows, times the number of processes.

    Every process computes the whole loss, so its gradient of its own rows is complete; DDP and DeepSpeed then
    average over the processes, which the factor undoes. Parameters inside the loss (the logit scale) have
    equal gradients everywhere, and averaging leaves them as they are.
    """

    @staticmethod
    def forward(ctx: Any, local: Tensor) -> Tensor:
        parts = [torch.empty_like(local) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, local.contiguous())
        ctx.rows = len(local)
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        start = dist.get_rank() * ctx.rows
        return gradients[0][start : start + ctx.rows] * dist.get_world_size()


def _alone() -> bool:
    return not dist.is_initialized() or dist.get_world_size() == 1


def gather_rows(local: Tensor) -> Tensor:
    """Rows of all processes, (B, ...) -> (world * B, ...), in rank order and with exact gradients."""
    if _alone():
        return local
    gathered: Tensor = _GatherRows.apply(local)  # type: ignore[no-untyped-call]
    return gathered


def gather(image: Tensor, text: Tensor) -> Embeddings:
    """Embeddings of all processes' vectors (B, D), in rank order and with exact gradients, in one collective."""
    if _alone():
        return Embeddings(image, text)
    return Embeddings(*gather_rows(torch.cat([image, text], dim=1)).chunk(2, dim=1))


def broadcast(value: Any, processes: int) -> Any:
    """The first process's ``value``, on every process."""
    from accelerate.utils import broadcast_object_list

    box = [value]
    if processes > 1:
        broadcast_object_list(box)
    return box[0]
