"""KD losses: what the student learns from the teacher. Each is a pure function of two ``Embeddings``."""

import torch.nn.functional as F
from torch import Tensor

from mmkd.embeddings import Embeddings


def mse(student: Embeddings, teacher: Embeddings) -> Tensor:
    """Mean squared error between unit vectors, over all B x D elements, averaged over the two towers.

    On unit vectors this is ``2 (1 - cos) / D``: it points the same way as ``cos`` and differs in scale only.

    Returns:
        Scalar in [0, 4 / D].

    Source: feature distillation of CLIP-KD, arXiv 2307.12732, eq. 5 (there with weight 2000).
    """
    return (F.mse_loss(student.image, teacher.image) + F.mse_loss(student.text, teacher.text)) / 2


def cos(student: Embeddings, teacher: Embeddings) -> Tensor:
    """One minus the cosine between student and teacher, averaged over rows and the two towers.

    Returns:
        Scalar in [0, 2].
    """
    image = (student.image * teacher.image).sum(dim=-1)
    text = (student.text * teacher.text).sum(dim=-1)
    return 1 - (image.mean() + text.mean()) / 2


def l1(student: Embeddings, teacher: Embeddings) -> Tensor:
    """Mean absolute error between unit vectors, over all B x D elements, averaged over the two towers.

    Returns:
        Scalar in [0, 2].
    """
    return (F.l1_loss(student.image, teacher.image) + F.l1_loss(student.text, teacher.text)) / 2


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
    ours = student.image @ student.text.T / temperature
    theirs = teacher.image @ teacher.text.T / temperature
    image_to_text = F.kl_div(
        ours.log_softmax(dim=1), theirs.log_softmax(dim=1), log_target=True, reduction="batchmean"
    )
    text_to_image = F.kl_div(
        ours.T.log_softmax(dim=1), theirs.T.log_softmax(dim=1), log_target=True, reduction="batchmean"
    )
    return (image_to_text + text_to_image) / 2
