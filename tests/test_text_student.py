"""``benchmarks/text_student.py``: its scores by hand, and the whole of it at small size."""

import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest

FILE = Path(__file__).parent.parent / "benchmarks" / "text_student.py"


@pytest.fixture(scope="module")
def benchmark():
    spec = importlib.util.spec_from_file_location("text_student", FILE)
    module = importlib.util.module_from_spec(spec)
    sys.modules["text_student"] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules["text_student"]


def test_places_and_cosines_by_hand(benchmark):
    right = np.eye(3)
    found = np.array([[1.0, 0, 0], [0.8, 0.6, 0], [0, 0.6, 0.8]])
    scores = benchmark.score(found, right)
    assert (scores.cosine, scores.rank) == (pytest.approx(0.8), pytest.approx(4 / 3))
    assert (scores.median, scores.top1, scores.top10) == (1, pytest.approx(2 / 3), 1)
    assert benchmark.score(np.ones((3, 3)) / 3**0.5, right).rank == 3  # ties count against
    blind = benchmark.chance(right, np.array([[1.0, 0, 0], [0, 1, 0]]))
    assert (blind.rank, blind.top1) == (2, pytest.approx(1 / 3))
    assert blind.cosine == pytest.approx(2 * 2**-0.5 / 3)


def test_a_small_student_beats_chance_on_what_it_was_shown(
    benchmark, shared_data, tmp_path, monkeypatch, capsys
):
    options = ["--layers", "1", "--width", "64", "--epochs", "6", "--lr", "3e-3"]
    monkeypatch.setattr(sys, "argv", ["text_student.py", "--out", str(tmp_path), *options])
    assert benchmark.main() == 0
    assert "| LVIS, held out (203) | student |" in capsys.readouterr().out
    scores = json.loads((tmp_path / "scores.json").read_text())
    shown = scores["LVIS, trained on"]
    assert shown["student"]["rank"] < 0.9 * shown["chance"]["rank"]
    assert scores["COCO, not trained on"]["student"]["count"] < 80
