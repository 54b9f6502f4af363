"""Scenes are what their captions say, the same every time, and hold nothing that was held out."""

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from mmkd import scenes
from mmkd.encoders import tokenize
from mmkd.families import load_processors, read_model_config

COUNT = 400
TEACHER = Path(__file__).parents[1] / "configs" / "demo" / "teacher"
RELATIONS = {"left of": (0, -1), "right of": (0, 1), "above": (1, -1), "below": (1, 1)}


def phrases(caption: str) -> tuple[list[list[str]], str | None]:
    """Each shape's (size, colour, shape), and the relation between the first and the second."""
    relation = next((name for name in RELATIONS if f" {name} " in caption), None)
    texts = caption.split(f" {relation} ") if relation else [caption]
    return [text.removeprefix("a ").split() for text in texts], relation


def pixels_of(scene: scenes.Scene, colour: str) -> NDArray[np.intp]:
    """Columns and rows (2, N) of the pixels that are clearly of one colour."""
    canvas = np.asarray(scene.image, dtype=np.float32)
    distance = np.linalg.norm(canvas - np.asarray(scenes.COLOURS[colour], dtype=np.float32), axis=-1)
    rows, columns = np.nonzero(distance < 55)
    return np.stack([columns, rows])


@pytest.fixture(scope="module")
def training() -> list[scenes.Scene]:
    return [scenes.draw(3, index, "train") for index in range(COUNT)]


def test_a_scene_depends_on_its_seed_split_and_index_alone() -> None:
    again = scenes.draw(3, 7, "train")
    for _ in range(3):
        scenes.draw(3, 8, "test")
    assert scenes.draw(3, 7, "train").image.tobytes() == again.image.tobytes()
    others = [scenes.draw(4, 7, "train"), scenes.draw(3, 8, "train"), scenes.draw(3, 7, "test")]
    assert all(other.image.tobytes() != again.image.tobytes() for other in others)


def test_caption_names_what_the_pixels_show(training: list[scenes.Scene]) -> None:
    relations = set()
    for scene in training:
        shown, relation = phrases(scene.caption)
        colours = [colour for _, colour, _ in shown]
        if len(set(colours)) < len(colours):
            continue
        places = [pixels_of(scene, colour) for colour in colours]
        for (size, _, _), place in zip(shown, places, strict=True):
            extent = int((place.max(axis=1) - place.min(axis=1)).max()) + 1
            assert extent <= 12 if size == "small" else extent >= 12, (scene.caption, extent)
        if relation is not None:
            axis, sign = RELATIONS[relation]
            first, second = (place[axis] for place in places)
            assert (first.min() > second.max()) if sign > 0 else (first.max() < second.min()), scene.caption
            relations.add(relation)
    assert relations == set(RELATIONS)


def test_shapes_of_one_scene_never_touch_and_stay_inside(training: list[scenes.Scene]) -> None:
    for scene in training:
        covered = np.zeros((scenes.SIDE, scenes.SIDE), dtype=int)
        for part in scene.parts:
            window = covered[part.top : part.top + part.side, part.left : part.left + part.side]
            assert window.shape == (part.side, part.side)
            window += 1
        assert covered.max() == 1


def test_nothing_held_out_is_ever_drawn_for_training() -> None:
    drawn = [scenes.draw(0, index, "train") for index in range(4000)]
    labels = {part.label for scene in drawn for part in scene.parts}
    assert labels == set(range(160)) - set(scenes.HELD_OUT_LABELS)
    words = [tuple(shape[1:]) for scene in drawn for shape in phrases(scene.caption)[0]]
    assert not scenes.HELD_OUT & set(words)
    assert 0.55 < np.mean([len(scene.parts) == 1 for scene in drawn]) < 0.65


def test_held_out_combinations_leave_every_word_in_training() -> None:
    assert len(scenes.CLASS_NAMES) == len(set(scenes.CLASS_NAMES)) == 160
    assert len(scenes.HELD_OUT_LABELS) == 16
    assert len({colour for colour, _ in scenes.HELD_OUT}) == len({shape for _, shape in scenes.HELD_OUT}) == 8


