"""Half-depth students, made from a teacher's configuration and, if wanted, its layers."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch

from mmkd.encoders import iterate_weights, read_clip_config, resolve_model
from mmkd.errors import ConfigError, ModelError
from mmkd.heads import ProjectionHead

if TYPE_CHECKING:
    from transformers import CLIPModel

Init = Literal["alternate", "first", "random"]
INITS: tuple[Init, ...] = ("alternate", "first", "random")


@dataclass(frozen=True)
class Student:
    """What is trained.

    Attributes:
        clip: the student; a tower that is not trained needs no gradient.
        head: its projection into the teacher's space; ``None`` where their dimensions are the same.
    """

    clip: "CLIPModel"
    head: ProjectionHead | None = None


_LAYER = re.compile(r"^((?:vision|text)_model\.encoder\.layers\.)(\d+)(\..+)$")


def halve(
    teacher: str | Path,
    *,
    depth: int | None = None,
    init: Init = "alternate",
    seed: int = 0,
    revision: str | None = None,
) -> "CLIPModel":
    """A student with the teacher's configuration and fewer layers, in float32 on the CPU.

    Args:
        teacher: hub id or folder of a Hugging Face CLIP.
        depth: layers of each tower; default: half the teacher's.
        init: ``alternate`` inherits every other layer (layer ``i * L // depth``) and all that is not a layer;
            ``first`` the first layers; ``random`` nothing.
        seed: of the random initialisation.
        revision: of the teacher on the Hub.

    Raises:
        ConfigError: ``depth`` is not smaller than the teacher's.
        ModelError: the teacher cannot be read.
    """
    folder = resolve_model(teacher, revision=revision)
    config = read_clip_config(folder, name=str(teacher))
    layers = {
        "vision_model": config.vision_config.num_hidden_layers,
        "text_model": config.text_config.num_hidden_layers,
    }
    depths = {tower: _depth(depth, count) for tower, count in layers.items()}
    config.vision_config.num_hidden_layers = depths["vision_model"]
    config.text_config.num_hidden_layers = depths["text_model"]
    student = random_clip(config, seed=seed)
    if init != "random":
        chosen = {
            f"{tower}.encoder.layers.": inherited_layers(layers[tower], depths[tower], init)
            for tower in layers
        }
        _inherit(student, folder, chosen)
    return student


def random_clip(config: Any, *, seed: int) -> "CLIPModel":
    """A CLIP initialised at random, in float32, without touching the global random state."""
    from transformers import CLIPModel

    config.dtype = "float32"
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return CLIPModel(config)


def inherited_layers(teacher_layers: int, depth: int, init: Init) -> list[int]:
    """Which of the teacher's layers a student of ``depth`` layers takes, in order."""
    if init == "first":
        return list(range(depth))
    return [index * teacher_layers // depth for index in range(depth)]


def count_parameters(model: torch.nn.Module) -> int:
    """Number of weights, trained or not."""
    return sum(parameter.numel() for parameter in model.parameters())


def _depth(depth: int | None, layers: int) -> int:
    wanted = layers // 2 if depth is None else depth
    if not 1 <= wanted < layers:
        raise ConfigError(
            f"--depth {wanted} is not smaller than the teacher's {layers} layers; expected 1 to {layers - 1}"
        )
    return wanted


def _inherit(student: "CLIPModel", folder: Path, chosen: dict[str, list[int]]) -> None:
    """Copy the chosen layers, and all that is not a layer, from the teacher's weights files."""
    wanted = student.state_dict()
    found: dict[str, torch.Tensor] = {}
    for key, read in iterate_weights(folder):
        for name in _student_names(key, chosen):
            if name in wanted:
                found[name] = read().float()
    missing = wanted.keys() - found.keys()
    if missing:
        raise ModelError(f"{folder} lacks {len(missing)} weights of a CLIP, {min(missing)} among them")
    try:
        student.load_state_dict(found)
    except RuntimeError as error:
        raise ModelError(f"the weights in {folder} do not fit its config.json: {error}") from error


def _student_names(key: str, chosen: dict[str, list[int]]) -> list[str]:
    match = _LAYER.match(key)
    if match is None:
        return [key]
    prefix, index, rest = match[1], int(match[2]), match[3]
    return [f"{prefix}{position}{rest}" for position, layer in enumerate(chosen[prefix]) if layer == index]
