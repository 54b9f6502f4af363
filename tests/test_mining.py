"""Mined neighbours, held against scikit-learn's and sentence-transformers'."""

from typing import Any

import numpy as np
import pytest
import torch
from sklearn.neighbors import NearestNeighbors
from stores import MemoryStore, random_store

from mmkd.errors import ConfigError
from mmkd.mining import (
    ArraySpace,
    NegativeRules,
    Neighbours,
    SearchOptions,
    choose_method,
    mine_embeddings,
    mine_neighbours,
    parse_memory,
)
from mmkd.mining.search import Held, pair_scores, search_exact

MEMORY = 1 << 30


def unit(rows: int, dim: int, *, seed: int = 0) -> np.ndarray:
    vectors = np.random.default_rng(seed).standard_normal((rows, dim), dtype=np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def brute_force(queries: np.ndarray, vectors: np.ndarray, k: int, exclude: np.ndarray) -> np.ndarray:
    """Every pair scored by itself, sorted by (score descending, index ascending)."""
    scores = np.concatenate([pair_scores(query[None], vectors[None]) for query in queries])
    scores[np.arange(len(queries)), exclude] = -np.inf
    index = np.broadcast_to(np.arange(len(vectors)), scores.shape)
    return np.lexsort((index, -scores), axis=-1)[:, :k]


def test_exact_search_is_scikit_learns() -> None:
    vectors = unit(300, 16)
    expected = NearestNeighbors(n_neighbors=6, metric="cosine").fit(vectors).kneighbors(vectors)[1][:, 1:]
    found = search_exact(vectors, Held(vectors), 5, exclude=np.arange(300), memory=MEMORY)
    assert np.array_equal(found, expected)


@pytest.mark.parametrize("kind", ["random", "repeated", "nearly equal"])
def test_exact_search_does_not_depend_on_blocks_or_threads(kind: str) -> None:
    import faiss

    vectors = unit(700, 24)
    if kind == "repeated":
        vectors = vectors[np.arange(700) % 90]
    if kind == "nearly equal":  # closer than the last bits of a matrix product
        vectors = vectors[:1] + np.float32(1e-7) * unit(700, 24, seed=1)
    own = np.arange(700)
    expected = brute_force(vectors, vectors, 10, own)
    for memory, size, threads in ((MEMORY, 700, 2), (1 << 15, 700, 1), (1 << 18, 150, 2)):
        faiss.omp_set_num_threads(threads)
        found = np.concatenate(
            [
                search_exact(vectors[part], Held(vectors), 10, exclude=part, memory=memory)
                for part in np.split(own, range(size, 700, size))
            ]
        )
        if (
            kind == "nearly equal"
        ):  # more than 500 candidates within rounding: a good answer, not the one answer
            assert (found != own[:, None]).all()
            continue
        assert np.array_equal(found, expected), (memory, size)
    faiss.omp_set_num_threads(1)


def test_a_few_captions_within_rounding_are_told_apart() -> None:
    vectors = unit(600, 24)
    near = np.arange(0, 600, 6)  # a hundred that differ in their last bits, more than are proposed at first
    vectors[near] = vectors[0] + np.float32(3e-8) * unit(100, 24, seed=1)
    found = search_exact(vectors, Held(vectors), 10, exclude=np.arange(600), memory=1 << 15)
    assert np.array_equal(found, brute_force(vectors, vectors, 10, np.arange(600)))


def test_a_gpu_or_cpu_product_only_proposes(monkeypatch: pytest.MonkeyPatch) -> None:
    """With products as rough as the bound allows, the answer is the same."""
    from mmkd.mining import search

    vectors = unit(500, 32)
    expected = search_exact(vectors, Held(vectors), 10, memory=MEMORY)
    noise = np.random.default_rng(0)

    def rough(queries, block, k):
        scores = queries @ block.T
        scores += noise.uniform(-1, 1, scores.shape).astype(np.float32) * search._error(32) / 2
        index = np.argsort(-scores, axis=1)[:, :k]
        return np.take_along_axis(scores, index, axis=1), index

    monkeypatch.setattr(search, "_product", rough)
    assert np.array_equal(search_exact(vectors, Held(vectors), 10, memory=1 << 15), expected)


@pytest.mark.parametrize("held", [True, False])
def test_what_a_gpu_would_do_gives_the_same(monkeypatch: pytest.MonkeyPatch, held: bool) -> None:
    """The code for a GPU, run on the CPU: its running best over several blocks, one narrower than what is asked for."""
    from mmkd.mining import search

    vectors = unit(700, 32)
    expected = brute_force(vectors, vectors, 10, np.arange(700))
    database = Held(vectors)
    cpu = torch.device("cpu")
    monkeypatch.setattr(search, "_fits", lambda *_: held)
    monkeypatch.setattr(search, "block_rows", lambda *_: 170)
    monkeypatch.setattr(
        search, "_propose", lambda q, d, w, m, _, report: search._propose_on(cpu, q, d, w, m, report)
    )
    assert np.array_equal(
        search_exact(vectors, database, 10, exclude=np.arange(700), memory=MEMORY), expected
    )
    assert bool(database._copies) == held


def _mine(store: MemoryStore, rows: np.ndarray, **options: Any) -> Neighbours:
    return mine_neighbours(store, rows, store.caption_ids[rows], **options)


def test_negatives_are_the_nearest_captions_hardest_first() -> None:
    store = random_store(300, 16)
    rows = np.arange(300)
    own = store.read(rows)
    text = own.text.numpy()
    nearest = NearestNeighbors(n_neighbors=6, metric="cosine").fit(text).kneighbors(text)[1][:, 1:]
    mined = _mine(store, rows, rules=NegativeRules(5), seed=0)
    similarity = (own.image @ own.text.T).numpy()
    positive = similarity.diagonal()
    kept = 0
    for row in range(300):
        passed = [n for n in nearest[row] if similarity[row, n] <= positive[row] - 0.05 * abs(positive[row])]
        hardest = sorted(passed, key=lambda n: -similarity[row, n])
        assert mined.rows[row].tolist() == hardest + [-1] * (5 - len(hardest))
        kept += len(hardest)
    assert mined.dropped == pytest.approx(1 - kept / 1500)
    assert 0 < mined.dropped < 1
    assert (mined.method, mined.recall) == ("exact search", 1.0)


def test_rows_of_one_caption_are_never_neighbours() -> None:
    store = random_store(200, 8, captions=20)
    mined = _mine(store, np.arange(200), rules=NegativeRules(19), seed=0).rows
    row, column = np.nonzero(mined >= 0)
    assert len(row) > 200
    assert (store.caption_ids[row] != store.caption_ids[mined[row, column]]).all()


def test_every_row_of_a_caption_may_stand_for_it() -> None:
    store = random_store(400, 8, captions=4)
    mined = _mine(store, np.arange(400), rules=NegativeRules(3), seed=0).rows
    assert len(np.unique(mined)) > 250


def test_only_the_rows_asked_for_are_mined() -> None:
    store = random_store(100, 8)
    rows = np.arange(0, 100, 3)
    mined = _mine(store, rows, rules=NegativeRules(4), seed=0).rows
    assert set(np.unique(mined)) <= {-1, *rows.tolist()}
    assert (mined[np.setdiff1d(np.arange(100), rows)] == -1).all()


def test_it_is_a_function_of_the_seed_and_not_of_the_memory() -> None:
    store = random_store(300, 8, captions=100)
    first, again, other = (
        _mine(
            store, np.arange(300), rules=NegativeRules(4), seed=seed, search=SearchOptions(memory=memory)
        ).rows
        for seed, memory in ((1, MEMORY), (1, 1 << 12), (2, MEMORY))
    )
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_one_distinct_caption_has_no_neighbours() -> None:
    mined = _mine(random_store(10, 8, captions=1), np.arange(10), seed=0)
    assert mined.rows.shape == (10, 0)


def test_fewer_captions_than_asked_for_give_fewer() -> None:
    mined = _mine(random_store(10, 8, captions=5), np.arange(10), rules=NegativeRules(32), seed=0)
    assert mined.rows.shape == (10, 4)


def test_the_judge_and_not_the_searched_space_tells_false_negatives() -> None:
    store = random_store(200, 8)
    own = store.read(np.arange(200))
    teacher = ArraySpace(own.image.numpy(), own.text.numpy())
    student = ArraySpace(unit(200, 12, seed=2), unit(200, 12, seed=3))
    ids = np.arange(200)
    mined = mine_embeddings(student, ids, judge=teacher, rules=NegativeRules(10), seed=0).positions
    similarity = (own.image @ own.text.T).numpy()
    row, column = np.nonzero(mined >= 0)
    positive = similarity[row, row]
    assert (similarity[row, mined[row, column]] <= positive - 0.05 * abs(positive)).all()
    text = student.texts(ids)
    nearest = search_exact(text, Held(text), 10, exclude=ids, memory=MEMORY)
    assert all(set(mined[i]) - {-1} <= set(nearest[i].tolist()) for i in range(200))


@pytest.mark.parametrize("method", ["ivf", "ivf-pq"])
def test_approximate_search_finds_what_it_says(method: str) -> None:
    centres = np.repeat(unit(60, 16, seed=1), 50, axis=0)
    text = centres + 0.3 * unit(3000, 16)
    space, ids = ArraySpace(text[::-1].copy(), text), np.arange(3000)
    rules = NegativeRules(10, relative_margin=None)
    exact, found = (
        mine_embeddings(space, ids, rules=rules, seed=0, search=SearchOptions(name)).positions
        for name in ("exact", method)
    )
    said = mine_embeddings(space, ids, rules=rules, seed=0, search=SearchOptions(method))
    assert np.array_equal(found, said.positions)
    recall = np.mean([len(set(a) & set(b)) / 10 for a, b in zip(exact, found, strict=True)])
    assert said.recall >= 0.9
    assert recall == pytest.approx(said.recall, abs=0.02)
    assert said.method.startswith(method.upper())
    assert (found != ids[:, None]).all()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"neighbours": 0}, "--neighbours 0"),
        ({"range_min": -1}, "--mining-range-min -1"),
        ({"range_min": 8, "range_max": 8}, "--mining-range-max 8 is not above --mining-range-min 8"),
        ({"absolute_margin": -0.1}, "--absolute-margin -0.1 is out of range; expected 0 to 2"),
        ({"relative_margin": 1.5}, "--relative-margin 1.5 is out of range"),
        ({"max_score": 3}, "--max-score 3 is out of range"),
    ],
)
def test_rules_out_of_range_are_refused(options: dict, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        NegativeRules(**options)


def test_memory_is_read_as_people_write_it() -> None:
    assert parse_memory("4GB") == 4 * 10**9
    assert parse_memory(" 500 mb ") == 500 * 10**6
    assert parse_memory("1.5GiB") == 3 * 2**29
    assert parse_memory(None) >= 32 << 20
    for text in ("4 gigs", "", "GB", "-1GB"):
        with pytest.raises(ConfigError, match="cannot read --mining-memory"):
            parse_memory(text)
    with pytest.raises(ConfigError, match="--mining-memory 1MB is too little"):
        parse_memory("1MB")


def test_the_search_is_chosen_by_work_and_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    choices = [
        choose_method(n, 512, memory=10**9, cuda=cuda)
        for n, cuda in ((50_000, False), (200_000, False), (1_000_000, False), (500_000, True))
    ]
    assert choices == ["exact", "ivf", "ivf-pq", "exact"]
    assert choose_method(10**7, 512, memory=0, asked="exact") == "exact"
    with pytest.raises(ConfigError, match="--mining-search hnsw is unknown"):
        choose_method(1, 1, memory=0, asked="hnsw")


def test_a_callback_hears_how_far_it_is() -> None:
    heard: list[tuple[str, int, int]] = []
    space = ArraySpace(unit(900, 8), unit(900, 8, seed=1))
    mine_embeddings(
        space,
        np.arange(900),
        rules=NegativeRules(4),
        seed=0,
        search=SearchOptions(memory=1 << 16),
        on_progress=lambda *said: heard.append(said),
    )
    done = [number for _, number, _ in heard]
    assert done == sorted(done)
    assert heard[-1] == ("mining", 900, 900)
    assert len(heard) > 10


class Vectors:
    """What ``mine_hard_negatives`` needs of a model: every text is a number, and its vector is looked up."""

    device = torch.device("cpu")

    def __init__(self, anchors: np.ndarray, candidates: np.ndarray) -> None:
        self.anchors, self.candidates = anchors, candidates

    def encode_query(self, texts, **_):
        return self.anchors[[int(text[1:]) for text in texts]]

    def encode_document(self, texts, **_):
        return self.candidates[[int(text[1:]) for text in texts]]

    def similarity(self, a, b):
        return torch.as_tensor(a) @ torch.as_tensor(b).T

    def similarity_pairwise(self, a, b):
        return (torch.as_tensor(a) * torch.as_tensor(b)).sum(dim=1)


class Rescorer(Vectors):
    """A cross-encoder: how well an image fits a caption."""

    def predict(self, pairs, **_):
        queries, passages = ([pair[side] for pair in pairs] for side in (0, 1))
        return self.similarity_pairwise(self.encode_query(queries), self.encode_document(passages))


@pytest.mark.parametrize(
    "options",
    [
        {"relative_margin": 0.05},
        {"relative_margin": None, "absolute_margin": 0.1},
        {"relative_margin": 0.05, "absolute_margin": 0.05, "max_score": 0.2, "range_min": 2},
        {"relative_margin": None, "max_score": 1.0, "range_min": 3},
    ],
)
@pytest.mark.parametrize("rescored", [True, False], ids=["captions then images", "one space"])
def test_the_negatives_are_sentence_transformers(options: dict, rescored: bool) -> None:
    """Retrieved by caption and rescored by image; and, with each image its own caption's vector, without rescoring."""
    hard_negatives = pytest.importorskip("sentence_transformers.util.hard_negatives")
    from datasets import Dataset

    n, wanted, range_max = 240, 6, 30
    text = unit(n, 12)
    image = unit(n, 12, seed=1) if rescored else text
    scorer = {}
    if rescored:
        scorer = {"cross_encoder": Rescorer(image, text)}
    if not rescored:  # the positive is the anchor itself, of similarity 1
        wider = {"relative_margin": 0.4, "max_score": 0.55}
        options = {name: value and wider.get(name, value) for name, value in options.items()}
    theirs = hard_negatives.mine_hard_negatives(
        Dataset.from_dict({"anchor": [f"q{i}" for i in range(n)], "positive": [f"c{i}" for i in range(n)]}),
        Vectors(text, text),
        range_max=range_max,
        num_negatives=wanted,
        output_format="triplet",
        verbose=False,
        **scorer,
        **options,
    )
    expected: list[list[int]] = [[] for _ in range(n)]
    for anchor, negative in zip(theirs["anchor"], theirs["negative"], strict=True):
        expected[int(anchor[1:])].append(int(negative[1:]))
    rules = NegativeRules(wanted, range_max=range_max, **options)
    ours = mine_embeddings(ArraySpace(image, text), np.arange(n), rules=rules, seed=0).positions
    assert [[p for p in row if p >= 0] for row in ours.tolist()] == expected
    assert sum(map(len, expected)) > n
