"""Task losses: what the student learns from the pairs themselves."""

import torch
import torch.nn.functional as F
from torch import Tensor

from mmkd.embeddings import Embeddings
from mmkd.losses.negatives import Negatives


def _semi_hard(similarity: Tensor, negatives: Tensor, margin: float) -> Tensor:
    """Hinge of each row's semi-hard negative, averaged over the rows that have a negative at all."""
    distance = 1 - similarity
    positive = distance.diagonal()[:, None]
    farther = negatives & (distance > positive)
    nearest_farther = distance.masked_fill(~farther, torch.inf).amin(dim=1)
    # Where every negative is nearer than the positive, the farthest is the mildest: it still teaches, and
    # cannot collapse the model as the hardest can.
    farthest = distance.masked_fill(~negatives, -torch.inf).amax(dim=1)
    chosen = torch.where(farther.any(dim=1), nearest_farther, farthest)
    has_negative = negatives.any(dim=1)
    hinge = F.relu(positive[:, 0] - torch.where(has_negative, chosen, torch.inf) + margin)
    return hinge.sum() / has_negative.sum().clamp(min=1)


def triplet(student: Embeddings, negatives: Negatives, *, margin: float = 0.2) -> Tensor:
    """Triplet loss with semi-hard in-batch negatives, in both directions, on cosine distance.

    A row's negative is the nearest one that is farther than its positive; where none is, the farthest.

    Args:
        student: (B, D).
        negatives: which of the batch may serve.
        margin: how much farther than the positive a negative has to be, in cosine distance.

    Returns:
        Scalar in [0, 2 + margin], averaged over both directions.

    Source: FaceNet, arXiv 1503.03832, eq. 1 and 4 (its "semi-hard" negatives).
    """
    similarity = student.image @ student.text.T
    texts = _semi_hard(similarity, negatives.texts, margin)
    images = _semi_hard(similarity.T, negatives.images, margin)
    return (texts + images) / 2


def clip(student: Embeddings, negatives: Negatives, *, logit_scale: Tensor) -> Tensor:
    """Symmetric contrastive cross-entropy; pairs that are not negatives are left out of the denominator.

    Args:
        student: (B, D).
        negatives: which of the batch count as negatives.
        logit_scale: scalar, already exponentiated.

    Returns:
        Scalar in nats, averaged over both directions.

    Source: CLIP, arXiv 2103.00020, figure 3.
    """
    logits = logit_scale * (student.image @ student.text.T)
    labels = torch.arange(len(student), device=logits.device)
    itself = torch.eye(len(student), dtype=torch.bool, device=logits.device)
    texts = logits.masked_fill(~(negatives.texts | itself), -torch.inf)
    images = logits.T.masked_fill(~(negatives.images | itself), -torch.inf)
    return (F.cross_entropy(texts, labels) + F.cross_entropy(images, labels)) / 2
