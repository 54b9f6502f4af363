"""A CLIP or SigLIP with its own preprocessing and tokenizer: the same for teacher, student and baseline."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import xxhash
from torch import Tensor

from mmkd.embeddings import TeacherSpec
from mmkd.errors import ModelError, first_line
from mmkd.families import CLIP, Family, family_of, joint_dim, load_processors, own_bias, read_model_config
from mmkd.heads import ProjectionHead, load_head
from mmkd.hub import resolve_model
from mmkd.pixels import prepare_images
from mmkd.weights import hash_weights, iterate_weights, weights_files

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from PIL.Image import Image
    from transformers import CLIPModel


@dataclass(frozen=True)
class PairEncoder:
    """Images and texts in, vectors of one joint space out.

    Attributes:
        model: the CLIP or SigLIP, in evaluation mode on ``device``.
        image_processor: the model's own preprocessing.
        tokenizer: the model's own tokenizer.
        spec: what identifies the encoder; its ``dim`` is that of the embeddings, after the head.
        head: the projection that was trained with the model, in float32 on ``device``; ``None``: it has none.
    """

    model: "CLIPModel"
    image_processor: Any
    tokenizer: Any
    spec: TeacherSpec
    head: ProjectionHead | None = None

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.model.device

    @property
    def family(self) -> Family:
        """What sets the model apart from those of other families."""
        return family_of(self.model.config)

    @property
    def logit_bias(self) -> float:
        """What SigLIP adds to its scaled cosines; 0 for a CLIP."""
        bias = own_bias(self.model)
        return 0.0 if bias is None else float(bias)

    def preprocess(self, images: "Sequence[Image]") -> Tensor:
        """Pixels as the model was trained on: float32 (B, 3, S, S)."""
        return prepare_images(self.image_processor, images)

    def tokenize(self, texts: "Sequence[str]") -> dict[str, Tensor]:
        """``input_ids`` and ``attention_mask``, int64 (B, L), padded as the model's family is."""
        return tokenize(self.tokenizer, texts, max_text_length(self.model), self.family)

    @torch.inference_mode()
    def encode_pixels(self, pixels: Tensor) -> Tensor:
        """Unnormalised image embeddings, float32 (B, D), on the CPU."""
        inputs = pixels.to(self.device, self.model.dtype)
        return _projected(self.model.get_image_features(pixel_values=inputs), self.head and self.head.image)

    def encode_images(self, images: "Sequence[Image]") -> Tensor:
        """Unnormalised image embeddings, float32 (B, D), on the CPU."""
        return self.encode_pixels(self.preprocess(images))

    @torch.inference_mode()
    def encode_texts(self, texts: "Sequence[str]") -> Tensor:
        """Unnormalised text embeddings, float32 (B, D), on the CPU."""
        return self.encode_tokens(self.tokenize(texts))

    @torch.inference_mode()
    def encode_tokens(self, tokens: "Mapping[str, Tensor]") -> Tensor:
        """Unnormalised text embeddings, float32 (B, D), on the CPU; ``tokens`` as ``tokenize`` gives them."""
        inputs = {name: tensor.to(self.device) for name, tensor in tokens.items()}
        return _projected(self.model.get_text_features(**inputs), self.head and self.head.text)


def _projected(output: Any, head: torch.nn.Module | None) -> Tensor:
    embeddings: Tensor = output.pooler_output.float()
    return (embeddings if head is None else head(embeddings)).cpu()


def max_text_length(model: "CLIPModel") -> int:
    """Tokens that the text tower has positions for."""
    config: Any = model.config.text_config
    return int(config.max_position_embeddings)


def tower_layers(config: Any) -> tuple[int, int]:
    """Layers of the image and the text tower of a model's configuration."""
    return config.vision_config.num_hidden_layers, config.text_config.num_hidden_layers


def tokenize(
    tokenizer: Any, texts: "Sequence[str]", max_length: int, family: Family = CLIP
) -> dict[str, Tensor]:
    """``input_ids`` and ``attention_mask``, int64 (B, L), padded as models of ``family`` were trained.

    CLIP's are padded to the batch's longest text: under its causal mask with EOS pooling that gives the same
    embeddings as padding to ``max_length``. SigLIP pools the last position and saw its padding, so every text
    has ``max_length`` tokens there, and none is masked.
    """
    batch = tokenizer(
        list(texts),
        padding=family.padding,
        truncation=True,
        max_length=max_length,
        return_attention_mask=True,
        return_tensors="pt",
    )
    ids: Tensor = batch["input_ids"]
    masks = family.padding == "longest"
    return {"input_ids": ids, "attention_mask": batch["attention_mask"] if masks else torch.ones_like(ids)}


