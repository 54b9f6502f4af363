"""The images of an evaluation set, embedded once a model, and kept."""

import json
import struct
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import xxhash
from numpy.typing import ArrayLike, NDArray

from mmkd.errors import ModelError
from mmkd.evaluation.statistics import unit_vectors
from mmkd.files import atomic_file
from mmkd.images import BadImageError, decode_image

if TYPE_CHECKING:
    from PIL.Image import Image

    from mmkd.encoders import PairEncoder

VERSION = 2  # of what is kept; another is embedded anew
_DIGEST = "xxh3_128"  # of a kept file's arrays, in its metadata
# What a configuration says of where it comes from and how it was stored, not of what the model computes.
_SAID_OF_ORIGIN = frozenset(
    {"_name_or_path", "architectures", "dtype", "torch_dtype", "transformers_version"}
)
BATCH_SIZE = 256


class Images(Protocol):
    """Encoded images by row."""

    def __len__(self) -> int: ...

    def __getitem__(self, row: int, /) -> bytes: ...


@dataclass(frozen=True)
class EmbeddedImages:
    """One model's vectors of a set's images.

    Attributes:
        vectors: float32 (N, D), unit length, of the images that could be decoded.
        places: int64 (N,), where each stands among the rows that were asked for.
        skipped: how many images could not be decoded, by reason.
    """

    vectors: NDArray[np.float32]
    places: NDArray[np.int64]
    skipped: Mapping[str, int]


class KeptEmbeddings:
    """A folder of embeddings that need not be computed again: one safetensors file a model and input.

    Files are found by the hash of what they were made from, so nothing is ever stale.

    Args:
        folder: where they are; made when the first is kept.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def read(self, key: str) -> dict[str, NDArray[Any]] | None:
        """The arrays kept under ``key``; ``None``: there are none, or they are not as they were written."""
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(self._path(key), framework="np") as file:
                arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
                digest = (file.metadata() or {}).get(_DIGEST)
        except (OSError, SafetensorError, AttributeError, KeyError, TypeError, ValueError):
            return None
        return arrays if digest == _digest(key, arrays) else None

    def keep(self, key: str, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Keep ``arrays`` under ``key``, whole or not at all."""
        from safetensors.numpy import save_file

        whole = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
        with atomic_file(self._path(key)) as temporary:
            save_file(whole, temporary, metadata={_DIGEST: _digest(key, whole)})

    def _path(self, key: str) -> Path:
        return self.folder / f"{key}.safetensors"


