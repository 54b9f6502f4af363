"""The built-in data sets: their words are the published ones, and labels find their classes."""

import hashlib
import importlib.util
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from test_tasks import save_labelled
from test_zero_shot import FakeEncoder, png, task_of

from mmkd.errors import ConfigError, DataError
from mmkd.evaluation.builtin_sets import builtin_sets, find_builtin, match_classes, open_builtin
from mmkd.evaluation.tasks import open_task
from mmkd.evaluation.zero_shot import class_sentences, class_weights, evaluate
from mmkd.evaluation.zero_shot_report import TOP_1, TOP_5

# How many names and templates were published, and the first 16 digits of the SHA-256 of the sorted names and of the
# templates as they stand, joined by line breaks. Taken from openai/CLIP's data/prompts.md (as at 04f4dc2) and, for
# ImageNet, its notebook (as in open_clip 3.3.0); svhn from clip_benchmark 1.6.2.
PUBLISHED = {
    "caltech101": (102, "20f7479afbe25b05", 34, "90561580b7ea5dba"),
    "cars": (196, "b47b58c71c5c86e9", 8, "255ecc632c41182c"),
    "cifar10": (10, "bb3914949cecedee", 18, "9bbf912e1144ca4c"),
    "cifar100": (100, "60ae3a3ac1355fcf", 18, "9bbf912e1144ca4c"),
    "country211": (211, "80991ba42f26888a", 5, "038d0d5e084b6ee1"),
    "dtd": (47, "681d23b9cd3c2ede", 8, "1f6888d2130f62a4"),
    "eurosat": (10, "500da061f92084fb", 3, "9bc85d9f1798d03b"),
    "fer2013": (7, "0fece1ddf1a3ebf7", 6, "ae805dccc6d01c6a"),
    "flowers102": (102, "09b12e48ab3b5ecd", 1, "bfcd4bbb214d5015"),
    "food101": (101, "9c0eeb5a368baacb", 1, "77a79bac7d9cf25b"),
    "imagenet": (1000, "5a175c305e125474", 80, "4f976686fb651bb5"),
    "mnist": (10, "29dd21f55e4611d4", 1, "c0341e0a1fdfd8fb"),
    "pets": (37, "c6f4365ced9dc96f", 1, "16a0790f0e45e97e"),
    "stl10": (10, "08b234ce7b11dbd3", 2, "c97a3d1ad5819800"),
    "svhn": (10, "a20f1bd39ce87cc3", 6, "89f08e8bbeaa6bd5"),
}
# The same of the names in the order in which the hub's copy numbers them (clip_benchmark 1.6.2).
ORDERED = {
    "caltech101": "8cd73f5d8e14e75f",
    "country211": "027b30d283f3a153",
    "fer2013": "0fece1ddf1a3ebf7",
    "flowers102": "5429e1ef6e0e5aa3",
    "imagenet": "571ae1c583b4be7d",
}
OF_IMAGENET = {"imagenet-v2": 1000, "imagenet-sketch": 1000, "imagenet-r": 200, "imagenet-a": 200}


