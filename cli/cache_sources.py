"""The teacher and the data that a cache's manifest names, or those named instead of them."""

from dataclasses import replace
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmkd.errors import ConfigError

if TYPE_CHECKING:
    from mmkd.cache.settings import CacheSettings
    from mmkd.data import PairDataset
    from mmkd.encoders import PairEncoder


def open_cached_pairs(settings: "CacheSettings", data: list[str] | None) -> "PairDataset":
    """The pairs that a cache was made from; ``data`` says where they are now.

    Raises:
        ConfigError: another number of data sets is named.
        DataError: they cannot be opened.
    """
    from mmkd.data import open_pairs

    sources = list(settings.sources)
    if data:
        if len(data) != len(sources):
            raise ConfigError(
                f"the cache was made from {len(sources)} data sets, but --data names {len(data)}"
            )
        sources = [replace(source, spec=spec) for source, spec in zip(sources, data, strict=True)]
    return open_pairs(sources, settings.limit)


def load_cached_teachers(settings: "CacheSettings", teachers: list[str] | None) -> "list[PairEncoder]":
    """The teachers that made a cache, in the precision that it was made with; ``teachers`` says where they are now.

    Raises:
        ConfigError: another number of teachers is named.
        ModelError: one cannot be loaded.
    """
    from mmkd.encoders import load_encoder

    if teachers and len(teachers) != len(settings.teachers):
        raise ConfigError(
            f"the cache was made by {len(settings.teachers)} teachers, but --teacher names {len(teachers)}"
        )
    encoders = []
    for spec, moved in zip_longest(settings.teachers, teachers or ()):
        model = moved or spec.model
        revision = None if moved or Path(model).is_dir() else spec.revision
        encoders.append(load_encoder(model, revision=revision, dtype=settings.dtype))
    return encoders


def clean_json(value: Any) -> Any:
    """A JSON value whose texts can be written as UTF-8, whatever a manifest held."""
    if isinstance(value, dict):
        return {clean_json(key): clean_json(item) for key, item in value.items()}
    if isinstance(value, list):
        return [clean_json(item) for item in value]
    return value.encode("utf-8", "replace").decode() if isinstance(value, str) else value
