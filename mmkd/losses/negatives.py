"""Which pairs of a batch may be each other's negatives."""

from dataclasses import dataclass

import torch
from torch import Tensor

from mmkd.embeddings import Embeddings

FALSE_NEGATIVE_SHARE = 0.95  # of the positive's teacher similarity: NV-Retriever, arXiv 2407.15831


@dataclass(frozen=True, slots=True)
class Negatives:
    """Who may push whom away.

    Attributes:
        texts: bool (B, B): ``[i, j]`` where text j is a negative of image i.
        images: bool (B, B): ``[i, j]`` where image j is a negative of text i.
    """

    texts: Tensor
    images: Tensor


def false_negative_threshold(positive: Tensor) -> Tensor:
    """Teacher similarity above which another item is taken for a match, given the positive's.

    0.95 of a positive similarity; a negative one is moved as far the same way, so that the threshold
    always lies below the positive itself.
    """
    return positive - (1 - FALSE_NEGATIVE_SHARE) * positive.abs()


def select_negatives(caption_ids: Tensor, image_ids: Tensor, teacher: Embeddings | None = None) -> Negatives:
    """Negatives of a batch: never a pair of the same caption or image, nor one the teacher takes for a match.

    Args:
        caption_ids: int64 (B,): equal where captions are.
        image_ids: int64 (B,): equal where images are.
        teacher: (B, D); without it only identity counts.
    """
    same = (caption_ids[:, None] == caption_ids[None, :]) | (image_ids[:, None] == image_ids[None, :])
    texts, images = ~same, ~same
    if teacher is not None:
        similarity = teacher.image @ teacher.text.T
        limit = false_negative_threshold(similarity.diagonal())[:, None]
        texts = texts & (similarity <= limit)
        images = images & (limit >= similarity.T)
    return Negatives(texts, images)


def all_others(batch: int, device: torch.device | None = None) -> Negatives:
    """Every other pair is a negative."""
    others = ~torch.eye(batch, dtype=torch.bool, device=device)
    return Negatives(others, others)
