"""Task losses: what the student learns from the pairs themselves."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from mmkd.embeddings import Embeddings
from mmkd.losses.negatives import Bank, Negatives, candidates
from mmkd.losses.tiles import map_rows

NEGATIVES = ("semi-hard", "hard", "random")
SOFT_SHARE = 0.4  # of the teacher in soft-clip's targets: ALBEF's weight, arXiv 2107.07651


def triplet(
    student: Embeddings,
    negatives: Negatives,
    *,
    choice: str = "semi-hard",
    margin: float = 0.2,
    bank: Bank | None = None,
) -> Tensor:
    """Triplet loss with one negative a row, in both directions, on cosine distance.

    Args:
        student: (B, D).
        negatives: who may serve.
        choice: which of them does: ``semi-hard``, the nearest that is farther than the positive, or the farthest where
            none is; ``hard``, the nearest; ``random``, any, the same on every process and in a resumed run.
        margin: how much farther than the positive a negative has to be, in cosine distance.
        bank: (N, D) the teacher's texts and images of other rows, which may serve too.

    Returns:
        Scalar in [0, 2 + margin], averaged over the rows that have a negative, and both directions.

    Source: FaceNet, arXiv 1503.03832, eq. 1 and 4 (its "semi-hard" negatives).
    """
    texts, images = candidates(student, bank)

    def direction(anchors: Tensor, others: Tensor, mask: Callable[[slice], Tensor]) -> Tensor:
        def block(rows: slice) -> Tensor:
            distance, allowed = 1 - anchors[rows] @ others.T, mask(rows)
            positive = distance.diagonal(rows.start)
            draws = negatives.draws(rows) if choice == "random" else None
            chosen = _choose(distance, positive, allowed, choice, draws)
            has_negative = allowed.any(dim=1)
            # Filled with a number and not with infinity, whose product with a gradient of 0 is not a number.
            hinge = F.relu(positive - chosen + margin).masked_fill(~has_negative, 0.0)
            return torch.stack([hinge, has_negative.to(hinge)], dim=1)

        hinges, counted = map_rows(block, rows=len(anchors), columns=len(others)).unbind(dim=1)
        return hinges.sum() / counted.sum().clamp(min=1)

    to_texts = direction(student.image, texts, negatives.texts)
    to_images = direction(student.text, images, negatives.images)
    return (to_texts + to_images) / 2


def _choose(distance: Tensor, positive: Tensor, allowed: Tensor, choice: str, draws: Tensor | None) -> Tensor:
    """(b,): the distance of each row's negative; of no meaning where a row has none."""
    if draws is not None:
        drawn = draws.masked_fill(~allowed, torch.iinfo(draws.dtype).min).argmax(dim=1, keepdim=True)
        return distance.gather(1, drawn)[:, 0]
    if choice == "hard":
        return distance.masked_fill(~allowed, 4.0).amin(dim=1)
    farther = allowed & (distance > positive[:, None])
    nearest_farther = distance.masked_fill(~farther, 4.0).amin(dim=1)
    # Where every negative is nearer than the positive, the farthest is the mildest: it still teaches, and
    # cannot collapse the model as the hardest can.
    farthest = distance.masked_fill(~allowed, -4.0).amax(dim=1)
    return torch.where(farther.any(dim=1), nearest_farther, farthest)


def clip(
    student: Embeddings, negatives: Negatives, *, logit_scale: Tensor, bank: Bank | None = None
) -> Tensor:
    """Symmetric contrastive cross-entropy; pairs that are not negatives are left out of the denominator.

    Args:
        student: (B, D).
        negatives: who counts as a negative.
        logit_scale: scalar, already exponentiated.
        bank: (N, D) the teacher's texts and images of other rows, to tell the pair's own from.

    Returns:
        Scalar in nats, averaged over rows and both directions.

    Source: CLIP, arXiv 2103.00020, figure 3.
    """
    texts, images = candidates(student, bank)
    to_texts = contrastive_rows(student.image, texts, negatives.texts, logit_scale)
    to_images = contrastive_rows(student.text, images, negatives.images, logit_scale)
    return (to_texts.mean() + to_images.mean()) / 2


