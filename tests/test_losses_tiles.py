"""The similarity losses by blocks of rows: the same numbers, and memory that grows with the batch, not its square."""

from typing import Any

import pytest
import torch
from pairs import random_bank, random_pairs
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from mmkd.embeddings import Embeddings
from mmkd.losses import relations, task, tiles
from mmkd.losses.negatives import select_negatives
from mmkd.objective import LOSSES, LossReport, Objective

DIM = 8
# Every loss that compares rows with rows; the triplet loss with each of its choices.
CASES = [(name, "semi-hard") for name, loss in LOSSES.items() if loss.crosses or name == "rkd"]
CASES += [("triplet", choice) for choice in task.NEGATIVES if choice != "semi-hard"]
every_case = pytest.mark.parametrize(("name", "choice"), CASES, ids=lambda value: value)


class Inputs:
    """Everything that a loss may want, with gradients."""

    def __init__(self, batch: int, bank: int) -> None:
        generator = torch.Generator().manual_seed(0)
        self.leaves = [torch.randn(batch, DIM, generator=generator).requires_grad_() for _ in range(2)]
        self.leaves += [torch.tensor(10.0, requires_grad=True), torch.tensor(-3.0, requires_grad=True)]
        self.teacher, self.bank = random_pairs(batch, DIM, 1), random_bank(bank, DIM, 2) if bank else None
        ids = torch.arange(batch)
        self.negatives = select_negatives(ids // 2, ids, self.teacher, self.bank)

    def report(self, objective: Objective) -> LossReport:
        image, text, scale, bias = self.leaves
        return objective(Embeddings(image, text), self.teacher, self.negatives, scale, bias, self.bank)


class Largest(TorchDispatchMode):
    """The elements of the largest tensor that is made."""

    elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        sizes = [
            leaf.untyped_storage().nbytes() // 4 for leaf in tree_leaves(made) if isinstance(leaf, Tensor)
        ]
        self.elements = max([self.elements, *sizes])
        return made


def memory(objective: Objective, batch: int) -> int:
    """Elements kept for the backward pass, and of the largest tensor made in both."""
    inputs, kept = Inputs(batch, bank=0), {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes() // 4
        return tensor

    with Largest() as largest:
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            report = inputs.report(objective)
        report.total.backward()
    return sum(kept.values()) + largest.elements


@every_case
def test_memory_grows_with_the_batch_and_not_its_square(
    name: str, choice: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    objective = Objective(name, negatives=choice)
    monkeypatch.setattr(relations, "ANGLE_ROWS", 8)
    # A batch of 256 whole: the measure sees the square.
    squares = [memory(objective, batch) for batch in (64, 256)]
    assert squares[1] > 10 * squares[0]
    monkeypatch.setattr(tiles, "TILE_ELEMENTS", 2**10)
    tiled = [memory(objective, batch) for batch in (64, 256)]
    assert tiled[1] < 5 * tiled[0]
    assert tiled[1] < squares[1] / 4


@every_case
@pytest.mark.parametrize("bank", [0, 13], ids=["alone", "bank"])
def test_blocks_give_the_value_and_gradient_of_the_whole(
    name: str, choice: str, bank: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    objective, found = Objective(f"1*{name}", negatives=choice), []
    for elements in (2**24, 200):
        monkeypatch.setattr(tiles, "TILE_ELEMENTS", elements)
        inputs = Inputs(42, bank)
        total = inputs.report(objective).total
        gradients = torch.autograd.grad(total, inputs.leaves, allow_unused=True)
        found.append([total, *(gradient for gradient in gradients if gradient is not None)])
    for whole, blocks in zip(*found, strict=True):
        assert (blocks - whole).norm() <= 1e-6 * whole.norm()


def test_a_batch_within_the_tile_is_one_block(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def block(rows: slice) -> Tensor:
        seen.append((rows.start, rows.stop))
        return torch.arange(rows.start, rows.stop)

    assert tiles.map_rows(block, rows=10, columns=10).tolist() == list(range(10))
    monkeypatch.setattr(tiles, "TILE_ELEMENTS", 40)
    assert tiles.map_rows(block, rows=10, columns=10).tolist() == list(range(10))
    assert seen == [(0, 10), (0, 4), (4, 8), (8, 10)]


def test_a_row_wider_than_the_tile_is_a_block_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiles, "TILE_ELEMENTS", 4)
    assert tiles.map_rows(lambda rows: torch.ones(rows.stop - rows.start), rows=3, columns=10).shape == (3,)
