"""What made a cache's vectors: a teacher, run by mmkd or by others."""

from dataclasses import asdict, dataclass, field
from typing import Any

from mmkd.cache.checks import expect_keys, hash_text, number, positive, shown, text
from mmkd.embeddings import TeacherSpec, unknown_teacher
from mmkd.errors import CacheError

SIDES = ("image", "text")


@dataclass(frozen=True)
class Imported:
    """Where the vectors of a cache that mmkd did not compute came from.

    Attributes:
        form: ``clip-retrieval``, ``numpy`` or ``parquet``.
        files: how many files were read.
        bytes: their size.
        xxh3_128: hash of their names and contents, in order.
        sides: the sides that there are vectors of: ``image``, ``text`` or both.
        pairs_xxh3_128: hash of the cache's ``pairs.parquet``; None where there is none, or where an older mmkd wrote
            it. It is no part of what was imported.
    """

    form: str
    files: int
    bytes: int
    xxh3_128: str
    sides: tuple[str, ...]
    pairs_xxh3_128: str | None = field(default=None, compare=False)

    def to_json(self) -> dict[str, Any]:
        """As a JSON object."""
        return {name: value for name, value in asdict(self).items() if value is not None}

    @classmethod
    def from_json(cls, value: Any) -> "Imported":
        """Read what ``to_json`` gave.

        Raises:
            CacheError: anything is missing, unknown, or of the wrong type.
        """
        optional = {"pairs_xxh3_128"} - (value.keys() if isinstance(value, dict) else set())
        expect_keys(value, cls.__dataclass_fields__.keys() - optional, "the import")
        if value["sides"] not in (["image", "text"], ["image"], ["text"]):
            raise CacheError(f"found the sides {shown(value['sides'])}; expected image, text or both")
        return cls(
            form=text(value, "form"),
            files=number(value, "files", 1),
            bytes=number(value, "bytes", 1),
            xxh3_128=hash_text(value, "xxh3_128"),
            sides=tuple(value["sides"]),
            pairs_xxh3_128=None if optional else hash_text(value, "pairs_xxh3_128"),
        )


def teacher_differences(found: TeacherSpec, wanted: TeacherSpec) -> list[str]:
    """What sets two teachers apart, in words; their names and revisions do not count."""
    words = {"weights_hash": "weights", "preprocess_hash": "preprocessing", "tokenizer_hash": "tokenizer"}
    changed = [
        f"{word} {getattr(found, name)[:4]}… (here {getattr(wanted, name)[:4]}…)"
        for name, word in words.items()
        if getattr(found, name) != getattr(wanted, name)
    ]
    return changed + [
        f"{name} {getattr(found, name)} (here {getattr(wanted, name)})"
        for name in ("dim", "layers")
        if getattr(found, name) != getattr(wanted, name)
    ]


def teacher_from_json(value: Any, *, may_be_unknown: bool) -> TeacherSpec:
    """Read what ``dataclasses.asdict`` gave.

    Raises:
        CacheError: anything is missing, unknown, or of the wrong type.
    """
    expect_keys(value, set(TeacherSpec.__dataclass_fields__), "the teacher")
    dim = number(value, "dim", 1, most=65_536)
    if may_be_unknown and value == asdict(unknown_teacher(dim)):
        return unknown_teacher(dim)
    layers, revision = value["layers"], value["revision"]
    if not (
        isinstance(layers, list)
        and len(layers) == 2
        and all(type(n) is int and 0 < n < 1 << 16 for n in layers)
    ):
        raise CacheError(f"found layers {shown(layers)}; expected two whole numbers")
    return TeacherSpec(
        model=text(value, "model"),
        revision=None if revision is None else text(value, "revision"),
        weights_hash=hash_text(value, "weights_hash"),
        preprocess_hash=hash_text(value, "preprocess_hash"),
        tokenizer_hash=hash_text(value, "tokenizer_hash"),
        dim=dim,
        logit_scale=positive(value, "logit_scale"),
        layers=(layers[0], layers[1]),
    )
