"""Task losses: a value worked by hand, and a reference that is not ours."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from pairs import Masks, identity, one_point, random_bank, random_pairs
from scipy.special import log_expit

from mmkd.embeddings import Embeddings
from mmkd.losses import task
from mmkd.losses.negatives import all_others, select_negatives

ONE, TEN = torch.tensor(1.0), torch.tensor(10.0)


def test_clip_is_transformers() -> None:
    from transformers.models.clip.modeling_clip import image_text_contrastive_loss

    student, scale = random_pairs(7, 8, 0), torch.tensor(14.0)
    expected = image_text_contrastive_loss(scale * student.text @ student.image.T)
    torch.testing.assert_close(task.clip(student, all_others(7), logit_scale=scale), expected)


def test_clip_by_hand() -> None:
    got = task.clip(identity(), all_others(2), logit_scale=ONE)
    assert got.item() == pytest.approx(np.log(1 + np.exp(-1)))


def test_clip_leaves_out_what_is_no_negative() -> None:
    student = random_pairs(4, 8, 0)
    ids = torch.tensor([0, 1, 0, 2])  # rows 0 and 2 share their caption
    got = task.clip(student, select_negatives(ids, torch.arange(4)), logit_scale=TEN)
    logits = TEN * student.image @ student.text.T
    rows = [[0, 1, 3], [0, 1, 2, 3], [1, 2, 3], [0, 1, 2, 3]]
    expected = sum(
        F.cross_entropy(matrix[row][keep][None], torch.tensor([keep.index(row)]))
        for matrix in (logits, logits.T)
        for row, keep in enumerate(rows)
    )
    torch.testing.assert_close(got, expected / 8)


def test_clip_tells_the_pair_from_the_bank_too() -> None:
    student, bank, ids = random_pairs(5, 8, 0), random_bank(3, 8, 1), torch.arange(5)
    got = task.clip(student, select_negatives(ids, ids, bank=bank), logit_scale=TEN, bank=bank)
    texts = TEN * student.image @ torch.cat([student.text, bank.embeddings.text]).T
    images = TEN * student.text @ torch.cat([student.image, bank.embeddings.image]).T
    torch.testing.assert_close(got, (F.cross_entropy(texts, ids) + F.cross_entropy(images, ids)) / 2)


def chosen(distances: list[float], positive: float, choice: str) -> float:
    """The rule in words, for one row; ``random`` takes the last, as ``Masks`` draws."""
    if choice == "random":
        return distances[-1]
    if choice == "hard":
        return min(distances)
    farther = [distance for distance in distances if distance > positive]
    return min(farther) if farther else max(distances)


def brute_triplet(
    student: Embeddings, others: tuple[torch.Tensor, torch.Tensor], masks: Masks, margin: float, choice: str
) -> float:
    directions = []
    for anchors, candidates, allowed in (
        (student.image, others[0], masks.text_mask),
        (student.text, others[1], masks.image_mask),
    ):
        similarity, hinges = anchors @ candidates.T, []
        for row in range(len(student)):
            positive = 1 - float(similarity[row, row])
            distances = [1 - float(similarity[row, j]) for j in torch.nonzero(allowed[row])[:, 0].tolist()]
            if distances:
                hinges.append(max(0.0, positive - chosen(distances, positive, choice) + margin))
        directions.append(sum(hinges) / max(1, len(hinges)))
    return sum(directions) / 2


@pytest.mark.parametrize("choice", task.NEGATIVES)
@pytest.mark.parametrize("seed", range(3))
def test_triplet_is_the_brute_force_one(seed: int, choice: str) -> None:
    student, bank = random_pairs(9, 4, seed), random_bank(5, 4, seed + 10)
    generator = torch.Generator().manual_seed(seed)
    masks = [torch.rand(9, 14, generator=generator) < 0.5 for _ in range(2)]
    for mask in masks:
        mask[:, :9].fill_diagonal_(False)
        mask[0] = False  # a row without any negative
    negatives = Masks(*masks, bank)
    others = (
        torch.cat([student.text, bank.embeddings.text]),
        torch.cat([student.image, bank.embeddings.image]),
    )
    got = task.triplet(student, negatives, choice=choice, margin=0.3, bank=bank).item()
    assert got == pytest.approx(brute_triplet(student, others, negatives, 0.3, choice), abs=1e-6)


def test_triplet_by_hand() -> None:
    # Both positives at distance 0, both negatives at distance 1 - 0.9: margin 0.2 is violated by 0.1.
    near = torch.tensor([[1.0, 0.0], [0.9, (1 - 0.81) ** 0.5]])
    for choice in task.NEGATIVES:
        got = task.triplet(Embeddings(near, near), all_others(2), choice=choice, margin=0.2)
        assert got.item() == pytest.approx(0.1, abs=1e-6)


def test_the_choices_differ_where_a_negative_is_nearer_than_the_positive() -> None:
    """Image 0 lies at 30 degrees; its text at 0, the others at 40 (harder) and -15 (semi-hard)."""

    def at(*degrees: float) -> torch.Tensor:
        angles = torch.deg2rad(torch.tensor(degrees))
        return torch.stack([angles.cos(), angles.sin()], dim=1)

    student = Embeddings(at(30, 40, -15), at(0, 40, -15))
    only_first = torch.tensor([[False, True, True], [False] * 3, [False] * 3])
    nobody = torch.zeros(3, 3, dtype=torch.bool)

    def loss(choice: str) -> float:
        return task.triplet(student, Masks(only_first, nobody), choice=choice, margin=0.2).item()

    def hinge(negative: float) -> float:
        return max(0.0, np.cos(np.deg2rad(negative)) - np.cos(np.deg2rad(30)) + 0.2) / 2

    assert loss("semi-hard") == pytest.approx(hinge(45), abs=1e-6)
    assert loss("hard") == pytest.approx(hinge(10), abs=1e-6)


def test_triplet_without_any_negative_is_zero_with_a_gradient() -> None:
    image = torch.randn(2, 4, requires_grad=True)
    nobody = torch.zeros(2, 2, dtype=torch.bool)
    for choice in task.NEGATIVES:
        loss = task.triplet(Embeddings(image, torch.randn(2, 4)), Masks(nobody, nobody), choice=choice)
        (gradient,) = torch.autograd.grad(loss, image)
        assert loss.item() == 0
        assert (gradient == 0).all()


def test_siglip_is_the_papers_algorithm() -> None:
    """Algorithm 1, with SciPy's log-sigmoid."""
    student = random_pairs(6, 8, 0)
    logits = 10 * student.image.double().numpy() @ student.text.double().numpy().T - 3
    labels = 2 * np.eye(6) - np.ones((6, 6))
    expected = -log_expit(labels * logits).sum() / 6
    got = task.siglip(student, all_others(6), logit_scale=TEN, logit_bias=torch.tensor(-3.0))
    assert got.item() == pytest.approx(expected, rel=1e-5)


