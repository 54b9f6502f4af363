"""KD losses on features: the student's vector of a row against the teacher's of the same row (``nst``: of all rows).

Student and teacher share their width D.
"""

import torch.nn.functional as F
from torch import Tensor

from mmkd.embeddings import Embeddings


def mse(student: Embeddings, teacher: Embeddings) -> Tensor:
    """Mean squared error between unit vectors, over all B x D elements, averaged over the two towers.

    On unit vectors this is ``2 (1 - cos) / D``: it points the same way as ``cos`` and differs in scale only.

    Args:
        student: (B, D).
        teacher: (B, D).

    Returns:
        Scalar in [0, 4 / D].

    Source: feature distillation of CLIP-KD, arXiv 2307.12732, eq. 5 (there with weight 2000).
    """
    return (F.mse_loss(student.image, teacher.image) + F.mse_loss(student.text, teacher.text)) / 2


def cos(student: Embeddings, teacher: Embeddings) -> Tensor:
    """One minus the cosine between student and teacher, averaged over rows and the two towers.

    Args:
        student: (B, D).
        teacher: (B, D).

    Returns:
        Scalar in [0, 2].
    """
    image = (student.image * teacher.image).sum(dim=-1)
    text = (student.text * teacher.text).sum(dim=-1)
    return 1 - (image.mean() + text.mean()) / 2


def l1(student: Embeddings, teacher: Embeddings) -> Tensor:
    """Mean absolute error between unit vectors, over all B x D elements, averaged over the two towers.

    Args:
        student: (B, D).
        teacher: (B, D).

    Returns:
        Scalar in [0, 2 / sqrt(D)].
    """
    return (F.l1_loss(student.image, teacher.image) + F.l1_loss(student.text, teacher.text)) / 2


def huber(student: Embeddings, teacher: Embeddings) -> Tensor:
    """Half the squared error where it is small, linear beyond, over all B x D elements and the two towers.

    The bend lies at ``1 / sqrt(D)``, the root mean square of a unit vector's components: at the customary 1 no
    component would ever reach it, and the loss would be half of ``mse``.

    Args:
        student: (B, D).
        teacher: (B, D).

    Returns:
        Scalar in [0, 2 / D].

    Source: Huber, "Robust Estimation of a Location Parameter", Annals of Mathematical Statistics 35 (1964).
    """
    bend = student.image.shape[1] ** -0.5
    image = F.huber_loss(student.image, teacher.image, delta=bend)
    return (image + F.huber_loss(student.text, teacher.text, delta=bend)) / 2


def kl(student: Embeddings, teacher: Embeddings, *, temperature: float) -> Tensor:
    """Divergence between vectors read as distributions: a softmax over the D components of each.

    Args:
        student: (B, D).
        teacher: (B, D).
        temperature: divides the unit vectors' components before the softmax, in both.

    Returns:
        Scalar KL(teacher || student) in nats, averaged over rows and the two towers.

    Source: Hinton, Vinyals and Dean, arXiv 1503.02531, section 2, with components of an embedding for logits.
    """

    def tower(ours: Tensor, theirs: Tensor) -> Tensor:
        p, q = (theirs / temperature).log_softmax(dim=1), (ours / temperature).log_softmax(dim=1)
        return F.kl_div(q, p, log_target=True, reduction="batchmean")

    return (tower(student.image, teacher.image) + tower(student.text, teacher.text)) / 2


def nst(student: Embeddings, teacher: Embeddings) -> Tensor:
    """Squared maximum mean discrepancy between the two clouds of unit vectors, kernel ``(x . y) ** 2``.

    It compares the batch's distributions and not its rows. This kernel's feature map is the outer product of a vector
    with itself, so the discrepancy is the squared distance of the second moments: (D, D) matrices, whatever B is.

    Args:
        student: (B, D).
        teacher: (B, D).

    Returns:
        Scalar in [0, 2], averaged over the two towers.

    Source: Neuron Selectivity Transfer, arXiv 1707.01219, section 4, polynomial kernel (d = 2, c = 0).
    """

    def tower(ours: Tensor, theirs: Tensor) -> Tensor:
        return ((ours.T @ ours - theirs.T @ theirs) / len(ours)).square().sum()

    return (tower(student.image, teacher.image) + tower(student.text, teacher.text)) / 2


def mse_raw(student: Embeddings, teacher: Embeddings) -> Tensor:
    """Mean squared error between the vectors as the models gave them, lengths included.

    Args:
        student: (B, D).
        teacher: (B, D).

    Returns:
        Scalar, in the squared unit of the models' output, averaged over all B x D elements and the two towers.

    Source: FitNets, arXiv 1412.6550, eq. 3, on the last layer.
    """
    image = F.mse_loss(student.raw_image, teacher.raw_image)
    return (image + F.mse_loss(student.raw_text, teacher.raw_text)) / 2
