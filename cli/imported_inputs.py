"""What an imported cache can train: it may lack a side, captions, images, or the name of its teacher."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmkd.errors import ConfigError, MmkdError, ModelError
from mmkd.families import joint_dim, load_processors, read_model_config
from mmkd.objective import LOSSES, TASK_LOSSES
from mmkd.shapes import TRAINED

if TYPE_CHECKING:
    from mmkd.cache.store import CacheStore
    from mmkd.recipe import Recipe

SIDE = {"vision": "image", "text": "text"}
_NOUNS = {"image": "images", "text": "captions"}
_AGAIN = {"image": "--images FOLDER", "text": "--caption-column or --captions"}


def teacher_is_unknown(cache: Path) -> bool:
    """Whether there is a cache that does not say what made its vectors."""
    from mmkd.cache.manifest import read_manifest

    try:
        return not read_manifest(cache).teacher.known
    except MmkdError:
        return False


def refuse_absent_sides(recipe: "Recipe", store: "CacheStore") -> None:
    """Refuse what needs images, captions or vectors that the cache was imported without.

    Raises:
        ConfigError: something does.
    """
    trained = [SIDE[tower] for tower in TRAINED[recipe.shape.towers]]
    for side in trained:
        if side not in store.readable:
            others = [other for other in store.readable if other != side]
            instead = f"use --towers {others[0]} --task none, or " if others else ""
            raise ConfigError(
                f"{store.folder} was imported without {_NOUNS[side]}, which --towers {recipe.towers} needs; {instead}"
                f"import it again with {_AGAIN[side]}"
            )
    absent = [side for side in SIDE.values() if side not in store.sides]
    if not absent:
        return
    (side,) = absent
    lacks = f"{store.folder} holds no vectors of {'images' if side == 'image' else 'texts'}"
    for term in recipe.objective.terms:
        loss = LOSSES[term.name]
        if loss.crosses and ("teacher" in loss.needs or side not in trained or recipe.mines):
            instead = "use --task none" if term.name in TASK_LOSSES else "leave it out"
            raise ConfigError(f"{term.name} compares images with texts, and {lacks}; {instead}")
        if not loss.crosses and side in trained:
            raise ConfigError(
                f"{term.name} compares with the teacher's, and {lacks}; leave it out, or train the other tower"
            )
    if recipe.bank:
        raise ConfigError(f"--bank {recipe.bank} holds vectors of both sides, and {lacks}; leave it out")


def open_student_folder(model_config: Path) -> tuple[Path, Any, Any]:
    """Folder, image processor and tokenizer of a student that is described by its ``config.json``.

    Raises:
        ModelError: it is no such file, or one of them is missing beside it.
    """
    if model_config.name != "config.json" or not model_config.is_file():
        raise ModelError(
            f"{model_config} is not the config.json of a CLIP; expected one with tokenizer and processor beside it"
        )
    folder = model_config.parent
    return folder, *load_processors(folder, name=str(folder))


def check_width(store: "CacheStore", folder: Path) -> None:
    """Hold a student's projection against the width of the vectors that it learns from.

    Raises:
        ConfigError: they differ.
    """
    found = joint_dim(read_model_config(folder, name=str(folder)))
    if found != store.spec.dim:
        raise ConfigError(
            f"{folder / 'config.json'} has projection_dim {found}, but {store.folder} holds vectors of width "
            f"{store.spec.dim}; set it to that"
        )
