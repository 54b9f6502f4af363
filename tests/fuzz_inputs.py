"""What the fuzzing feeds: manifests, records, YAML, expressions, shards and images, nearly right."""

import io
import json
import random
import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from hypothesis import strategies as st
from PIL import Image

from mmkd.cache.manifest import CacheManifest
from mmkd.cache.settings import CacheSettings
from mmkd.cache.shard import shard_fields, write_shard
from mmkd.data import DataSource
from mmkd.embeddings import TeacherSpec
from mmkd.objective import LOSSES

TEACHER = TeacherSpec("a/teacher", "c0ffee", "0" * 32, "1" * 32, "2" * 32, 16, 100.0, (4, 4))
SETTINGS = CacheSettings(TEACHER, (DataSource("a/b", "train", "jpg", "txt"),), None, 20, 2, "float32", 8, 12)
FIELDS = shard_fields(SETTINGS, 0)

# fmt: off
HUGE = [0, -1, 1 << 31, 1 << 62, 1 << 63, 1 << 64, 10**30, 10**400, 1e308, -0.0, 5e-324]
NASTY = ["", "\0", "../../etc/passwd", "/etc/passwd", "shard-00000.h5", "\x1b[2J", "\u202e", "0" * 32, "x" * 9999]
JSON = [b"NaN", b"-Infinity", b"1e999", b'"\\ud800"', b"[" * 2000, b'{"a":' * 2000, b"9" * 5000, b"\xff", b"[]", b"-"]
OPTIONS = ["kd", "task", "lr", "epochs", "views", "bank", "seed", "margin", "towers", "depth", "cache", "data", "ema"]
YAML = [
    ": ", "\n", "\n", " ", "- ", "[", "]", "{", "}", ", ", "&a ", "*a", "!x ", "|\n ", ">", "\t", "'", '"', "#",
    "? ", "<<: ",    "!!python/object:os.system ", "!!binary ", "%YAML 9.9\n", "---\n", "...\n", "\\ud800", "\u202e",
    "\ufeff", "mse+cos",    "1e-3", "1e999", ".inf", ".nan", "no", "~", "2020-99-99", "0o7", "1:2:3", "9" * 5000,
    "[" * 300, "{a: " * 300,
]
TERMS = [
    *LOSSES, "none", "+", "+", "*", "@", " ", "0.5", "1e3", "1e+3", "9" * 400, "1e999", "-1", ".", "e", "٣", "_",
    "\0", "nan",
]
# fmt: on

scalars = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=20), st.sampled_from(HUGE + NASTY)
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9), inner, max_size=4),
    max_leaves=8,
)


@cache
def scratch() -> Path:
    """A folder for this process, with the shards of a cache of 20 rows."""
    return Path(tempfile.mkdtemp(prefix="mmkd-fuzz-"))


@cache
def whole() -> tuple[bytes, bytes, bytes]:
    """A manifest, a record and a shard, all as they should be."""
    rng, records = np.random.default_rng(0), []
    for index in range(2):
        arrays = {
            name: rng.integers(0, 256, field.bytes, np.uint8).view(field.dtype).reshape(field.shape)
            for name, field in shard_fields(SETTINGS, index).items()
        }
        records.append(write_shard(scratch(), index, SETTINGS, arrays, {"no caption": 1}))
    manifest = CacheManifest(SETTINGS, "c" * 32, tuple(records)).to_json()
    record = {"schema": 1, "settings": manifest["settings"], "shard": manifest["shards"][0]}
    shard = (scratch() / "shard-00000.h5").read_bytes()
    return json.dumps(manifest).encode(), json.dumps(record).encode(), shard


def edited_bytes(data: bytes, tokens: list[bytes]) -> st.SearchStrategy[bytes]:
    """``data`` with bits turned, bytes replaced, parts cut out, doubled or put in."""
    return st.integers(0, 1 << 62).map(lambda seed: _edit(data, tokens, random.Random(seed)))


def _edit(data: bytes, tokens: list[bytes], rng: random.Random) -> bytes:
    out = bytearray(data)
    for _ in range(rng.randint(1, 6)):
        place, other = rng.randrange(len(out) + 1), rng.randrange(len(out) + 1)
        length = rng.randint(1, 64)
        match rng.choice(["bit", "bit", "bit", "byte", "cut", "end", "copy", "token"]):
            case "bit" if place < len(out):
                out[place] ^= 1 << rng.randrange(8)
            case "byte" if place < len(out):
                out[place] = rng.choice([0, 1, 0x7F, 0x80, 0xFE, 0xFF, rng.randrange(256)])
            case "cut":
                del out[place : place + length]
            case "end" if rng.randrange(4) == 0:
                del out[place:]
            case "copy":
                out[place : place + length] = out[other : other + length]
            case "token":
                out[place:place] = rng.choice(tokens)
    return bytes(out)


