"""Which rows a step sees."""

import numpy as np
import pytest
from planned import epoch_of

from mmkd import sampling
from mmkd.errors import ConfigError
from mmkd.row_set import RowSet, split_rows
from mmkd.sampling import GROUP, BatchPlan

ROWS = np.arange(5, 1005, dtype=np.int64)
SET = RowSet.only(ROWS)


def ring() -> np.ndarray:
    """Row i's neighbours are i + 1 to i + 10, around."""
    rows = np.arange(1010)
    return ((rows[:, None] + np.arange(1, 11)) % 1010).astype(np.int32)


@pytest.mark.parametrize("neighbours", [None, ring()], ids=["random", "neighbours"])
def test_an_epoch_shows_each_row_once(neighbours) -> None:
    rows, draws = epoch_of(BatchPlan(SET, 64, 0, neighbours), 3)
    assert rows.shape == draws.shape == (1000 // 64, 64)
    assert len(np.unique(rows)) == rows.size
    assert set(rows.ravel().tolist()) <= set(ROWS.tolist())
    assert draws.min() >= 0
    assert draws.max() < 1


def test_it_is_a_function_of_seed_and_epoch() -> None:
    plan = BatchPlan(SET, 64, 7, ring())
    assert np.array_equal(epoch_of(plan, 2)[0], epoch_of(BatchPlan(SET, 64, 7, ring()), 2)[0])
    assert not np.array_equal(epoch_of(plan, 2)[0], epoch_of(plan, 3)[0])
    assert not np.array_equal(epoch_of(plan, 2)[0], epoch_of(BatchPlan(SET, 64, 8, ring()), 2)[0])


def test_neighbours_share_a_batch() -> None:
    def share_of_rows_beside_a_neighbour(neighbours) -> float:
        hits = 0
        rows, _ = epoch_of(BatchPlan(SET, 64, 0, neighbours), 0)
        table = ring()
        for batch in rows:
            present = set(batch.tolist())
            hits += sum(bool(present & set(table[row].tolist())) for row in batch)
        return hits / rows.size

    assert share_of_rows_beside_a_neighbour(ring()) > 0.8
    assert share_of_rows_beside_a_neighbour(None) < 0.6


def test_a_group_is_no_larger_than_said() -> None:
    rows, _ = epoch_of(BatchPlan(SET, 1000, 0, ring()), 0)
    runs = np.diff(np.flatnonzero(np.diff(rows[0]) < 0))
    assert len(runs) > 1000 // GROUP // 2


def test_dropped_neighbours_are_not_rows() -> None:
    nobody = np.full((1010, 4), -1, dtype=np.int32)
    rows, _ = epoch_of(BatchPlan(SET, 100, 0, nobody), 0)
    assert len(np.unique(rows)) == 1000


def test_a_batch_larger_than_the_data_is_refused() -> None:
    with pytest.raises(ConfigError, match="larger than the 1,000 usable pairs"):
        BatchPlan(SET, 1001, 0)


@pytest.mark.parametrize("mined", [True, False])
def test_the_bank_holds_other_rows_the_mined_first(mined: bool) -> None:
    plan = BatchPlan(SET, 64, 0, ring() if mined else None, bank=ROWS.size - 64)
    rows = epoch_of(plan, 0)[0][3]
    bank = plan.bank_rows(0, 3, rows)
    assert np.array_equal(bank, plan.bank_rows(0, 3, rows))
    assert np.array_equal(np.sort(np.concatenate([rows, bank])), np.sort(ROWS))  # every other row, once
    small = BatchPlan(SET, 64, 0, ring(), bank=8).bank_rows(0, 3, rows)
    neighbours = ring()[rows]
    assert set(small.tolist()) <= set(neighbours.ravel().tolist())
    assert len(set(small.tolist()) - set(rows.tolist())) == 8


def test_without_a_bank_there_are_no_rows() -> None:
    plan = BatchPlan(SET, 64, 0, ring())
    assert len(plan.bank_rows(0, 0, epoch_of(plan, 0)[0][0])) == 0


def test_tars_come_in_a_new_order_each_epoch_and_mix_within_a_window() -> None:
    tars = np.arange(5, 1005, 50)
    plan = BatchPlan(SET, 10, 0, tars=tars, window=4)
    seen = []
    for epoch in range(2):
        rows = epoch_of(plan, epoch)[0].ravel()
        assert np.array_equal(np.sort(rows), ROWS)
        windows = ((rows - 5) // 50).reshape(5, 200)
        assert all(len(np.unique(window)) == 4 for window in windows)
        assert not any((np.diff(window) >= 0).all() for window in windows)  # mixed, not one after the other
        seen.append(windows[:, 0])
    assert not np.array_equal(*seen)
    assert np.array_equal(epoch_of(plan, 1)[0], epoch_of(BatchPlan(SET, 10, 0, tars=tars, window=4), 1)[0])


def test_a_window_of_any_size_is_complete() -> None:
    tars = np.array([0, 7, 300, 301, 800, 990, 1005])  # the last holds no row that is meant
    for window in (1, 3, 7, 100):
        plan = BatchPlan(SET, 100, 0, ring(), tars=tars, window=window)
        assert np.array_equal(np.sort(epoch_of(plan, 0)[0].ravel()), ROWS)


def test_groups_stay_within_the_window() -> None:
    tars = np.arange(5, 1005, 100)
    plan = BatchPlan(SET, 100, 0, ring(), tars=tars, window=1)
    batches = epoch_of(plan, 0)[0]
    assert all(len(np.unique((batch - 5) // 100)) == 1 for batch in batches)
    beside = sum(
        bool(set(batch[i : i + GROUP].tolist()) & set(ring()[batch[i]].tolist()))
        for batch in batches
        for i in range(100)
    )
    scattered = sum(
        bool(set(batch[i : i + GROUP].tolist()) & set(ring()[batch[i]].tolist()))
        for batch in epoch_of(BatchPlan(SET, 100, 0, tars=tars, window=1), 0)[0]
        for i in range(100)
    )
    assert beside > 1.5 * scattered


def plans() -> dict[str, BatchPlan]:
    """A plan of each kind."""
    tars = np.array([0, 130, 300, 301, 800])
    return {
        "whole": BatchPlan(SET, 64, 3),
        "grouped": BatchPlan(SET, 64, 3, ring()),
        "pieces": BatchPlan(RowSet(1005, np.arange(5)), 64, 3),
        "tars": BatchPlan(SET, 64, 3, tars=tars, window=2),
        "grouped tars": BatchPlan(SET, 64, 3, ring(), tars=tars, window=2),
    }


@pytest.mark.parametrize("kind", plans())
def test_an_epoch_goes_on_from_any_step(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampling, "PIECE", 100)
    if kind == "pieces":
        monkeypatch.setattr(sampling, "SHUFFLED_WHOLE", 0)
    plan = plans()[kind]
    rows, draws = epoch_of(plan, 4)
    assert rows.shape == draws.shape == (15, 64)
    assert len(np.unique(rows)) == rows.size
    assert set(rows.ravel().tolist()) <= set(ROWS.tolist())
    for first in (0, 1, 7, 14, 15):
        again = list(plan.batches(4, first))
        assert len(again) == 15 - first
        assert all(np.array_equal(one, other) for (one, _), other in zip(again, rows[first:], strict=True))
        assert all(np.array_equal(one, other) for (_, one), other in zip(again, draws[first:], strict=True))


def test_what_an_epoch_was_before_stays_what_it_is() -> None:
    # Numbers in the documents come from these orders.
    generator = np.random.default_rng((7, 2))
    order = generator.permutation(ROWS)[: 15 * 64].reshape(15, 64)
    rows, draws = epoch_of(BatchPlan(SET, 64, 7), 2)
    assert np.array_equal(rows, order)
    assert np.array_equal(draws, generator.random((15, 64)))


@pytest.mark.parametrize("rows", [RowSet.only(np.arange(100, 400)), RowSet(400, np.arange(100))])
def test_held_out_rows_are_of_the_subset_and_never_trained_on(rows: RowSet) -> None:
    alone, none = split_rows(rows, 50, 0)
    assert (len(alone), len(none)) == (50, 0)
    train, held = split_rows(rows, 50, 10)
    assert (len(train), len(held)) == (40, 10)
    assert sorted([*train.to_array(), *held]) == alone.to_array().tolist()
    assert split_rows(rows, 50, 10)[1].tolist() == held.tolist()
    every, held = split_rows(rows, None, 10)
    assert sorted([*every.to_array(), *held]) == list(range(100, 400))
    everything, none = split_rows(rows, None, 0)
    assert everything is rows
    for limit, hold_out in ((1, 0), (50, 49), (None, 299)):
        with pytest.raises(ConfigError, match="leaves nothing to train on"):
            split_rows(rows, limit, hold_out)
