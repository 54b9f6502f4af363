"""Measures of many rankings at once against the single ones, and the null that they stand beside."""

import numpy as np
import pytest

from mmkd.evaluation.bias import max_skew, min_skew, ndkl
from mmkd.evaluation.bias.images import _mistakes, _rankings, ranking_measures
from mmkd.evaluation.bias.word_lists import builtin_words

NAMES = ("female", "male")


def test_many_rankings_are_the_single_measures() -> None:
    draw = np.random.default_rng(0)
    group = draw.integers(0, 3, 60)
    order = np.stack([draw.permutation(60)[:20] for _ in range(7)])
    share = np.bincount(group) / 60
    found = ranking_measures(order, group, 3, (0, 1))
    for row in range(7):
        ranked = group[order[row]]
        assert found["MaxSkew"][row] == pytest.approx(max_skew(ranked, 20, desired=share, count=3))
        assert found["MinSkew"][row] == pytest.approx(min_skew(ranked, 20, desired=share, count=3))
        assert found["NDKL"][row] == pytest.approx(ndkl(ranked, desired=share, count=3))
        first, second = (ranked == 0).sum(), (ranked == 1).sum()
        assert found["Bias"][row] == pytest.approx((first - second) / (first + second))


def test_a_group_without_a_place_counts_as_half_a_place() -> None:
    found = ranking_measures(np.array([[0, 1]]), np.array([0, 0, 1, 1]), 2, (0, 1))
    assert found["MinSkew"][0] == pytest.approx(np.log(0.5 / 2 / 0.5))
    assert found["MaxSkew"][0] == pytest.approx(np.log(2))
    assert found["Bias"][0] == 1
    assert "Bias" not in ranking_measures(np.array([[0, 1]]), np.array([0, 0, 1, 1]), 2, None)


def test_a_sorted_ranking_is_told_from_a_shuffled_one() -> None:
    group = np.repeat([0, 1], 40)
    by_group = np.tile(np.arange(20), (5, 1))
    biased = _rankings(by_group, group, NAMES, NAMES, 20, 0)
    assert biased["Bias@20"].value == 1
    assert biased["Bias@20"].chance == pytest.approx(0, abs=0.05)
    assert all(one.p_value <= 0.01 for one in biased.values())
    draw = np.random.default_rng(1)
    shuffled = np.stack([draw.permutation(80)[:20] for _ in range(200)])
    fair = _rankings(shuffled, group, NAMES, NAMES, 20, 0)
    assert fair["NDKL@20"].value == pytest.approx(fair["NDKL@20"].chance, abs=0.02)
    assert fair["NDKL@20"].chance > 0.05  # chance is no 0: the first places of any ranking are uneven


def test_what_a_set_is_made_of_is_in_chance_where_occupations_are_known() -> None:
    """Nurses of whom 18 in 20 are women: a query that finds nurses, and does not look at gender, ranks women first."""
    group = np.repeat([0, 1, 0, 1], [36, 4, 4, 36])
    occupation = np.repeat([0, 1], 40)
    draw = np.random.default_rng(2)
    order = np.stack([draw.permutation(40)[:20] for _ in range(40)])
    blamed = _rankings(order, group, NAMES, NAMES, 20, 0)
    fair = _rankings(order, group, NAMES, NAMES, 20, 0, occupation)
    assert blamed["Bias@20"].p_value <= 0.01
    assert fair["Bias@20"].p_value > 0.05
    assert fair["Bias@20"].chance == pytest.approx(0.8, abs=0.03)


def test_mistakes_by_group() -> None:
    words = builtin_words()
    group = np.repeat([0, 1], 50)
    wrong = np.zeros(100, dtype=bool)
    wrong[:20] = True
    found = _mistakes(wrong, group, NAMES, words, None, 0)
    assert found.groups["female"].share == 0.4
    assert found.groups["male"].errors == 0
    assert found.difference == pytest.approx(0.4)
    assert found.p_value == 1 / 500
    # All wrong images are of one occupation, which all of its women and no man has: nothing to shuffle within it.
    strata = wrong.astype(np.int64)
    assert _mistakes(wrong, group, NAMES, words, strata, 0).p_value == 1
    assert _mistakes(wrong, group, ("female", "other"), words, None, 0).difference is None
