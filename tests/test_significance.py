"""Permutation and paired tests: laws, values by hand, and references that are not ours."""

from itertools import permutations

import numpy as np
import pytest
from scipy.stats import kstest

from mmkd.evaluation.paired import compare, paired_interval, retention_interval
from mmkd.evaluation.permutation import class_permutation_p, enough_orders
from mmkd.evaluation.statistics import wilson_interval
from mmkd.evaluation.zero_shot import Answers, scores_of
from mmkd.evaluation.zero_shot_report import TOP_1


def test_permutation_p_by_hand() -> None:
    # Of the six orders of three names, the identity scores 5 + 4 + 0, and only (0, 2, 1) with 5 + 1 + 3 as much.
    credit = np.array([[5, 0, 0], [0, 4, 1], [2, 3, 0]])
    assert class_permutation_p(credit) == pytest.approx(2 / 6)


def test_drawn_orders_give_what_all_orders_give(monkeypatch: pytest.MonkeyPatch) -> None:
    credit = np.random.default_rng(0).integers(0, 9, (6, 6))
    totals = [credit[np.arange(6), list(order)].sum() for order in permutations(range(6))]
    exact = np.mean(np.array(totals) >= np.trace(credit))
    assert class_permutation_p(credit) == pytest.approx(exact)
    monkeypatch.setattr("mmkd.evaluation.permutation.EXACT", 0)
    assert class_permutation_p(credit, seed=1) == pytest.approx(exact, abs=0.02)
    assert class_permutation_p(credit, seed=1) == class_permutation_p(credit, seed=1)


def test_no_p_where_few_orders_differ() -> None:
    """A perfect model of which two classes in five have images is better than chance, whatever 20 orders say."""
    assert [enough_orders(*one) for one in ((4, 4), (5, 2), (6, 2), (7, 2), (5, 5), (1000, 1))] == [
        *(False, False, False),
        *(True, True, True),
    ]
    labels = np.repeat([0, 1], 20)
    score = scores_of(Answers.of(np.eye(5)[labels], labels), labels, 5)[TOP_1]
    assert score.p_value is None
    assert not score.at_chance


def test_p_is_uniform_when_the_names_mean_nothing() -> None:
    generator = np.random.default_rng(1)
    # Continuous credit: no ties, so that p may be held against the uniform law itself.
    found = [class_permutation_p(generator.gamma(0.3, size=(7, 7))) for _ in range(300)]
    assert kstest(found, "uniform").pvalue > 0.01
    assert np.mean(np.array(found) <= 0.05) == pytest.approx(0.05, abs=0.03)


def test_answers_that_come_in_whole_classes_are_chance_though_their_interval_says_otherwise() -> None:
    """Every image of a class goes to one place, and places are named at random: a clustering without names."""
    generator = np.random.default_rng(2)
    labels = np.repeat(np.arange(10), 200)
    naive, judged = 0, 0
    for _ in range(200):
        scores = generator.normal(size=(10, 10))[labels] + 0.5 * generator.normal(size=(2_000, 10))
        top_1 = scores_of(Answers.of(scores, labels), labels, 10)[TOP_1]
        naive += top_1.interval.low > top_1.chance
        judged += not top_1.at_chance
    assert naive > 40
    assert judged <= 10


def test_a_model_that_knows_a_little_is_not_called_chance() -> None:
    generator = np.random.default_rng(3)
    labels = np.repeat(np.arange(10), 200)
    scores = (
        generator.normal(size=(10, 10))[labels] + 2 * np.eye(10)[labels] + generator.normal(size=(2_000, 10))
    )
    top_1 = scores_of(Answers.of(scores, labels), labels, 10)[TOP_1]
    assert not top_1.at_chance
    assert top_1.p_value is not None
    assert top_1.p_value < 0.01


