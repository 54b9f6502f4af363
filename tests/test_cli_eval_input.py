"""Images, labels and class names that are wrong or odd, as typed: one line and the remedy, or a score and a note."""

import io
import json
import re
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import save_tiny_clip
from PIL import Image
from test_cli_eval import COLOURS, mmkd, one_line


def picture(number: int, mode: str = "RGB", size: tuple[int, int] = (20, 24)) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", size, COLOURS[number % 6]).convert(mode).save(stream, "PNG")
    return stream.getvalue()


def save(path: Path, labels: list, names: list[str] | None = None, images: list[bytes] | None = None) -> Path:
    """A Parquet file as ``datasets`` writes it; the names, if any, as they are given, sense or none."""
    images = [picture(row) for row in range(len(labels))] if images is None else images
    kind = pa.string() if labels and isinstance(labels[0], str) else pa.int64()
    table = pa.table(
        {
            "image": pa.array(
                [{"bytes": one, "path": None} for one in images],
                pa.struct([("bytes", pa.binary()), ("path", pa.string())]),
            ),
            "label": pa.array(labels, kind),
        }
    )
    label = {"names": names, "_type": "ClassLabel"} if names else {"dtype": str(kind), "_type": "Value"}
    features = {"info": {"features": {"image": {"_type": "Image"}, "label": label}}}
    pq.write_table(table.replace_schema_metadata({"huggingface": json.dumps(features)}), path)
    return path


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_clip(tmp_path_factory.mktemp("model") / "clip", layers=1)


@pytest.fixture
def evaluate(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    def run(data: object, *more: object) -> int:
        return mmkd("eval", "zero-shot", "--model", model, "--work", tmp_path / "work", "--data", data, *more)

    return run


@pytest.mark.parametrize(
    ("labels", "names", "builtin", "message"),
    [
        ([0, 7, 1], None, "fer2013=", "row 1 of fer2013 has label 7; expected 0 to 6, one for each"),
        ([0, -1, 1], COLOURS, "", "row 1 of .* has no label; expected a class for every image"),
        (
            [0, 6, 1],
            COLOURS,
            "",
            "row 1 of mine has label 6; expected 0 to 5, one for each of its 6 class names",
        ),
        ([0, 1, 2], None, "", "has bare numbers in its column 'label'; expected class names"),
        (["red"] * 3, None, "", "has 1 class names; expected at least 2"),
        ([0, 0], ["red"], "", "has 1 class names; expected at least 2"),
        (
            [0, 1, 2],
            ["red", "blue", "red"],
            "",
            "cannot open .* Some label names are duplicated. Each label name should be unique",
        ),
        ([], COLOURS, "", "has no rows; expected at least one"),
        ([0], COLOURS, "", "has 1 images that can be decoded; expected at least 2"),
    ],
)
def test_labels_and_names_that_make_no_sense_give_one_line(
    labels: list,
    names: list[str] | None,
    builtin: str,
    message: str,
    evaluate,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert evaluate(f"{builtin}{save(tmp_path / 'mine.parquet', labels, names)}") == 1
    assert re.search(message, one_line(capsys))
    assert not list((tmp_path / "work").glob("*.json"))


def test_images_of_which_none_can_be_decoded_give_one_line(
    evaluate, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = save(tmp_path / "mine.parquet", [0, 1, 2], COLOURS, [b"", b"no image", picture(0)[:40]])
    assert evaluate(file) == 1
    assert "has 0 images that can be decoded; expected at least 2" in one_line(capsys)


def test_a_class_without_an_image_is_noted(
    evaluate, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = save(tmp_path / "mine.parquet", [0, 1, 2, 0, 1, 2], COLOURS)
    assert evaluate(file, "--html", tmp_path / "page.html") == 0
    assert "mine: 3 of 6 classes have no image" in capsys.readouterr().out
    report = json.loads((tmp_path / "work" / "zero-shot.json").read_text())
    chance = report["sets"][0]["models"]["student"]["scores"]["mean per-class recall"]["chance"]
    assert chance == pytest.approx(1 / 3)


def test_fewer_classes_than_k_leave_top_5_out(
    evaluate, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert evaluate(save(tmp_path / "mine.parquet", [0, 1, 2, 0, 1, 2], COLOURS[:3])) == 0
    printed = capsys.readouterr().out
    assert "mine: no top-5: with 3 classes it is always right" in printed
    assert "mine: no p-value: 3 class names have too few orders" in printed
    assert "top-5  " not in printed


def test_grey_and_one_pixel_images_are_images(
    evaluate, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kinds = [("L", (20, 24)), ("1", (20, 24)), ("LA", (9, 9)), ("P", (9, 9))]
    kinds += [("RGB", (1, 1)), ("L", (1, 1)), ("RGB", (1, 40)), ("RGB", (40, 1))]
    images = [picture(row, *kind) for row, kind in enumerate(kinds)]
    assert evaluate(save(tmp_path / "mine.parquet", [row % 6 for row in range(8)], COLOURS, images)) == 0
    printed = capsys.readouterr()
    assert "left out" not in printed.out
    assert "Warning" not in printed.err
    report = json.loads((tmp_path / "work" / "zero-shot.json").read_text())
    assert report["sets"][0]["images"] == 8


@pytest.mark.parametrize(
    ("train", "test", "message"),
    [
        (([0, 6, 1], COLOURS), None, "row 1 of good .train. has label 6; expected 0 to 5"),
        (None, ([0, 9, 1], COLOURS), "row 1 of odd .test. has label 9; expected 0 to 5"),
        (([0, 0, 0], ["red"]), ([0, 0], ["red"]), "has training images of one class; expected at least 2"),
        (([0, 1], None), None, "has bare numbers for labels; expected class names"),
        (([], COLOURS), None, "has no rows; expected at least one"),
        (
            ([0, 1, 2], COLOURS[:3]),
            None,
            "differ in their classes: 'orange', 'purple', 'yellow' in one alone",
        ),
    ],
)
def test_probes_of_what_makes_no_sense_give_one_line(
    train: tuple | None,
    test: tuple | None,
    message: str,
    model: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    good = save(tmp_path / "good.parquet", [0, 1, 2, 3, 4, 5], COLOURS)
    learn = good if train is None else save(tmp_path / "learn.parquet", *train)
    judge = good if test is None else save(tmp_path / "odd.parquet", *test)
    sides = ("--train-data", learn, "--data", judge)
    if train is None:
        sides = ("--train-data", save(tmp_path / "learn.parquet", [0, 1, 2], COLOURS), "--data", judge)
    assert mmkd("eval", "probe", "--model", model, "--work", tmp_path / "work", *sides) == 1
    assert re.search(message, one_line(capsys))


def test_a_probe_says_which_classes_it_could_not_learn(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    learn = save(tmp_path / "learn.parquet", [0, 1, 2, 0, 1, 2], COLOURS)
    judge = save(tmp_path / "judge.parquet", [0, 1, 2, 3, 4, 5], COLOURS)
    sides = ("--train-data", learn, "--data", judge)
    assert mmkd("eval", "probe", "--model", model, "--work", tmp_path / "work", *sides) == 0
    assert "3 of 6 classes have no training image, so theirs cannot be right" in capsys.readouterr().out
