"""Losses on features: laws, a value worked by hand, and a reference that is not ours."""

import numpy as np
import pytest
import torch
from pairs import random_pairs
from scipy.spatial.distance import cosine
from scipy.special import huber as scipy_huber
from scipy.special import rel_entr, softmax
from sklearn.metrics import mean_absolute_error, mean_squared_error

from mmkd.embeddings import Embeddings
from mmkd.losses import features


def kl(student: Embeddings, teacher: Embeddings) -> torch.Tensor:
    return features.kl(student, teacher, temperature=0.3)


FEATURES = {
    "mse": features.mse,
    "cos": features.cos,
    "l1": features.l1,
    "huber": features.huber,
    "kl": kl,
    "nst": features.nst,
    "mse-raw": features.mse_raw,
}
every_loss = pytest.mark.parametrize("loss", FEATURES.values(), ids=FEATURES)


@every_loss
def test_it_is_zero_on_self_and_positive_elsewhere(loss) -> None:
    teacher = random_pairs(6, 8, 0)
    assert loss(teacher, teacher).item() == pytest.approx(0, abs=1e-6)
    assert loss(random_pairs(6, 8, 1), teacher).item() > 1e-3


@every_loss
def test_it_does_not_depend_on_the_order_of_the_batch(loss) -> None:
    student, teacher, order = random_pairs(6, 8, 0), random_pairs(6, 8, 1), torch.tensor([3, 1, 5, 0, 4, 2])
    shuffled = [Embeddings(side.raw_image[order], side.raw_text[order]) for side in (student, teacher)]
    torch.testing.assert_close(loss(*shuffled), loss(student, teacher))


@every_loss
def test_it_reaches_both_towers(loss) -> None:
    image, text = torch.randn(4, 8, requires_grad=True), torch.randn(4, 8, requires_grad=True)
    loss(Embeddings(image, text), random_pairs(4, 8, 1)).backward()
    assert image.grad.abs().sum() > 0
    assert text.grad.abs().sum() > 0


@pytest.mark.parametrize(
    ("loss", "by_hand"),
    [
        (features.mse, 1.0),  # (1 + 1) / 2 elements
        (features.cos, 1.0),
        (features.l1, 1.0),
        (features.huber, 2**-0.5 * (1 - 2**-0.5 / 2)),  # two differences of 1, beyond the bend at 0.707
        (lambda s, t: features.kl(s, t, temperature=1.0), 0.462117),  # (e - 1) / (e + 1)
        (features.nst, 2.0),  # diag(1, 0) against diag(0, 1)
        (features.mse_raw, 2.5),  # (2, 0) against (0, 1)
    ],
    ids=FEATURES,
)
def test_by_hand(loss, by_hand: float) -> None:
    """The student's image is (2, 0) where the teacher's is (0, 1); the texts agree, so half of it is left."""
    east, north = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]])
    assert loss(Embeddings(2 * east, east), Embeddings(north, east)).item() == pytest.approx(by_hand / 2)


def numpy_nst(x: np.ndarray, y: np.ndarray) -> float:
    """The three means of the squared discrepancy, with the kernel row by row."""

    def mean_kernel(a: np.ndarray, b: np.ndarray) -> float:
        return float(np.mean([np.dot(one, other) ** 2 for one in a for other in b]))

    return mean_kernel(x, x) + mean_kernel(y, y) - 2 * mean_kernel(x, y)


@pytest.mark.parametrize(
    ("name", "reference"),
    [
        ("mse", mean_squared_error),
        ("cos", lambda x, y: np.mean([cosine(a, b) for a, b in zip(x, y, strict=True)])),
        ("l1", mean_absolute_error),
        ("huber", lambda x, y: scipy_huber(x.shape[1] ** -0.5, x - y).mean()),
        ("kl", lambda x, y: rel_entr(softmax(y / 0.3, axis=1), softmax(x / 0.3, axis=1)).sum(axis=1).mean()),
        ("nst", numpy_nst),
    ],
)
def test_it_is_the_reference(name: str, reference) -> None:
    student, teacher = random_pairs(7, 12, 0), random_pairs(7, 12, 1)
    sides = [
        (getattr(student, side).double().numpy(), getattr(teacher, side).double().numpy())
        for side in ("image", "text")
    ]
    expected = np.mean([reference(ours, theirs) for ours, theirs in sides])
    assert FEATURES[name](student, teacher).item() == pytest.approx(expected, rel=1e-5)


def test_mse_raw_is_scikit_learns_of_what_came_in() -> None:
    vectors = [torch.randn(5, 6) * 7 for _ in range(4)]
    expected = (mean_squared_error(vectors[0], vectors[2]) + mean_squared_error(vectors[1], vectors[3])) / 2
    got = features.mse_raw(Embeddings(*vectors[:2]), Embeddings(*vectors[2:]))
    assert got.item() == pytest.approx(expected, rel=1e-5)


def test_mse_is_the_cosine_on_another_scale() -> None:
    """So ``mse+cos`` is one loss with a larger weight, and not two."""
    student, teacher = random_pairs(5, 16, 0), random_pairs(5, 16, 1)
    torch.testing.assert_close(features.mse(student, teacher), 2 * features.cos(student, teacher) / 16)


def test_nst_compares_clouds_and_not_rows() -> None:
    teacher, order = random_pairs(6, 8, 0), torch.tensor([3, 1, 5, 0, 4, 2])
    moved = Embeddings(teacher.image[order], teacher.text)
    assert features.nst(moved, teacher).item() == pytest.approx(0, abs=1e-6)
    assert features.mse(moved, teacher).item() > 0.01
