"""Measures on plain arrays, against values by hand, SciPy, and the word2vec oracle; then on a model."""

import csv
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats

from mmkd.embeddings import TeacherSpec
from mmkd.encoders import load_encoder
from mmkd.evaluation.bias import (
    DirectionTest,
    ModelBias,
    association_gap,
    compare,
    direction_test,
    probe,
    rank_correlation,
    term_cosines,
)
from mmkd.evaluation.plots import plot_gaps, save_figure
from mmkd.evaluation.statistics import Geometry
from mmkd.evaluation.words import BiasWords, builtin_words, is_known, sentence, with_article

FEMALE = ("female", "woman", "girl", "sister", "she", "her", "hers", "daughter")
MALE = ("male", "man", "boy", "brother", "he", "him", "his", "son")
SPEC = TeacherSpec("m", None, "w", "p", "t", 8, 100.0, (4, 4))


def test_gap_by_hand() -> None:
    # Along the female axis, along the male axis, and half-way: cosines 1, 0 and 0.7071 to each.
    targets = [[3.0, 0.0], [0.0, 2.0], [1.0, 1.0]]
    assert association_gap(targets, [[1.0, 0.0]], [[0.0, 5.0]]) == pytest.approx([1, -1, 0])
    # A second female term at 45 degrees: mean cosine (1 + 0.7071) / 2 of the first target.
    assert association_gap(targets[:1], [[1.0, 0.0], [1.0, 1.0]], [[0.0, 1.0]]) == pytest.approx([0.853553])


def test_gap_laws() -> None:
    generator = np.random.default_rng(0)
    targets, female, male = (generator.normal(size=(3, n, 6)) for n in (5, 4, 4))
    gap = association_gap(targets, female, male)
    rotation, _ = np.linalg.qr(generator.normal(size=(6, 6)))
    assert association_gap(targets, male, female) == pytest.approx(-gap)
    assert association_gap(targets, female, female) == pytest.approx(np.zeros(5))
    assert association_gap(7 * targets @ rotation, female @ rotation, male @ rotation) == pytest.approx(gap)
    assert association_gap(targets, female[:, ::-1], male) == pytest.approx(gap)
    by_template = [association_gap(*one) for one in zip(targets, female, male, strict=True)]
    assert gap == pytest.approx(np.mean(by_template, axis=0))
    assert term_cosines(targets, female).shape == (5, 4)


def test_gap_refuses_a_zero_vector() -> None:
    with pytest.raises(ValueError, match="zero or not finite"):
        association_gap(np.zeros((2, 3)), np.ones((1, 3)), np.ones((1, 3)))


def test_word2vec_oracle(shared_data: Path) -> None:
    archive = np.load(shared_data / "oracles" / "occupations_word2vec.npz")
    vectors = dict(zip(archive["words"].tolist(), archive["vectors"], strict=True))
    with (shared_data / "bias" / "winobias_percent_women.tsv").open() as file:
        rows = [row for row in csv.DictReader(file, delimiter="\t") if row["occupation"] in vectors]
    percent = np.array([float(row["percent_women"]) for row in rows])
    gap = association_gap(
        [vectors[row["occupation"]] for row in rows],
        [vectors[word] for word in FEMALE],
        [vectors[word] for word in MALE],
    )
    assert len(rows) == 36
    assert stats.pearsonr(gap, percent).statistic == pytest.approx(0.7317, abs=1e-4)
    assert rank_correlation(gap, percent, "spearman").value == pytest.approx(0.7386, abs=1e-4)
    assert rank_correlation(gap, percent, "kendall").value == pytest.approx(0.5295, abs=1e-4)


def test_word2vec_has_a_gender_direction(shared_data: Path) -> None:
    archive = np.load(shared_data / "oracles" / "occupations_word2vec.npz")
    vectors = dict(zip(archive["words"].tolist(), archive["vectors"], strict=True))
    found = direction_test([vectors[word] for word in FEMALE], [vectors[word] for word in MALE])
    assert found.p_value == 1 / 128
    assert found.mean_cosine > 0.4


