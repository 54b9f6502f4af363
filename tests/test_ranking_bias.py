"""Skew and NDKL of rankings: oracles, by hand, and laws."""

import numpy as np
import pytest

from mmkd.evaluation.bias import max_skew, min_skew, ndkl, skews

MALE, FEMALE = 0, 1
RANKING = [MALE, MALE, MALE, FEMALE, MALE, FEMALE, FEMALE, FEMALE]
HALF = [0.5, 0.5]


def test_oracles() -> None:
    assert ndkl(RANKING, desired=HALF) == pytest.approx(0.4126850217, abs=1e-9)
    assert ndkl(RANKING, k=4, desired=HALF) == pytest.approx(0.5986031582, abs=1e-9)
    assert max_skew(RANKING, 4, desired=HALF) == pytest.approx(0.4054651, abs=1e-7)
    assert min_skew(RANKING, 4, desired=HALF) == pytest.approx(-0.6931472, abs=1e-7)


def test_the_whole_ranking_is_the_default_share() -> None:
    assert ndkl(RANKING) == ndkl(RANKING, desired=HALF)
    assert skews(RANKING, 8) == pytest.approx([0, 0])


def test_a_group_without_a_place() -> None:
    assert min_skew([0, 0, 1], 2) == -np.inf
    assert skews([0, 0], 2, desired=[1.0, 0.0]).tolist() == [0.0, 0.0]
    assert skews([0, 1], 1, count=3).tolist() == [np.log(2), -np.inf, 0.0]


def test_an_even_ranking_is_fairer_than_a_sorted_one() -> None:
    even, sorted_ = np.arange(40) % 2, np.arange(40) // 20
    assert 0 < ndkl(even) < 0.2 * ndkl(sorted_)
    relabelled = 1 - sorted_
    assert ndkl(relabelled) == pytest.approx(ndkl(sorted_))


@pytest.mark.parametrize(
    ("groups", "k", "desired"),
    [
        ([], 1, None),
        ([0, 1], 3, None),
        ([0, 1], 0, None),
        ([0.5], 1, None),
        ([-1, 0], 1, None),
        ([0, 1], 1, [0.5, 0.6]),
    ],
)
def test_bad_input(groups, k, desired) -> None:
    with pytest.raises(ValueError, match="expected"):
        skews(np.array(groups), k, desired=desired)
    with pytest.raises(ValueError, match="expected"):
        ndkl(np.array(groups), k=k, desired=desired)