def edited_json(data: bytes) -> st.SearchStrategy[bytes]:
    """A JSON text with some of its values replaced, nested, doubled or left out, or some of its bytes changed."""
    edits = st.tuples(st.integers(0, 1 << 62), st.lists(values, min_size=1, max_size=2))
    by_value = edits.map(lambda edit: _edit_json(data, edit[1], random.Random(edit[0])))
    return by_value | by_value | edited_bytes(data, JSON)


def _edit_json(data: bytes, new: list[Any], rng: random.Random) -> bytes:
    value = json.loads(data)
    for item in new:
        path = rng.choice([*_places(value)])
        here = value
        for step in path[:-1]:
            here = here[step]
        match rng.choice(["set", "set", "set", "nest", "drop", "add"]):
            case "set":
                here[path[-1]] = item
            case "nest":
                for _ in range(rng.choice([1, 40])):
                    here[path[-1]] = [here[path[-1]]]
            case "drop" if len(value) > 1:
                del here[path[-1]]
            case "add" if isinstance(here, dict):
                here[str(item)[:9]] = item
    return json.dumps(value).encode()


def _places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if path:
        yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield from _places(inner, (*path, key))


def configs() -> st.SearchStrategy[bytes]:
    """YAML."""
    words = st.lists(st.sampled_from(OPTIONS + YAML) | st.text(max_size=5), max_size=25)
    mappings = st.dictionaries(st.sampled_from(OPTIONS), values)
    return (
        words.map(lambda parts: "".join(parts).encode("utf-8", "replace"))
        | mappings.map(lambda value: json.dumps(value).encode())
        | st.binary(max_size=40)
    )


def expressions() -> st.SearchStrategy[str]:
    """Sums of losses."""
    terms = st.lists(st.sampled_from(TERMS) | st.text(max_size=3), max_size=14).map("".join)
    return terms | st.text(max_size=99)


def shards() -> st.SearchStrategy[bytes]:
    """A shard, most of its changes where HDF5 keeps what it says of itself."""
    tokens = [b"\x89HDF\r\n\x1a\n", bytes(512), b"TREE", b"OHDR", b"SNOD", b"HEAP"]
    structure = st.integers(0, 1 << 62).map(lambda seed: _edit_structure(random.Random(seed)))
    return structure | structure | structure | edited_bytes(whole()[2], tokens)


def _edit_structure(rng: random.Random) -> bytes:
    data, said = bytearray(whole()[2]), _structure()
    for _ in range(rng.randint(1, 5)):
        place, width = rng.choice(said), rng.choice([1, 1, 1, 2, 4, 8])
        near = data[place] ^ 1 << rng.randrange(8)
        word = rng.choice([0, 1, 0xFF, 1 << 63, (1 << 64) - 1, rng.getrandbits(64), near])
        data[place : place + width] = word.to_bytes(8, "little")[:width]
    return bytes(data)


@cache
def _structure() -> list[int]:
    """Places in the shard that hold no values and are not far from a byte that is not 0."""
    said = np.frombuffer(whole()[2], np.uint8) != 0
    for _ in range(8):
        said[1:] |= said[:-1]
    with h5py.File(scratch() / "shard-00000.h5") as file:
        for name in file:
            start = file[name].id.get_offset()
            said[start : start + file[name].nbytes] = False
    places: list[int] = np.flatnonzero(said).tolist()
    return places


def images() -> st.SearchStrategy[bytes]:
    """An image of each format."""
    tokens = [b"\xff\xd8", b"IDAT", bytes(9), b"\xff\xff\xff\xff"]
    return st.sampled_from(_images()).flatmap(lambda data: edited_bytes(data, tokens))


@cache
def _images() -> list[bytes]:
    picture = Image.effect_noise((16, 12), 60)
    kinds = [("PNG", "RGBA"), ("PNG", "P"), ("JPEG", "CMYK"), ("WEBP", "RGB"), ("GIF", "P"), ("BMP", "RGB")]
    kinds += [("TIFF", "RGB"), ("TIFF", "I;16"), ("PPM", "RGB")]
    found = []
    for form, mode in kinds:
        for options in [{}, {"compression": "tiff_lzw"}] if form == "TIFF" else [{}]:
            stream = io.BytesIO()
            picture.convert("L" if mode == "I;16" else mode).convert(mode).save(stream, form, **options)
            found.append(stream.getvalue())
    return found