def contrastive_rows(
    anchors: Tensor, others: Tensor, mask: Callable[[slice], Tensor], logit_scale: Tensor
) -> Tensor:
    """(B,): cross-entropy in nats of telling ``others[i]`` from the negatives of ``anchors[i]``.

    Args:
        anchors: (B, D), unit length.
        others: (B + N, D), unit length; the first B belong to the anchors.
        mask: rows to bool (b, B + N), where another is a negative.
        logit_scale: scalar, already exponentiated.
    """

    def block(rows: slice) -> Tensor:
        logits = logit_scale * (anchors[rows] @ others.T)
        labels = torch.arange(rows.start, rows.stop, device=logits.device)
        allowed = mask(rows).scatter(1, labels[:, None], True)
        return F.cross_entropy(logits.masked_fill(~allowed, -torch.inf), labels, reduction="none")

    return map_rows(block, rows=len(anchors), columns=len(others))


def siglip(student: Embeddings, negatives: Negatives, *, logit_scale: Tensor, logit_bias: Tensor) -> Tensor:
    """Sigmoid loss: each image with each text is a yes or a no of its own; those that are neither are left out.

    Args:
        student: (B, D).
        negatives: who counts as a negative, here for images alone, since each pair is counted once.
        logit_scale: scalar, already exponentiated.
        logit_bias: scalar, added to every logit; the paper starts it at -10.

    Returns:
        Scalar in nats: summed over the pairs, divided by B.

    Source: SigLIP, arXiv 2303.15343, section 3.2 and algorithm 1.
    """

    def block(rows: slice) -> Tensor:
        logits = logit_scale * (student.image[rows] @ student.text.T) + logit_bias
        no = F.softplus(logits).masked_fill(~negatives.texts(rows)[:, : len(student)], 0.0)
        return no.sum(dim=1) + F.softplus(-logits.diagonal(rows.start))

    return map_rows(block, rows=len(student), columns=len(student)).mean()


def fitting_logit_bias(teacher: Embeddings, logit_scale: float) -> float:
    """The bias at which the teacher's matched pairs lie, on average, just between a yes and a no.

    The paper's -10 fits its scale of 10 and vectors that do not know each other yet. At the scale of a trained CLIP,
    near 100, it would take most wrong pairs for a yes, and an optimizer needs thousands of steps to lower it.

    Args:
        teacher: (B, D).
        logit_scale: already exponentiated: the one that the student starts with.
    """
    return -logit_scale * float((teacher.image * teacher.text).sum(dim=1).mean())


def soft_clip(student: Embeddings, teacher: Embeddings, *, logit_scale: Tensor, temperature: float) -> Tensor:
    """Contrastive cross-entropy whose targets are 0.6 the pair itself and 0.4 what the teacher takes for alike.

    No pair is left out: that two captions say nearly the same is in the targets.

    Args:
        student: (B, D).
        teacher: (B, D'); D' may differ from D.
        logit_scale: scalar, already exponentiated: the student's.
        temperature: divides the teacher's cosines before the softmax.

    Returns:
        Scalar in nats, averaged over rows and both directions.

    Source: ALBEF, arXiv 2107.07651, eq. 6, with the teacher in the place of the momentum model.
    """

    def direction(ours: tuple[Tensor, Tensor], theirs: tuple[Tensor, Tensor]) -> Tensor:
        def block(rows: slice) -> Tensor:
            found = (logit_scale * (ours[0][rows] @ ours[1].T)).log_softmax(dim=1)
            alike = (theirs[0][rows] @ theirs[1].T / temperature).softmax(dim=1)
            return -(1 - SOFT_SHARE) * found.diagonal(rows.start) - SOFT_SHARE * (alike * found).sum(dim=1)

        return map_rows(block, rows=len(student), columns=len(student)).mean()

    texts = direction((student.image, student.text), (teacher.image, teacher.text))
    images = direction((student.text, student.image), (teacher.text, teacher.image))
    return (texts + images) / 2
