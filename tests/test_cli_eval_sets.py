"""``mmkd eval zero-shot`` on all sets, against published scores, with speed, and of models of several kinds."""

import csv
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import save_tiny_siglip
from test_cli_eval import COLOURS, colours, make_labelled, mmkd, one_line, work  # noqa: F401 - fixtures

from mmkd.cli.zero_shot_sets import open_sets, report_checks
from mmkd.errors import ConfigError, DataError, MmkdError
from mmkd.evaluation.builtin_sets import BuiltinSet, builtin_sets
from mmkd.evaluation.published import TOLERANCE, Reproduction, published_sets

TEMPLATES = ("a {} thing", "a photo of a {}.")


@pytest.fixture
def three_sets(colours: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, BuiltinSet]:  # noqa: F811
    """A local stand-in for the built-in sets: two that are here, and one that the Hub alone has."""
    plain = make_labelled(tmp_path / "plain.parquet", COLOURS[::-1], 18)
    here = BuiltinSet("bright", str(colours), "train", "label", tuple(COLOURS), TEMPLATES)
    sets = {
        "bright": here,
        "far": replace(here, name="far", data="nobody/has-it"),
        "plain": replace(here, name="plain", data=str(plain)),
    }
    for module in ("builtin_sets", "published", "tasks"):
        monkeypatch.setattr(f"mmkd.evaluation.{module}.builtin_sets", lambda: sets)
    return sets


def read(file: Path) -> dict:
    return json.loads(file.read_text())


