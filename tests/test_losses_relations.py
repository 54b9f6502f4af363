"""Losses on relations: laws, a value worked by hand, and a reference that is not ours."""

import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from pairs import identity, one_point, random_bank, random_pairs
from scipy.special import rel_entr, softmax

from mmkd.embeddings import Embeddings
from mmkd.losses import relations
from mmkd.losses.negatives import all_others, select_negatives

TEN = torch.tensor(10.0)
RELATIONS = {
    "affinity": lambda student, teacher: relations.affinity(student, teacher, temperature=0.1),
    "crd": lambda student, teacher: relations.crd(student, teacher, logit_scale=TEN, temperature=0.1),
    "gd": lambda student, teacher: relations.gd(student, teacher, temperature=0.1),
    "rkd": relations.rkd,
}
every_loss = pytest.mark.parametrize("loss", RELATIONS.values(), ids=RELATIONS)


@every_loss
def test_it_is_zero_on_self_and_positive_elsewhere(loss) -> None:
    teacher = random_pairs(6, 8, 0)
    assert loss(teacher, teacher).item() == pytest.approx(0, abs=1e-6)
    assert loss(random_pairs(6, 8, 1), teacher).item() > 1e-3


@every_loss
def test_it_does_not_depend_on_the_order_of_the_batch(loss) -> None:
    student, teacher, order = random_pairs(6, 8, 0), random_pairs(6, 8, 1), torch.tensor([3, 1, 5, 0, 4, 2])
    shuffled = [Embeddings(side.image[order], side.text[order]) for side in (student, teacher)]
    torch.testing.assert_close(loss(*shuffled), loss(student, teacher))


@every_loss
def test_it_does_not_change_when_a_space_is_turned(loss) -> None:
    """Only relations count. A turned student has turned gradients, so for ``gd`` both turn."""
    student, teacher = random_pairs(6, 8, 0), random_pairs(6, 8, 1)
    turn = torch.linalg.qr(torch.randn(8, 8, generator=torch.Generator().manual_seed(0))).Q
    turned = [Embeddings(side.image @ turn, side.text @ turn) for side in (student, teacher)]
    other = turned[1] if loss is RELATIONS["gd"] else teacher
    torch.testing.assert_close(loss(turned[0], other), loss(student, teacher), rtol=1e-4, atol=1e-5)


@every_loss
def test_it_reaches_both_towers(loss) -> None:
    image, text = torch.randn(4, 8, requires_grad=True), torch.randn(4, 8, requires_grad=True)
    loss(Embeddings(image, text), random_pairs(4, 8, 1)).backward()
    assert image.grad.abs().sum() > 0
    assert text.grad.abs().sum() > 0


@pytest.mark.parametrize("name", ["affinity", "crd", "rkd"])
def test_the_widths_may_differ(name: str) -> None:
    assert RELATIONS[name](random_pairs(6, 8, 0), random_pairs(6, 12, 1)).item() > 1e-3


def numpy_divergence(student: Embeddings, teacher: Embeddings, scale: float, temperature: float) -> float:
    ours = student.image.double().numpy() @ student.text.double().numpy().T * scale
    theirs = teacher.image.double().numpy() @ teacher.text.double().numpy().T / temperature
    directions = [
        rel_entr(softmax(theirs, axis=axis), softmax(ours, axis=axis)).sum(axis=axis).mean()
        for axis in (0, 1)
    ]
    return float(np.mean(directions))


def test_affinity_and_crd_are_scipys_divergence() -> None:
    student, teacher = random_pairs(5, 8, 0), random_pairs(5, 12, 1)
    affinity = relations.affinity(student, teacher, temperature=0.07).item()
    assert affinity == pytest.approx(numpy_divergence(student, teacher, 1 / 0.07, 0.07), rel=1e-5)
    crd = relations.crd(student, teacher, logit_scale=torch.tensor(3.0), temperature=0.2).item()
    assert crd == pytest.approx(numpy_divergence(student, teacher, 3.0, 0.2), rel=1e-5)


def test_crd_teaches_the_scale() -> None:
    """A student with the teacher's cosines but half its scale is told to raise it."""
    teacher, scale = random_pairs(6, 8, 0), torch.tensor(5.0, requires_grad=True)
    relations.crd(teacher, teacher, logit_scale=scale, temperature=0.1).backward()
    assert scale.grad < 0


def test_divergences_by_hand() -> None:
    # The teacher takes all for alike, p = (1/2, 1/2); the student's q = (e, 1) / (e + 1), at scale 2 (e^2, 1) / ...
    expected = {scale: np.log(0.5) - 0.5 * np.log(np.e**scale / (np.e**scale + 1) ** 2) for scale in (1, 2)}
    affinity = relations.affinity(identity(), one_point(), temperature=1.0)
    crd = relations.crd(identity(), one_point(), logit_scale=torch.tensor(2.0), temperature=1.0)
    assert affinity.item() == pytest.approx(expected[1])
    assert crd.item() == pytest.approx(expected[2])


def test_icl_by_hand() -> None:
    got = relations.icl(identity(), identity(), all_others(2), logit_scale=torch.tensor(1.0))
    assert got.item() == pytest.approx(np.log(1 + np.exp(-1)))


def test_icl_is_torchs_cross_entropy_against_the_teacher_and_the_bank() -> None:
    student, teacher, bank = random_pairs(6, 8, 0), random_pairs(6, 8, 1), random_bank(4, 8, 2)
    ids = torch.arange(6)
    got = relations.icl(student, teacher, select_negatives(ids, ids, bank=bank), logit_scale=TEN, bank=bank)
    texts = 10 * student.image @ torch.cat([teacher.text, bank.embeddings.text]).T
    images = 10 * student.text @ torch.cat([teacher.image, bank.embeddings.image]).T
    torch.testing.assert_close(got, (F.cross_entropy(texts, ids) + F.cross_entropy(images, ids)) / 2)


