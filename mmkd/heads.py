"""The map from a student's joint space into its teacher's, where their dimensions differ."""

from pathlib import Path

import torch
from torch import Tensor, nn

from mmkd.errors import ModelError
from mmkd.files import atomic_file

HEAD_FILE = "projection_head.safetensors"  # beside the student's model.safetensors
MAX_DIM = 1 << 16  # larger than any CLIP's; bounds what a hostile file makes us allocate


class ProjectionHead(nn.Module):
    """Two linear maps without bias, one for images and one for texts, from the student's D_s to the teacher's D_t.

    It takes the student's projected embeddings before they are normalised. Both maps start as the same
    orthogonal matrix, so that with D_s <= D_t every cosine between two embeddings is at first what it was without
    the head.

    Args:
        student_dim: D_s, the student's ``projection_dim``.
        teacher_dim: D_t.
        seed: of the first weights; the global random state is left alone.

    Source: CLIP-KD, arXiv 2307.12732: a linear projection head where the dimensions differ.
    """

    def __init__(self, student_dim: int, teacher_dim: int, *, seed: int = 0) -> None:
        super().__init__()
        with torch.random.fork_rng():  # what Linear draws is replaced
            self.image = nn.Linear(student_dim, teacher_dim, bias=False)
            self.text = nn.Linear(student_dim, teacher_dim, bias=False)
        nn.init.orthogonal_(self.image.weight, generator=torch.Generator().manual_seed(seed))
        with torch.no_grad():
            self.text.weight.copy_(self.image.weight)

    @property
    def dims(self) -> tuple[int, int]:
        """D_s and D_t."""
        return self.image.in_features, self.image.out_features

    def forward(self, image: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
        """(B, D_s) and (B, D_s) to (B, D_t) and (B, D_t), unnormalised.

        A side that is (B, 0), because its tower is not trained, stays as it is.
        """
        return (
            self.image(image) if image.shape[1] else image,
            self.text(text) if text.shape[1] else text,
        )


def save_head(weights: dict[str, Tensor], folder: Path) -> None:
    """Write a head's ``state_dict`` beside the student in ``folder``, whole or not at all."""
    from safetensors.torch import save_file

    plain = {name: tensor.detach().float().cpu().contiguous() for name, tensor in weights.items()}
    with atomic_file(folder / HEAD_FILE) as file:
        save_file(plain, file, metadata={"format": "pt"})


def load_head(folder: Path, student_dim: int) -> ProjectionHead | None:
    """The head beside a student, frozen, in float32 on the CPU; ``None`` where there is none.

    Args:
        folder: of the student.
        student_dim: the student's ``projection_dim``.

    Raises:
        ModelError: the file is damaged, or does not hold a head for such a student.
    """
    from safetensors import SafetensorError, safe_open

    file = folder / HEAD_FILE
    if not file.exists():
        return None
    try:
        with safe_open(file, framework="pt") as stored:
            # Names, shapes and types come from the file's header, so nothing is read that does not fit.
            found = {name: stored.get_slice(name) for name in stored.keys()}  # noqa: SIM118 (not a dict)
            shapes = {name: (tuple(one.get_shape()), one.get_dtype()) for name, one in found.items()}
            _check_shapes(file, shapes, student_dim)
            weights = {name: stored.get_tensor(name) for name in found}
    except (SafetensorError, OSError) as error:
        raise ModelError(
            f"cannot read {file}: {str(error).splitlines()[0]}; train the student again"
        ) from error
    if not all(bool(tensor.isfinite().all()) for tensor in weights.values()):
        raise ModelError(f"{file} holds values that are not finite; train the student again")
    head = ProjectionHead(student_dim, len(weights["image.weight"]))
    head.load_state_dict(weights)
    return head.requires_grad_(False)


def _check_shapes(file: Path, found: dict[str, tuple[tuple[int, ...], str]], student_dim: int) -> None:
    image = found.get("image.weight")
    fits = (
        found.keys() == {"image.weight", "text.weight"}
        and found["text.weight"] == image
        and image is not None
        and image[1] == "F32"
        and len(image[0]) == 2
        and 1 <= image[0][0] <= MAX_DIM
        and image[0][1] == student_dim
    )
    if not fits:
        listed = ", ".join(f"{name} {dtype} {list(shape)}" for name, (shape, dtype) in sorted(found.items()))
        raise ModelError(
            f"{file} holds {listed[:200] or 'nothing'}; expected image.weight and text.weight, both F32 "
            f"[D, {student_dim}]: it is not the head of the student beside it"
        )
