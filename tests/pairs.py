"""Embeddings and negatives to try losses on."""

from dataclasses import dataclass

import torch
from torch import Tensor

from mmkd.embeddings import Embeddings
from mmkd.losses.negatives import Bank


def random_pairs(rows: int, dim: int, seed: int, *, grad: bool = False) -> Embeddings:
    generator = torch.Generator().manual_seed(seed)
    return Embeddings(
        torch.randn(rows, dim, generator=generator).requires_grad_(grad),
        torch.randn(rows, dim, generator=generator).requires_grad_(grad),
    )


def random_bank(rows: int, dim: int, seed: int) -> Bank:
    ids = torch.arange(1000, 1000 + rows)
    return Bank(random_pairs(rows, dim, seed), ids, ids)


def identity() -> Embeddings:
    """Two pairs at a right angle: cosines 1 with themselves, 0 with each other."""
    return Embeddings(torch.eye(2), torch.eye(2))


def one_point() -> Embeddings:
    """Two pairs that are all the same vector."""
    east = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    return Embeddings(east, east)


@dataclass(frozen=True)
class Masks:
    """Negatives given as whole matrices, bool (B, B + N)."""

    text_mask: Tensor
    image_mask: Tensor
    bank: Bank | None = None

    def texts(self, rows: slice) -> Tensor:
        return self.text_mask[rows]

    def images(self, rows: slice) -> Tensor:
        return self.image_mask[rows]

    def draws(self, rows: slice) -> Tensor:
        return torch.arange(self.text_mask.shape[1]).repeat(rows.stop - rows.start, 1)
