"""Students: half-depth ones, of one tower, of another width, and of a file's shape."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from transformers import CLIPModel

from mmkd.encoders import load_encoder
from mmkd.errors import ConfigError, MmkdError, ModelError
from mmkd.heads import ProjectionHead, save_head
from mmkd.recipe import Recipe
from mmkd.shapes import StudentShape
from mmkd.students import Student, build_student, count_parameters, default_init, halve, inherited_layers

PARTS = {"image": ("vision_model.", "visual_projection."), "text": ("text_model.", "text_projection.")}


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
    from safetensors.torch import load_file, save_file

    folder = tmp_path / "broken"
    shutil.copytree(tiny_clip, folder)
    weights = load_file(folder / "model.safetensors")
    weights = {name: tensor for name, tensor in weights.items() if "text_model.encoder.layers.2." not in name}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match="lacks 16 weights"):
        halve(folder)


@pytest.mark.parametrize("init", ["alternate", "random"])
@pytest.mark.parametrize(("trained", "frozen"), [("image", "text"), ("text", "image")])
def test_the_tower_that_is_not_trained_is_the_teachers_whole(tiny_clip: Path, init, trained, frozen) -> None:
    teacher = CLIPModel.from_pretrained(tiny_clip).state_dict()
    student = halve(tiny_clip, towers=trained, init=init)
    for name, parameter in student.named_parameters():
        if name.startswith(PARTS[frozen]):
            assert torch.equal(parameter, teacher[name]), name
        assert parameter.requires_grad != name.startswith(PARTS[frozen]), name
    layers = {"image": student.config.vision_config, "text": student.config.text_config}
    assert (layers[trained].num_hidden_layers, layers[frozen].num_hidden_layers) == (2, 4)
    name = f"{PARTS[trained][0]}encoder.layers.1.mlp.fc1.weight"
    inherited = teacher[name.replace("layers.1", "layers.2")]
    assert torch.equal(student.state_dict()[name], inherited) == (init == "alternate")


def test_both_towers_are_trained_unless_said_otherwise(tiny_clip: Path) -> None:
    for towers in ("both", "isolated"):
        assert all(parameter.requires_grad for parameter in halve(tiny_clip, towers=towers).parameters())


def test_another_width_keeps_the_attention_heads_size_and_the_projection(tiny_clip: Path) -> None:
    shape = StudentShape(width=48)
    assert default_init(tiny_clip, shape) == "random"
    student = build_student(tiny_clip, shape)
    for config in (student.clip.config.vision_config, student.clip.config.text_config):
        found = (
            config.hidden_size,
            config.num_attention_heads,
            config.intermediate_size,
            config.num_hidden_layers,
        )
        assert found == (48, 3, 96, 2)
    assert student.clip.visual_projection.weight.shape == (32, 48)
    assert student.head is None
    one = build_student(tiny_clip, StudentShape(width=16, towers="image"))
    assert (one.clip.config.vision_config.hidden_size, one.clip.config.text_config.hidden_size) == (16, 32)
    theirs = CLIPModel.from_pretrained(tiny_clip)
    assert torch.equal(layer(one.clip, "text_model", 3), layer(theirs, "text_model", 3))


def test_the_teachers_own_width_inherits_as_usual(tiny_clip: Path) -> None:
    same, plain = build_student(tiny_clip, StudentShape(width=32)), halve(tiny_clip)
    assert default_init(tiny_clip, StudentShape(width=32)) == "alternate"
    assert torch.equal(layer(same.clip, "text_model", 1), layer(plain, "text_model", 1))


@pytest.mark.parametrize(("width", "nearest"), [(40, "32 and 48"), (9, "16"), (0, "16"), (-16, "16")])
def test_a_width_that_heads_do_not_divide_names_the_nearest(
    tiny_clip: Path, width: int, nearest: str
) -> None:
    with pytest.raises(ConfigError, match=f"--width {width} is not a multiple of 16, .*nearest: {nearest}$"):
        build_student(tiny_clip, StudentShape(width=width))


def test_layers_that_do_not_fit_are_not_inherited_by_halves(tiny_clip: Path) -> None:
    message = (
        "--init first asks for the teacher's layers, .*its vision_config.hidden_size is 48, the teacher's 32"
    )
    with pytest.raises(ConfigError, match=message):
        build_student(tiny_clip, StudentShape(width=48), init="first")


def written(tiny_clip: Path, folder: Path, **changes) -> Path:
    """The teacher's config under another name, with ``{"projection_dim": 8}`` or ``{"vision.hidden_size": 48}``."""
    config = json.loads((tiny_clip / "config.json").read_text())
    for name, value in changes.items():
        section, _, field = name.rpartition("__")
        (config[f"{section}_config"] if section else config)[field] = value
    file = folder / "my-student.json"
    file.write_text(json.dumps(config))
    return file