def _digest(key: str, arrays: Mapping[str, NDArray[Any]]) -> str:
    digest = xxhash.xxh3_128(key.encode())
    for name, array in sorted(arrays.items()):
        digest.update(f"\0{name}\0{array.dtype.str}\0{array.shape}\0".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


class ContentHash:
    """xxh3_128 of byte strings, in order; their boundaries count."""

    def __init__(self) -> None:
        self._digest = xxhash.xxh3_128()

    def add(self, data: bytes) -> None:
        """Take one more."""
        self._digest.update(struct.pack("<q", len(data)))
        self._digest.update(data)

    def hexdigest(self) -> str:
        """32 hexadecimal digits."""
        return self._digest.hexdigest()


def model_hash(encoder: "PairEncoder") -> str:
    """xxh3_128 of what decides a model's vectors.

    Weights, configuration (activation, heads, end of text, ...), preprocessing, tokenizer, precision, kind of device.
    """
    spec, model = encoder.spec, getattr(encoder, "model", None)
    parts = [spec.weights_hash, spec.preprocess_hash, spec.tokenizer_hash, str(spec.dim), str(VERSION)]
    config = getattr(model, "config", None)
    settings = {} if config is None else _without_origin(config.to_dict())
    parts.append(json.dumps(settings, sort_keys=True, default=str))
    parts += [getattr(getattr(encoder, "device", None), "type", "cpu"), str(getattr(model, "dtype", None))]
    return _hash(*parts)


def _without_origin(config: dict[str, Any]) -> dict[str, Any]:
    return {
        key: _without_origin(value) if isinstance(value, dict) else value
        for key, value in config.items()
        if key not in _SAID_OF_ORIGIN
    }


def embed_images(
    encoders: "Mapping[str, PairEncoder]",
    images: Images,
    rows: Sequence[int],
    *,
    batch_size: int = BATCH_SIZE,
    kept: KeptEmbeddings | None = None,
    content: str = "",
    progress: Callable[[int], None] | None = None,
) -> dict[str, EmbeddedImages]:
    """Embed ``rows`` with every model; each image is decoded once, and none for what is kept already.

    Args:
        encoders: models by name.
        images: the set.
        rows: which of its images.
        batch_size: images of one forward pass.
        kept: where embeddings are looked for, and kept.
        content: hash of the images' bytes in the order of ``rows``; needed where ``kept`` is given.
        progress: called with the number of images of each batch done.

    Raises:
        ModelError: a model's embeddings are zero or not finite.
    """
    keys = {name: _hash(model_hash(one), "images", content) for name, one in encoders.items()}
    found: dict[str, EmbeddedImages] = {}
    for name in encoders:
        if kept and (known := _read(kept, keys[name])) is not None:
            found[name] = known
    missing = {name: one for name, one in encoders.items() if name not in found}
    for name, embedded in _embed(missing, images, rows, batch_size, progress).items() if missing else ():
        found[name] = embedded
        if kept:
            _keep(kept, keys[name], embedded)
    if not missing and progress is not None:
        progress(len(rows))
    return {name: found[name] for name in encoders}


def embed_texts(
    encoder: "PairEncoder",
    texts: Sequence[str],
    *,
    batch_size: int = BATCH_SIZE,
    kept: KeptEmbeddings | None = None,
    progress: Callable[[int], None] | None = None,
) -> NDArray[np.float64]:
    """Unit vectors (N, D) of ``texts``; ``progress`` is called with the number of texts of each batch done.

    Raises:
        ModelError: an embedding is zero or not finite.
    """
    key = ""
    if kept:
        key = _hash(model_hash(encoder), "texts", *texts)
        arrays = kept.read(key)
        if arrays is not None and arrays["vectors"].shape == (len(texts), encoder.spec.dim):
            if progress is not None:
                progress(len(texts))
            return arrays["vectors"].astype(np.float64)
    encoded = []
    for first in range(0, len(texts), batch_size):
        batch = list(texts[first : first + batch_size])
        encoded.append(encoder.encode_texts(batch).numpy())
        if progress is not None:
            progress(len(batch))
    vectors = directions(encoder, np.concatenate(encoded))
    if kept:
        kept.keep(key, {"vectors": vectors})
    return vectors


def directions(encoder: "PairEncoder", vectors: ArrayLike) -> NDArray[np.float64]:
    """``vectors`` at unit length.

    Raises:
        ModelError: one is zero or not finite.
    """
    try:
        return unit_vectors(vectors)
    except ValueError as error:
        raise ModelError(
            f"{encoder.spec.model} gives embeddings that are zero or not finite; expected a trained CLIP"
        ) from error


def _hash(*parts: str) -> str:
    return xxhash.xxh3_128_hexdigest("\x00".join(parts).encode("utf-8", "surrogatepass"))


def _embed(
    encoders: "Mapping[str, PairEncoder]",
    images: Images,
    rows: Sequence[int],
    batch_size: int,
    progress: Callable[[int], None] | None,
) -> dict[str, EmbeddedImages]:
    skipped: Counter[str] = Counter()
    used: list[int] = []
    vectors: dict[str, list[NDArray[np.float32]]] = {name: [] for name in encoders}
    for batch, decoded in _decoded(images, rows, batch_size, skipped):
        used += [place for place, _ in decoded]
        if decoded:
            for name, unit in _encode(encoders, [image for _, image in decoded]).items():
                vectors[name].append(unit.astype(np.float32))
        if progress is not None:
            progress(batch)
    return {
        name: EmbeddedImages(
            np.concatenate(vectors[name]) if used else np.zeros((0, one.spec.dim), dtype=np.float32),
            np.array(used, dtype=np.int64),
            dict(skipped),
        )
        for name, one in encoders.items()
    }


def _decoded(
    images: Images, rows: Sequence[int], batch_size: int, skipped: Counter[str]
) -> "Iterator[tuple[int, list[tuple[int, Image]]]]":
    for first in range(0, len(rows), batch_size):
        batch = range(first, min(first + batch_size, len(rows)))
        decoded = []
        for place in batch:
            try:
                decoded.append((place, decode_image(images[int(rows[place])])))
            except BadImageError as error:
                skipped[error.reason] += 1
        yield len(batch), decoded


def _encode(
    encoders: "Mapping[str, PairEncoder]", images: "Sequence[Image]"
) -> dict[str, NDArray[np.float64]]:
    # A student has its teacher's preprocessing, which on small images costs as much as the model.
    pixels: dict[str, Any] = {}
    found = {}
    for name, encoder in encoders.items():
        key = encoder.spec.preprocess_hash
        if key not in pixels:
            pixels[key] = encoder.preprocess(images)
        found[name] = directions(encoder, encoder.encode_pixels(pixels[key]).numpy())
    return found


def _read(kept: KeptEmbeddings, key: str) -> EmbeddedImages | None:
    arrays = kept.read(key)
    if arrays is None:
        return None
    reasons = bytes(arrays["reasons"]).decode().split("\n") if len(arrays["reasons"]) else []
    return EmbeddedImages(
        arrays["vectors"], arrays["places"], dict(zip(reasons, arrays["skipped"].tolist(), strict=True))
    )


def _keep(kept: KeptEmbeddings, key: str, embedded: EmbeddedImages) -> None:
    reasons = "\n".join(embedded.skipped).encode()
    kept.keep(
        key,
        {
            "vectors": embedded.vectors,
            "places": embedded.places,
            "reasons": np.frombuffer(reasons, dtype=np.uint8),
            "skipped": np.array(list(embedded.skipped.values()), dtype=np.int64),
        },
    )
