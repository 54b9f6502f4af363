"""The verdict on planted truth: a bias that was kept, halved, doubled, permuted or replaced."""

from collections import Counter

import numpy as np
import pytest

from mmkd.evaluation.bias.inheritance import (
    AMPLIFIED,
    INCONCLUSIVE,
    PRESERVED,
    REDUCED,
    RESHAPED,
    Inheritance,
    inheritance,
    standardised_gaps,
)

PLANTED = {
    "kept": PRESERVED,
    "halved": REDUCED,
    "doubled": AMPLIFIED,
    "permuted": RESHAPED,
    "noise": RESHAPED,
}
WORDS = 120


def planted(kind: str, seed: int) -> Inheritance:
    """A teacher of known bias, and a student of another scale in which ``kind`` happened to it."""
    draw = np.random.default_rng(seed)
    neutral = draw.normal(size=WORDS)
    also = 0.98 * neutral + (1 - 0.98**2) ** 0.5 * draw.normal(size=WORDS)
    bias = 2.5 * draw.normal(size=WORDS)
    student = {
        "kept": bias,
        "halved": bias / 2,
        "doubled": 2 * bias,
        "permuted": draw.permutation(bias),
        "noise": 2.5 * draw.normal(size=WORDS),
    }[kind] + 0.15 * draw.normal(size=WORDS)
    scale = draw.uniform(0.3, 3)
    return inheritance(0.01 * bias, 0.01 * scale * student, 0.01 * neutral, 0.01 * scale * also, seed=seed)


@pytest.mark.full
@pytest.mark.parametrize("kind", PLANTED)
def test_what_was_planted_is_found_in_95_of_100(kind: str) -> None:
    verdicts = Counter(planted(kind, seed).verdict for seed in range(100))
    assert verdicts[PLANTED[kind]] >= 95
    assert verdicts[PRESERVED if kind != "kept" else REDUCED] == 0


@pytest.mark.full
def test_two_measurements_of_one_bias_are_hardly_ever_called_different() -> None:
    """Teacher and student share a bias, and each is measured with an error of its own."""
    verdicts: Counter[str] = Counter()
    for seed in range(100):
        draw = np.random.default_rng(seed)
        bias, neutral = 2.5 * draw.normal(size=WORDS), draw.normal(size=WORDS)
        teacher, student = (bias + 0.3 * draw.normal(size=WORDS) for _ in range(2))
        also = 0.95 * neutral + (1 - 0.95**2) ** 0.5 * draw.normal(size=WORDS)
        verdicts[inheritance(teacher, student, neutral, also, seed=seed).verdict] += 1
    assert verdicts[REDUCED] + verdicts[AMPLIFIED] + verdicts[RESHAPED] <= 5


@pytest.mark.parametrize("kind", PLANTED)
def test_what_was_planted_is_found(kind: str) -> None:
    assert [planted(kind, seed).verdict for seed in range(3)] == 3 * [PLANTED[kind]]


def test_nothing_is_made_of_a_teacher_without_bias() -> None:
    draw = np.random.default_rng(0)
    teacher, student, neutral = (draw.normal(size=WORDS) for _ in range(3))
    found = inheritance(teacher, student, neutral, neutral)
    assert found.verdict == INCONCLUSIVE
    assert "no bias to inherit" in found.reason


def test_few_words_do_not_prove_that_a_bias_was_kept() -> None:
    draw = np.random.default_rng(1)
    bias, neutral = 3 * draw.normal(size=12), draw.normal(size=12)
    student, also = bias + 0.5 * draw.normal(size=12), neutral + 0.5 * draw.normal(size=12)
    assert inheritance(bias, student, neutral, also).verdict == INCONCLUSIVE


def test_bounds_do_not_know_the_noise_of_one_model() -> None:
    draw = np.random.default_rng(3)
    bias, neutral = 3 * draw.normal(size=4000), draw.normal(size=4000)
    noisy, also = (one + draw.normal(size=4000) for one in (bias, neutral))
    found = inheritance(bias, noisy, neutral, also, draws=50)
    assert found.ratio.value == pytest.approx((10 / 9 / 2) ** 0.5, abs=0.02)
    assert found.agreement.value == pytest.approx(0.5**0.5, abs=0.03)
    assert found.at_most.value == pytest.approx(1, abs=0.04)
    assert found.verdict == INCONCLUSIVE
    turned = inheritance(noisy, bias, also, neutral, draws=50)
    assert turned.at_least.value == pytest.approx(1 / found.at_most.value)
    assert turned.verdict == INCONCLUSIVE


def test_scale_and_shift_of_a_model_do_not_count() -> None:
    draw = np.random.default_rng(2)
    bias, neutral = 3 * draw.normal(size=40), draw.normal(size=30)
    found = inheritance(bias, 7 * bias + 5, neutral, 7 * neutral + 5)
    assert found.ratio.value == pytest.approx(1)
    assert found.slope.value == pytest.approx(1)
    assert found.order.value == pytest.approx(1)
    assert found.verdict == PRESERVED


def test_by_hand() -> None:
    neutral = np.tile([1.0, 3.0], 5)
    spread = np.sqrt(10 / 9)
    assert standardised_gaps([2.0, 4.0], neutral) == pytest.approx([0, 2 / spread])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"teacher": np.ones(4)}, "at least 10"),
        ({"student": np.full(20, np.nan)}, "finite"),
        ({"student_controls": np.ones(20)}, "same gap"),
        ({"teacher_controls": np.ones((4, 5))}, r"shape \(4, 5\)"),
    ],
)
def test_bad_input(change: dict, message: str) -> None:
    values = {
        name: np.arange(20.0) for name in ("teacher", "student", "teacher_controls", "student_controls")
    }
    with pytest.raises(ValueError, match=message):
        inheritance(**{**values, **change})