def test_all_sets_are_gone_through_and_those_out_of_reach_are_named(
    work: Path,  # noqa: F811
    three_sets: dict[str, BuiltinSet],
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert mmkd("eval", "zero-shot", "--work", work, "--all") == 0
    printed = capsys.readouterr()
    assert "far: left out, nobody/has-it is neither a file nor a folder here" in printed.out
    assert "far is left out" in printed.err
    report = read(work / "runs" / "first" / "zero-shot.json")
    assert [one["name"] for one in report["sets"]] == ["bright", "plain"]
    assert [one["images"] for one in report["sets"]] == [24, 18]
    assert list(report["left_out"]) == ["far"]
    assert mmkd("eval", "zero-shot", "--work", work, "--data", "far") == 1
    assert "cannot be reached" in one_line(capsys)


def test_a_local_copy_takes_the_place_of_its_set_and_what_is_there_already_is_not_computed_again(
    work: Path,  # noqa: F811
    colours: Path,  # noqa: F811
    three_sets: dict[str, BuiltinSet],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert mmkd("eval", "zero-shot", "--work", work, "--data", "bright", "--data", "plain") == 0
    assert "were there already" not in capsys.readouterr().err
    before = read(work / "runs" / "first" / "zero-shot.json")
    monkeypatch.setattr("mmkd.evaluation.zero_shot._judge", None)
    assert (
        mmkd("eval", "zero-shot", "--work", work, "--all", "--data", f"plain={three_sets['plain'].data}") == 0
    )
    printed = capsys.readouterr()
    assert "the scores of teacher, student on bright were there already" in printed.err
    after = read(work / "runs" / "first" / "zero-shot.json")
    assert [one["name"] for one in after["sets"]] == ["plain", "bright"]
    assert sorted(map(str, before["sets"])) == sorted(map(str, after["sets"]))


def test_where_no_set_can_be_opened_nothing_is_written(
    work: Path,  # noqa: F811
    three_sets: dict[str, BuiltinSet],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    del three_sets["bright"], three_sets["plain"]
    assert mmkd("eval", "zero-shot", "--work", work, "--all") == 1
    assert "none of 1 data sets can be opened; of far: nobody/has-it" in one_line(capsys)
    assert not (work / "runs" / "first" / "zero-shot.json").exists()


def test_check_says_whether_published_scores_are_reproduced(
    tiny_clip: Path,
    tmp_path: Path,
    three_sets: dict[str, BuiltinSet],
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The logic, on a stand-in: the real teacher and its sets are on the Hub."""
    out = tmp_path / "found.json"
    common = ("eval", "zero-shot", "--model", tiny_clip, "--work", tmp_path / "work")
    assert mmkd(*common, "--data", "bright", "--out", out) == 0
    found = 100 * read(out)["sets"][0]["models"]["student"]["scores"]["top-1"]["value"]
    capsys.readouterr()

    three_sets["bright"] = replace(
        three_sets["bright"], published={str(tiny_clip): {"top-1": round(found + 0.3, 2)}}
    )
    assert mmkd(*common, "--check") == 0
    printed = capsys.readouterr().out
    assert "reproduced (-0.3" in printed
    assert "NOT" not in printed
    report = read(tmp_path / "work" / "zero-shot-check.json")
    assert [one["name"] for one in report["sets"]] == ["bright"]
    assert report["published"][0]["reproduced"] is True
    assert report["published"][0]["tolerance"] == TOLERANCE

    wrong = replace(three_sets["bright"], published={str(tiny_clip): {"top-1": round(found + 5, 2)}})
    three_sets["bright"] = wrong
    assert mmkd(*common, "--check", "--data", "bright", "--data", "plain") == 1
    printed = capsys.readouterr()
    assert "NOT reproduced (-5.0" in printed.out
    assert f"{found:.2f} on bright where {found + 5:.2f} was expected" in printed.err
    assert read(tmp_path / "work" / "zero-shot-check.json")["published"][0]["reproduced"] is False

    assert mmkd(*common, "--check", "--data", "plain") == 1
    assert "no published score on plain is known; expected --data among bright" in one_line(capsys)
    assert mmkd(*common, "--check", "--limit", 5) == 1
    assert "published scores are of all images and the built-in templates; leave out --limit" in one_line(
        capsys
    )
    other = ("eval", "zero-shot", "--model", "who/else", "--check")
    assert mmkd(*other) == 1
    assert "no published score of who/else is known; expected --model" in one_line(capsys)


def test_with_all_a_set_that_cannot_be_evaluated_is_left_out_too(
    work: Path,  # noqa: F811
    three_sets: dict[str, BuiltinSet],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from mmkd.evaluation.zero_shot import evaluate

    def fails_on_plain(encoders, task, **settings):
        if task.name == "plain":
            raise DataError("row 3 of plain has label 9")
        return evaluate(encoders, task, **settings)

    monkeypatch.setattr("mmkd.evaluation.zero_shot.evaluate", fails_on_plain)
    assert mmkd("eval", "zero-shot", "--work", work, "--all") == 0
    report = read(work / "runs" / "first" / "zero-shot.json")
    assert [one["name"] for one in report["sets"]] == ["bright"]
    assert report["left_out"]["plain"] == "row 3 of plain has label 9"
    assert mmkd("eval", "zero-shot", "--work", work, "--data", "plain") == 1


def test_sets_of_one_name_are_told_apart(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        make_labelled(tmp_path / folder / "test.parquet", COLOURS, 12)
    specs = [str(tmp_path / folder / "test.parquet") for folder in ("a", "b")]
    tasks, _ = open_sets(specs, None, lenient=False)
    assert [task.name for task in tasks] == ["test (1)", "test (2)"]


def test_a_part_of_a_set_reproduces_nothing() -> None:
    whole = Reproduction("s", "m", 89.82, 89.82, 10_000, 10_000)
    assert whole.reproduced
    assert not replace(whole, images=9_000).reproduced
    report_checks([whole], ["s"])
    with pytest.raises(
        MmkdError, match=r"89.82 on s \(9,000 images\) where 89.82 \(of 10,000\) was expected"
    ):
        report_checks([replace(whole, images=9_000)], ["s"])
    with pytest.raises(MmkdError, match="far could not be held against a published score"):
        report_checks([whole], ["s", "far"])


def test_the_tolerance_is_four_tenths_of_a_point() -> None:
    assert Reproduction("s", "m", 89.82, 89.42).reproduced
    assert Reproduction("s", "m", 89.82, 90.22).reproduced
    assert not Reproduction("s", "m", 89.82, 89.41).reproduced


def test_what_was_published_of_openai_s_models() -> None:
    assert published_sets(["openai/clip-vit-base-patch32"]) == ["cifar10", "cifar100", "stl10"]
    sets, top_1 = builtin_sets(), {}
    for patch in (32, 16):
        model = f"openai/clip-vit-base-patch{patch}"
        top_1[patch] = [sets[name].published[model]["top-1"] for name in published_sets([model])]
    assert top_1 == {32: [89.82, 64.53, 97.08], 16: [90.83, 66.91, 98.28]}
    with pytest.raises(
        ConfigError, match="expected --model openai/clip-vit-base-patch16 or openai/clip-vit-base"
    ):
        published_sets(["somebody/else"])


def test_teacher_student_baseline_and_a_siglip_stand_in_one_table_with_what_they_cost(
    work: Path,  # noqa: F811
    colours: Path,  # noqa: F811
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    siglip, out = save_tiny_siglip(tmp_path / "siglip", layers=2), tmp_path / "all.json"
    models = ("--model", work / "runs" / "first", "--model", siglip)
    assert mmkd("eval", "zero-shot", *models, "--data", colours, "--work", work, "--out", out, "--speed") == 0
    printed = capsys.readouterr().out
    assert printed.splitlines()[0].split() == ["chance", "teacher", "first", "kept", "siglip", "kept"]
    line = next(line for line in printed.splitlines() if line.startswith("multiply-adds an image"))
    assert line.count(" x 0.") + line.count(" x 1.") >= 1
    assert "images a second" in printed
    assert "speed: forward passes of 16 in float32 on cpu" in printed
    report = read(out)
    assert list(report["cost"]) == list(report["models"]) == sorted(report["models"])
    teacher, student = report["cost"]["teacher"], report["cost"]["first"]
    assert student["parameters"] < teacher["parameters"]
    assert student["image_macs"] < 0.6 * teacher["image_macs"]
    for cost in report["cost"].values():
        rate = cost["images_per_second"]
        assert 0 < rate["low"] <= rate["value"] <= rate["high"]
    with out.with_suffix(".csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert {row["model"] for row in rows} == {"teacher", "first", "siglip"}
    assert int(rows[0]["parameters"]) == teacher["parameters"]
    assert (tmp_path / "all-speed.png").read_bytes().startswith(b"\x89PNG")


def test_a_hub_id_is_judged_like_a_folder_and_checked_by_its_name(
    tiny_clip: Path,
    tmp_path: Path,
    three_sets: dict[str, BuiltinSet],
    capsys: pytest.CaptureFixture[str],
) -> None:
    hub = Path(os.environ["HF_HOME"]) / "hub" / "models--maker--tiny"
    shutil.copytree(tiny_clip, hub / "snapshots" / ("c" * 40))
    (hub / "refs").mkdir()
    (hub / "refs" / "main").write_text("c" * 40)
    try:
        three_sets["bright"] = replace(three_sets["bright"], published={"maker/tiny": {"top-1": 50.0}})
        common = ("eval", "zero-shot", "--model", "maker/tiny", "--work", tmp_path / "work")
        mmkd(*common, "--check")
        printed = capsys.readouterr()
        assert "student   maker/tiny @ ccccccc · 4 + 4 layers" in printed.err
        assert "maker/tiny" in printed.out
        report = read(tmp_path / "work" / "zero-shot-check.json")
        assert report["published"][0]["model"] == "maker/tiny"
        assert report["models"]["student"]["revision"] == "c" * 40
    finally:
        shutil.rmtree(hub)


def test_the_trade_is_drawn_in_grey_where_nothing_is_known() -> None:
    from test_zero_shot import FakeEncoder, task_of

    from mmkd.evaluation.cost import Cost, Rate
    from mmkd.evaluation.zero_shot import evaluate
    from mmkd.evaluation.zero_shot_plot import plot_trade
    from mmkd.evaluation.zero_shot_report import ZeroShotReport

    seen, blind = np.eye(6)[np.arange(60) % 6], np.random.default_rng(0).normal(size=(60, 6))
    models = {"sees": FakeEncoder(np.eye(6), seen), "blind": FakeEncoder(np.eye(6), blind)}
    models["flat"] = FakeEncoder(np.eye(6), np.ones((60, 6)))
    cost = Cost(1_000_000, 1, 1, 1, 1, 1, Rate(10, 9, 11, 5))
    report = evaluate(models, task_of(60, ("a", "b", "c", "d", "e", "f")))
    specs = {name: model.spec for name, model in models.items()}
    whole = ZeroShotReport(specs, None, (report,), dict.fromkeys(models, cost))
    words = [text.get_text().split("\n")[0] for text in plot_trade(whole).axes[0].texts]
    assert words == ["sees", "blind, at chance", "flat, collapsed", "chance"]
    assert plot_trade(replace(whole, costs={})) is None
