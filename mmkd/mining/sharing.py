"""Work shared by processes, and its results put together in each of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import distributed as dist


@dataclass(frozen=True)
class Share:
    """This process's part of some work.

    Attributes:
        rank: this process.
        world: all processes.
    """

    rank: int = 0
    world: int = 1

    @classmethod
    def current(cls) -> "Share":
        """The share of this process of a launched run."""
        return cls(dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else cls()

    def bounds(self, total: int) -> list[int]:
        """Where the parts of ``total`` pieces begin, and their end: part r is ``bounds[r]`` to ``bounds[r + 1]``."""
        return [total * rank // self.world for rank in range(self.world + 1)]

    def wait(self) -> None:
        """Until every process is here."""
        if self.world > 1:
            dist.barrier()

    def first(self, value: Any) -> Any:
        """The first process's ``value``, a small object, in every process."""
        if self.world > 1:
            box = [value]
            dist.broadcast_object_list(box, device=_device())
            return box[0]
        return value

    def gather(self, local: NDArray[Any], lengths: Sequence[int]) -> NDArray[Any]:
        """All processes' arrays in rank order, each ``(lengths[rank], ...)``."""
        if self.world == 1:
            return local
        padded = np.zeros((max(lengths), *local.shape[1:]), dtype=local.dtype)
        padded[: len(local)] = local
        mine = torch.from_numpy(padded).to(_device())
        parts = [torch.empty_like(mine) for _ in range(self.world)]
        dist.all_gather(parts, mine)
        return np.concatenate(
            [part[:length].cpu().numpy() for part, length in zip(parts, lengths, strict=True)]
        )


def _device() -> torch.device:
    """Where the process group's collectives take their tensors from."""
    return (
        torch.device("cuda", torch.cuda.current_device())
        if dist.get_backend() == "nccl"
        else torch.device("cpu")
    )