def autograd_gradients(pairs: Embeddings, temperature: float) -> list[torch.Tensor]:
    """Of CLIP's loss summed over the batch, with the unit vectors taken for free."""
    image, text = (side.detach().clone().requires_grad_() for side in (pairs.image, pairs.text))
    logits, labels = image @ text.T / temperature, torch.arange(len(pairs))
    loss = (F.cross_entropy(logits, labels) + F.cross_entropy(logits.T, labels)) / 2 * len(pairs)
    return list(torch.autograd.grad(loss, [image, text]))


def test_gd_compares_autograds_gradients() -> None:
    student, teacher = random_pairs(6, 8, 0), random_pairs(6, 8, 1)
    ours, theirs = (autograd_gradients(pairs, 0.1) for pairs in (student, teacher))
    rows = [(a - b).square().sum(dim=1).mean() for a, b in zip(ours, theirs, strict=True)]
    torch.testing.assert_close(relations.gd(student, teacher, temperature=0.1), sum(rows) / 2)


def test_gd_has_the_right_gradient_itself() -> None:
    image, text = (torch.randn(4, 3, dtype=torch.double, requires_grad=True) for _ in range(2))
    teacher = random_pairs(4, 3, 1)

    class Doubles:  # Embeddings are float32, too coarse for finite differences
        def __init__(self, image: torch.Tensor, text: torch.Tensor) -> None:
            self.image, self.text = image, text

        def __len__(self) -> int:
            return len(self.image)

    other = Doubles(teacher.image.double(), teacher.text.double())
    assert torch.autograd.gradcheck(
        lambda a, b: relations.gd(Doubles(a, b), other, temperature=0.5), (image, text)
    )


def test_gd_by_hand() -> None:
    # Student: shares (e, 1) / (e + 1), so the gradient of row 0 is (q - 1, 1 - q) with q = e / (e + 1). Teacher: 0.
    wrong = 1 - np.e / (np.e + 1)
    assert relations.gd(identity(), one_point(), temperature=1.0).item() == pytest.approx(2 * wrong**2)


def circle(*degrees: float) -> Embeddings:
    angles = torch.deg2rad(torch.tensor(degrees))
    points = torch.stack([angles.cos(), angles.sin()], dim=1)
    return Embeddings(points, points)


def test_rkd_by_hand() -> None:
    # Distances sqrt 2, sqrt 2, 2 against three equal ones; angles of 90, 45, 45 degrees against 60.
    mean = (2 * 2**0.5 + 2) / 3
    distance = (2 * (2**0.5 / mean - 1) ** 2 + (2 / mean - 1) ** 2) / 6
    angle = (0.5**2 + 2 * (0.5**0.5 - 0.5) ** 2) / 6
    got = relations.rkd(circle(0, 90, 180), circle(0, 120, 240)).item()
    assert got == pytest.approx(distance + 2 * angle, rel=1e-5)


def huber(x: float) -> float:
    return x * x / 2 if abs(x) <= 1 else abs(x) - 0.5


def naive_rkd(ours: np.ndarray, theirs: np.ndarray) -> float:
    """Section 3.2 of the paper, pair by pair and triplet by triplet."""
    pairs = list(itertools.permutations(range(len(ours)), 2))
    triplets = list(itertools.permutations(range(len(ours)), 3))
    means = [np.mean([np.linalg.norm(x[i] - x[j]) for i, j in pairs]) for x in (ours, theirs)]

    def distance(x: np.ndarray, mean: float, i: int, j: int) -> float:
        return float(np.linalg.norm(x[i] - x[j]) / mean)

    def angle(x: np.ndarray, i: int, j: int, k: int) -> float:
        a, b = x[i] - x[j], x[k] - x[j]
        return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))

    distances = [huber(distance(ours, means[0], *p) - distance(theirs, means[1], *p)) for p in pairs]
    angles = [huber(angle(ours, *t) - angle(theirs, *t)) for t in triplets]
    return float(np.mean(distances) + 2 * np.mean(angles))


def test_rkd_is_the_papers_formula() -> None:
    student, teacher = random_pairs(7, 4, 0), random_pairs(7, 5, 1)
    sides = ("image", "text")
    expected = np.mean(
        [naive_rkd(*(getattr(x, side).double().numpy() for x in (student, teacher))) for side in sides]
    )
    assert relations.rkd(student, teacher).item() == pytest.approx(expected, rel=1e-4)


def test_rkd_takes_angles_within_groups_of_a_large_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    student, teacher = random_pairs(8, 4, 0), random_pairs(8, 4, 1)
    monkeypatch.setattr(relations, "ANGLE_ROWS", 4)
    halves = [
        relations._angle_loss(student.image[rows], teacher.image[rows]) for rows in (slice(0, 4), slice(4, 8))
    ]
    got = relations._angle_loss(student.image, teacher.image)
    torch.testing.assert_close(got, (halves[0] + halves[1]) / 2)


def test_rkd_has_a_finite_gradient_where_rows_coincide() -> None:
    image = torch.randn(4, 8)
    image[1] = image[0]
    image.requires_grad_()
    relations.rkd(Embeddings(image, torch.randn(4, 8)), random_pairs(4, 8, 1)).backward()
    assert torch.isfinite(image.grad).all()
    assert image.grad.abs().max() < 100
