"""A folder that ``SentenceTransformer(folder)`` loads and that embeds images and texts."""

from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from torch import Tensor

if TYPE_CHECKING:
    from PIL.Image import Image

    from mmkd.encoders import PairEncoder


def write(encoder: "PairEncoder", folder: Path, sides: Sequence[str]) -> None:  # noqa: ARG001 - always both
    """Write one ``Transformer`` module that holds the whole CLIP, its preprocessing and its tokenizer.

    Embeddings are not normalised, as in ``sentence-transformers/clip-ViT-B-32``; ``similarity`` is the cosine.
    """
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.base.modules import Transformer
    from transformers import CLIPProcessor

    processors: Any = CLIPProcessor  # not annotated
    processor = processors(image_processor=encoder.image_processor, tokenizer=encoder.tokenizer)
    with TemporaryDirectory(dir=folder.parent, prefix=f"{folder.name}.") as plain:
        encoder.model.save_pretrained(plain)
        processor.save_pretrained(plain)
        module = Transformer(plain)
        model = SentenceTransformer(modules=[module], device="cpu", similarity_fn_name="cosine")
        model.save(str(folder), create_model_card=False)


class SentenceTransformersReader:
    """The folder as sentence-transformers itself loads it, on the CPU.

    Args:
        folder: that ``write`` wrote.
    """

    def __init__(self, folder: Path) -> None:
        from sentence_transformers import SentenceTransformer

        self.by = f"sentence-transformers {version('sentence-transformers')}"
        self._model = SentenceTransformer(str(folder), device="cpu", local_files_only=True)

    def encode_images(self, images: "Sequence[Image]") -> Tensor:
        """Image embeddings (B, D), not normalised."""
        return self._encode(images)

    def encode_texts(self, texts: Sequence[str]) -> Tensor:
        """Text embeddings (B, D), not normalised."""
        return self._encode(texts)

    def _encode(self, inputs: "Sequence[Any]") -> Tensor:
        embeddings: Tensor = self._model.encode(
            list(inputs), convert_to_tensor=True, show_progress_bar=False, batch_size=len(inputs)
        )
        return embeddings.float().cpu()
