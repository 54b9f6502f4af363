"""Benchmarks run at sizes that say nothing; what they say of themselves is true; a figure that fell is named."""

import importlib
import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

FOLDER = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture(scope="module", autouse=True)
def found():
    """Benchmarks import each other by their bare names."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(FOLDER))
        before = set(sys.modules)
        yield
        for name in set(sys.modules) - before:
            if (FOLDER / f"{name}.py").is_file():
                del sys.modules[name]


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Run a benchmark small, in this process; what it wrote."""

    def call(name: str, *words: str) -> dict:
        command = [f"{name}.py", "--small", "--repeats", "1", "--out", str(tmp_path), *words]
        monkeypatch.setattr(sys, "argv", command)
        threads = torch.get_num_threads()
        try:
            importlib.import_module(name).main()
        finally:
            torch.set_num_threads(threads)
        return json.loads((tmp_path / f"{name}.json").read_text())

    return call


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("gpu_training", ("--folder", "{}")),
        ("gpu_in_loop", ("--folder", "{}")),
        ("gpu_caching", ()),
        ("gpu_mining", ()),
        ("gpu_tiled_loss", ()),
        ("gpu_open_clip", ("--without-peer",)),
    ],
)
@pytest.mark.skipif(torch.cuda.is_available(), reason="holds what is said without a GPU")
def test_without_a_gpu_its_figures_are_not_measured(run, tmp_path, name, words):
    said = run(name, *(word.format(tmp_path / "data") for word in words))
    assert said["figures"]
    assert {figure["value"] for figure in said["figures"]} == {None}
    assert {figure["holds"] for figure in said["figures"]} == {None}


@pytest.mark.skipif(torch.cuda.is_available(), reason="holds what is said without a GPU")
def test_without_a_gpu_and_at_full_size_nothing_is_run(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(sys, "argv", ["gpu_mining.py", "--out", str(tmp_path)])
    with pytest.raises(SystemExit) as end:
        importlib.import_module("gpu_mining").main()
    assert end.value.code == 0
    assert "no GPU here: nothing was measured" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "words", "figures"),
    [
        ("cache_write", ("--folder", "{}"), 2),
        ("cache_read", ("--folder", "{}"), 2),
        ("random_batches", ("--folder", "{}"), 5),
        ("large_jpegs", (), 5),
        ("caption_trimming", (), 3),
        ("mining_peer", ("--here",), 4),
        ("exact_mining", ("--k", "20"), 2),
    ],
)
def test_each_writes_its_figures_with_machine_versions_and_date(run, tmp_path, name, words, figures):
    said = run(name, *(word.format(tmp_path / "data") for word in words))
    assert (said["schema"], said["schema_version"], said["benchmark"]) == ("mmkd-benchmark", 1, name)
    assert said["command"].startswith(f"python benchmarks/{name}.py --small")
    assert str(tmp_path) not in said["command"].partition("--folder")[0]
    assert len(said["figures"]) == figures
    assert said["small"]
    assert said["versions"]["torch"] == torch.__version__
    assert said["machine"]["cpu"]
    assert said["date"].endswith("UTC")
    for figure in said["figures"]:
        if "recall" in figure["name"] or "negatives are those" in figure["name"]:
            assert figure["value"] >= 0.9999, figure


def test_ways_are_timed_by_turns_forwards_and_backwards():
    side_by_side = importlib.import_module("side_by_side")
    called = []
    ways = {name: lambda name=name: called.append(name) for name in "abc"}
    sides = side_by_side.alternate(ways, repeats=2)
    assert "".join(called) == "abc" + "abc" + "cba"
    assert {len(side.wall) for side in sides.values()} == {len(side.cpu) for side in sides.values()} == {2}


def test_a_ratio_is_of_medians_and_a_peer_times_itself():
    side_by_side = importlib.import_module("side_by_side")
    spent = iter([1.0, 100.0, 2.0, 3.0])
    ways = {
        "slow": lambda: time.sleep(0.02),
        "peer": lambda: side_by_side.Timed(next(spent), 0.5),
    }
    sides = side_by_side.alternate(ways, repeats=3)
    assert sides["peer"].wall == [100.0, 2.0, 3.0]
    assert side_by_side.ratio(sides, "peer", "slow") == pytest.approx(3.0 / sides["slow"].median("wall"))
    assert sides["slow"].median("wall") >= 0.02 > sides["slow"].median("cpu")


