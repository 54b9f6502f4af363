"""Students, made from a teacher's configuration and, if wanted, its layers."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch

from mmkd.errors import ConfigError, ModelError
from mmkd.families import family_of, joint_dim, load_processors, read_model_config
from mmkd.heads import ProjectionHead, load_head
from mmkd.hub import resolve_model
from mmkd.shapes import TRAINED, StudentShape, Towers, difference
from mmkd.weights import iterate_weights

if TYPE_CHECKING:
    from collections.abc import Collection

    from transformers import CLIPModel

Init = Literal["alternate", "first", "random"]
INITS: tuple[Init, ...] = ("alternate", "first", "random")

_LAYER = re.compile(r"^((?:vision|text)_model\.encoder\.layers\.)(\d+)(\..+)$")
_ORIGINS = {
    "alternate": "every other layer of the teacher",
    "first": "the teacher's first layers",
    "random": "random weights",
}
_SIDES = {"vision": "image", "text": "text"}


@dataclass(frozen=True)
class Student:
    """What is trained.

    Attributes:
        clip: the student; a tower that is not trained needs no gradient.
        head: its projection into the teacher's space; ``None`` where their dimensions are the same.
        untrained: the side whose tower has random weights and is not trained, where there is no teacher to take
            it from.
    """

    clip: "CLIPModel"
    head: ProjectionHead | None = None
    untrained: str | None = None

    def describe(self, init: Init, towers: Towers) -> str:
        """``6 + 6 layers, every other layer of the teacher · 84.2M parameters``, and what else it is."""
        config: Any = self.clip.config
        one = {"vision": config.vision_config, "text": config.text_config}
        origin = _ORIGINS[init]
        if len(TRAINED[towers]) == 1:
            (name,) = TRAINED[towers]
            other = "text" if name == "vision" else "vision"
            rest = f"{one[other].num_hidden_layers} layers, frozen"
            parts = [
                f"{_SIDES[name]}: {one[name].num_hidden_layers} layers of width {one[name].hidden_size}, {origin}",
                f"{_SIDES[other]}: "
                + (f"untrained, {rest}" if self.untrained else f"the teacher's own {rest}"),
            ]
        else:
            layers, widths = (
                f"{getattr(one['vision'], field)} + {getattr(one['text'], field)}"
                for field in ("num_hidden_layers", "hidden_size")
            )
            parts = [f"{layers} layers of width {widths}, {origin}"]
        if self.head is not None:
            parts.append("head {} -> {}".format(*self.head.dims))
        modules = [self.clip] if self.head is None else [self.clip, self.head]
        total, trained = (sum(count_parameters(m, trained=t) for m in modules) for t in (False, True))
        share = f"{trained / 1e6:.1f}M of " if trained < total - 1 else ""  # the logit scale is one
        parts.append(f"{share}{total / 1e6:.1f}M parameters" + (" trained" if share else ""))
        return " · ".join(parts)


def halve(
    teacher: str | Path,
    *,
    depth: int | None = None,
    init: Init = "alternate",
    towers: Towers = "both",
    seed: int = 0,
    revision: str | None = None,
) -> "CLIPModel":
    """A student with the teacher's configuration and fewer layers, in float32 on the CPU.

    Args:
        teacher: hub id or folder of a Hugging Face CLIP or SigLIP.
        depth: layers of each trained tower; default: half the teacher's.
        init: ``alternate`` inherits every other layer (layer ``i * L // depth``) and all that is not a layer;
            ``first`` the first layers; ``random`` nothing.
        towers: with ``image`` or ``text`` only that one is made smaller; the other is the teacher's own and frozen.
        seed: of the random initialisation.
        revision: of the teacher on the Hub.

    Raises:
        ConfigError: ``depth`` is not smaller than the teacher's.
        ModelError: the teacher cannot be read.
    """
    shape = StudentShape(depth=depth, towers=towers)
    return build_student(teacher, shape, init=init, seed=seed, revision=revision).clip


def build_student(
    teacher: str | Path,
    shape: StudentShape,
    *,
    init: Init | None = None,
    seed: int = 0,
    revision: str | None = None,
    dim: int | None = None,
) -> Student:
    """A student of any shape, with a head where it projects to another dimension than its teacher.

    Args:
        teacher: hub id or folder of a Hugging Face CLIP or SigLIP; a head beside it is part of it.
        shape: of the student.
        init: as ``halve`` takes it; ``None``: what ``default_init`` says.
        seed: of the random initialisation.
        revision: of the teacher on the Hub.
        dim: width of the targets; ``None``: the teacher's own.

    Returns:
        In float32 on the CPU. A tower that is not trained is the teacher's own, whatever ``init`` says.

    Raises:
        ConfigError: no such student can be made, or ``init`` asks for layers that do not fit it.
        ModelError: the teacher cannot be read.
    """
    folder = resolve_model(teacher, revision=revision)
    theirs = read_model_config(folder, name=str(teacher))
    config = shape.of(theirs)
    if family_of(config) is not family_of(theirs):
        _match_tokens(config, folder, str(teacher))
    reason = difference(config, theirs, shape.towers)
    if init is None:
        init = "random" if reason else "alternate"
    elif init != "random" and reason:
        raise ConfigError(
            f"--init {init} asks for the teacher's layers, which do not fit this student: {reason}; leave --init out"
        )
    try:
        clip = random_clip(config, seed=seed)
    except (ValueError, TypeError, KeyError, RuntimeError) as error:
        raise ConfigError(f"no CLIP can be built from {shape.config or teacher}: {error}") from error
    wanted = _inherited_names(clip, init, shape.towers)
    if wanted:
        _inherit(clip, folder, _chosen_layers(config, theirs, init, shape.towers), wanted)
    _freeze(clip, shape.towers)
    teachers_head = load_head(folder, joint_dim(theirs))
    head = _make_head(config, theirs, teachers_head, dim, init=init, towers=shape.towers, seed=seed)
    return Student(clip, head)


def student_of_config(config: Any, towers: Towers, *, seed: int) -> Student:
    """A student without a teacher: random weights, in float32 on the CPU.

    Args:
        config: its ``CLIPConfig``.
        towers: which are trained; any other is frozen as it is.
        seed: of the initialisation.
    """
    clip = random_clip(config, seed=seed)
    frozen = _freeze(clip, towers)
    return Student(clip, untrained=_SIDES[frozen[0]] if frozen else None)


def _match_tokens(config: Any, folder: Path, name: str) -> None:
    """Give a CLIP the special tokens of another family's tokenizer: it pools each text where it ends.

    Raises:
        ModelError: the tokenizer does not end a text, so that a CLIP would find nothing to pool.
    """
    _, tokenizer = load_processors(folder, name=name)
    end = tokenizer.eos_token_id
    if (
        end is None or end == 2 or tokenizer(["a"])["input_ids"][0].count(end) != 1
    ):  # 2: the highest id, to CLIP
        raise ModelError(
            f"the tokenizer of {name} does not end a text with one token of its own, as a CLIP needs"
        )
    text = config.text_config
    text.bos_token_id, text.eos_token_id, text.pad_token_id = (
        tokenizer.bos_token_id,
        end,
        tokenizer.pad_token_id,
    )


def default_init(teacher: str | Path, shape: StudentShape, *, revision: str | None = None) -> Init:
    """``alternate`` where the teacher's layers fit the student, else ``random``.

    Raises:
        ConfigError, ModelError: as ``build_student``.
    """
    theirs = read_model_config(resolve_model(teacher, revision=revision), name=str(teacher))
    return "random" if difference(shape.of(theirs), theirs, shape.towers) else "alternate"


def random_clip(config: Any, *, seed: int) -> "CLIPModel":
    """A CLIP or SigLIP initialised at random, in float32, without touching the global random state."""
    config.dtype = "float32"
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return family_of(config).build(config)


def inherited_layers(teacher_layers: int, depth: int, init: Init) -> list[int]:
    """Which of the teacher's layers a student of ``depth`` layers takes, in order."""
    if init == "first":
        return list(range(depth))
    return [index * teacher_layers // depth for index in range(depth)]


def count_parameters(model: torch.nn.Module, *, trained: bool = False) -> int:
    """Number of weights; with ``trained`` only those that need a gradient."""
    return sum(one.numel() for one in model.parameters() if one.requires_grad or not trained)


def _freeze(clip: "CLIPModel", towers: Towers) -> list[str]:
    """Stop the gradient of the towers that are not trained; gives their names."""
    parts = family_of(clip.config).parts
    frozen = [tower for tower in parts if tower not in TRAINED[towers]]
    for tower in frozen:
        for part in parts[tower]:
            getattr(clip, part).requires_grad_(False)
    return frozen


def _inherited_names(clip: "CLIPModel", init: Init, towers: Towers) -> set[str]:
    """The student's weights that are the teacher's: all, or only those of the tower that is not trained."""
    names = set(clip.state_dict())
    if init != "random":
        return names
    parts = family_of(clip.config).parts
    frozen = [f"{part}." for tower in parts.keys() - TRAINED[towers] for part in parts[tower]]
    return {name for name in names if name.startswith(tuple(frozen))}


def _chosen_layers(config: Any, teacher: Any, init: Init, towers: Towers) -> dict[str, list[int]]:
    """Which of the teacher's layers each tower takes: the whole of one that is not trained."""
    chosen = {}
    for tower in _SIDES:
        depth, layers = (getattr(one, f"{tower}_config").num_hidden_layers for one in (config, teacher))
        how = init if tower in TRAINED[towers] else "alternate"
        chosen[f"{tower}_model.encoder.layers."] = inherited_layers(layers, depth, how)
    return chosen


def _make_head(
    config: Any,
    teacher: Any,
    teachers: ProjectionHead | None,
    dim: int | None,
    *,
    init: Init,
    towers: Towers,
    seed: int,
) -> ProjectionHead | None:
    mine, own = joint_dim(config), joint_dim(teacher) if teachers is None else teachers.dims[1]
    wanted = own if dim is None else dim
    if mine == wanted and (teachers is None or teachers.dims[0] != wanted):
        return None
    if wanted != own and len(TRAINED[towers]) == 1:
        raise ConfigError(
            f"--towers {towers} keeps a tower as it is, which embeds in {own} dimensions, and the targets have "
            f"{wanted}; train both towers, or learn from one teacher of the cache (--pick-teacher)"
        )
    head = ProjectionHead(mine, wanted, seed=seed)
    for tower, side in _SIDES.items():
        trained = tower in TRAINED[towers]
        getattr(head, side).requires_grad_(trained)
        if teachers is not None and teachers.dims == head.dims and (init != "random" or not trained):
            getattr(head, side).load_state_dict(getattr(teachers, side).state_dict())
    return head


def _inherit(
    student: "CLIPModel", folder: Path, chosen: dict[str, list[int]], wanted: "Collection[str]"
) -> None:
    """Copy the wanted weights from the teacher's files, those of layers from the chosen ones."""
    found: dict[str, torch.Tensor] = {}
    for key, read in iterate_weights(folder):
        for name in _student_names(key, chosen):
            if name in wanted:
                found[name] = read().float()
    missing = set(wanted) - found.keys()
    if missing:
        raise ModelError(
            f"{folder} lacks {len(missing)} weights of its config.json, {min(missing)} among them"
        )
    try:
        student.load_state_dict(found, strict=False)
    except RuntimeError as error:
        raise ModelError(f"the weights in {folder} do not fit its config.json: {error}") from error


def _student_names(key: str, chosen: dict[str, list[int]]) -> list[str]:
    match = _LAYER.match(key)
    if match is None:
        return [key]
    prefix, index, rest = match[1], int(match[2]), match[3]
    return [f"{prefix}{position}{rest}" for position, layer in enumerate(chosen[prefix]) if layer == index]
