"""The shape of a student: its teacher's with fewer layers or another width, or one from a file."""

import math
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from mmkd.errors import ConfigError
from mmkd.families import CLIP, family_of, joint_dim
from mmkd.parse import read_json

Towers = Literal["both", "image", "text", "isolated"]
TOWERS: tuple[Towers, ...] = ("both", "image", "text", "isolated")
TRAINED: dict[str, tuple[str, ...]] = {
    "both": ("vision", "text"),
    "image": ("vision",),
    "text": ("text",),
    "isolated": ("vision", "text"),
}
"""The towers that are trained, as transformers names them; any other stays the teacher's own."""

# What the teacher's preprocessing and tokenizer hand over is the same for every student.
_FED = {
    "vision": ("image_size", "num_channels"),
    "text": ("vocab_size", "max_position_embeddings"),
}
_LAYER = ("hidden_size", "intermediate_size", "num_attention_heads", "hidden_act", "layer_norm_eps")
_TOKENS = ("bos_token_id", "eos_token_id", "pad_token_id")
_MAX_CONFIG_BYTES = 1 << 20


@dataclass(frozen=True)
class StudentShape:
    """What a student looks like beside its teacher.

    Attributes:
        depth: layers of each trained tower; ``None``: half the teacher's.
        width: hidden size of each trained tower; ``None``: the teacher's.
        config: a CLIP's ``config.json`` that says it all instead; ``None``: the teacher's.
        towers: ``both`` or ``isolated`` are trained, or only ``image`` or ``text``: the other tower is the
            teacher's own, whole.

    Raises:
        ConfigError: ``config`` is given together with ``depth`` or ``width``.
    """

    depth: int | None = None
    width: int | None = None
    config: Path | None = None
    towers: Towers = "both"

    def __post_init__(self) -> None:
        for name in ("depth", "width"):
            if self.config is not None and getattr(self, name) is not None:
                raise ConfigError(
                    f"--{name} and --student-config both say what the student looks like; leave out one of them"
                )

    def of(self, teacher: Any) -> Any:
        """The student's configuration under a teacher's.

        Raises:
            ConfigError: the teacher leaves no such student, or the file holds none.
            MmkdError: the file cannot be read.
        """
        trained = TRAINED[self.towers]
        if self.config is None:
            config = deepcopy(teacher)
            for tower in trained:
                _set_depth(_tower(config, tower), self.depth)
            if self.width is not None:
                _set_width([_tower(config, tower) for tower in trained], self.width)
                _keep_joint(config, trained, self.width)
            return config
        config = _read(self.config)
        if len(trained) == 1 and family_of(teacher) is not CLIP:
            raise ConfigError(
                f"{self.config} describes a CLIP, but with --towers {self.towers} the other tower is the teacher's, a "
                f"{family_of(teacher).name}; leave --student-config out, or train both towers"
            )
        for tower in ("vision", "text"):
            if tower in trained:
                _check_fed(self.config, config, teacher, tower)
            else:
                setattr(config, f"{tower}_config", deepcopy(_tower(teacher, tower)))
        for name in _TOKENS:  # the tokenizer is the teacher's
            setattr(config.text_config, name, getattr(teacher.text_config, name))
        if len(trained) == 1 and config.projection_dim != joint_dim(teacher):
            raise ConfigError(
                f"{self.config} has projection_dim {config.projection_dim}, but with --towers {self.towers} the other "
                f"tower is the teacher's, which projects to {joint_dim(teacher)}; set it to that"
            )
        return config


def difference(student: Any, teacher: Any, towers: Towers) -> str | None:
    """Why a student cannot start from its teacher's layers, in words; ``None`` where it can.

    Args:
        student: its configuration.
        teacher: its teacher's.
        towers: which are trained.
    """
    if family_of(student) is not family_of(teacher):
        return f"it is a {family_of(student).name}, the teacher a {family_of(teacher).name}"
    if joint_dim(student) != joint_dim(teacher):
        return f"its projection_dim is {joint_dim(student)}, the teacher's {joint_dim(teacher)}"
    pairs = []
    for tower in TRAINED[towers]:
        mine, theirs = _tower(student, tower), _tower(teacher, tower)
        fields = (
            *_LAYER,
            *(("image_size", "patch_size", "num_channels") if tower == "vision" else _FED[tower]),
        )
        pairs += [(f"{tower}_config.{name}", mine, theirs, name) for name in fields]
        if mine.num_hidden_layers > theirs.num_hidden_layers:
            return f"its {mine.num_hidden_layers} {tower} layers are more than the teacher's {theirs.num_hidden_layers}"
    for label, mine, theirs, name in pairs:
        if getattr(mine, name) != getattr(theirs, name):
            return f"its {label} is {getattr(mine, name)}, the teacher's {getattr(theirs, name)}"
    return None


