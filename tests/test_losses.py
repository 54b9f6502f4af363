"""Losses: laws, a value worked by hand, and a reference that is not ours."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.special import log_softmax

from mmkd.embeddings import Embeddings
from mmkd.losses import kd, task
from mmkd.losses.negatives import Negatives, all_others, false_negative_threshold, select_negatives

KD = {
    "mse": kd.mse,
    "cos": kd.cos,
    "l1": kd.l1,
    "affinity": lambda student, teacher: kd.affinity(student, teacher, temperature=0.1),
}


def random_pairs(rows: int, dim: int, seed: int, *, grad: bool = False) -> Embeddings:
    generator = torch.Generator().manual_seed(seed)
    return Embeddings(
        torch.randn(rows, dim, generator=generator).requires_grad_(grad),
        torch.randn(rows, dim, generator=generator).requires_grad_(grad),
    )


@pytest.mark.parametrize("loss", KD.values(), ids=KD)
def test_kd_is_zero_on_self_and_positive_elsewhere(loss) -> None:
    teacher = random_pairs(6, 8, 0)
    assert loss(teacher, teacher).item() == pytest.approx(0, abs=1e-6)
    assert loss(random_pairs(6, 8, 1), teacher).item() > 1e-3


@pytest.mark.parametrize("loss", KD.values(), ids=KD)
def test_kd_does_not_depend_on_the_order_of_the_batch(loss) -> None:
    student, teacher, order = random_pairs(6, 8, 0), random_pairs(6, 8, 1), torch.tensor([3, 1, 5, 0, 4, 2])
    shuffled = [Embeddings(side.image[order], side.text[order]) for side in (student, teacher)]
    torch.testing.assert_close(loss(*shuffled), loss(student, teacher))


@pytest.mark.parametrize("loss", KD.values(), ids=KD)
def test_kd_reaches_both_towers(loss) -> None:
    image, text = torch.randn(4, 8, requires_grad=True), torch.randn(4, 8, requires_grad=True)
    loss(Embeddings(image, text), random_pairs(4, 8, 1)).backward()
    assert image.grad is not None
    assert text.grad is not None
    assert image.grad.abs().sum() > 0
    assert text.grad.abs().sum() > 0


def right_angle() -> tuple[Embeddings, Embeddings]:
    """Student (1, 0) where the teacher has (0, 1), in the image only."""
    east, north = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]])
    return Embeddings(east, east), Embeddings(north, east)


def test_mse_by_hand() -> None:
    assert kd.mse(*right_angle()).item() == pytest.approx((1.0 + 0.0) / 2)  # (1 + 1) / 2 elements; text 0


def test_cos_by_hand() -> None:
    assert kd.cos(*right_angle()).item() == pytest.approx(0.5)


def test_l1_by_hand() -> None:
    assert kd.l1(*right_angle()).item() == pytest.approx(0.5)


def test_mse_is_the_cosine_on_another_scale() -> None:
    student, teacher = random_pairs(5, 16, 0), random_pairs(5, 16, 1)
    torch.testing.assert_close(kd.mse(student, teacher), 2 * kd.cos(student, teacher) / 16)


def test_affinity_is_scipys_kl() -> None:
    student, teacher = random_pairs(5, 8, 0), random_pairs(5, 12, 1)
    ours, theirs = (side.image.numpy() @ side.text.numpy().T / 0.07 for side in (student, teacher))
    expected = 0.0
    for axis in (0, 1):
        p, q = log_softmax(theirs.astype(float), axis=axis), log_softmax(ours.astype(float), axis=axis)
        expected += (np.exp(p) * (p - q)).sum(axis=axis).mean() / 2
    assert kd.affinity(student, teacher, temperature=0.07).item() == pytest.approx(expected, rel=1e-5)


def test_clip_is_transformers() -> None:
    from transformers.models.clip.modeling_clip import image_text_contrastive_loss

    student, scale = random_pairs(7, 8, 0), torch.tensor(14.0)
    expected = image_text_contrastive_loss(scale * student.text @ student.image.T)
    torch.testing.assert_close(task.clip(student, all_others(7), logit_scale=scale), expected)


def test_clip_leaves_out_what_is_no_negative() -> None:
    student, scale = random_pairs(4, 8, 0), torch.tensor(10.0)
    ids = torch.tensor([0, 1, 0, 2])  # rows 0 and 2 share their caption
    got = task.clip(student, select_negatives(ids, torch.arange(4)), logit_scale=scale)
    logits = scale * student.image @ student.text.T
    rows = [[0, 1, 3], [0, 1, 2, 3], [1, 2, 3], [0, 1, 2, 3]]
    expected = sum(
        F.cross_entropy(matrix[row][keep][None], torch.tensor([keep.index(row)]))
        for matrix in (logits, logits.T)
        for row, keep in enumerate(rows)
    )
    torch.testing.assert_close(got, expected / 8)


def brute_triplet(student: Embeddings, negatives: Negatives, margin: float) -> float:
    """FaceNet's choice, row by row, as the docstring has it."""
    directions = []
    for similarity, allowed in (
        (student.image @ student.text.T, negatives.texts),
        (student.text @ student.image.T, negatives.images),
    ):
        hinges = []
        for row in range(len(student)):
            positive = 1 - float(similarity[row, row])
            others = [1 - float(similarity[row, j]) for j in range(len(student)) if allowed[row, j]]
            if not others:
                continue
            farther = [distance for distance in others if distance > positive]
            chosen = min(farther) if farther else max(others)
            hinges.append(max(0.0, positive - chosen + margin))
        directions.append(sum(hinges) / max(1, len(hinges)))
    return sum(directions) / 2


