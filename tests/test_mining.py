"""Mined neighbours, held against scikit-learn's."""

import numpy as np
import pytest
from sklearn.neighbors import NearestNeighbors
from stores import random_store

from mmkd.mining import _search, mine_neighbours


def test_neighbours_are_scikit_learns() -> None:
    store = random_store(300, 16)
    rows = np.arange(300)
    text = store.read(rows).text.numpy()
    expected = NearestNeighbors(n_neighbors=6, metric="cosine").fit(text).kneighbors(text)[1][:, 1:]
    mined = mine_neighbours(store, rows, k=5, seed=0)
    own = store.read(rows)
    similarity = (own.image @ own.text.T).numpy()
    positive = similarity.diagonal()
    false = np.take_along_axis(similarity, expected, axis=1) > (positive - 0.05 * abs(positive))[:, None]
    assert np.array_equal(mined.rows, np.where(false, -1, expected))
    assert mined.dropped == pytest.approx(false.mean())
    assert 0 < mined.dropped < 1
    assert mined.method == "exact"


def test_rows_of_one_caption_are_never_neighbours() -> None:
    store = random_store(200, 8, captions=20)
    mined = mine_neighbours(store, np.arange(200), k=19, seed=0).rows
    row, column = np.nonzero(mined >= 0)
    assert len(row) > 200
    assert (store.caption_ids[row] != store.caption_ids[mined[row, column]]).all()


def test_every_row_of_a_caption_may_stand_for_it() -> None:
    store = random_store(400, 8, captions=4)
    mined = mine_neighbours(store, np.arange(400), k=3, seed=0).rows
    assert len(np.unique(mined)) > 250


def test_only_the_rows_asked_for_are_mined() -> None:
    store = random_store(100, 8)
    rows = np.arange(0, 100, 3)
    mined = mine_neighbours(store, rows, k=4, seed=0).rows
    assert set(np.unique(mined)) <= {-1, *rows.tolist()}
    assert (mined[np.setdiff1d(np.arange(100), rows)] == -1).all()


def test_it_is_a_function_of_the_seed() -> None:
    store = random_store(100, 8, captions=10)
    first, again, other = (mine_neighbours(store, np.arange(100), k=4, seed=seed).rows for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_one_distinct_caption_has_no_neighbours() -> None:
    mined = mine_neighbours(random_store(10, 8, captions=1), np.arange(10), k=4, seed=0)
    assert mined.rows.shape == (10, 0)


def test_approximate_search_finds_most(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = random_store(5000, 16).text.numpy()
    texts /= np.linalg.norm(texts, axis=1, keepdims=True)
    exact, _ = _search(texts, 10)
    monkeypatch.setattr("mmkd.mining.EXACT_LIMIT", 1000)
    found, method = _search(texts, 10)
    assert method.startswith("IVF")
    recall = np.mean([len(set(a) & set(b)) / 10 for a, b in zip(exact, found, strict=True)])
    assert recall > 0.5
    assert (found != np.arange(5000)[:, None]).all()
