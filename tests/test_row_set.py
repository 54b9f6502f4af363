"""Rows that are meant, by those that are or those that are not."""

import numpy as np
import pytest

from mmkd.row_set import RowSet
from mmkd.shuffle import Shuffle, mix

MEANT = np.array([0, 3, 4, 5, 9, 11])
OTHERS = np.array([1, 2, 6, 7, 8, 10])


@pytest.mark.parametrize("rows", [RowSet.only(MEANT[::-1]), RowSet(12, OTHERS)], ids=["only", "all but"])
def test_both_ways_of_saying_it_are_the_same(rows: RowSet) -> None:
    assert len(rows) == 6
    assert rows.to_array().tolist() == MEANT.tolist()
    assert rows.take(np.array([[5, 0], [1, 2]])).tolist() == [[11, 0], [3, 4]]
    bounds = np.arange(15)
    assert rows.places_before(bounds).tolist() == [(bound > MEANT).sum() for bound in bounds]


def test_every_row_and_none() -> None:
    assert RowSet.all_of(4).to_array().tolist() == [0, 1, 2, 3]
    assert len(RowSet.only(np.empty(0, np.int64))) == len(RowSet(2, np.arange(2))) == 0


@pytest.mark.parametrize("size", [1, 2, 3, 5, 64, 1000, 4097])
def test_a_shuffle_shows_each_place_once(size: int) -> None:
    places = np.arange(size)
    shuffled = Shuffle(size, (1, 2))(places)
    assert np.array_equal(np.sort(shuffled), places)
    assert np.array_equal(Shuffle(size, (1, 2))(places[::-1]), shuffled[::-1]), "any piece, in any order"
    if size > 60:
        assert not np.array_equal(Shuffle(size, (1, 3))(places), shuffled)


def test_a_shuffle_is_as_random_as_numpys() -> None:
    size, orders = 1000, 400
    places = np.arange(size)
    found = np.stack([Shuffle(size, (0, seed))(places) for seed in range(orders)])
    # Each quarter of the values falls equally often into each quarter of the places: chi-squared, 9 degrees.
    counts = np.histogram2d(np.tile(places // 250, orders), found.ravel() // 250, bins=4)[0]
    expected = orders * size / 16
    # Permutations are without replacement, so the counts vary less than independent draws: a one-sided bound.
    assert ((counts - expected) ** 2 / expected).sum() < 27.9  # one in a thousand
    neighbours = np.abs(np.diff(found, axis=1)) == 1
    assert neighbours.mean() == pytest.approx(2 / size, rel=0.1)  # Poisson: 800 of them, a spread of 3.5 %
    ups = (np.diff(found, axis=1) > 0).mean()
    assert ups == pytest.approx(0.5, abs=0.003)
    shifts = np.sign(found[:, :-1] - np.arange(size - 1)).mean()
    assert abs(shifts) < 0.01
    fixed = (found == places).sum(1)
    assert fixed.mean() == pytest.approx(1, abs=0.2)  # of a random permutation: Poisson of mean 1


def test_a_shuffle_reaches_every_order_of_few() -> None:
    seen = {tuple(Shuffle(4, (seed,))(np.arange(4)).tolist()) for seed in range(2000)}
    assert len(seen) == 24


def test_mixed_bits_are_even() -> None:
    bits = np.unpackbits(mix(np.arange(20_000, dtype=np.uint64), 7).view(np.uint8).reshape(-1, 8), axis=1)
    assert np.abs(bits.mean(0) - 0.5).max() < 0.02