def default_device() -> torch.device:
    """The accelerator where there is one, else the CPU."""
    return torch.accelerator.current_accelerator() or torch.device("cpu")


def load_encoder(
    model: str | Path,
    *,
    revision: str | None = None,
    device: torch.device | None = None,
    dtype: str = "float32",
) -> PairEncoder:
    """Load any Hugging Face CLIP or SigLIP by hub id or folder, with the projection head beside it if it has one.

    Args:
        model: hub id (``openai/clip-vit-base-patch32``) or a folder written by ``save_pretrained``.
        revision: branch, tag or commit on the Hub.
        device: where to put it; default: the accelerator where there is one.
        dtype: ``float32``, ``bfloat16`` or ``float16``.

    Raises:
        ModelError: there is no such model, the Hub cannot be reached, or it is neither.
    """
    import transformers

    folder = resolve_model(model, revision=revision)
    config = read_model_config(folder, name=str(model))
    weights_files(folder)  # names what is refused
    try:
        clip = getattr(transformers, family_of(config).model).from_pretrained(
            folder, config=config, dtype=getattr(torch, dtype), use_safetensors=True, trust_remote_code=False
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise ModelError(f"cannot load the weights of {model}: {first_line(error)}") from error
    image_processor, tokenizer = load_processors(folder, name=str(model))
    clip.requires_grad_(False)  # from_pretrained leaves it in evaluation mode
    module: torch.nn.Module = clip  # transformers' own annotation of `to` hides the argument
    module.to(device or default_device())
    head = load_head(folder, joint_dim(config))
    if head is not None:
        head.to(clip.device)
    spec = _spec(model, folder, config, image_processor, tokenizer)
    return PairEncoder(clip, image_processor, tokenizer, spec, head)


def read_teacher_spec(model: str | Path, *, revision: str | None = None) -> TeacherSpec:
    """What identifies a model, read from its files without loading it.

    Raises:
        ModelError: as ``load_encoder``.
    """
    folder = resolve_model(model, revision=revision)
    config = read_model_config(folder, name=str(model))
    return _spec(model, folder, config, *load_processors(folder, name=str(model)))


def _spec(model: str | Path, folder: Path, config: Any, image_processor: Any, tokenizer: Any) -> TeacherSpec:
    head = load_head(folder, joint_dim(config))
    return TeacherSpec(
        model=_model_name(model),
        revision=_revision_of(folder, model),
        weights_hash=hash_weights(folder),
        preprocess_hash=_hash_json(image_processor.to_dict()),
        tokenizer_hash=hash_tokenizer(tokenizer),
        dim=joint_dim(config) if head is None else head.dims[1],
        logit_scale=_read_logit_scale(folder),
        layers=tower_layers(config),
        config_hash=_hash_config(config),
    )


def _hash_config(config: Any) -> str:
    """Of what no weight's shape tells; by name, since another transformers may write other defaults."""
    names = ("hidden_act", "layer_norm_eps", "num_attention_heads", "eos_token_id")
    towers = (config.vision_config, config.text_config)
    return _hash_json([[getattr(tower, name, None) for name in names] for tower in towers])


def _read_logit_scale(folder: Path) -> float:
    for name, read in iterate_weights(folder):
        if name == "logit_scale":
            return float(read().float().exp())
    raise ModelError(f"{folder} holds no weight named logit_scale; expected the weights of a CLIP or SigLIP")


def hash_tokenizer(tokenizer: Any) -> str:
    """xxh3_128 of the whole fast tokenizer: vocabulary, merges and normalisation."""
    return xxhash.xxh3_128_hexdigest(tokenizer.backend_tokenizer.to_str().encode())


def _hash_json(value: Any) -> str:
    return xxhash.xxh3_128_hexdigest(json.dumps(value, sort_keys=True, default=str).encode())


def _model_name(model: str | Path) -> str:
    path = Path(model)
    return str(path.resolve()) if path.is_dir() else str(model)


def _revision_of(folder: Path, model: str | Path) -> str | None:
    # A Hub snapshot's folder is named by its commit.
    return None if Path(model).is_dir() else folder.name
