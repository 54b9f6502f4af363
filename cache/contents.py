"""What a shard holds against what the format says of it, block by block."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mmkd.cache.duplicates import VectorIndex

_BLOCK_BYTES = 4 << 20
_CACHED = 1 << 18  # numbers whose float32 copy stays in the processor's cache
UNIT = "unit vectors"

_EXPECTED = {
    "flags": ("valid is neither 0 nor 1", "1, or 0 where masked"),
    "captions": ("more or fewer captions than there is room for", "1 to C captions, 0 where masked"),
    "image not finite": ("image vectors hold NaN or infinity", UNIT),
    "image zero": ("image vectors are zero though the rows are not masked", UNIT),
    "image norm": ("image vectors are not of length 1", "length 1 within float16's rounding"),
    "image length": ("image_norm is not a positive number", "the length before normalising"),
    "image masked": ("image vectors of masked rows are not zero", "zeros"),
    "pixels masked": ("pixels of masked rows are not zero", "zeros"),
    "text not finite": ("text vectors hold NaN or infinity", UNIT),
    "text zero": ("text vectors are zero though the rows have captions", UNIT),
    "text norm": ("text vectors are not of length 1", "length 1 within float16's rounding"),
    "text length": ("text_norm is not a positive number", "the length before normalising"),
    "text masked": ("text vectors beyond a row's own captions are not zero", "zeros"),
}


@dataclass
class Contents:
    """What was found in the arrays of one shard.

    Attributes:
        rows: rows at fault by kind of fault, numbered within the cache; kinds in the order they were met.
        masked: masked rows.
        same_views: rows of which an augmented view equals the untouched one.
    """

    rows: dict[str, list[NDArray[np.int64]]] = field(default_factory=dict)
    masked: int = 0
    same_views: int = 0

    def add(self, kind: str, wrong: NDArray[np.bool_], start: int) -> None:
        """Note the rows, counted from ``start``, where ``wrong`` (B,) is True."""
        if wrong.any():
            self.rows.setdefault(kind, []).append(np.flatnonzero(wrong) + start)

    def faults(self) -> Iterator[tuple[str, NDArray[np.int64], str, str]]:
        """Each kind of fault with its rows, what was found and what was expected."""
        for kind, rows in self.rows.items():
            yield kind, np.concatenate(rows), *_EXPECTED[kind]


def iterate_blocks(arrays: Mapping[str, NDArray[Any]]) -> Iterator[tuple[int, dict[str, NDArray[Any]]]]:
    """A mapped shard's arrays as copies of a few megabytes, each with its first row."""
    rows = len(arrays["valid"])
    step = max(1, _BLOCK_BYTES * rows // max(1, sum(array.nbytes for array in arrays.values())))
    for start in range(0, rows, step):
        yield start, {name: np.array(array[start : start + step]) for name, array in arrays.items()}


def check_contents(
    arrays: Mapping[str, NDArray[Any]],
    first_row: int,
    indices: Mapping[str, VectorIndex],
    parts: Sequence[slice] = (slice(None),),
) -> Contents:
    """Look at every number of a shard.

    Args:
        arrays: the shard's datasets; a cache of one side has no arrays of the other.
        first_row: the cache's row that the shard starts with.
        indices: for ``image`` and ``text``, where vectors without fault are counted.
        parts: where each teacher's vectors stand within D; each is a unit vector of its own.
    """
    found = Contents()
    vectors = {name: array for name, array in arrays.items() if name != "pixels"}
    for start, block in iterate_blocks(vectors):
        rows = first_row + start
        valid, captions = block["valid"] != 0, block["captions"].astype(np.int64)
        found.masked += int((~valid).sum())
        found.add("flags", block["valid"] > 1, rows)
        if "image" in block:
            wanted = np.repeat(valid[:, None], block["image"].shape[1], axis=1)
            good = _check_side(found, "image", block, wanted, rows, parts)
            good[:, 1:] = False  # augmented views are each their own picture
            _index(indices["image"], block["image"], good, block["row_hash"][:, 0], rows)
            if wanted.shape[1] > 1:
                same = (block["image"][:, 1:] == block["image"][:, :1]).all(-1).any(-1)
                found.same_views += int((same & valid).sum())
        if "text" in block:
            room = block["text"].shape[1]
            wrong = (captions < valid) | (captions > valid * room)
            found.add("captions", np.asarray(wrong), rows)
            wanted = valid[:, None] & (np.arange(room) < captions[:, None])
            good = _check_side(found, "text", block, wanted, rows, parts)
            _index(indices["text"], block["text"], good, block["row_hash"][:, 1], rows)
        if "pixels" in arrays:  # their bytes are hashed; only zeros can be told from what else they might be
            shown = [not valid[row] and arrays["pixels"][start + row].any() for row in range(len(valid))]
            found.add("pixels masked", np.array(shown), rows)
    return found


def vector_norms(vectors: NDArray[np.float16]) -> NDArray[np.float32]:
    """Lengths (B, N) of vectors (B, N, D) in float32; NaN or infinite where a vector holds such numbers."""
    halves = torch.from_numpy(vectors)
    norms = torch.empty(halves.shape[:-1])
    step = max(1, _CACHED // max(1, halves[0].numel()))
    for start in range(0, len(halves), step):
        part = halves[start : start + step].float()
        norms[start : start + step] = part.mul_(part).sum(-1).sqrt_()
    found: NDArray[np.float32] = norms.numpy()
    return found


def _check_side(
    found: Contents,
    side: str,
    block: Mapping[str, NDArray[Any]],
    wanted: NDArray[np.bool_],
    rows: int,
    parts: Sequence[slice],
) -> NDArray[np.bool_]:
    """Note the faults of vectors (B, N, D); True (B, N) where there is a vector without fault."""
    every = [vector_norms(np.ascontiguousarray(block[side][..., part])) for part in parts]
    norms = np.stack(every, axis=2)  # (B, N, T)
    lengths = block[f"{side}_norm"].reshape(norms.shape)
    dims = np.array([len(range(*part.indices(block[side].shape[-1]))) for part in parts])
    wanted = wanted[:, :, None]
    finite: NDArray[np.bool_] = np.isfinite(norms)
    zero: NDArray[np.bool_] = norms == 0
    # Each component is rounded by at most 2^-11 of itself, or 2^-25 where it is subnormal.
    tolerance = 2.0**-11 + 2.0**-24 * dims**0.5
    wrong_norm: NDArray[np.bool_] = finite & ~zero & ~(np.abs(norms - 1) <= tolerance)
    found.add(f"{side} not finite", np.any(wanted & ~finite, axis=(1, 2)), rows)
    found.add(f"{side} zero", np.any(wanted & zero, axis=(1, 2)), rows)
    found.add(f"{side} norm", np.any(wanted & wrong_norm, axis=(1, 2)), rows)
    found.add(f"{side} length", np.any(wanted & ~(np.isfinite(lengths) & (lengths > 0)), axis=(1, 2)), rows)
    found.add(f"{side} masked", np.any(~wanted & (~zero | (lengths != 0)), axis=(1, 2)), rows)
    good: NDArray[np.bool_] = np.asarray(np.all(wanted & finite & ~zero & ~wrong_norm, axis=2))
    return good


def _index(
    index: VectorIndex,
    vectors: NDArray[np.float16],
    good: NDArray[np.bool_],
    contents: NDArray[np.uint64],
    rows: int,
) -> None:
    which = np.nonzero(good)[0]
    chosen = vectors.reshape(-1, vectors.shape[-1]) if good.all() else vectors[good]
    index.add(chosen, contents[which], which + rows)
