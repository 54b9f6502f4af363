"""What ``mmkd report`` makes of run folders that anybody wrote."""

import json
import re
from pathlib import Path

import pytest
from report_page import Page, report
from report_runs import CLASSES, evaluate, jpeg, judge_bias, make_run, write_examples

from mmkd.files import write_json
from mmkd.report.evaluations import read_evaluation
from mmkd.report.run import picture, read_report_run

HOSTILE = "<script>alert('x')</script>$\\frac$\x1b[31m"


@pytest.fixture
def run(tmp_path: Path, tiny_clip: Path):
    one = make_run(tmp_path / "runs" / "2026-01-02-mse+cos", tiny_clip)
    evaluate(one)
    judge_bias(one)
    return one


def hostile(value):
    """The same JSON with every text, and every key that names something, hostile."""
    kept = {"teacher", "student", "top-1", "mmkd.zero-shot", "mmkd.bias"}
    if isinstance(value, dict):
        return {key: hostile(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [hostile(inner) for inner in value]
    return HOSTILE if isinstance(value, str) and value not in kept and "/9j/" not in value else value


def test_what_a_run_says_of_itself_is_never_markup(run, tmp_path: Path) -> None:
    for name in ("run.json", "zero-shot.json", "zero-shot-examples.json", "bias.json"):
        value = hostile(json.loads((run.folder / name).read_text()))
        if name == "zero-shot.json":
            value["sets"][0]["class_names"] = CLASSES
            value["sets"][0]["models"][HOSTILE] = value["sets"][0]["models"]["student"]
        if name == "bias.json":
            value["models"] = {
                k: {"gaps": {HOSTILE + str(i): i / 9 for i in range(4)}} for k in ("teacher", "student")
            }
        write_json(run.folder / name, value)
    (run.folder / "zero-shot-confusion.csv").write_text(
        (run.folder / "zero-shot-confusion.csv").read_text().replace("animals", HOSTILE.replace("\x1b", ""))
    )
    (run.folder / "metrics.jsonl").write_text(
        json.dumps({"step": 1, "loss": 1.0, HOSTILE: 2.0, "lr": 0.1}) + "\n"
    )
    run.config.write_text(HOSTILE.replace("\x1b", ""))
    text = (tmp_path / "page.html", report(run.folder, out=tmp_path / "page.html"))[0].read_text()
    assert "<script" not in text
    assert "\x1b" not in text
    assert "&lt;script&gt;alert" in text
    assert r"$\frac" in Page(tmp_path / "page.html").text, "read as a formula"
    lines = (tmp_path / "page.md").read_text().splitlines()
    assert not [line for line in lines if "<script" in line and not line.startswith("    ")]
    assert all(re.fullmatch(r"[\w+@.-]+", file.name) for file in (tmp_path / "page-plots").iterdir())


@pytest.mark.parametrize(
    "name", ["zero-shot.json", "zero-shot-confusion.csv", "zero-shot-examples.json", "bias.json"]
)
@pytest.mark.parametrize(
    "content", ["", "{", '{"schema": "mmkd.bias"}', '{"schema": 1, "sets": {"a": 1}}', "[]", "\xff"]
)
def test_a_broken_file_costs_its_own_part_of_the_page(run, tmp_path: Path, name: str, content: str) -> None:
    (run.folder / name).write_bytes(content.encode("latin-1"))
    read = read_report_run(run.folder, "one")
    assert len(read.steps) == 4
    assert read.parameters
    if name == "zero-shot.json":
        assert any("zero-shot.json is left out" in problem for problem in read.problems)


@pytest.mark.parametrize("bad", [True, "0.5", 1e400, -0.2, 1.5, None, [], {}])
def test_a_score_that_is_no_share_is_left_out(run, bad: object) -> None:
    value = evaluate(run)
    value["sets"][0]["models"]["student"]["scores"]["top-1"]["value"] = bad
    (run.folder / "zero-shot.json").write_text(json.dumps(value).replace("Infinity", "1e400"))
    (one,) = read_evaluation(run.folder / "zero-shot.json", "zero-shot").sets
    assert "top-1" not in one.models["student"].scores


def test_only_jpegs_become_pictures() -> None:
    assert picture(jpeg())
    for bad in ("", "PHN2Zz4=", jpeg() + '" onload="x', "/9j/" + "A" * 200_000, 5, None, ["/9j/"]):
        assert picture(bad) == ""


def test_hostile_retrieval_examples_make_no_pictures(run, tmp_path: Path) -> None:
    found = {"caption": HOSTILE, "picture": "x", "texts": {"student": [{"caption": HOSTILE, "own": "yes"}]}}
    write_examples(
        run, "retrieval", [{"name": HOSTILE, "examples": [{**found, "images": {"student": [7, None]}}]}]
    )
    page = report(run.folder, out=tmp_path / "page.html")
    assert "no picture" in page.text
    assert "<script" not in (tmp_path / "page.html").read_text()
