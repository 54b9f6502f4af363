"""What made a cache's vectors: a teacher, run by mmkd or by others."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import xxhash

from mmkd.cache.checks import expect_keys, hash_text, number, positive, shown, text
from mmkd.embeddings import UNKNOWN, TeacherSpec, unknown_teacher
from mmkd.errors import CacheError, ConfigError

SIDES = ("image", "text")
MAX_TEACHERS = 16


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
    if found.config_hash and wanted.config_hash:  # caches of an older mmkd do not say it
        words["config_hash"] = "configuration"
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


def teachers_differences(found: Sequence[TeacherSpec], wanted: Sequence[TeacherSpec]) -> list[str]:
    """What sets the teachers of two caches apart, in words; their order counts."""
    if len(found) != len(wanted):
        return [f"{len(found)} teachers (here {len(wanted)})"]
    if len(found) == 1:
        return teacher_differences(found[0], wanted[0])
    return [
        f"teacher {number}'s {change}"
        for number, (one, other) in enumerate(zip(found, wanted, strict=True), start=1)
        for change in teacher_differences(one, other)
    ]


def joined(teachers: Sequence[TeacherSpec]) -> TeacherSpec:
    """Several teachers as the one that their vectors, side by side, are of."""
    if len(teachers) == 1:
        return teachers[0]
    return TeacherSpec(
        model=" + ".join(one.model for one in teachers),
        revision=None,
        weights_hash=_together(one.weights_hash for one in teachers),
        preprocess_hash=_together(one.preprocess_hash for one in teachers),
        tokenizer_hash=_together(one.tokenizer_hash for one in teachers),
        dim=sum(one.dim for one in teachers),
        logit_scale=None,
        layers=None,
        config_hash=_together(one.config_hash or UNKNOWN for one in teachers),
    )


def _together(hashes: Iterable[str]) -> str:
    return xxhash.xxh3_128_hexdigest(" ".join(hashes).encode())


def pick_teacher(teachers: Sequence[TeacherSpec], name: str) -> int:
    """Which of a cache's teachers is meant, from 0: by its number from 1, its model, or the last part of that.

    Raises:
        ConfigError: none is, or several are.
    """
    numbers = {str(number): number - 1 for number in range(1, len(teachers) + 1)}
    if name in numbers:
        return numbers[name]
    found = [place for place, one in enumerate(teachers) if name in {one.model, Path(one.model).name}]
    if len(found) != 1:
        known = ", ".join(f"{number} = {one.model}" for number, one in enumerate(teachers, start=1))
        raise ConfigError(
            f"--pick-teacher {name} names {'several' if found else 'none'} of the cache's teachers; expected a number "
            f"or a name: {known}"
        )
    return found[0]


def teachers_from_json(value: dict[str, Any], *, imported: bool) -> tuple[TeacherSpec, ...]:
    """The teachers of settings that ``CacheSettings.to_json`` wrote: of one ``teacher``, of several ``teachers``.

    Raises:
        CacheError: anything is missing, unknown, or of the wrong type.
    """
    if "teachers" not in value:
        return (teacher_from_json(value["teacher"], may_be_unknown=imported),)
    found = value["teachers"]
    if not isinstance(found, list) or not 2 <= len(found) <= MAX_TEACHERS or imported:
        raise CacheError(f"found teachers {shown(found)}; expected 2 to {MAX_TEACHERS}, and no import")
    return tuple(teacher_from_json(one, may_be_unknown=False) for one in found)


def teacher_from_json(value: Any, *, may_be_unknown: bool) -> TeacherSpec:
    """Read what ``TeacherSpec.to_json`` gave.

    Raises:
        CacheError: anything is missing, unknown, or of the wrong type.
    """
    optional = {"config_hash"} - (value.keys() if isinstance(value, dict) else set())
    expect_keys(value, TeacherSpec.__dataclass_fields__.keys() - optional, "the teacher")
    dim = number(value, "dim", 1, most=65_536)
    if may_be_unknown and value == unknown_teacher(dim).to_json():
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
        config_hash=None if optional else hash_text(value, "config_hash"),
    )
