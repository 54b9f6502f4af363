"""Losses by blocks of anchor rows, so that no (B, B) matrix is ever held whole."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

TILE_ELEMENTS = 2**24  # of one matrix: 64 MiB in float32, which holds the whole of a batch of 4,096


def map_rows(block: Callable[[slice], Tensor], *, rows: int, columns: int) -> Tensor:
    """Apply ``block`` to as many anchor rows at a time as keep ``rows * columns`` within the tile.

    Args:
        block: maps a slice of b rows to (b, ...). It may make (b, columns) matrices; where there is more than one
            block these are made again in the backward pass instead of being kept.
        rows: B, all anchor rows.
        columns: what each is compared with.

    Returns:
        (B, ...), in the order of the rows.
    """
    return map_blocks(block, rows=rows, size=max(1, TILE_ELEMENTS // max(1, columns)))


def map_blocks(block: Callable[[slice], Tensor], *, rows: int, size: int) -> Tensor:
    """Apply ``block`` to ``size`` rows at a time; see :func:`map_rows`."""
    if size >= rows:
        return block(slice(0, rows))
    parts = [
        checkpoint(
            block, slice(start, min(start + size, rows)), use_reentrant=False, preserve_rng_state=False
        )
        for start in range(0, rows, size)
    ]
    return torch.cat(parts)
