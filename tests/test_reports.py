"""``docs/reports.md`` lists the keys that the reports hold, all of them and no other."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from test_cli_eval import colours, mmkd, work  # noqa: F401 - fixtures
from test_retrieval import captioned  # noqa: F401 - fixture

from mmkd.evaluation.builtin_sets import BuiltinSet

PAGE = (Path(__file__).parents[1] / "docs" / "reports.md").read_text()
OPEN = {
    "models": "MODEL", "cost": "MODEL", "scores": "METRIC", "retention": "METRIC", "beside": "METRIC",
    "skipped": "REASON", "median_rank": "WAY", "left_out": "SET",
    "versions": "LIBRARY",
}  # fmt: skip


def objects() -> dict[frozenset[str], str]:
    """The name of each object that occurs in several places, by its keys."""
    table = PAGE.split("| object |")[1].split("\n## ")[0]
    rows = re.findall(r"^\| (\w+) \| (`.*`) \|$", table, re.MULTILINE)
    return {frozenset(re.findall(r"`(\w+)`", keys)): name for name, keys in rows}


def documented(file: str) -> dict[str, str]:
    """Type by key, as the page has it."""
    section = PAGE.split(f"## `{file}`")[1].split("\n## ")[0]
    return dict(re.findall(r"^\| `([^`]+)` \| ([\w ]+) \|", section, re.MULTILINE))


def written(value: object, path: str = "", names: str | None = None) -> dict[str, set[str]]:
    """Types by key, as a report has them."""
    found: dict[str, set[str]] = {}

    def add(more: dict[str, set[str]]) -> None:
        for key, kinds in more.items():
            found.setdefault(key, set()).update(kinds)

    if isinstance(value, dict) and names is None and frozenset(value) in objects():
        add({path: {objects()[frozenset(value)]}})
    elif isinstance(value, dict):
        for key, item in value.items():
            below = f"{path}.{names or key}".lstrip(".")
            probes = "PROBE" if key == "paired" and isinstance(item, dict) and "both" not in item else None
            add(written(item, below, None if names else OPEN.get(key, probes)))
    elif isinstance(value, list) and value and isinstance(value[0], dict):
        for item in value:
            add(written(item, f"{path}[]"))
    elif not (isinstance(value, list) and path.endswith(("by_template", "most_confused", "published"))):
        kind = {bool: "truth", int: "number", float: "number", str: "text", list: "list"}
        add({path: {kind.get(type(value), "null")}})
    return found


def check(file: str, report: dict) -> None:
    page, found = documented(file), written(report)
    assert set(found) == set(page)
    for key, kinds in found.items():
        assert kinds <= set(page[key].split(" or ")), key


def test_zero_shot(
    work: Path,  # noqa: F811
    tiny_clip: Path,
    colours: Path,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    here = BuiltinSet(
        "bright", str(colours), "train", "label", ("red", "green", "blue", "yellow", "purple", "orange"),
        ("a {}", "the {}"), published={str(tiny_clip): {"top-1": 16.7}},
    )  # fmt: skip
    sets = {"bright": here, "far": replace(here, name="far", data="nobody/has-it")}
    for module in ("builtin_sets", "published", "tasks"):
        monkeypatch.setattr(f"mmkd.evaluation.{module}.builtin_sets", lambda: sets)
    monkeypatch.setattr("mmkd.evaluation.published.TOLERANCE", 100)
    out = tmp_path / "out.json"
    options = ("--model", work / "runs" / "first", "--check", "--all", "--by-template", "--speed")
    assert mmkd("eval", "zero-shot", "--work", work, "--out", out, *options) == 1  # one set is not here
    report = json.loads(out.read_text())
    report["sets"][0]["skipped"] = {"no image data": 1}
    check("zero-shot.json", report)


def test_retrieval(work: Path, captioned: Path, tmp_path: Path) -> None:  # noqa: F811
    out = tmp_path / "out.json"
    assert mmkd("eval", "retrieval", "--work", work, "--data", captioned, "--out", out) == 0
    report = json.loads(out.read_text())
    report["sets"][0]["skipped"] = {"no caption": 1}
    check("retrieval.json", report)


def test_probe(work: Path, colours: Path, tmp_path: Path) -> None:  # noqa: F811
    out, copy = tmp_path / "out.json", tmp_path / "learn.parquet"
    copy.write_bytes(colours.read_bytes())
    sides = ("--train-data", copy, "--data", colours)
    assert mmkd("eval", "probe", "--work", work, *sides, "--out", out) == 0
    check("probe.json", json.loads(out.read_text()))