@pytest.mark.parametrize("ties", [False, True])
def test_rank_correlations_equal_scipy(ties: bool) -> None:
    generator = np.random.default_rng(1)
    x = generator.normal(size=40)
    y = x + generator.normal(size=40)
    if ties:
        x, y = np.round(x), np.round(y)
    spearman, kendall = (rank_correlation(x, y, name) for name in ("spearman", "kendall"))
    assert spearman.value == pytest.approx(stats.spearmanr(x, y).statistic)
    assert kendall.value == pytest.approx(stats.kendalltau(x, y).statistic)
    for found in (spearman, kendall):
        assert -1 <= found.interval.low < found.value < found.interval.high <= 1


def test_rank_correlation_laws() -> None:
    x = np.random.default_rng(2).normal(size=30)
    for name in ("spearman", "kendall"):
        assert rank_correlation(x, np.exp(x), name).value == pytest.approx(1)
        assert rank_correlation(x, -x, name).value == pytest.approx(-1)
        assert rank_correlation(x, np.ones(30), name) is None
        assert rank_correlation(x, x**2, name, seed=5) == rank_correlation(x, x**2, name, seed=5)


def test_bootstrap_interval_covers_the_truth() -> None:
    generator = np.random.default_rng(3)
    covered = 0
    for _ in range(200):
        x, y = generator.multivariate_normal([0, 0], [[1, 0.8], [0.8, 1]], size=60).T
        found = rank_correlation(x, y, "kendall", resamples=200).interval
        covered += found.low <= 2 / np.pi * np.arcsin(0.8) <= found.high
    assert covered >= 180


def test_direction_test_by_hand() -> None:
    male = np.eye(6, 8)
    shared = np.zeros((6, 8))
    shared[:, 7] = 1.0
    # In unit length, (male + 1/2 shared) - male has the same angle to every other such difference.
    found = direction_test(male + 0.5 * shared, male)
    assert found.p_value == 1 / 32
    assert found.mean_cosine > 0.5
    assert direction_test(male, male) is None
    with pytest.raises(ValueError, match="5 to 16 pairs"):
        direction_test(male[:4], male[:4])


def test_direction_test_is_uniform_on_noise() -> None:
    generator = np.random.default_rng(4)
    draws = [direction_test(*generator.normal(size=(2, 7, 32))).p_value for _ in range(400)]
    assert 0.02 <= np.mean(np.array(draws) <= 0.05) <= 0.08
    assert 0.42 <= np.mean(np.array(draws) <= 0.5) <= 0.58


@pytest.mark.parametrize(
    ("noun", "expected"),
    [
        ("nurse", "a nurse"),
        ("actor", "an actor"),
        ("CEO", "a CEO"),
        ("MP", "an MP"),
        ("hourly worker", "an hourly worker"),
        ("university teacher", "a university teacher"),
        ("usher", "an usher"),
        ("umpire", "an umpire"),
        ("aunt", "an aunt"),
        ("uncle", "an uncle"),
        ("electrician", "an electrician"),
    ],
)
def test_articles(noun: str, expected: str) -> None:
    assert with_article(noun) == expected
    assert sentence("a photo of {}.", noun) == f"a photo of {expected}."


def test_builtin_words() -> None:
    words = builtin_words()
    assert len(words.female) == len(words.male) == 7
    assert len(words.templates) >= 8
    assert all(template.count("{}") == 1 for template in words.templates)
    assert len(words.targets) == len(set(words.targets)) == 81
    assert {"nurse", "CEO", "sewer", "firefighter"} < set(words.targets)
    assert all(set(one) == {"name", "source", "year", "licence"} for one in words.sources)


