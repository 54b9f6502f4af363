"""Which images and captions a retrieval's ``--data`` spec stands for."""

import difflib
import glob
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Protocol

import yaml

from mmkd.data import DataSource, open_pairs
from mmkd.errors import ConfigError
from mmkd.pairs import Pair


class CaptionedImages(Protocol):
    """Encoded images with their captions by row."""

    def __len__(self) -> int: ...

    def __getitem__(self, row: int, /) -> Pair: ...


@dataclass(frozen=True)
class RetrievalTask:
    """Images and their captions, each of which is to find the other.

    Attributes:
        name: what the set is called in tables.
        pairs: the images with their captions.
        captions: how many captions of an image count, the first ones; ``None``: all.
        source: where they came from, to be said aloud.
    """

    name: str
    pairs: CaptionedImages
    captions: int | None = None
    source: str = ""


@dataclass(frozen=True)
class BuiltinCaptions:
    """A captioned set known by name; the fields are the keys of its file in ``configs/retrieval``."""

    name: str
    data: str
    split: str
    image_column: str
    caption_column: str
    captions: int


@cache
def builtin_captions() -> dict[str, BuiltinCaptions]:
    """All built-in sets by name."""
    folder = files("mmkd.configs").joinpath("retrieval")
    found = {}
    for file in sorted(folder.iterdir(), key=lambda entry: entry.name):
        if file.name.endswith(".yaml"):
            one = BuiltinCaptions(**yaml.safe_load(file.read_text(encoding="utf-8")))
            found[one.name] = one
    return found


def open_captioned(
    spec: str, *, split: str | None = None, image_column: str | None = None, caption_column: str | None = None
) -> RetrievalTask:
    """Open what ``--data`` names: ``flickr30k``, ``flickr30k=FILE_OR_FOLDER``, or captioned data of one's own.

    Raises:
        ConfigError: no such built-in name.
        DataError: the data cannot be opened, lacks a column, or has no captions.
    """
    name, given, path = spec.partition("=")
    known = builtin_captions()
    builtin = None
    if given and not Path(spec).exists():
        builtin, spec = _find(name), path
    elif spec in known:
        builtin = known[spec]
        spec, split = builtin.data, split or builtin.split
        image_column = image_column or builtin.image_column
        caption_column = caption_column or builtin.caption_column
    elif not given and "/" not in spec and not Path(spec).exists() and not glob.has_magic(spec):
        _find(spec)
    pairs = open_pairs([DataSource(spec, split, image_column, caption_column)])
    called = builtin.name if builtin else Path(spec).name.partition(".")[0]
    return RetrievalTask(called, pairs, builtin.captions if builtin else None, pairs.describe()[0])


def _find(name: str) -> BuiltinCaptions:
    known = builtin_captions()
    if name in known:
        return known[name]
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    raise ConfigError(
        f"no built-in captioned set {name!r}, and no such file; {hint}Built in: {', '.join(known)}; "
        "other data by file, folder or hub id (owner/name)"
    )