def _tower(config: Any, tower: str) -> Any:
    return getattr(config, f"{tower}_config")


def _set_depth(tower: Any, depth: int | None) -> None:
    layers = tower.num_hidden_layers
    wanted = layers // 2 if depth is None else depth
    if not 1 <= wanted < layers:
        raise ConfigError(
            f"--depth {wanted} is not smaller than the teacher's {layers} layers; expected 1 to {layers - 1}"
        )
    tower.num_hidden_layers = wanted


def _set_width(towers: list[Any], width: int) -> None:
    """Keep the size of an attention head and the ratio of the MLP, as CLIP's own models of all sizes do."""
    sizes = [tower.hidden_size // tower.num_attention_heads for tower in towers]
    unit = math.lcm(*sizes)
    if width < unit or width % unit:
        below = max(0, width // unit * unit)
        nearest = " and ".join(str(near) for near in (below, below + unit) if near > 0)
        raise ConfigError(
            f"--width {width} is not a multiple of {unit}, the size of the teacher's attention heads; the nearest: "
            f"{nearest}"
        )
    for tower, size in zip(towers, sizes, strict=True):
        tower.intermediate_size = width * tower.intermediate_size // tower.hidden_size
        tower.num_attention_heads = width // size
        tower.hidden_size = width


def _keep_joint(config: Any, trained: tuple[str, ...], width: int) -> None:
    """SigLIP's image tower has no projection: the joint space is as wide as its layers."""
    if family_of(config) is CLIP or "vision" not in trained:
        return
    if "text" not in trained:
        raise ConfigError(
            f"--width {width} changes what a SigLIP's image tower embeds in, and with --towers image the text tower is "
            "the teacher's; leave --width out, or train both towers"
        )
    config.text_config.projection_size = config.vision_config.hidden_size


def _read(file: Path) -> Any:
    from huggingface_hub.errors import StrictDataclassError
    from transformers import CLIPConfig

    if file.is_dir():
        raise ConfigError(
            f"--student-config {file} is a folder; expected a file, such as {file / 'config.json'}"
        )
    raw = read_json(file, limit=_MAX_CONFIG_BYTES)
    if raw.get("model_type") != "clip":
        raise ConfigError(
            f"--student-config {file} has model_type {raw.get('model_type')!r}; expected a CLIP's config.json, "
            "with model_type 'clip'"
        )
    try:
        config = CLIPConfig.from_dict(raw)
    except (StrictDataclassError, ValueError, TypeError, AttributeError, ZeroDivisionError) as error:
        raise ConfigError(f"--student-config {file} describes no CLIP: {_last_line(error)}") from error
    sizes: dict[str, Any] = {"projection_dim": config.projection_dim}
    for tower in ("vision", "text"):
        for name in ("hidden_size", "intermediate_size", "num_attention_heads", "num_hidden_layers"):
            sizes[f"{tower}_config.{name}"] = getattr(_tower(config, tower), name)
    sizes["vision_config.patch_size"] = _tower(config, "vision").patch_size
    for name, value in sizes.items():
        if not isinstance(value, int) or value < 1:
            raise ConfigError(f"--student-config {file} has {name} {value}; expected a whole number above 0")
    return config


def _check_fed(file: Path, config: Any, teacher: Any, tower: str) -> None:
    mine, theirs = _tower(config, tower), _tower(teacher, tower)
    for name in _FED[tower]:
        found, wanted = getattr(mine, name), getattr(theirs, name)
        if found != wanted:
            raise ConfigError(
                f"{file} has {tower}_config.{name} {found}, but the student reads what the teacher's preprocessing and "
                f"tokenizer give: set it to {wanted}"
            )
    if tower == "vision" and (mine.patch_size > mine.image_size or mine.image_size % mine.patch_size):
        raise ConfigError(
            f"{file} has vision_config.patch_size {mine.patch_size}, which does not divide images of "
            f"{mine.image_size} pixels"
        )
    if mine.attention_dropout:
        raise ConfigError(
            f"{file} has {tower}_config.attention_dropout {mine.attention_dropout}; set it to 0: accumulation embeds "
            "each row twice and needs the same embedding both times"
        )


def _last_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[-1].strip()
