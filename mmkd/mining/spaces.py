"""Where embeddings to mine in come from: a teacher's store, or arrays."""

from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from mmkd.embeddings import TeacherStore
from mmkd.mining.search import Floats, Indices


class Space(Protocol):
    """Unit vectors of N pairs, by position."""

    def __len__(self) -> int: ...

    @property
    def dim(self) -> int:
        """D."""
        ...

    def texts(self, positions: Indices) -> Floats:
        """float32 (n, D): the first caption of each."""
        ...

    def images(self, positions: Indices) -> Floats:
        """float32 (n, D)."""
        ...


@dataclass(frozen=True)
class StoreSpace:
    """Some rows of a teacher's store."""

    store: TeacherStore
    rows: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def dim(self) -> int:
        """D."""
        return self.store.spec.dim

    def texts(self, positions: Indices) -> Floats:
        """float32 (n, D): the first caption of each."""
        text: Floats = self.store.read(self.rows[positions]).text.numpy()
        return text

    def images(self, positions: Indices) -> Floats:
        """float32 (n, D)."""
        image: Floats = self.store.read(self.rows[positions]).image.numpy()
        return image


class ArraySpace:
    """Embeddings in memory, made unit vectors as they are asked for.

    Args:
        image: (N, D), of any floating type.
        text: (N, D) of the same pairs.
    """

    def __init__(self, image: NDArray[np.floating], text: NDArray[np.floating]) -> None:
        self._image, self._text = image, text

    def __len__(self) -> int:
        return len(self._text)

    @property
    def dim(self) -> int:
        """D."""
        return int(self._text.shape[1])

    def texts(self, positions: Indices) -> Floats:
        """float32 (n, D): the first caption of each."""
        return _unit(self._text[positions])

    def images(self, positions: Indices) -> Floats:
        """float32 (n, D)."""
        return _unit(self._image[positions])


def _unit(vectors: NDArray[np.floating]) -> Floats:
    floats: Floats = vectors.astype(np.float32)
    lengths = np.sqrt(np.einsum("nd,nd->n", floats, floats))[:, None].astype(np.float32)
    unit: Floats = floats / np.maximum(lengths, np.float32(1e-12))
    return unit


@dataclass(frozen=True)
class Captions:
    """The distinct captions of N pairs.

    Attributes:
        first: int64 (M,): the first position that has each.
        of: int64 (N,): the caption of each position.
    """

    first: NDArray[np.int64]
    of: NDArray[np.int64]

    @classmethod
    def distinct(cls, ids: NDArray[np.integer]) -> "Captions":
        """From int (N,), equal where captions are."""
        _, first, of = np.unique(ids, return_index=True, return_inverse=True)
        return cls(first, of.reshape(-1))

    def __len__(self) -> int:
        return len(self.first)

    @cached_property
    def positions(self) -> NDArray[np.int64]:
        """int64 (N,): positions in the order of their captions."""
        return np.argsort(self.of, kind="stable")

    @cached_property
    def starts(self) -> NDArray[np.int64]:
        """int64 (M + 1,): caption c stands at ``positions[starts[c] : starts[c + 1]]``."""
        return np.searchsorted(self.of[self.positions], np.arange(len(self) + 1))

    def carrier(
        self, positions: NDArray[np.int64], captions: NDArray[np.int64], seed: int
    ) -> NDArray[np.int64]:
        """For each position (B,) and caption (B, K) one position that carries it, a pure function of the seed."""
        counts = (self.starts[captions + 1] - self.starts[captions]).astype(np.uint64)
        draws = _scramble(
            _scramble(positions.astype(np.uint64) + np.uint64(seed % 2**32 << 32))[:, None]
            ^ captions.astype(np.uint64)
        )
        return self.positions[self.starts[captions] + (draws % counts).astype(np.int64)]


def _scramble(keys: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Well-mixed 64 bits of each key (splitmix64, Steele et al. 2014)."""
    keys = keys + np.uint64(0x9E3779B97F4A7C15)
    keys = (keys ^ (keys >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    keys = (keys ^ (keys >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return keys ^ (keys >> np.uint64(31))


@dataclass(frozen=True)
class CaptionVectors:
    """One vector a distinct caption, for the search."""

    space: Space
    captions: Captions

    def __len__(self) -> int:
        return len(self.captions)

    @property
    def dim(self) -> int:
        """D."""
        return self.space.dim

    def take(self, indices: Indices) -> Floats:
        """float32 (n, D)."""
        return self.space.texts(self.captions.first[indices])
