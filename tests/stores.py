"""A teacher store in memory, for tests of what reads one."""

from dataclasses import dataclass

import numpy as np
import torch

from mmkd.augment import NO_AUGMENTATION, Augmentation
from mmkd.embeddings import Embeddings, TeacherSpec


@dataclass
class MemoryStore:
    """Embeddings of R rows with one caption each; rows of equal ``caption_ids`` share a caption."""

    image: torch.Tensor
    text: torch.Tensor
    caption_ids: np.ndarray

    key = "memory"
    pixels = None
    jpeg_side = None

    @property
    def spec(self) -> TeacherSpec:
        return TeacherSpec("memory", None, "", "", "", self.image.shape[1], 100.0, (12, 12))

    def hashes(self, rows: np.ndarray) -> np.ndarray:
        return np.stack([np.arange(len(self)), self.caption_ids], axis=1).astype(np.uint64)[rows]

    def caption_counts(self, rows: np.ndarray) -> np.ndarray:
        return np.ones(len(rows), np.uint16)

    def __len__(self) -> int:
        return len(self.image)

    @property
    def views(self) -> int:
        return 1

    @property
    def augmentation(self) -> Augmentation:
        return NO_AUGMENTATION

    def read(self, rows, captions=None, views=None) -> Embeddings:
        assert captions is None or not np.any(captions), "one caption a row"
        if views is not None and np.any(views):
            raise IndexError("one view a row")
        return Embeddings(self.image[rows], self.text[rows])


def random_store(rows: int, dim: int, *, captions: int | None = None, seed: int = 0) -> MemoryStore:
    generator = torch.Generator().manual_seed(seed)
    count = captions or rows
    ids = np.arange(rows) % count
    texts = torch.randn(count, dim, generator=generator)
    image = torch.randn(rows, dim, generator=generator)
    return MemoryStore(image, texts[torch.from_numpy(ids)], ids)