@pytest.mark.parametrize(
    ("value", "bar", "holds"),
    [
        (0.9, {"at_least": 0.9}, True),
        (0.89, {"at_least": 0.9}, False),
        (1.02, {"at_most": 1.02}, True),
        (1.03, {"at_most": 1.02}, False),
        (None, {"at_least": 0.9}, None),
        (5.0, {}, None),
    ],
)
def test_a_claim_holds_or_does_not(value, bar, holds):
    assert importlib.import_module("side_by_side").Figure("a figure", value, **bar).holds is holds


def results(value: float | None, *, small: bool = False, **bar: float) -> dict:
    figure = {
        "name": "ratio",
        "value": value,
        "holds": None,
        "at_least": None,
        "at_most": None,
        "note": "",
    } | bar
    return {"cache_write": {"small": small, "figures": [figure]}}


@pytest.mark.parametrize(
    ("recorded", "value", "bar", "named"),
    [
        (1.0, 0.91, {"at_least": 0.9}, False),
        (1.0, 0.89, {"at_least": 0.9}, True),
        (1.0, 3.0, {"at_least": 0.9}, False),
        (1.0, 1.09, {"at_most": 1.1}, False),
        (1.0, 1.11, {"at_most": 1.1}, True),
        (1.0, 0.2, {"at_most": 1.1}, False),
        (1.0, None, {"at_least": 0.9}, False),
        (None, 0.1, {"at_least": 0.9}, False),
    ],
)
def test_what_falls_by_more_than_a_tenth_is_named(recorded, value, bar, named):
    suite = importlib.import_module("suite")
    known = {} if recorded is None else {"cache_write": {"ratio": recorded}}
    lines = suite.fallen(results(value, **bar), known)
    assert bool(lines) is named
    assert all("cache_write: ratio is" in line for line in lines)
    assert not suite.fallen(results(value, small=True, **bar), known), "small sizes say nothing"


def test_recorded_ratios_are_of_benchmarks_that_there_are():
    suite = importlib.import_module("suite")
    recorded = json.loads(suite.RECORDED.read_text())
    assert recorded
    assert set(recorded) <= set(suite.CPU)
    for name in (*suite.CPU, *suite.GPU):
        assert (FOLDER / f"{name}.py").is_file()


def test_what_was_not_measured_is_said_so_in_the_table():
    suite = importlib.import_module("suite")
    table = suite.table(results(None, at_least=0.9), ("cache_write", "growth"))
    assert "| ratio | at least 0.9 | not measured |" in table
    assert "| `growth.py` | | **not measured** | |" in table
    assert "**falls short**" in suite.table(results(0.5, at_least=0.9, holds=False), ("cache_write",))


def test_small_sizes_are_no_figures():
    suite = importlib.import_module("suite")
    small = results(0.5, small=True, at_least=0.9, holds=False)
    assert suite.table(small, ("cache_write",)).endswith("| `cache_write.py` | | **not measured** | |")
    assert "cache_write" not in suite.runs(small, ("cache_write",))
    assert suite.ratios(small) == {}
    assert suite.ratios(results(0.5, at_least=0.9)) == {"cache_write": {"ratio": 0.5}}


def test_a_benchmark_that_fails_has_no_figures_of_an_earlier_run(tmp_path, monkeypatch, capsys):
    suite = importlib.import_module("suite")
    bench = importlib.import_module("side_by_side")
    kept = [tmp_path / f"{name}.json" for name in ("cache_write", "growth")]
    for path in kept:
        one = results(0.5, at_least=0.9, holds=False)["cache_write"]
        value = {
            "schema": bench.SCHEMA,
            "schema_version": bench.SCHEMA_VERSION,
            "benchmark": path.stem,
            **one,
        }
        path.write_text(json.dumps(value))
    monkeypatch.setattr(suite.subprocess, "run", lambda *_, **__: subprocess.CompletedProcess([], 1))
    assert suite.run(tmp_path, ["cache_write"], small=False) == 1
    assert [path.exists() for path in kept] == [False, True]
    assert "0 claims fall short" in capsys.readouterr().out
