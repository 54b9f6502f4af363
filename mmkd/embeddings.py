"""What passes between the teacher's cache, the student and the losses."""

from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mmkd.augment import Augmentation

UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Embeddings:
    """Paired unit vectors in one joint space; row ``i`` of each side is one pair.

    The constructor normalises, in float32, so that every loss may take unit length for granted.

    Attributes:
        image: float32 (B, D), unit length.
        text: float32 (B, D), unit length.
        image_norm: float32 (B, 1): the lengths that the images' vectors came with.
        text_norm: float32 (B, 1): the lengths that the texts' vectors came with.
    """

    image: Tensor
    text: Tensor
    image_norm: Tensor = field(init=False)
    text_norm: Tensor = field(init=False)

    def __post_init__(self) -> None:
        if self.image.ndim != 2 or self.image.shape != self.text.shape:
            raise ValueError(
                f"found image {tuple(self.image.shape)} and text {tuple(self.text.shape)}; expected two (B, D)"
            )
        for side in ("image", "text"):
            vectors = getattr(self, side).float()
            norms = torch.linalg.vector_norm(vectors, dim=-1, keepdim=True)
            object.__setattr__(self, f"{side}_norm", norms)
            object.__setattr__(self, side, vectors / norms.clamp_min(1e-12))

    @property
    def raw_image(self) -> Tensor:
        """float32 (B, D): the images' vectors as they came."""
        return self.image * self.image_norm

    @property
    def raw_text(self) -> Tensor:
        """float32 (B, D): the texts' vectors as they came."""
        return self.text * self.text_norm

    def __len__(self) -> int:
        return len(self.image)


@dataclass(frozen=True, slots=True)
class TeacherSpec:
    """What made an embedding: two equal specs give equal embeddings of the same data.

    Attributes:
        model: Hugging Face id, or the folder the teacher was loaded from; ``unknown`` where nobody recorded what
            made the vectors, and then so are the hashes, and None what is no text.
        revision: commit of the Hub repository; ``None`` for a folder.
        weights_hash: xxh3_128 of the weights file.
        preprocess_hash: xxh3_128 of the image processor's settings.
        tokenizer_hash: xxh3_128 of the tokenizer's vocabulary and settings.
        dim: D, the width of the joint space.
        logit_scale: the learnt scale, already exponentiated (OpenAI's models: 100).
        layers: layers of the image and the text tower.
        config_hash: xxh3_128 of what the configuration says of the arithmetic, such as the activation; ``None`` where
            nobody recorded it.
    """

    model: str
    revision: str | None
    weights_hash: str
    preprocess_hash: str
    tokenizer_hash: str
    dim: int
    logit_scale: float | None
    layers: tuple[int, int] | None
    config_hash: str | None = field(default=None, compare=False)

    def to_json(self) -> dict[str, Any]:
        """As a JSON object."""
        value = asdict(self)
        return value if self.config_hash else {key: value[key] for key in value if key != "config_hash"}

    @property
    def known(self) -> bool:
        """Whether it is recorded what made the vectors."""
        return self.weights_hash != UNKNOWN


def unknown_teacher(dim: int) -> TeacherSpec:
    """What is known of vectors of width ``dim`` that nobody said the origin of."""
    return TeacherSpec(UNKNOWN, None, UNKNOWN, UNKNOWN, UNKNOWN, dim, None, None)


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

    def hashes(self, rows: NDArray[np.int64]) -> NDArray[np.uint64]:
        """uint64 (B, 2): xxh3_64 of the image bytes and of the captions of ``rows``."""
        ...

    def caption_counts(self, rows: NDArray[np.int64]) -> NDArray[np.uint16]:
        """uint16 (B,): captions of each of ``rows``."""
        ...

    @property
    def views(self) -> int:
        """V, views of each image; view 0 is the untouched one."""
        ...

    @property
    def augmentation(self) -> Augmentation:
        """What the views beyond the first are."""
        ...

    @property
    def pixels(self) -> int | None:
        """S, the side of the stored images; None where none are stored."""
        ...

    @property
    def jpeg_side(self) -> int | None:
        """What ``mmkd.images.decode_image`` was given when the images were embedded."""
        ...

    def read_pixels(self, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
        """The untouched images of ``rows``, resized and cropped: uint8 (B, S, S, 3)."""
        ...

    def read(
        self,
        rows: NDArray[np.int64],
        captions: NDArray[np.int64] | None = None,
        views: NDArray[np.int64] | None = None,
    ) -> Embeddings:
        """Embeddings of ``rows``, each of view ``views[i]`` and caption ``captions[i]`` (default: the first of each).

        Their norms are those of the teacher's own output.
        """
        ...
