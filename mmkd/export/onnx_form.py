"""ONNX: one graph a tower, with preprocessing and tokenizer beside them."""

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from mmkd.encoders import max_text_length, tokenize
from mmkd.families import family_of, load_processors, read_model_config

if TYPE_CHECKING:
    from PIL.Image import Image

    from mmkd.encoders import PairEncoder

OPSET = 18
MAX_INLINE = 1 << 30  # bytes of weights inside the graph's file; protobuf ends at 2 GiB


class _ImageTower(nn.Module):
    def __init__(self, model: Any, head: nn.Module | None) -> None:
        super().__init__()
        self.model, self.head = model, head or nn.Identity()

    def forward(self, pixel_values: Tensor) -> Tensor:
        embeddings: Tensor = self.head(self.model.get_image_features(pixel_values=pixel_values).pooler_output)
        return embeddings


class _TextTower(nn.Module):
    def __init__(self, model: Any, head: nn.Module | None) -> None:
        super().__init__()
        self.model, self.head = model, head or nn.Identity()

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        output = self.model.get_text_features(input_ids=input_ids, attention_mask=attention_mask)
        embeddings: Tensor = self.head(output.pooler_output)
        return embeddings


def write(encoder: "PairEncoder", folder: Path, sides: Sequence[str]) -> None:
    """Write ``image.onnx``, ``text.onnx``, and the files that say how to make their inputs.

    ``image.onnx`` takes ``pixel_values`` float32 (B, 3, S, S) and gives ``image_embeds`` float32 (B, D);
    ``text.onnx`` takes ``input_ids`` and ``attention_mask`` int64 (B, L) and gives ``text_embeds`` float32 (B, D).
    Embeddings are not normalised. B is free, and so is L up to the number of positions of the text tower. SigLIP's
    texts always fill all positions, and its graph takes ``input_ids`` alone.
    """
    config: Any = encoder.model.config
    batch = torch.export.Dim("batch", min=1, max=1 << 16)
    if "image" in sides:
        vision = config.vision_config
        inputs = {"pixel_values": torch.zeros(2, vision.num_channels, vision.image_size, vision.image_size)}
        image = _ImageTower(encoder.model, encoder.head and encoder.head.image)
        _save(image, inputs, {0: batch}, folder / "image.onnx")
    if "text" in sides:
        inputs, axes = encoder.tokenize(["a", "a photo"]), {0: batch}
        if encoder.family.padding == "longest":
            length = torch.export.Dim("sequence", min=1, max=max_text_length(encoder.model))
            axes = {0: batch, 1: length}
        else:
            del inputs["attention_mask"]
        text = _TextTower(encoder.model, encoder.head and encoder.head.text)
        _save(text, inputs, axes, folder / "text.onnx")
    config.save_pretrained(folder)
    encoder.image_processor.save_pretrained(folder)
    encoder.tokenizer.save_pretrained(folder)


def _save(tower: nn.Module, inputs: dict[str, Tensor], axes: dict[int, Any], file: Path) -> None:
    output = f"{file.stem}_embeds"
    with _silent(), torch.no_grad():
        traced = torch.export.export(
            tower.eval(), (), inputs, dynamic_shapes=dict.fromkeys(inputs, axes), strict=False
        )
        program = torch.onnx.export(
            traced,
            dynamo=True,
            input_names=list(inputs),
            output_names=[output],
            opset_version=OPSET,
            verbose=False,
        )
        assert program is not None  # only the old exporter gives none
        size = sum(weight.numel() * weight.element_size() for weight in traced.state_dict.values())
        program.save(file, external_data=size > MAX_INLINE)


@contextmanager
def _silent() -> Iterator[None]:
    """The exporter warns of its own internals, and of libraries that it finds missing but does not need."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


class OnnxReader:
    """The graphs of a folder, run by onnxruntime on the CPU with the folder's own preprocessing and tokenizer.

    Args:
        folder: that ``write`` wrote.
    """

    def __init__(self, folder: Path) -> None:
        import onnxruntime

        self.by = f"onnxruntime {onnxruntime.__version__}"
        self._image_processor, self._tokenizer = load_processors(folder, name=str(folder))
        config = read_model_config(folder, name=str(folder))
        self._family, self._max_length = family_of(config), config.text_config.max_position_embeddings
        self._sessions = {
            side: onnxruntime.InferenceSession(folder / f"{side}.onnx", providers=["CPUExecutionProvider"])
            for side in ("image", "text")
            if (folder / f"{side}.onnx").is_file()
        }

    def encode_images(self, images: "Sequence[Image]") -> Tensor:
        """Image embeddings (B, D), not normalised."""
        return self._run("image", dict(self._image_processor(images=list(images), return_tensors="pt")))

    def encode_texts(self, texts: Sequence[str]) -> Tensor:
        """Text embeddings (B, D), not normalised."""
        return self._run("text", tokenize(self._tokenizer, texts, self._max_length, self._family))

    def _run(self, side: str, inputs: dict[str, Tensor]) -> Tensor:
        session = self._sessions[side]
        arrays = {one.name: inputs[one.name].numpy() for one in session.get_inputs()}
        (embeddings,) = session.run(None, arrays)
        return torch.from_numpy(embeddings)
