"""Laws, values by hand, and references that are not ours."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom, binomtest, sem
from scipy.stats import t as student_t

from mmkd.evaluation.statistics import (
    Geometry,
    Interval,
    Score,
    effective_rank,
    geometry,
    is_chance,
    mean_interval,
    mean_pairwise_cosine,
    mean_recall_chance,
    mean_recall_interval,
    retention,
    top_k_chance,
    unit_vectors,
    wilson_interval,
)


@given(st.integers(1, 5000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_equals_scipy(case: tuple[int, int]) -> None:
    successes, trials = case
    expected = binomtest(successes, trials).proportion_ci(0.95, method="wilson")
    found = wilson_interval(successes, trials)
    assert found.low == pytest.approx(expected.low, abs=1e-12)
    assert found.high == pytest.approx(expected.high, abs=1e-12)
    assert found.low <= successes / trials <= found.high


def test_wilson_by_hand() -> None:
    # z = 1.96: centre (0.5 + 0.19208) / 1.38416 = 0.5, half 1.96 / 1.38416 * sqrt(0.025 + 0.009604) = 0.26341
    found = wilson_interval(5, 10)
    assert (found.low, found.high) == pytest.approx((0.23659, 0.76341), abs=1e-4)


@pytest.mark.parametrize(("successes", "trials"), [(0, 0), (3, 2), (-1, 5)])
def test_wilson_refuses_what_is_no_proportion(successes: int, trials: int) -> None:
    with pytest.raises(ValueError, match="successes"):
        wilson_interval(successes, trials)


@pytest.mark.parametrize("trials", [400, 1_000, 10_000])
@pytest.mark.parametrize("share", [0.02, 0.1, 0.5, 0.9])
def test_wilson_covers_94_to_96_percent(trials: int, share: float) -> None:
    """Counted, not drawn: the probability of every number of hits whose interval holds the true share."""
    hits = np.arange(trials + 1)
    likely = binom.pmf(hits, trials, share)
    covered = 0.0
    for hit in hits[likely > 1e-12].tolist():
        found = wilson_interval(hit, trials)
        covered += likely[hit] * (found.low <= share <= found.high)
    assert 0.94 <= covered <= 0.96


def test_top_k_chance_is_k_over_classes_when_balanced() -> None:
    labels = np.repeat(np.arange(10), 7)
    assert top_k_chance(labels, 1, 10) == pytest.approx(0.1)
    assert top_k_chance(labels, 5, 10) == pytest.approx(0.5)


def test_top_k_chance_is_what_the_best_blind_guesser_reaches() -> None:
    labels = np.array([0, 0, 0, 0, 0, 0, 1, 1, 1, 2])
    assert top_k_chance(labels, 1, 4) == pytest.approx(0.6)
    assert top_k_chance(labels, 2, 4) == pytest.approx(0.9)
    assert top_k_chance(labels, 4, 4) == 1.0


def test_mean_recall_chance_counts_the_classes_that_have_images() -> None:
    assert mean_recall_chance(np.array([0, 0, 0, 4, 4, 7])) == pytest.approx(1 / 3)


def test_mean_recall_interval_of_one_class_is_wilsons_of_an_image_less() -> None:
    # The variance of one class is estimated from the same images as its recall: 99 of 100 are left.
    found = mean_recall_interval(np.array([30]), np.array([100]))
    expected = wilson_interval(0.3 * 99, 99)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))


def test_mean_recall_interval_by_hand() -> None:
    # Recalls 1/2 of 5 and 1 of 9: variance (1/2 * 1/2 / 4 + 0) / 2^2 = 1/64, mean 3/4, 3/4 * 1/4 * 64 = 12 images.
    found = mean_recall_interval(np.array([2.5, 9]), np.array([5, 9]))
    expected = wilson_interval(9, 12)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))


def test_mean_recall_interval_has_width_at_the_ends() -> None:
    full = mean_recall_interval(np.array([50, 50]), np.array([50, 50]))
    assert full.high == 1.0
    assert 0.9 < full.low < 1.0
    both = mean_recall_interval(np.array([50, 0]), np.array([50, 50]))
    assert both.low < 0.5 < both.high


@pytest.mark.parametrize(
    ("classes", "images", "recalls"),
    [
        (5, (10, 20), (0.05, 0.95)),
        (10, (20, 80), (0.05, 0.95)),
        (10, (1_000, 1_001), (0.4, 0.99)),
        (10, (20, 80), (0.9, 1.0)),
        (100, (20, 21), (0.3, 0.7)),
        (100, (20, 40), (0.0, 0.1)),
        (100, (1, 4), (0.2, 0.8)),
        (200, (50, 51), (0.0, 0.3)),
    ],
)
def test_mean_recall_interval_covers_94_to_96_percent(
    classes: int, images: tuple[int, int], recalls: tuple[float, float]
) -> None:
    generator = np.random.default_rng(1)
    true, trials = generator.uniform(*recalls, classes), generator.integers(*images, classes)
    draws = generator.binomial(trials, true, size=(5_000, classes))
    found = [mean_recall_interval(one, trials) for one in draws]
    covered = np.mean([one.low <= true.mean() <= one.high for one in found])
    assert 0.94 <= covered <= 0.96
    # It errs to both sides alike, which combined limits of each class do not where recalls are near 0 or 1.
    assert np.mean([one.low > true.mean() for one in found]) == pytest.approx(0.025, abs=0.013)


def test_mean_interval_equals_scipy() -> None:
    values = [0.81, 0.78, 0.84, 0.7]
    low, high = student_t.interval(0.95, 3, loc=np.mean(values), scale=sem(values))
    assert mean_interval(values) == Interval(pytest.approx(low), pytest.approx(high))


def test_mean_interval_by_hand() -> None:
    # Three values 1, 2, 3: mean 2, deviation 1; Student's quantile of two degrees of freedom is 4.303.
    found = mean_interval([1, 2, 3])
    assert found.high == pytest.approx(2 + 4.3027 / 3**0.5, abs=1e-4)
    with pytest.raises(ValueError, match="at least 2"):
        mean_interval([0.5])


def test_is_chance_where_the_interval_contains_chance_or_lies_below() -> None:
    assert is_chance(Interval(0.08, 0.12), 0.1)
    assert is_chance(Interval(0.0, 0.02), 0.1)
    assert not is_chance(Interval(0.11, 0.14), 0.1)


def test_retention_by_hand() -> None:
    teacher = Score(0.9, Interval(0.89, 0.91), 0.1)
    student = Score(0.5, Interval(0.49, 0.51), 0.1)
    assert retention(student, teacher) == pytest.approx(0.5)
    assert retention(teacher, teacher) == pytest.approx(1.0)
    assert retention(student, Score(0.1, Interval(0.09, 0.11), 0.1)) is None


def test_effective_rank_by_hand() -> None:
    # Singular values 3 and 1: shares 3/4 and 1/4, entropy 0.5623 nats, exponential 1.7548.
    assert effective_rank(np.diag([3.0, 1.0])) == pytest.approx(1.754765, abs=1e-6)


def test_effective_rank_laws() -> None:
    generator = np.random.default_rng(2)
    vectors = unit_vectors(generator.normal(size=(50, 8)))
    rotation, _ = np.linalg.qr(generator.normal(size=(8, 8)))
    assert effective_rank(np.eye(6)) == pytest.approx(6)
    assert effective_rank(np.tile(vectors[0], (20, 1))) == pytest.approx(1, abs=1e-4)
    assert effective_rank(vectors @ rotation) == pytest.approx(effective_rank(vectors))
    assert effective_rank(5 * vectors) == pytest.approx(effective_rank(vectors))
    assert effective_rank(vectors.T) == pytest.approx(effective_rank(vectors))


def test_mean_pairwise_cosine_equals_the_loop() -> None:
    unit = unit_vectors(np.random.default_rng(3).normal(size=(9, 4)) + 1)
    pairs = [unit[i] @ unit[j] for i in range(9) for j in range(9) if i != j]
    assert mean_pairwise_cosine(unit) == pytest.approx(np.mean(pairs))


def test_collapse_is_named_and_only_where_it_is() -> None:
    generator = np.random.default_rng(4)
    spread = unit_vectors(generator.normal(size=(100, 16)))
    nearly_constant = unit_vectors(np.ones(16) + 0.05 * generator.normal(size=(100, 16)))
    two_valued = unit_vectors(np.outer(np.where(np.arange(100) % 2, 1.0, -1.0), np.ones(16)))
    assert not geometry(spread).collapsed
    assert geometry(nearly_constant).collapsed
    assert geometry(two_valued).collapsed
    assert Geometry(1.3, 512, 0.9, -0.5).describe() == "effective rank 1.3 of 512"


@pytest.mark.parametrize("bad", [np.zeros((1, 3)), np.full((1, 3), np.nan), np.array([[np.inf, 1.0, 0.0]])])
def test_unit_vectors_refuses_what_has_no_direction(bad: np.ndarray) -> None:
    with pytest.raises(ValueError, match="zero or not finite"):
        unit_vectors(bad)


def test_two_healthy_class_vectors_are_no_collapse() -> None:
    assert not geometry(unit_vectors([[1.0, 0.2], [1.0, -0.2]])).collapsed
    assert geometry(unit_vectors([[1.0, 0.01], [1.0, -0.01]])).collapsed
