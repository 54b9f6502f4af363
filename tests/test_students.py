"""Half-depth students."""

from pathlib import Path

import pytest
import torch
from transformers import CLIPModel

from mmkd.errors import ConfigError, ModelError
from mmkd.students import halve, inherited_layers


def layer(model: CLIPModel, tower: str, index: int) -> torch.Tensor:
    return getattr(model, tower).encoder.layers[index].mlp.fc1.weight


def test_every_other_layer() -> None:
    assert inherited_layers(12, 6, "alternate") == [0, 2, 4, 6, 8, 10]
    assert inherited_layers(12, 4, "alternate") == [0, 3, 6, 9]
    assert inherited_layers(12, 5, "first") == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(("init", "layers"), [("alternate", [0, 2]), ("first", [0, 1])])
def test_a_student_inherits(tiny_clip: Path, init, layers) -> None:
    teacher, student = CLIPModel.from_pretrained(tiny_clip), halve(tiny_clip, init=init)
    for tower in ("vision_model", "text_model"):
        assert len(getattr(student, tower).encoder.layers) == 2
        for mine, theirs in enumerate(layers):
            assert torch.equal(layer(student, tower, mine), layer(teacher, tower, theirs))
    others = [name for name in student.state_dict() if ".encoder.layers." not in name]
    assert len(others) > 10
    for name in others:
        assert torch.equal(student.state_dict()[name], teacher.state_dict()[name]), name


def test_a_random_student_has_the_teachers_shape_and_nothing_else(tiny_clip: Path) -> None:
    teacher = CLIPModel.from_pretrained(tiny_clip)
    first, again, other = (halve(tiny_clip, init="random", seed=seed) for seed in (1, 1, 2))
    assert torch.equal(layer(first, "text_model", 0), layer(again, "text_model", 0))
    assert not torch.equal(layer(first, "text_model", 0), layer(other, "text_model", 0))
    assert not torch.equal(layer(first, "text_model", 0), layer(teacher, "text_model", 0))
    assert first.config.projection_dim == teacher.config.projection_dim


def test_the_rest_of_the_configuration_is_the_teachers(tiny_clip: Path) -> None:
    teacher, student = CLIPModel.from_pretrained(tiny_clip).config, halve(tiny_clip, depth=1).config
    for tower in ("vision_config", "text_config"):
        before, after = getattr(teacher, tower).to_dict(), getattr(student, tower).to_dict()
        changed = {key for key in before if before[key] != after[key]}
        assert changed <= {"num_hidden_layers", "dtype"}
        assert after["num_hidden_layers"] == 1


@pytest.mark.parametrize("depth", [0, 4, 7])
def test_a_depth_that_is_not_smaller_is_refused(tiny_clip: Path, depth: int) -> None:
    with pytest.raises(ConfigError, match=f"--depth {depth} is not smaller than the teacher's 4 layers"):
        halve(tiny_clip, depth=depth)


def test_no_such_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no folder"):
        halve(tmp_path / "nothing")


def test_weights_that_lack_a_layer_are_refused(tiny_clip: Path, tmp_path: Path) -> None:
    import shutil

    from safetensors.torch import load_file, save_file

    folder = tmp_path / "broken"
    shutil.copytree(tiny_clip, folder)
    weights = load_file(folder / "model.safetensors")
    weights = {name: tensor for name, tensor in weights.items() if "text_model.encoder.layers.2." not in name}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match="lacks 16 weights"):
        halve(folder)
