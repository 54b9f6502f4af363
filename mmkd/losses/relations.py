"""KD losses on relations: what the rows of a batch are to one another, in the student and in the teacher.

All but ``icl`` and ``gd`` work where the student's width D differs from the teacher's.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from mmkd.embeddings import Embeddings
from mmkd.losses.negatives import Bank, Negatives, candidates
from mmkd.losses.task import contrastive_rows
from mmkd.losses.tiles import map_blocks, map_rows

ANGLE_ROWS = 128  # triplets of rows grow with the cube of the batch
ANGLE_WEIGHT = 2.0  # of angles beside distances: RKD-DA in arXiv 1904.05068, section 4.1
_NO_DISTANCE = 1e-6  # keeps the root's gradient finite where two rows coincide
_SAME_POINT = 1e-5  # of the mean squared distance: nearer rows have no direction from one to the other


def affinity(student: Embeddings, teacher: Embeddings, *, temperature: float) -> Tensor:
    """Match the student's in-batch image-text affinities to the teacher's.

    Args:
        student: (B, D).
        teacher: (B, D'); D' may differ from D.
        temperature: divides the cosines before the softmax, in both.

    Returns:
        Scalar KL(teacher || student) in nats, averaged over rows and both directions.

    Source: affinity mimicking of TinyCLIP, arXiv 2309.12314, eq. 2.
    """
    scale = torch.tensor(1 / temperature, device=student.image.device)
    return _divergence(student, teacher, scale, temperature)


def crd(student: Embeddings, teacher: Embeddings, *, logit_scale: Tensor, temperature: float) -> Tensor:
    """Match the student's contrastive distributions, at the scale it learns, to the teacher's at the teacher's.

    Args:
        student: (B, D).
        teacher: (B, D'); D' may differ from D.
        logit_scale: scalar, already exponentiated: the student's.
        temperature: divides the teacher's cosines before the softmax.

    Returns:
        Scalar KL(teacher || student) in nats, averaged over rows and both directions.

    Source: contrastive relational distillation of CLIP-KD, arXiv 2307.12732, section 3.2.
    """
    return _divergence(student, teacher, logit_scale, temperature)


def _divergence(student: Embeddings, teacher: Embeddings, scale: Tensor, temperature: float) -> Tensor:
    def direction(ours: tuple[Tensor, Tensor], theirs: tuple[Tensor, Tensor]) -> Tensor:
        def block(rows: slice) -> Tensor:
            q = (scale * (ours[0][rows] @ ours[1].T)).log_softmax(dim=1)
            p = (theirs[0][rows] @ theirs[1].T / temperature).log_softmax(dim=1)
            return F.kl_div(q, p, log_target=True, reduction="none").sum(dim=1)

        return map_rows(block, rows=len(student), columns=len(student)).mean()

    texts = direction((student.image, student.text), (teacher.image, teacher.text))
    images = direction((student.text, student.image), (teacher.text, teacher.image))
    return (texts + images) / 2


def icl(
    student: Embeddings,
    teacher: Embeddings,
    negatives: Negatives,
    *,
    logit_scale: Tensor,
    bank: Bank | None = None,
) -> Tensor:
    """Contrast student images with teacher texts, and student texts with teacher images.

    Args:
        student: (B, D).
        teacher: (B, D).
        negatives: who counts as a negative; the others are left out of the denominator.
        logit_scale: scalar, already exponentiated.
        bank: (N, D) more of the teacher's texts and images to tell the pair's own from.

    Returns:
        Scalar cross-entropy in nats, averaged over rows and both directions.

    Source: interactive contrastive learning of CLIP-KD, arXiv 2307.12732, section 3.2.
    """
    texts, images = candidates(teacher, bank)
    to_texts = contrastive_rows(student.image, texts, negatives.texts, logit_scale)
    to_images = contrastive_rows(student.text, images, negatives.images, logit_scale)
    return (to_texts.mean() + to_images.mean()) / 2


def gd(student: Embeddings, teacher: Embeddings, *, temperature: float) -> Tensor:
    """Match the gradients that CLIP's contrastive loss has for the embeddings, the student's to the teacher's.

    The gradients are written out, so that the loss has a gradient itself without differentiating twice.

    Args:
        student: (B, D).
        teacher: (B, D).
        temperature: of the contrastive loss, in both.

    Returns:
        Scalar: the squared distance between the two gradients of a row's embedding, for the loss summed over the batch,
        averaged over rows and the two towers; in units of ``1 / temperature ** 2``.

    Source: gradient distillation of CLIP-KD, arXiv 2307.12732, section 3.2.
    """

    def tower(ours: tuple[Tensor, Tensor], theirs: tuple[Tensor, Tensor]) -> Tensor:
        ours_norms, theirs_norms = (_log_norms(other, own, temperature) for own, other in (ours, theirs))

        def block(rows: slice) -> Tensor:
            difference = _contrastive_gradient(*ours, ours_norms, temperature, rows)
            difference = difference - _contrastive_gradient(*theirs, theirs_norms, temperature, rows)
            return difference.square().sum(dim=1)

        return map_rows(block, rows=len(student), columns=len(student)).mean()

    image = tower((student.image, student.text), (teacher.image, teacher.text))
    text = tower((student.text, student.image), (teacher.text, teacher.image))
    return (image + text) / 2


def _log_norms(anchors: Tensor, others: Tensor, temperature: float) -> Tensor:
    """(B,): logarithm of each anchor's softmax denominator over ``others``."""

    def block(rows: slice) -> Tensor:
        return (anchors[rows] @ others.T / temperature).logsumexp(dim=1)

    return map_rows(block, rows=len(anchors), columns=len(others))


def _contrastive_gradient(
    own: Tensor, other: Tensor, other_norms: Tensor, temperature: float, rows: slice
) -> Tensor:
    """(b, D): gradient of the batch's summed, symmetric cross-entropy for ``own[rows]``, both directions of it."""
    logits = own[rows] @ other.T / temperature
    shares = logits.softmax(dim=1) + (logits - other_norms).exp()
    return (shares @ other - 2 * other[rows]) / (2 * temperature)


def rkd(student: Embeddings, teacher: Embeddings) -> Tensor:
    """Match distances between the batch's images, and angles between three of them; the same for its texts.

    Distances are measured in units of their mean. Angles are taken within groups of at most 128 consecutive rows,
    since all triplets of a large batch would cost more than the student.

    Args:
        student: (B, D).
        teacher: (B, D'); D' may differ from D.

    Returns:
        Scalar Huber loss over pairs, and twice that over triplets, averaged over the two towers.

    Source: Relational Knowledge Distillation, arXiv 1904.05068, section 3.2.
    """
    image = _distance_loss(student.image, teacher.image) + ANGLE_WEIGHT * _angle_loss(
        student.image, teacher.image
    )
    text = _distance_loss(student.text, teacher.text) + ANGLE_WEIGHT * _angle_loss(student.text, teacher.text)
    return (image + text) / 2


def _distance_loss(ours: Tensor, theirs: Tensor) -> Tensor:
    count = len(ours)
    pairs = max(1, count * (count - 1))

    def unit(vectors: Tensor) -> Tensor:
        return map_rows(lambda rows: _distances(vectors, rows).sum(dim=1), rows=count, columns=count).sum()

    our_unit, their_unit = unit(ours) / pairs, unit(theirs) / pairs

    def block(rows: slice) -> Tensor:
        found, wanted = _distances(ours, rows) / our_unit, _distances(theirs, rows) / their_unit
        return F.smooth_l1_loss(found, wanted, reduction="none").sum(dim=1)

    return map_rows(block, rows=count, columns=count).sum() / pairs


def _distances(vectors: Tensor, rows: slice) -> Tensor:
    """(b, B): Euclidean, with a finite gradient where two vectors coincide; 0 from a row to itself."""
    squares = (2 - 2 * (vectors[rows] @ vectors.T)).clamp_min(_NO_DISTANCE**2)
    numbers = torch.arange(len(vectors), device=vectors.device)
    return squares.sqrt().masked_fill(numbers[rows][:, None] == numbers[None, :], 0.0)


def _angle_loss(ours: Tensor, theirs: Tensor) -> Tensor:
    count = len(ours)
    groups = math.ceil(count / ANGLE_ROWS)

    def block(rows: slice) -> Tensor:
        found, wanted = _angles(ours[rows]), _angles(theirs[rows])
        size = len(found)
        return F.smooth_l1_loss(found, wanted, reduction="none").sum(dim=(1, 2)) / max(
            1, (size - 1) * (size - 2)
        )

    return map_blocks(block, rows=count, size=math.ceil(count / groups)).mean()


def _angles(vectors: Tensor) -> Tensor:
    """(b, b, b): ``[j, i, k]`` is the cosine of the angle at j between i and k; 0 where a side has no direction."""
    # From dot products alone, so that D is paid for once and not for each triplet; centred, so that what all rows
    # have in common does not drown their differences in rounding.
    vectors = vectors - vectors.mean(dim=0)
    dots = vectors @ vectors.T
    norms = dots.diagonal()
    squares = norms[:, None] + norms[None, :] - 2 * dots
    directed = squares > _SAME_POINT * squares.detach().mean()
    # Without the mask under the root, a side of length 0 would have an infinite gradient.
    inverse = torch.where(directed, torch.where(directed, squares, 1.0).rsqrt(), 0.0)
    to_others = dots - norms[:, None]  # [j, i]: the dot product of j and (i - j)
    products = dots[None, :, :] - dots[:, :, None] - to_others[:, None, :]
    return products * inverse[:, :, None] * inverse[:, None, :]