def digits(lines: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


def test_names_and_templates_are_the_published_ones() -> None:
    sets = builtin_sets()
    assert set(sets) == {*PUBLISHED, *OF_IMAGENET}
    assert {
        name: (len(s.class_names), digits(sorted(s.class_names)), len(s.templates), digits(s.templates))
        for name, s in sets.items()
        if name in PUBLISHED
    } == PUBLISHED
    assert {name: digits(sets[name].class_names) for name in ORDERED} == ORDERED
    assert {name for name, s in sets.items() if s.numbered} == {*ORDERED, *OF_IMAGENET}
    assert sets["fer2013"].synonyms == {
        "happy": ("smiling",),
        "neutral": ("bored",),
        "sad": ("depressed",),
        "surprised": ("shocked", "spooked"),
    }


def test_the_sets_made_after_imagenet_take_its_words_for_their_classes() -> None:
    sets = builtin_sets()
    imagenet = sets["imagenet"]
    for name, classes in OF_IMAGENET.items():
        assert len(sets[name].class_names) == len(set(sets[name].label_names)) == classes
        assert sets[name].templates == imagenet.templates
        names = dict(zip(imagenet.label_names, imagenet.class_names, strict=True))
        assert [names[wordnet] for wordnet in sets[name].label_names] == list(sets[name].class_names)
    assert list(imagenet.label_names) == sorted(imagenet.label_names)  # as folders are numbered
    assert (imagenet.label_names[0], imagenet.class_names[0]) == ("n01440764", "tench")
    assert sets["imagenet-a"].class_names[:4] == ("stingray", "goldfinch", "junco", "American robin")
    assert sets["imagenet-r"].class_names[:3] == ("goldfish", "great white shark", "hammerhead shark")


def test_every_set_names_all_that_the_hub_needs() -> None:
    for name, one in builtin_sets().items():
        assert one.name == name
        assert one.data.partition(":")[0].count("/") == 1
        assert one.split in ("test", "validation")
        assert one.label_column
        assert all(template.count("{}") == 1 for template in one.templates)
        assert len(set(one.templates)) == len(one.templates)
        assert set(one.aliases.values()) <= set(one.class_names)
        assert set(one.synonyms) <= set(one.class_names)
    for name in ("cifar10", "cifar100", "stl10"):
        assert set(find_builtin(name).published) == {
            "openai/clip-vit-base-patch32",
            "openai/clip-vit-base-patch16",
        }


def test_words_equal_clip_benchmarks() -> None:
    """All that the package has; it leaves DTD's, Food101's and the cars' names to torchvision."""
    found = importlib.util.find_spec("clip_benchmark")
    if found is None or not found.submodule_search_locations:
        pytest.skip("clip_benchmark is absent")
    folder = Path(found.submodule_search_locations[0]) / "datasets"
    names = json.loads((folder / "en_classnames.json").read_text())
    templates = json.loads((folder / "en_zeroshot_classification_templates.json").read_text())
    theirs = {"imagenet": "imagenet1k", "flowers102": "flowers"}
    for name, one in builtin_sets().items():
        key = theirs.get(name, name)
        if name not in OF_IMAGENET:
            assert [template.replace("{c}", "{}") for template in templates[key]] == list(one.templates)
        if key in names:
            # Pets' dogs are written with a small letter by OpenAI, which a CLIP's tokenizer does not see.
            assert sorted(map(str.lower, names[key])) == sorted(map(str.lower, one.class_names))
    assert names["caltech101_vtab"] == list(builtin_sets()["caltech101"].class_names)


def test_a_local_imagenet_is_matched_by_the_names_of_its_folders(tmp_path: Path) -> None:
    imagenet = builtin_sets()["imagenet"]
    assert match_classes(imagenet.label_names[::-1], imagenet, "x") == tuple(range(999, -1, -1))
    copy = builtin_sets()["imagenet-a"]
    for number, wordnet in enumerate(copy.label_names):
        (tmp_path / "val" / wordnet).mkdir(parents=True)
        Image.new("RGB", (4, 4), (number, 0, 0)).save(tmp_path / "val" / wordnet / "one.png")
    data, classes = open_builtin(copy, str(tmp_path / "val"))
    assert classes == tuple(range(200))
    assert len(data) == 200
    with pytest.raises(DataError, match="not those of imagenet: found 'n01498041'"):
        open_builtin(imagenet, str(tmp_path / "val"))


def save_numbered(path: Path, labels: list[int]) -> Path:
    """Images whose labels are bare numbers."""
    from datasets import Dataset, Features, Value
    from datasets import Image as ImageFeature

    named = save_labelled(path.with_name("named.parquet"), ["a", "b"], [0] * len(labels))
    rows = Dataset.from_parquet(str(named)).cast_column("image", ImageFeature(decode=False))
    features = Features({"image": ImageFeature(), "label": Value("int64")})
    Dataset.from_dict({"image": rows["image"], "label": labels}, features=features).to_parquet(str(path))
    return path


def test_bare_numbers_are_taken_where_the_set_is_numbered_and_said_aloud(tmp_path: Path) -> None:
    file = save_numbered(tmp_path / "numbers.parquet", [0, 6, 3])
    task = open_task(f"fer2013={file}")
    assert [task.label(row, task.images[row][1]) for row in range(3)] == [0, 6, 3]
    assert task.source.endswith(", by number")
    with pytest.raises(DataError, match="row 1 of fer2013 has label 7; expected 0 to 6"):
        task.label(1, 7)
    with pytest.raises(DataError, match="not those of stl10: found 0 labels"):
        open_task(f"stl10={file}")


def test_names_that_differ_are_refused_though_the_set_is_numbered(tmp_path: Path) -> None:
    names = list(builtin_sets()["fer2013"].class_names)
    file = save_labelled(tmp_path / "faces.parquet", [*names[:-1], "astonished"], [0, 1, 6])
    with pytest.raises(DataError, match="found 'astonished', lacks 'surprised'"):
        open_task(f"fer2013={file}")


def test_a_class_of_several_names_is_their_mean() -> None:
    # Texts by their first letter: a is east, b north, c west.
    encoder = FakeEncoder(np.array([[1.0, 0.0], [0.0, 3.0], [-1.0, 0.0]]), np.empty(0))
    found = class_sentences(encoder, ["a", "c"], ["{}", "{} again"], synonyms={"a": ("b",)})
    assert found.tolist() == [[[0.5, 0.5]] * 2, [[-1.0, 0.0]] * 2]
    assert np.array_equal(
        class_sentences(encoder, ["a", "c"], ["{}"])[:, 0], class_weights(encoder, ["a", "c"], ["{}"])
    )


def test_two_classes_of_one_name_tie_and_it_is_said() -> None:
    names = ("a", "b", "c", "d", "e", "f", "a")
    with pytest.raises(DataError, match="'a' more than once"):
        task_of(14, names)
    task = task_of(14, names, shared_names=True)
    seen = np.eye(26)[[ord(names[i % 7]) - ord("a") for i in range(14)]]
    report = evaluate({"model": FakeEncoder(np.eye(26), seen)}, task)
    assert report.models["model"].scores[TOP_1].value == pytest.approx(10 / 14)
    assert report.models["model"].scores[TOP_5].value == 1
    assert report.notes[0] == (
        "'a' each name several classes: their 4 images cannot be right at top-1, since a tie counts against"
    )


def test_only_the_files_of_the_split_are_read(tmp_path: Path) -> None:
    """As ImageNet's 150 GB of training images are left alone."""
    from mmkd.data import open_labelled

    (tmp_path / "data").mkdir()
    save_labelled(tmp_path / "data" / "validation-0.parquet", ["a", "b"], [0, 1, 1])
    (tmp_path / "data" / "train-0.parquet").write_bytes(b"no parquet at all")
    (tmp_path / "README.md").write_text(
        "---\ndataset_info:\n  splits:\n  - name: train\n    num_examples: 9\n  - name: validation\n"
        "    num_examples: 4\nconfigs:\n- config_name: default\n  data_files:\n  - split: train\n"
        "    path: data/train-*\n  - split: validation\n    path: data/validation-*\n---\n"
    )
    data = open_labelled(str(tmp_path), "validation", files="data/validation-*")
    assert len(data) == 3
    with pytest.raises(DataError, match="cannot"):
        open_labelled(str(tmp_path), "validation")


def test_tars_as_clip_benchmark_lays_them_out_are_read_by_number(tmp_path: Path) -> None:
    import io
    import tarfile

    one = replace(builtin_sets()["fer2013"], data=str(tmp_path))
    for split, labels in (("train", [0]), ("test", [6, 3, 0])):
        (tmp_path / split).mkdir()
        with tarfile.open(tmp_path / split / "0.tar", "w") as tar:
            for number, label in enumerate(labels):
                for suffix, data in (("cls", str(label).encode()), ("jpg", png("red", number))):
                    entry = tarfile.TarInfo(f"s{number:07d}.{suffix}")
                    entry.size = len(data)
                    tar.addfile(entry, io.BytesIO(data))
    (tmp_path / "classnames.txt").write_text("angry\ndisgusted\n")
    data, classes = open_builtin(one)
    assert classes is None
    assert [data[row][1] for row in range(3)] == [6, 3, 0]
    assert data[0][0].startswith(b"\x89PNG")


def test_an_unknown_name_lists_what_there_is() -> None:
    with pytest.raises(ConfigError, match=r"did you mean 'imagenet'\? Built in: caltech101, cars, .*svhn"):
        find_builtin("imagenett")