@pytest.mark.parametrize("side", [11, 15, 20])
def test_no_two_shapes_look_alike(side: int) -> None:
    masks = {shape: scenes._mask(shape, side, 0) for shape in scenes.SHAPES}
    for a, b in itertools.combinations(scenes.SHAPES, 2):
        overlap = np.minimum(masks[a], masks[b]).sum() / np.maximum(masks[a], masks[b]).sum()
        assert overlap < 0.84, (a, b, overlap)


def test_parquet_files_are_read_by_datasets(tmp_path: Path) -> None:
    from datasets import Dataset

    drawn: list[int] = []
    scenes.write_training_scenes(tmp_path / "train.parquet", 12, 3, on_scenes=drawn.append)
    scenes.write_test_scenes(tmp_path / "test.parquet", 1, 3)
    train = Dataset.from_parquet(str(tmp_path / "train.parquet"), cache_dir=str(tmp_path / "cache"))
    test = Dataset.from_parquet(str(tmp_path / "test.parquet"), cache_dir=str(tmp_path / "cache"))
    assert sum(drawn) == len(train) == 12
    expected = scenes.draw(3, 5, "train")
    assert train[5]["caption"] == expected.caption
    assert train[5]["image"].tobytes() == expected.image.tobytes()
    assert test.features["label"].names == list(scenes.CLASS_NAMES)
    assert test["label"][:] == list(range(160))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cache", "test.parquet", "train.parquet"]


def test_tokenizer_ends_each_caption_with_eos_and_knows_every_word(training: list[scenes.Scene]) -> None:
    _, tokenizer = load_processors(TEACHER, name="teacher")
    captions = [scene.caption for scene in training]
    ids = tokenize(tokenizer, captions, scenes.MAX_TOKENS)["input_ids"]
    assert (ids == scenes.UNK).sum() == 0
    for caption, row in zip(captions, ids.tolist(), strict=True):
        words = caption.split()
        assert row[0] == scenes.BOS
        assert row[len(words) + 1] == scenes.EOS
        assert row.count(scenes.EOS) == 1
        assert set(row[len(words) + 2 :]) <= {scenes.PAD}
        assert tokenizer.decode(row, skip_special_tokens=True) == caption
    nurse = tokenize(tokenizer, ["a nurse"], scenes.MAX_TOKENS)["input_ids"][0].tolist()
    assert nurse == [scenes.BOS, scenes.vocabulary()["a"], scenes.UNK, scenes.EOS]
    cut = tokenize(tokenizer, ["a " * 60], scenes.MAX_TOKENS)["input_ids"][0].tolist()
    assert len(cut) == scenes.MAX_TOKENS
    assert cut[-1] == scenes.EOS


def test_carried_tokenizer_and_configs_match_the_code(tmp_path: Path) -> None:
    scenes.build_tokenizer(tmp_path)
    carried = json.loads((TEACHER / "tokenizer.json").read_text())
    assert json.loads((tmp_path / "tokenizer.json").read_text()) == carried
    config = read_model_config(TEACHER, name="teacher")
    text = config.text_config
    assert (text.vocab_size, text.max_position_embeddings) == (len(scenes.vocabulary()), scenes.MAX_TOKENS)
    assert (text.pad_token_id, text.bos_token_id, text.eos_token_id) == (scenes.PAD, scenes.BOS, scenes.EOS)
    assert config.vision_config.image_size == scenes.SIDE


def test_a_test_set_of_some_classes_holds_the_same_scenes(tmp_path: Path) -> None:
    from datasets import Dataset

    for name, labels in (("some", scenes.HELD_OUT_LABELS), ("all", range(160))):
        scenes.write_test_scenes(tmp_path / f"{name}.parquet", 2, 5, labels=labels)
    some, every = (
        Dataset.from_parquet(str(tmp_path / f"{name}.parquet"), cache_dir=str(tmp_path / "cache"))
        for name in ("some", "all")
    )
    assert some["label"][:] == [*scenes.HELD_OUT_LABELS] * 2
    assert len(some.features["label"].names) == 160
    of_all = [image.tobytes() for image in every["image"]]
    assert [image.tobytes() for image in some["image"]] == [
        of_all[turn * 160 + label] for turn in range(2) for label in scenes.HELD_OUT_LABELS
    ]