@pytest.mark.parametrize(("classes", "has_p"), [(2, False), (4, False), (5, True)])
def test_few_classes_have_no_p(classes: int, has_p: bool) -> None:
    labels = np.arange(60) % classes
    top_1 = scores_of(Answers.of(np.eye(classes)[labels], labels), labels, classes)[TOP_1]
    assert (top_1.p_value is not None) is has_p
    assert not top_1.at_chance


def test_credit_must_be_square() -> None:
    with pytest.raises(ValueError, match="one row and one column"):
        class_permutation_p(np.ones((2, 3)))


def test_credit_sums_to_the_score_at_every_k() -> None:
    generator = np.random.default_rng(4)
    # Ties on purpose.
    scores, labels = generator.integers(0, 6, (500, 9)).astype(float), generator.integers(0, 9, 500)
    answers = Answers.of(scores, labels)
    for k in (1, 5):
        assert np.trace(answers.credit[k]) == (answers.ranks < k).sum()
        other = generator.permutation(9)  # what the score is when the classes are called otherwise
        renamed = Answers.of(scores, other[labels])
        assert answers.credit[k][np.arange(9), other].sum() == (renamed.ranks < k).sum()


def test_newcombe_by_his_own_table() -> None:
    # Newcombe 1998, table II, method 10.
    found = paired_interval(36, 12, 2, 0)
    assert (found.low, found.high) == pytest.approx((0.0569, 0.3404), abs=5e-5)


def test_paired_interval_covers_95_percent() -> None:
    generator = np.random.default_rng(5)
    shares = np.array([0.5, 0.15, 0.1, 0.25])
    draws = generator.multinomial(300, shares, size=4_000)
    intervals = [paired_interval(*row) for row in draws.tolist()]
    covered = np.mean([one.low <= 0.05 <= one.high for one in intervals])
    assert 0.94 <= covered <= 0.96
    swapped = paired_interval(draws[0][0], draws[0][2], draws[0][1], draws[0][3])
    assert (swapped.low, swapped.high) == pytest.approx((-intervals[0].high, -intervals[0].low))


def test_an_unpaired_interval_would_be_wider() -> None:
    # Both right or both wrong nearly always: on other images each, the difference would be known worse.
    found = paired_interval(500, 20, 10, 470)
    first, second = wilson_interval(520, 1_000), wilson_interval(510, 1_000)
    assert found.high - found.low < 0.5 * (first.high - second.low - (first.low - second.high))


def test_mcnemar_is_the_binomial_test_of_what_they_disagree_on() -> None:
    reference = np.repeat([True, True, False, False], [50, 9, 1, 40])
    model = np.repeat([True, False, True, False], [50, 9, 1, 40])
    found = compare(reference, model, same_answer=0.8, chance=0.1)
    assert (found.both, found.only_reference, found.only_model, found.neither) == (50, 9, 1, 40)
    assert found.difference == pytest.approx(-0.08)
    # 2 * (C(10, 0) + C(10, 1)) / 2^10
    assert found.p_value == pytest.approx(22 / 1024)
    assert found.interval.high < 0
    assert compare(model, model, same_answer=1, chance=0.1).p_value == 1


def test_what_was_kept_lies_in_its_interval_95_times_in_100() -> None:
    generator = np.random.default_rng(6)
    counts = generator.multinomial(1_000, [0.55, 0.05, 0.15, 0.25], size=2_000)
    true = (0.6 - 0.1) / (0.7 - 0.1)
    intervals = [retention_interval(tuple(row), 0.1) for row in counts.tolist()]
    covered = np.mean([one is not None and one.low <= true <= one.high for one in intervals])
    assert 0.94 <= covered <= 0.96
    assert retention_interval((10, 5, 5, 80), 0.15) is None


def test_other_images_are_refused() -> None:
    with pytest.raises(ValueError, match="same images"):
        compare(np.ones(3, dtype=bool), np.ones(4, dtype=bool), same_answer=1, chance=0.1)