def test_a_file_of_the_teachers_shape_inherits_its_layers(tiny_clip: Path, tmp_path: Path) -> None:
    file = written(tiny_clip, tmp_path, vision__num_hidden_layers=1, text__num_hidden_layers=3)
    shape = StudentShape(config=file)
    assert default_init(tiny_clip, shape) == "alternate"
    student, teacher = build_student(tiny_clip, shape), CLIPModel.from_pretrained(tiny_clip)
    assert [len(tower.encoder.layers) for tower in (student.clip.vision_model, student.clip.text_model)] == [
        1,
        3,
    ]
    for mine, theirs in enumerate([0, 1, 2]):
        assert torch.equal(layer(student.clip, "text_model", mine), layer(teacher, "text_model", theirs))
    assert student.head is None


@pytest.mark.parametrize(
    "change",
    [
        {"text__num_attention_heads": 4},
        {"vision__hidden_act": "gelu"},
        {"vision__patch_size": 16},
        {"text__num_hidden_layers": 5},
        {"projection_dim": 24},
    ],
    ids=str,
)
def test_a_file_of_another_shape_starts_at_random(tiny_clip: Path, tmp_path: Path, change) -> None:
    shape = StudentShape(config=written(tiny_clip, tmp_path, **change))
    student, teacher = build_student(tiny_clip, shape, seed=1), CLIPModel.from_pretrained(tiny_clip)
    assert not torch.equal(layer(student.clip, "text_model", 0), layer(teacher, "text_model", 0))
    assert student.clip.config.text_config.eos_token_id == teacher.config.text_config.eos_token_id
    with pytest.raises(ConfigError, match="do not fit this student"):
        build_student(tiny_clip, shape, init="alternate")


def test_another_projection_gets_a_head_of_the_seed(tiny_clip: Path, tmp_path: Path) -> None:
    shape = StudentShape(config=written(tiny_clip, tmp_path, projection_dim=8))
    student = build_student(tiny_clip, shape, seed=3)
    assert student.head is not None
    assert student.head.dims == (8, 32)
    assert torch.equal(student.head.image.weight, ProjectionHead(8, 32, seed=3).image.weight)
    total = count_parameters(student.clip) + 2 * 8 * 32
    assert student.describe("random", "both").endswith(
        f"random weights · head 8 -> 32 · {total / 1e6:.1f}M parameters"
    )


def test_a_teachers_head_is_a_part_of_the_teacher(tiny_clip: Path, tmp_path: Path) -> None:
    teacher = Path(shutil.copytree(tiny_clip, tmp_path / "teacher"))
    save_head(ProjectionHead(32, 48, seed=9).state_dict(), teacher)
    theirs = load_encoder(teacher, device=torch.device("cpu"))
    assert theirs.head is not None
    for towers, init, inherits in [
        ("both", "alternate", (True, True)),
        ("both", "random", (False, False)),
        ("image", "random", (False, True)),
    ]:
        head = build_student(teacher, StudentShape(towers=towers), init=init).head
        assert head is not None
        sides = zip((head.image, head.text), (theirs.head.image, theirs.head.text), strict=True)
        assert tuple(torch.equal(mine.weight, own.weight) for mine, own in sides) == inherits
        assert (head.image.weight.requires_grad, head.text.weight.requires_grad) == (True, towers == "both")
    wide = written(tiny_clip, tmp_path, projection_dim=48)
    assert build_student(teacher, StudentShape(config=wide)).head is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "bert"}, "has model_type 'bert'; expected a CLIP's config.json"),
        ({"vision__image_size": 64}, "vision_config.image_size 64, .*: set it to 32"),
        ({"text__vocab_size": 100}, "text_config.vocab_size 100, .*: set it to 258"),
        ({"text__max_position_embeddings": 16}, "max_position_embeddings 16, .*: set it to 77"),
        ({"vision__patch_size": 7}, "patch_size 7, which does not divide images of 32 pixels"),
        ({"vision__patch_size": 0}, "patch_size 0; expected a whole number above 0"),
        ({"vision__num_hidden_layers": 0}, "num_hidden_layers 0; expected a whole number above 0"),
        ({"text__hidden_size": 33}, "describes no CLIP: .*33.*not a multiple"),
        ({"text__hidden_size": "wide"}, "describes no CLIP: "),
        ({"text__hidden_act": "swish?"}, "no CLIP can be built from "),
        ({"text__attention_dropout": 0.1}, "attention_dropout 0.1; set it to 0"),
        ({"text_config": [1]}, "describes no CLIP: "),
    ],
    ids=str,
)
def test_a_file_that_the_teacher_cannot_feed_is_refused(
    tiny_clip: Path, tmp_path: Path, change, message
) -> None:
    with pytest.raises(MmkdError, match=message) as refused:
        build_student(tiny_clip, StudentShape(config=written(tiny_clip, tmp_path, **change)))
    assert "\n" not in str(refused.value)


