"""``mmkd eval zero-shot`` as typed, on tiny models; bad models for ``mmkd eval bias`` too."""

import csv
import io
import json
from pathlib import Path

import pytest
from conftest import save_tiny_clip
from PIL import Image

from mmkd.cli.app import run
from mmkd.cli.tables import align
from mmkd.files import write_json
from mmkd.runs import claim_run_folder

COLOURS = ["red", "green", "blue", "yellow", "purple", "orange"]


def make_labelled(path: Path, names: list[str], rows: int = 24) -> Path:
    from datasets import ClassLabel, Dataset, Features
    from datasets import Image as ImageFeature

    def png(number: int) -> bytes:
        stream = io.BytesIO()
        Image.new("RGB", (20 + number, 24), COLOURS[number % 6]).save(stream, "PNG")
        return stream.getvalue()

    features = Features({"image": ImageFeature(), "label": ClassLabel(names=names)})
    images = [{"bytes": png(i), "path": None} for i in range(rows)]
    table = {"image": images, "label": [i % len(names) for i in range(rows)]}
    Dataset.from_dict(table, features=features).to_parquet(str(path))
    return path


@pytest.fixture(scope="module")
def colours(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_labelled(tmp_path_factory.mktemp("labelled") / "colours.parquet", COLOURS)


@pytest.fixture
def work(tmp_path: Path, tiny_clip: Path) -> Path:
    """A workspace with one finished run, whose teacher is the tiny CLIP."""
    one = claim_run_folder(tmp_path / "work" / "runs" / "first", {"teacher": {"model": str(tiny_clip)}})
    save_tiny_clip(one.student, layers=2, seed=1)
    one.update(state="finished")
    return tmp_path / "work"


def mmkd(*arguments: object) -> int:
    with pytest.raises(SystemExit) as left:
        run([str(argument) for argument in arguments])
    return int(left.value.code or 0)


def test_zero_shot_of_the_latest_run(work: Path, colours: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert mmkd("eval", "zero-shot", "--work", work, "--data", colours, "--batch-size", 7) == 0
    printed = capsys.readouterr()
    header, first, *_ = printed.out.splitlines()
    assert header.split() == ["chance", "teacher", "student", "kept"]
    assert first.startswith("colours   top-1")
    assert "16.7" in first
    assert "4 + 4 layers" in printed.err
    report = json.loads((work / "runs" / "first" / "zero-shot.json").read_text())
    assert (report["schema"], report["schema_version"], report["reference"]) == (
        "mmkd.zero-shot",
        1,
        "teacher",
    )
    one = report["sets"][0]
    assert (one["name"], one["images"], one["class_names"]) == ("colours", 24, COLOURS)
    scores = one["models"]["student"]["scores"]["top-1"]
    assert scores["low"] <= scores["value"] <= scores["high"]
    assert scores["chance"] == pytest.approx(1 / 6)


def test_a_second_evaluation_embeds_nothing_and_says_the_same(
    work: Path,
    colours: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    page = tmp_path / "page.html"
    evaluate = ("eval", "zero-shot", "--work", work, "--data", colours, "--by-template", "--html", page)
    assert mmkd(*evaluate) == 0
    first, text = capsys.readouterr().out, page.read_text()
    folder = work / "runs" / "first"
    kept = {file.name: file.read_bytes() for file in folder.glob("zero-shot*")}
    ends = (".json", ".csv", "-confusion.csv", "-examples.json", ".png")
    assert set(kept) == {f"zero-shot{end}" for end in ends}
    monkeypatch.setattr("mmkd.encoders.PairEncoder.preprocess", None)
    monkeypatch.setattr("mmkd.encoders.PairEncoder.encode_texts", None)
    assert mmkd(*evaluate) == 0
    assert capsys.readouterr().out == first
    assert {file.name: file.read_bytes() for file in folder.glob("zero-shot*")} == kept
    assert page.read_text() == text
    monkeypatch.undo()
    assert (
        mmkd(
            "eval", "zero-shot", "--work", tmp_path / "other", *evaluate[4:6], "--no-keep", "--model", folder
        )
        == 0
    )
    assert not (tmp_path / "other" / "embeddings").exists()


def test_everything_that_is_written_says_the_same(
    work: Path, colours: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "page.html"
    assert mmkd("eval", "zero-shot", "--work", work, "--data", colours, "--html", page, "--by-template") == 0
    printed = capsys.readouterr().out
    folder = work / "runs" / "first"
    report = json.loads((folder / "zero-shot.json").read_text())
    with (folder / "zero-shot.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    student = report["sets"][0]["models"]["student"]
    assert [row["metric"] for row in rows] == 2 * ["top-1", "top-5", "mean per-class recall"]
    assert float(rows[3]["value"]) == student["scores"]["top-1"]["value"]
    with (folder / "zero-shot-confusion.csv").open() as stream:
        confused = [row for row in csv.DictReader(stream) if row["model"] == "student"]
    assert sum(int(row["images"]) for row in confused) == 24
    right = sum(int(row["images"]) for row in confused if row["true"] == row["predicted"])
    assert right / 24 == student["scores"]["top-1"]["value"]
    paired = student["paired"]
    assert paired["both"] + paired["only_model"] == right
    assert f"{100 * paired['difference']:+.1f} [" in printed
    assert "calibration error" in printed
    assert "all of them, averaged" in printed
    text = page.read_text()
    assert "Most confused by student" in text
    assert text.count("data:image/jpeg;base64,") >= 2
    assert "http" not in text.replace("http-equiv", "")


def test_zero_shot_of_several_models_without_a_teacher(
    tmp_path: Path, tiny_clip: Path, colours: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other, out = save_tiny_clip(tmp_path / "other", layers=2, seed=2), tmp_path / "report.json"
    models = ("--model", tiny_clip, "--model", other)
    assert mmkd("eval", "zero-shot", *models, "--data", colours, "--out", out, "--limit", 12) == 0
    assert capsys.readouterr().out.splitlines()[0].split() == ["chance", "tiny-clip", "other"]
    report = json.loads(out.read_text())
    assert list(report["models"]) == ["other", "tiny-clip"]
    assert report["reference"] is None
    assert report["sets"][0]["images"] == 12


def test_a_run_stands_beside_another_and_its_teacher(
    work: Path, tmp_path: Path, colours: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scratch = claim_run_folder(tmp_path / "scratch", {})
    save_tiny_clip(scratch.student, layers=2, seed=3)
    models = ("--model", work / "runs" / "first", "--model", scratch.folder)
    assert mmkd("eval", "zero-shot", *models, "--data", colours, "--work", work) == 0
    header = capsys.readouterr().out.splitlines()[0].split()
    assert header == ["chance", "teacher", "first", "kept", "scratch", "kept"]
    assert (work / "runs" / "first" / "zero-shot.json").is_file()


def test_a_broken_student_is_called_at_chance_and_collapsed(
    work: Path, colours: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from transformers import CLIPModel

    broken = CLIPModel.from_pretrained(work / "runs" / "first" / "student")
    broken.vision_model.post_layernorm.weight.data.zero_()
    broken.vision_model.post_layernorm.bias.data.normal_()
    broken.save_pretrained(work / "runs" / "first" / "student")
    assert mmkd("eval", "zero-shot", "--work", work, "--data", colours) == 0
    first = capsys.readouterr().out.splitlines()[1]
    assert "at chance, collapsed (effective rank 1.0 of 24)" in first


def one_line(capsys: pytest.CaptureFixture[str]) -> str:
    printed = capsys.readouterr()
    assert printed.out == ""
    last = [line for line in printed.err.splitlines() if line.startswith("mmkd: ")]
    assert len(last) == 1
    assert "Traceback" not in printed.err
    return last[0]


@pytest.mark.parametrize("command", ["zero-shot", "bias"])
def test_bad_models_give_one_line(
    command: str, tmp_path: Path, colours: Path, work: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = ("--data", colours) if command == "zero-shot" else ()
    assert mmkd("eval", command, "--work", tmp_path / "empty", *data) == 1
    assert "no finished run in" in one_line(capsys)
    bert = tmp_path / "bert"
    write_json(bert / "config.json", {"model_type": "bert"})
    assert mmkd("eval", command, "--model", bert, "--teacher", bert, "--work", work, *data) == 1
    assert "is a 'bert' model; expected a CLIP" in one_line(capsys)
    half = claim_run_folder(tmp_path / "half", {}).folder
    assert mmkd("eval", command, "--model", half, "--work", work, *data) == 1
    assert "has no student yet" in one_line(capsys)
    assert mmkd("eval", command, "--model", "nobody/nothing", "--teacher", "x/y", "--work", work, *data) == 1
    assert "cannot be reached" in one_line(capsys)
    assert mmkd("eval", command, "--out", tmp_path, "--work", work, *data) == 1
    assert "is a folder; expected the name of a file" in one_line(capsys)
    assert not list((work / "runs" / "first").glob("*.json.*"))


def test_bad_data_gives_one_line(work: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def fails(*arguments: object) -> str:
        assert mmkd("eval", "zero-shot", "--work", work, *arguments) == 1
        return one_line(capsys)

    assert "did you mean 'cifar100'?" in fails("--data", "cifar1000")
    assert "no built-in data set 'birds'" in fails("--data", "birds=x.parquet")
    single = make_labelled(tmp_path / "single.parquet", ["red"], 4)
    assert "has 1 class names; expected at least 2" in fails("--data", single)
    assert "are not those of cifar10: found 'red', lacks" in fails("--data", f"cifar10={single}")
    assert "cannot be reached" in fails("--data", "cifar10")
    assert "cannot read templates" in fails("--data", single, "--templates", tmp_path / "none.txt")
    assert mmkd("eval", "zero-shot", "--limit", 1) == 2


def test_tables_align_their_columns() -> None:
    assert align([["", "bb", "c"], ["aaaa", "b", ""], ["a"]]) == ["       bb   c", "aaaa   b", "a"]
