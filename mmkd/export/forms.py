"""The forms that a CLIP can be written in, and the check that each must pass before it is kept."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import isnan
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor
from torch.nn.functional import normalize

from mmkd.errors import ConfigError, DataError, ModelError
from mmkd.export.plain import fold_head
from mmkd.families import CLIP
from mmkd.files import atomic_folder
from mmkd.images import BadImageError, decode_image

if TYPE_CHECKING:
    from PIL.Image import Image

    from mmkd.data import PairDataset
    from mmkd.encoders import PairEncoder

SIDES = ("image", "text")
TOLERANCE = 1e-4  # largest difference of any coordinate of two unit vectors
BATCH = 16  # images or texts a forward pass of the check


class Reader(Protocol):
    """An exported model, made from nothing but the files of its folder.

    Attributes:
        by: what computes its embeddings, with the version.
    """

    by: str

    def encode_images(self, images: "Sequence[Image]") -> Tensor:
        """Image embeddings (B, D), of any length."""
        ...

    def encode_texts(self, texts: Sequence[str]) -> Tensor:
        """Text embeddings (B, D), of any length."""
        ...


@dataclass(frozen=True)
class Form:
    """A form that a CLIP can be written in.

    Attributes:
        write: writes a CLIP without a head into a folder; takes the sides to write, too.
        read: opens what ``write`` wrote.
        any_family: whether SigLIPs can be written, too, with or without a head.
        one_side: whether one tower may be written alone.
        alike: whether an image is prepared as the original's is; ``None``: every one.
    """

    write: Callable[["PairEncoder", Path, Sequence[str]], None]
    read: Callable[[Path], Reader]
    any_family: bool = False
    one_side: bool = False
    alike: "Callable[[PairEncoder, Image], bool] | None" = None


@dataclass(frozen=True)
class Sample:
    """What an export is checked on.

    Attributes:
        images: RGB.
        texts: captions.
    """

    images: "tuple[Image, ...]"
    texts: tuple[str, ...]


@dataclass(frozen=True)
class Check:
    """How far an export is from the original.

    Attributes:
        by: what computed the export's embeddings.
        counts: by side, how many images and texts both embedded.
        differences: by side, the largest absolute difference of any coordinate of their unit vectors.
        unlike: images that the other library prepares otherwise, whatever the model; they were left out.
    """

    by: str
    counts: Mapping[str, int]
    differences: Mapping[str, float]
    unlike: int = 0


def export_model(
    encoder: "PairEncoder", to: str, folder: Path, sample: Sample, *, sides: Sequence[str] = SIDES
) -> Check:
    """Write a CLIP in another library's form, its projection head folded in, and hold it against the original.

    Args:
        encoder: in float32 on the CPU.
        to: one of ``FORMS``.
        folder: not there yet, or empty; appears only when the check is passed.
        sample: what to check on.
        sides: the towers that were trained.

    Raises:
        ConfigError: the folder is in use, the form is unknown, or a library is not installed.
        DataError: no image of the sample can be compared.
        ModelError: the model cannot be written in this form, or the check found a difference above ``TOLERANCE``.
    """
    form = choose_form(to)
    check_folder(folder)
    if encoder.family is not CLIP and not form.any_family:
        raise ModelError(
            f"{encoder.spec.model} is a {encoder.family.name}; --to {to} writes CLIPs only; pass --to onnx"
        )
    if len(sides) < len(SIDES) and not form.one_side:
        missing = "text" if "text" not in sides else "image"
        raise ModelError(
            f"the {missing} tower of {encoder.spec.model} was never trained, and {to} needs both; "
            "pass --to onnx, which writes the other one alone"
        )
    plain = fold_head(encoder)
    with atomic_folder(folder) as temporary:
        form.write(plain, temporary, sides)
        check = _compare_alike(form, encoder, temporary, sample, sides)
        wrong = {side: found for side, found in check.differences.items() if not found <= TOLERANCE}
        if wrong:
            found = " and ".join(
                f"{value:.1e} on {check.counts[side]} {side}s" for side, value in wrong.items()
            )
            raise ModelError(
                f"the {to} export of {encoder.spec.model} differs from the original by {found} ({check.by}); "
                f"expected at most {TOLERANCE:g}, so nothing was written"
            )
        if folder.exists():
            folder.rmdir()
    return check


def _compare_alike(
    form: Form, encoder: "PairEncoder", folder: Path, sample: Sample, sides: Sequence[str]
) -> Check:
    if form.alike is None or "image" not in sides:
        return compare(encoder, form.read(folder), sample, sides)
    images = tuple(image for image in sample.images if form.alike(encoder, image))
    if not images:
        raise DataError(
            f"all {len(sample.images)} images are cropped otherwise by the other library, so that nothing can be "
            "compared; pass more of them with --images, or others with --data"
        )
    check = compare(encoder, form.read(folder), replace(sample, images=images), sides)
    return replace(check, unlike=len(sample.images) - len(images))


def check_folder(folder: Path) -> None:
    """See that an export may be written to ``folder``.

    Raises:
        ConfigError: it is a file, or holds something.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(f"{folder} is there already; expected a folder that is not there yet, or is empty")


