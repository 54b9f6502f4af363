"""What passes between the teacher's cache, the student and the losses."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Embeddings:
    """Paired unit vectors in one joint space; row ``i`` of each side is one pair.

    The constructor normalises, in float32, so that every loss may take unit length for granted.

    Attributes:
        image: float32 (B, D), unit length.
        text: float32 (B, D), unit length.
    """

    image: Tensor
    text: Tensor

    def __post_init__(self) -> None:
        if self.image.ndim != 2 or self.image.shape != self.text.shape:
            raise ValueError(
                f"found image {tuple(self.image.shape)} and text {tuple(self.text.shape)}; expected two (B, D)"
            )
        object.__setattr__(self, "image", F.normalize(self.image.float(), dim=-1))
        object.__setattr__(self, "text", F.normalize(self.text.float(), dim=-1))

    def __len__(self) -> int:
        return len(self.image)


@dataclass(frozen=True, slots=True)
class TeacherSpec:
    """What made an embedding: two equal specs give equal embeddings of the same data.

    Attributes:
        model: Hugging Face id, or the folder the teacher was loaded from.
        revision: commit of the Hub repository; ``None`` for a folder.
        weights_hash: xxh3_128 of the weights file.
        preprocess_hash: xxh3_128 of the image processor's settings.
        tokenizer_hash: xxh3_128 of the tokenizer's vocabulary and settings.
        dim: D, the width of the joint space.
        logit_scale: the learnt scale, already exponentiated (OpenAI's models: 100).
        layers: layers of the image and the text tower.
    """

    model: str
    revision: str | None
    weights_hash: str
    preprocess_hash: str
    tokenizer_hash: str
    dim: int
    logit_scale: float
    layers: tuple[int, int]


class TeacherStore(Protocol):
    """Rows in, embeddings out: the only thing that training knows of a cache."""

    @property
    def spec(self) -> TeacherSpec:
        """The teacher that made the embeddings."""
        ...

    @property
    def key(self) -> str:
        """Hash that changes with any embedding in the store."""
        ...

    def __len__(self) -> int:
        """Rows, masked ones included."""
        ...

    @property
    def valid(self) -> NDArray[np.bool_]:
        """bool (R,): False where the pair was masked."""
        ...

    @property
    def caption_counts(self) -> NDArray[np.uint16]:
        """uint16 (R,): captions of each row."""
        ...

    @property
    def row_hashes(self) -> NDArray[np.uint64]:
        """uint64 (R, 2): xxh3_64 of each row's image bytes and of its captions."""
        ...

    def read(self, rows: NDArray[np.int64], captions: NDArray[np.int64] | None = None) -> Embeddings:
        """Embeddings of ``rows``, each with caption ``captions[i]`` of its row (default: the first)."""
        ...