def model_of(cosines: np.ndarray, **changes) -> ModelBias:
    gaps = cosines[:, : cosines.shape[1] // 2].mean(axis=1) - cosines[:, cosines.shape[1] // 2 :].mean(axis=1)
    found = ModelBias(SPEC, cosines, gaps, (), Geometry(40.0, 81, 0.8, -2.0), DirectionTest(0.5, 1 / 64))
    return replace(found, **changes)


@pytest.fixture(scope="module")
def words() -> BiasWords:
    return builtin_words()


@pytest.fixture(scope="module")
def cosines() -> np.ndarray:
    return np.random.default_rng(5).uniform(0.5, 0.9, size=(81, 14))


def test_comparison_of_a_model_with_itself(words: BiasWords, cosines: np.ndarray) -> None:
    model = model_of(cosines)
    report = compare(model, model, words)
    assert report.correlations["spearman"].value == pytest.approx(1)
    assert report.withheld == ()
    json.dumps(report.to_json(), allow_nan=False)
    top = model.top(words, 2)["girl"]
    assert [words.targets.index(name) for name in top] == np.argsort(-cosines[:, 1])[:2].tolist()


def test_conclusions_are_withheld_with_the_reason(words: BiasWords, cosines: np.ndarray) -> None:
    fine = model_of(cosines)
    for changes, reason in (
        (
            {"unknown": words.targets + words.terms},
            r"student: its tokenizer does not know 95 of the 95 words",
        ),
        ({"geometry": Geometry(1.2, 81, 0.97, -0.1)}, r"collapsed \(effective rank 1.2 of 81\)"),
        ({"direction": DirectionTest(0.0, 0.4)}, "does not tell the terms' gender: woman - man"),
        ({"direction": None}, "same embeddings"),
    ):
        report = compare(fine, model_of(cosines, **changes), words)
        assert len(report.withheld) == 1
        assert re.search(reason, report.withheld[0])
    assert compare(fine, fine, words, doubts=["student: at chance"]).withheld == ("student: at chance",)
    assert compare(fine, model_of(cosines, unknown=("sewer",)), words).withheld == ()


def test_probe_equals_a_plain_loop(tiny_clip: Path, words: BiasWords) -> None:
    encoder = load_encoder(tiny_clip, device=torch.device("cpu"))
    few = replace(words, targets=("nurse", "actor"), templates=("a photo of {}.", "this is {}."))
    found = probe(encoder, few, batch_size=5)

    def unit(text: str) -> np.ndarray:
        vector = encoder.encode_texts([text])[0].double().numpy()
        return vector / np.linalg.norm(vector)

    for row, noun in enumerate(("a nurse", "an actor")):
        gaps = []
        for template in few.templates:
            target = unit(template.replace("{}", noun))
            cosine = [target @ unit(template.replace("{}", with_article(term))) for term in few.terms]
            gaps.append(np.mean(cosine[:7]) - np.mean(cosine[7:]))
        assert found.gaps[row] == pytest.approx(np.mean(gaps), abs=1e-6)


def test_a_tokenizer_of_single_letters_knows_no_word(tiny_clip: Path, words: BiasWords) -> None:
    encoder = load_encoder(tiny_clip, device=torch.device("cpu"))
    report = probe(encoder, words)
    assert set(report.unknown) == set(words.targets + words.terms)
    assert "never saw a person" in report.doubts(words)[0]


def test_the_real_tokenizer_knows_every_word(shared_data: Path, words: BiasWords) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(shared_data / "clip-tokenizer")
    assert [word for word in words.targets + words.terms if not is_known(word, tokenizer)] == []


def test_plot_is_the_same_bytes_every_time(tmp_path: Path, words: BiasWords, cosines: np.ndarray) -> None:
    gaps = model_of(cosines).gaps
    for suffix in (".png", ".svg"):
        files = []
        for number in range(2):
            figure = plot_gaps(words.targets, gaps, 0.5 * gaps, title="t", subtitle="s", withheld=False)
            files.append(tmp_path / f"{number}{suffix}")
            save_figure(figure, files[-1])
        assert files[0].read_bytes() == files[1].read_bytes()
    assert f">{words.targets[int(np.argmin(gaps))]}<" in (tmp_path / "0.svg").read_text()


def test_plot_of_withheld_and_constant_gaps(tmp_path: Path) -> None:
    figure = plot_gaps(("a", "b"), [0, 0], [0, 0], title="t", subtitle="s", withheld=True)
    save_figure(figure, tmp_path / "x.svg")
    assert "means nothing" in (tmp_path / "x.svg").read_text()
    plot_gaps(("a", "b"), [0, 0], [0, 0], title="t", subtitle="s", withheld=False)