def draw_sample(pairs: "PairDataset", count: int) -> Sample:
    """Up to ``count`` images, and a caption of each, evenly spread over a data set.

    Raises:
        DataError: none of those images can be decoded, or none has a caption.
    """
    rows = torch.linspace(0, len(pairs) - 1, min(count, len(pairs)), dtype=torch.float64).round().long()
    images: list[Image] = []
    texts: list[str] = []
    reasons: set[str] = set()
    for row in rows.tolist():
        pair = pairs[row]
        texts += pair.captions[:1]
        try:
            images.append(decode_image(pair.image))
        except BadImageError as error:
            reasons.add(error.reason)
    if not images or not texts:
        what = f"image that can be decoded ({', '.join(sorted(reasons))})" if not images else "caption"
        raise DataError(f"none of {len(rows)} rows has an {what}; pass other data with --data")
    return Sample(tuple(images), tuple(texts))


def compare(encoder: "PairEncoder", reader: Reader, sample: Sample, sides: Sequence[str] = SIDES) -> Check:
    """Embed a sample with the original and with the export, in batches of several sizes."""
    inputs: dict[str, Sequence[Any]] = {"image": sample.images, "text": sample.texts}
    differences = {}
    for side in sides:
        theirs = getattr(reader, f"encode_{side}s")
        ours = getattr(encoder, f"encode_{side}s")
        # One alone first: a batch axis that was frozen, or a padding that counts, shows only then.
        batches = [
            inputs[side][:1],
            *(inputs[side][i : i + BATCH] for i in range(1, len(inputs[side]), BATCH)),
        ]
        differences[side] = max(_difference(theirs(batch), ours(batch)) for batch in batches)
    return Check(reader.by, {side: len(inputs[side]) for side in sides}, differences)


def _difference(export: Tensor, original: Tensor) -> float:
    if export.shape != original.shape:
        return float("inf")
    distance = normalize(export.double(), dim=-1) - normalize(original.double(), dim=-1)
    largest = float(distance.abs().max())
    return float("inf") if isnan(largest) else largest  # not a number is no agreement


def choose_form(name: str) -> Form:
    """The form called ``name``.

    Raises:
        ConfigError: there is none.
    """
    if name not in FORMS:
        raise ConfigError(f"unknown form {name!r}; expected one of: {', '.join(FORMS)}")
    return FORMS[name]()


def need(what: str, *modules: str) -> None:
    """See that libraries are installed.

    Raises:
        ConfigError: one is not.
    """
    from importlib import import_module

    for module in modules:
        try:
            import_module(module)
        except ImportError as error:
            raise ConfigError(
                f'{what} needs {module}, which is not installed: pip install "mmkd[export]"'
            ) from error


def _onnx() -> Form:
    from mmkd.export import onnx_form

    need("--to onnx", "onnx", "onnxscript", "onnxruntime")
    return Form(onnx_form.write, onnx_form.OnnxReader, any_family=True, one_side=True)


def _sentence_transformers() -> Form:
    from mmkd.export import sentence_transformers_form

    need("--to sentence-transformers", "sentence_transformers.base.modules")
    return Form(sentence_transformers_form.write, sentence_transformers_form.SentenceTransformersReader)


def _open_clip() -> Form:
    from mmkd.export import open_clip_form, open_clip_reader

    return Form(open_clip_form.write, open_clip_reader.read, alike=open_clip_form.crops_alike)


FORMS: dict[str, Callable[[], Form]] = {
    "onnx": _onnx,
    "sentence-transformers": _sentence_transformers,
    "open-clip": _open_clip,
}