@pytest.mark.parametrize("seed", range(5))
def test_triplet_is_the_brute_force_one(seed: int) -> None:
    student = random_pairs(9, 4, seed)
    generator = torch.Generator().manual_seed(seed)
    allowed = (torch.rand(9, 9, generator=generator) < 0.6) & ~torch.eye(9, dtype=torch.bool)
    negatives = Negatives(allowed, allowed.T)
    got = task.triplet(student, negatives, margin=0.3).item()
    assert got == pytest.approx(brute_triplet(student, negatives, 0.3), abs=1e-6)


def test_triplet_by_hand() -> None:
    # Both positives at distance 0, both negatives at distance 1 - 0.9: margin 0.2 is violated by 0.1.
    near = torch.tensor([[1.0, 0.0], [0.9, (1 - 0.81) ** 0.5]])
    assert task.triplet(Embeddings(near, near), all_others(2), margin=0.2).item() == pytest.approx(
        0.1, abs=1e-6
    )


def test_triplet_without_any_negative_is_zero_with_a_gradient() -> None:
    image = torch.randn(2, 4, requires_grad=True)
    nobody = torch.zeros(2, 2, dtype=torch.bool)
    loss = task.triplet(Embeddings(image, torch.randn(2, 4)), Negatives(nobody, nobody))
    loss.backward()
    assert loss.item() == 0
    assert image.grad is not None
    assert torch.isfinite(image.grad).all()


def test_same_caption_or_image_is_never_a_negative() -> None:
    negatives = select_negatives(torch.tensor([5, 6, 5, 7]), torch.tensor([1, 2, 3, 2]))
    expected = ~torch.eye(4, dtype=torch.bool)
    expected[0, 2] = expected[2, 0] = False  # one caption
    expected[1, 3] = expected[3, 1] = False  # one image
    assert torch.equal(negatives.texts, expected)
    assert torch.equal(negatives.images, expected)


def test_what_the_teacher_takes_for_a_match_is_no_negative() -> None:
    # To image 0 the teacher gives text 0 the score 0.8, text 1 0.79 (above 95 % of it) and text 2 0.6.
    texts = torch.eye(3)
    images = torch.tensor([[0.8, 0.79, 0.6], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    negatives = select_negatives(torch.arange(3), torch.arange(3), Embeddings(images, texts))
    assert negatives.texts[0].tolist() == [False, False, True]


def test_threshold_lies_below_the_positive_even_if_negative() -> None:
    torch.testing.assert_close(
        false_negative_threshold(torch.tensor([0.4, 0.0, -0.2])), torch.tensor([0.38, 0.0, -0.21])
    )
