"""Probes against scikit-learn, and as typed."""

import json
from pathlib import Path

import numpy as np
import pytest
from command_line import mmkd
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from test_cli_eval import make_labelled

from mmkd.evaluation.probe import choose_c, judge_probe, neighbour_votes, softmax_regression
from mmkd.evaluation.statistics import unit_vectors


def clouds(seed: int, count: int = 120, spread: float = 1.0):
    """Four classes of points around their centres."""
    generator = np.random.default_rng(seed)
    centres = np.random.default_rng(99).standard_normal((4, 6))
    labels = generator.integers(4, size=count)
    return unit_vectors(centres[labels] + spread * generator.standard_normal((count, 6))), labels


@pytest.mark.parametrize("c", [0.01, 1.0, 100.0])
def test_linear_probe_equals_scikit_learns(c: float) -> None:
    features, labels = clouds(0)
    weights = softmax_regression(features, labels, 4, c=c)
    theirs = LogisticRegression(C=c, tol=1e-8, max_iter=5000).fit(features, labels)
    np.testing.assert_allclose(weights[:-1].T, theirs.coef_, atol=2e-3 * max(1.0, c) ** 0.5)
    asked, _ = clouds(1)
    logits = asked @ weights[:-1] + weights[-1]
    shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(shares, theirs.predict_proba(asked), atol=1e-3)


@pytest.mark.parametrize("k", [1, 10, 120])
def test_neighbours_equal_scikit_learns(k: int) -> None:
    (features, labels), (asked, _) = clouds(0), clouds(1)
    votes = neighbour_votes(features, labels, asked, 4, k=k)
    theirs = KNeighborsClassifier(k, metric="cosine", weights=lambda distance: np.exp((1 - distance) / 0.07))
    shares = votes / votes.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(shares, theirs.fit(features, labels).predict_proba(asked), atol=1e-9)


def test_the_search_finds_strong_and_weak_regularisation() -> None:
    clean, labels = clouds(0, spread=0.3)
    # Where labels mean nothing no C is better for certain; where they do, C must be large enough to fit.
    assert 1e-6 <= choose_c(clean, np.random.default_rng(1).permutation(labels), 4) <= 1e6
    c = choose_c(clean, labels, 4)
    weights = softmax_regression(clean, labels, 4, c=c)
    asked, true = clouds(1, spread=0.3)
    assert ((asked @ weights[:-1] + weights[-1]).argmax(axis=1) == true).mean() > 0.9


def test_constant_vectors_are_called_collapsed_and_at_chance() -> None:
    labels = np.arange(40) % 4
    same = unit_vectors(np.ones((40, 6))).astype(np.float32)
    model = judge_probe(same, labels, same, labels, 4)
    assert (model.collapsed or "").startswith("collapsed")
    assert all(score.at_chance for score in model.scores.values())


def test_the_command_learns_from_one_file_and_is_judged_on_another(
    tiny_clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train = make_labelled(tmp_path / "train.parquet", ["red", "green", "blue"])
    # The same classes in another order: 0 is what was 2.
    test = make_labelled(tmp_path / "test.parquet", ["blue", "red", "green"], rows=9)
    out = tmp_path / "probe.json"
    line = ["eval", "probe", "--work", tmp_path, "--model", tiny_clip, "--teacher", tiny_clip, "--out", out]
    assert mmkd(*line, "--train-data", train, "--data", test).returncode == 0
    printed = capsys.readouterr().out
    assert "linear probe top-1" in printed
    assert "10-NN top-1" in printed
    assert "100-NN" not in printed  # there are but 24
    written = json.loads(out.read_text())
    assert (written["schema"], written["schema_version"]) == ("mmkd.probe", 1)
    assert (written["set"]["train_images"], written["set"]["test_images"]) == (24, 9)
    assert written["models"]["student"]["paired"]["10-NN"]["difference"] == 0
    # All pictures of one colour are of one class, under its name in either file; the test file names them wrongly.
    assert written["models"]["student"]["scores"]["10-NN top-1"]["value"] == 0
    assert out.with_suffix(".png").stat().st_size > 5_000
    other = make_labelled(tmp_path / "other.parquet", ["red", "green", "pink"])
    wrong = mmkd(*line, "--train-data", train, "--data", other)
    assert wrong.returncode == 1
    assert "pink" in wrong.stderr