def test_a_file_that_is_none_is_refused(tiny_clip: Path, tmp_path: Path) -> None:
    for name, content in {"a": "{", "b": "[]"}.items():
        (tmp_path / name).write_text(content)
    for name in ("a", "b", "absent", "."):
        with pytest.raises(MmkdError) as refused:
            build_student(tiny_clip, StudentShape(config=tmp_path / name))
        assert "\n" not in str(refused.value)


def test_one_tower_needs_the_teachers_projection(tiny_clip: Path, tmp_path: Path) -> None:
    file = written(tiny_clip, tmp_path, projection_dim=24)
    with pytest.raises(ConfigError, match=r"projection_dim 24, but with --towers image .* projects to 32"):
        build_student(tiny_clip, StudentShape(config=file, towers="image"))


def test_what_says_the_shape_twice_is_refused() -> None:
    for name in ("depth", "width"):
        with pytest.raises(ConfigError, match=f"--{name} and --student-config both"):
            Recipe(**{name: 16}, student_config="x.json")


def test_a_student_says_what_it_is(tiny_clip: Path) -> None:
    both = Student(halve(tiny_clip)).describe("alternate", "both")
    assert both.startswith("2 + 2 layers of width 32 + 32, every other layer of the teacher · 0.1M")
    assert "of 0." not in both
    one = halve(tiny_clip, towers="text")
    said = Student(one).describe("first", "text")
    assert said.startswith(
        "text: 2 layers of width 32, the teacher's first layers · image: the teacher's own 4 layers, frozen"
    )
    trained, total = count_parameters(one, trained=True), count_parameters(one)
    assert trained < total
    assert said.endswith(f"{trained / 1e6:.1f}M of {total / 1e6:.1f}M parameters trained")


@pytest.mark.parametrize(
    ("towers", "task"), [("both", "triplet"), ("image", "clip"), ("text", "clip"), ("isolated", "none")]
)
def test_the_task_that_towers_call_for(towers, task) -> None:
    recipe = Recipe(towers=towers)
    resolved = recipe.resolve(pairs=500, processes=1, accelerated=False, precision="fp32")
    assert resolved.task == task
    assert [term.name for term in recipe.objective.terms] == [
        *([task] if task != "none" else []),
        "mse",
        "cos",
    ]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"towers": "left"}, "--towers left is unknown; expected one of both, image, text, isolated"),
        (
            {"towers": "isolated", "task": "clip"},
            "--towers isolated .* but clip compares images with texts; leave it out",
        ),
        ({"towers": "isolated", "kd": "mse+affinity"}, "affinity compares images with texts"),
        (
            {"towers": "text", "task": "triplet"},
            "--towers text with --task triplet .*add --bank 1024, or use --task clip",
        ),
        ({"towers": "image", "task": "clip + 0.5*triplet"}, "--towers image with --task clip"),
        ({"bank": -1}, "--bank -1 is below 0"),
        ({"bank": 8, "task": "none"}, "--bank 8 is used by no term of mse\\+cos"),
    ],
)
def test_towers_that_have_nothing_to_learn_from_are_refused(settings, message) -> None:
    with pytest.raises(ConfigError, match=message):
        Recipe(**settings)
    Recipe(towers="text", task="triplet", bank=64)
