"""A model folder's weights: safetensors only, for a pickle can run code when it is loaded."""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import xxhash

from mmkd.errors import ModelError, first_line
from mmkd.heads import HEAD_FILE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from torch import Tensor

_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
PICKLE_REFUSED = "a pickle, which can run code when it is loaded, so it is refused"


def weights_files(folder: Path) -> list[Path]:
    """The folder's safetensors files, save for a head's.

    Raises:
        ModelError: there are none, though there may be pickles, which are never read.
    """
    files = [file for file in sorted(folder.glob("*.safetensors")) if file.name != HEAD_FILE]
    if files:
        return files
    pickles = pickles_among(file.name for file in folder.iterdir())
    if pickles:
        raise ModelError(
            f"{folder} holds {pickles[0]}, {PICKLE_REFUSED}; expected model.safetensors: if you trust the file, "
            f"convert it once with {conversion_command(folder)}"
        )
    raise ModelError(f"{folder} holds no weights; expected model.safetensors")


def pickles_among(names: "Iterable[str]") -> list[str]:
    """Those of ``names`` that are pickled weights."""
    return sorted(name for name in names if name.endswith(_PICKLES))


def conversion_command(model: str | Path) -> str:
    """The command that writes a pickled CLIP as safetensors, tokenizer and all, in one line."""
    target = model if Path(model).is_dir() else "FOLDER"
    return (
        '`python -c "from transformers import AutoModel as M, AutoProcessor as P; '
        f"[c.from_pretrained('{model}').save_pretrained('{target}') for c in (M, P)]\"`"
    )


def iterate_weights(folder: Path) -> "Iterator[tuple[str, Callable[[], Tensor]]]":
    """Each weight's name, and how to read it: what is not asked for is not read.

    Raises:
        ModelError: there are no weights, or a file is damaged.
    """
    from safetensors import SafetensorError, safe_open

    for file in weights_files(folder):
        try:
            with safe_open(file, framework="pt") as weights:
                for name in weights.keys():  # noqa: SIM118 (not a dict)
                    yield name, partial(weights.get_tensor, name)
        except SafetensorError as error:
            raise ModelError(f"cannot read {file}: {first_line(error)}") from error


def hash_weights(folder: Path) -> str:
    """xxh3_128 over the folder's weights files and its head's, by name.

    Raises:
        ModelError: there is none.
    """
    digest = xxhash.xxh3_128()
    for file in [*weights_files(folder), *folder.glob(HEAD_FILE)]:
        digest.update(file.name.encode())
        with file.open("rb") as stream:
            while block := stream.read(1 << 22):
                digest.update(block)
    return digest.hexdigest()