def test_siglip_by_hand() -> None:
    # A row has one no at logit 0 and one yes at logit 1.
    got = task.siglip(identity(), all_others(2), logit_scale=ONE, logit_bias=torch.tensor(0.0))
    assert got.item() == pytest.approx(np.log(2) + np.log(1 + np.exp(-1)))


def test_siglip_leaves_out_what_is_neither_yes_nor_no() -> None:
    ids = torch.zeros(2, dtype=torch.long)
    negatives = select_negatives(ids, torch.arange(2))
    got = task.siglip(identity(), negatives, logit_scale=ONE, logit_bias=torch.tensor(0.0))
    assert got.item() == pytest.approx(np.log(1 + np.exp(-1)))


def test_siglip_lowers_the_bias_where_most_are_no() -> None:
    bias = torch.tensor(0.0, requires_grad=True)
    task.siglip(random_pairs(8, 8, 0), all_others(8), logit_scale=ONE, logit_bias=bias).backward()
    assert bias.grad > 0


def test_with_the_fitting_bias_a_matched_pair_has_logit_0() -> None:
    teacher = random_pairs(9, 8, 0)
    logits = 30 * (teacher.image @ teacher.text.T) + task.fitting_logit_bias(teacher, 30.0)
    assert logits.diagonal().mean().item() == pytest.approx(0, abs=1e-4)


def test_soft_clip_is_torchs_cross_entropy_with_soft_targets() -> None:
    student, teacher = random_pairs(6, 8, 0), random_pairs(6, 12, 1)
    logits, alike = TEN * student.image @ student.text.T, teacher.image @ teacher.text.T / 0.2
    expected = sum(
        F.cross_entropy(ours, 0.6 * torch.eye(6) + 0.4 * theirs.softmax(dim=1))
        for ours, theirs in ((logits, alike), (logits.T, alike.T))
    )
    got = task.soft_clip(student, teacher, logit_scale=TEN, temperature=0.2)
    torch.testing.assert_close(got, expected / 2)


def test_soft_clip_by_hand() -> None:
    # The teacher takes both for alike: targets (0.8, 0.2) against log shares of (e, 1) / (e + 1).
    got = task.soft_clip(identity(), one_point(), logit_scale=ONE, temperature=1.0)
    assert got.item() == pytest.approx(np.log(np.e + 1) - 0.8, rel=1e-5)
