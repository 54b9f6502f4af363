"""What ``--data`` stands for: built-in sets by name, local copies of them, and sets of one's own."""

import io
from pathlib import Path

import pytest
from PIL import Image

from mmkd.errors import ConfigError, DataError
from mmkd.evaluation.builtin_sets import builtin_sets, find_builtin, match_classes
from mmkd.evaluation.tasks import open_task, read_templates


def test_labels_are_matched_by_name_whatever_their_order() -> None:
    cifar100 = builtin_sets()["cifar100"]
    hub = ["cra" if n == "crab" else n.replace(" ", "_") for n in cifar100.class_names]
    assert match_classes(hub, cifar100, "hub") == tuple(range(100))
    stl10 = builtin_sets()["stl10"]
    assert match_classes([n.upper() for n in stl10.class_names[::-1]], stl10, "x") == tuple(range(9, -1, -1))


def test_labels_of_another_set_are_refused() -> None:
    stl10 = builtin_sets()["stl10"]
    with pytest.raises(
        DataError, match=r"not those of stl10: found 'automobile', 'frog', lacks 'car', 'monkey'"
    ):
        match_classes(builtin_sets()["cifar10"].class_names, stl10, "FILE")
    with pytest.raises(DataError, match="lacks 'truck'"):
        match_classes(stl10.class_names[:-1], stl10, "FILE")
    with pytest.raises(DataError, match="found 11 labels"):
        match_classes([*stl10.class_names, "Car"], stl10, "FILE")


def save_labelled(path: Path, names: list[str], labels: list[int]) -> Path:
    from datasets import ClassLabel, Dataset, Features
    from datasets import Image as ImageFeature

    features = Features({"image": ImageFeature(), "label": ClassLabel(names=names)})
    stream = io.BytesIO()
    Image.new("RGB", (8, 8)).save(stream, "PNG")
    images = [{"bytes": stream.getvalue(), "path": None}] * len(labels)
    Dataset.from_dict({"image": images, "label": labels}, features=features).to_parquet(str(path))
    return path


def test_local_data_under_a_builtin_name(tmp_path: Path) -> None:
    names = list(builtin_sets()["stl10"].class_names)[::-1]
    file = save_labelled(tmp_path / "mine.parquet", names, [0, 1, 9])
    task = open_task(f"stl10={file}")
    assert (task.name, len(task.templates), len(task.images)) == ("stl10", 2, 3)
    assert [task.class_names[task.label(i, task.images[i][1])] for i in range(3)] == [
        "truck",
        "ship",
        "airplane",
    ]


def test_data_of_ones_own_keeps_its_names(tmp_path: Path) -> None:
    file = save_labelled(tmp_path / "mine.parquet", ["red thing", "blue thing"], [0, 1, 1])
    task = open_task(str(file), ["{} there"])
    assert (task.name, task.class_names, task.templates) == (
        "mine",
        ("red thing", "blue thing"),
        ("{} there",),
    )
    assert open_task(str(file)).templates == ("a photo of a {}.",)


def test_an_unknown_name_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"no built-in data set 'cifar01'.*did you mean 'cifar10'\?.*stl10"):
        open_task("cifar01")
    with pytest.raises(ConfigError, match="no built-in data set 'birds'"):
        open_task("birds=somewhere.parquet")
    assert find_builtin("stl10").data == "tanganke/stl10"


def test_templates_from_a_file(tmp_path: Path) -> None:
    text, listed = tmp_path / "six.txt", tmp_path / "two.yaml"
    text.write_text("# mine\na photo of a {}.\n\n  the {}\n")
    listed.write_text("- a photo of a {}.\n- the {}\n")
    assert read_templates(text) == read_templates(listed) == ("a photo of a {}.", "the {}")
    text.write_text("a photo\n")
    with pytest.raises(ConfigError, match=r"no single \{\}"):
        read_templates(text)
    with pytest.raises(ConfigError, match="cannot read templates"):
        read_templates(tmp_path / "none.txt")
