"""Which rows a step sees."""

import numpy as np
import pytest

from mmkd.errors import ConfigError
from mmkd.sampling import GROUP, BatchPlan, split_rows

ROWS = np.arange(5, 1005, dtype=np.int64)


def ring() -> np.ndarray:
    """Row i's neighbours are i + 1 to i + 10, around."""
    rows = np.arange(1010)
    return ((rows[:, None] + np.arange(1, 11)) % 1010).astype(np.int32)


@pytest.mark.parametrize("neighbours", [None, ring()], ids=["random", "neighbours"])
def test_an_epoch_shows_each_row_once(neighbours) -> None:
    rows, draws = BatchPlan(ROWS, 64, 0, neighbours).epoch(3)
    assert rows.shape == draws.shape == (1000 // 64, 64)
    assert len(np.unique(rows)) == rows.size
    assert set(rows.ravel().tolist()) <= set(ROWS.tolist())
    assert draws.min() >= 0
    assert draws.max() < 1


def test_it_is_a_function_of_seed_and_epoch() -> None:
    plan = BatchPlan(ROWS, 64, 7, ring())
    assert np.array_equal(plan.epoch(2)[0], BatchPlan(ROWS, 64, 7, ring()).epoch(2)[0])
    assert not np.array_equal(plan.epoch(2)[0], plan.epoch(3)[0])
    assert not np.array_equal(plan.epoch(2)[0], BatchPlan(ROWS, 64, 8, ring()).epoch(2)[0])


def test_neighbours_share_a_batch() -> None:
    def share_of_rows_beside_a_neighbour(neighbours) -> float:
        hits = 0
        rows, _ = BatchPlan(ROWS, 64, 0, neighbours).epoch(0)
        table = ring()
        for batch in rows:
            present = set(batch.tolist())
            hits += sum(bool(present & set(table[row].tolist())) for row in batch)
        return hits / rows.size

    assert share_of_rows_beside_a_neighbour(ring()) > 0.8
    assert share_of_rows_beside_a_neighbour(None) < 0.6


def test_a_group_is_no_larger_than_said() -> None:
    rows, _ = BatchPlan(ROWS, 1000, 0, ring()).epoch(0)
    runs = np.diff(np.flatnonzero(np.diff(rows[0]) < 0))
    assert len(runs) > 1000 // GROUP // 2


def test_dropped_neighbours_are_not_rows() -> None:
    nobody = np.full((1010, 4), -1, dtype=np.int32)
    rows, _ = BatchPlan(ROWS, 100, 0, nobody).epoch(0)
    assert len(np.unique(rows)) == 1000


def test_a_batch_larger_than_the_data_is_refused() -> None:
    with pytest.raises(ConfigError, match="larger than the 1,000 usable pairs"):
        BatchPlan(ROWS, 1001, 0)


@pytest.mark.parametrize("mined", [True, False])
def test_the_bank_holds_other_rows_the_mined_first(mined: bool) -> None:
    plan = BatchPlan(ROWS, 64, 0, ring() if mined else None, bank=ROWS.size - 64)
    rows = plan.epoch(0)[0][3]
    bank = plan.bank_rows(0, 3, rows)
    assert np.array_equal(bank, plan.bank_rows(0, 3, rows))
    assert np.array_equal(np.sort(np.concatenate([rows, bank])), np.sort(ROWS))  # every other row, once
    small = BatchPlan(ROWS, 64, 0, ring(), bank=8).bank_rows(0, 3, rows)
    neighbours = ring()[rows]
    assert set(small.tolist()) <= set(neighbours.ravel().tolist())
    assert len(set(small.tolist()) - set(rows.tolist())) == 8


def test_without_a_bank_there_are_no_rows() -> None:
    plan = BatchPlan(ROWS, 64, 0, ring())
    assert len(plan.bank_rows(0, 0, plan.epoch(0)[0][0])) == 0


def test_tars_come_in_a_new_order_each_epoch_and_mix_within_a_window() -> None:
    tars = (ROWS - 5) // 50  # 20 tars of 50 rows
    plan = BatchPlan(ROWS, 10, 0, tars=tars, window=4)
    seen = []
    for epoch in range(2):
        rows = plan.epoch(epoch)[0].ravel()
        assert np.array_equal(np.sort(rows), ROWS)
        windows = ((rows - 5) // 50).reshape(5, 200)
        assert all(len(np.unique(window)) == 4 for window in windows)
        assert not any((np.diff(window) >= 0).all() for window in windows)  # mixed, not one after the other
        seen.append(windows[:, 0])
    assert not np.array_equal(*seen)
    assert np.array_equal(plan.epoch(1)[0], BatchPlan(ROWS, 10, 0, tars=tars, window=4).epoch(1)[0])


def test_a_window_of_all_tars_and_rows_in_any_order_is_complete() -> None:
    shuffled = np.random.default_rng(0).permutation(ROWS)
    for window in (1, 3, 7, 100):
        plan = BatchPlan(shuffled, 100, 0, ring(), tars=shuffled % 7, window=window)
        assert np.array_equal(np.sort(plan.epoch(0)[0].ravel()), ROWS)


def test_groups_stay_within_the_window() -> None:
    tars = (ROWS - 5) // 100
    plan = BatchPlan(ROWS, 100, 0, ring(), tars=tars, window=1)
    batches = plan.epoch(0)[0]
    assert all(len(np.unique((batch - 5) // 100)) == 1 for batch in batches)
    beside = sum(
        bool(set(batch[i : i + GROUP].tolist()) & set(ring()[batch[i]].tolist()))
        for batch in batches
        for i in range(100)
    )
    scattered = sum(
        bool(set(batch[i : i + GROUP].tolist()) & set(ring()[batch[i]].tolist()))
        for batch in BatchPlan(ROWS, 100, 0, tars=tars, window=1).epoch(0)[0]
        for i in range(100)
    )
    assert beside > 1.5 * scattered


def test_held_out_rows_are_of_the_subset_and_never_trained_on() -> None:
    rows = np.arange(100, 400)
    alone, none = split_rows(rows, 50, 0)
    assert (len(alone), len(none)) == (50, 0)
    train, held = split_rows(rows, 50, 10)
    assert (len(train), len(held)) == (40, 10)
    assert sorted([*train, *held]) == alone.tolist()
    assert split_rows(rows, 50, 10)[1].tolist() == held.tolist()
    everything, none = split_rows(rows, None, 0)
    assert everything is rows
    for limit, hold_out in ((1, 0), (50, 49), (None, 299)):
        with pytest.raises(ConfigError, match="leaves nothing to train on"):
            split_rows(rows, limit, hold_out)
