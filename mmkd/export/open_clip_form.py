"""open_clip's form: ``open_clip_config.json`` and ``open_clip_model.safetensors``.

Source: open_clip's ``CLIPVisionCfg``, ``CLIPTextCfg``, ``PreprocessCfg`` and ``ResidualAttentionBlock``, version 3.3.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from mmkd.errors import ModelError
from mmkd.files import write_json

if TYPE_CHECKING:
    from PIL.Image import Image

    from mmkd.encoders import PairEncoder

CONFIG_FILE, WEIGHTS_FILE = "open_clip_config.json", "open_clip_model.safetensors"
DEFAULT_EPS = 1e-5  # of open_clip's LayerNorm
LEGACY_EOS = 2  # with this eos_token_id transformers pools at the largest token id
_ACTIVATIONS = {"quick_gelu": True, "gelu": False}
_INTERPOLATIONS = {2: "bilinear", 3: "bicubic"}  # Pillow's numbers
_BLOCK = {
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "self_attn.out_proj": "attn.out_proj",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
}
_NAMES = {
    "logit_scale": "logit_scale",
    "vision_model.embeddings.class_embedding": "visual.class_embedding",
    "vision_model.embeddings.patch_embedding.weight": "visual.conv1.weight",
    "vision_model.embeddings.position_embedding.weight": "visual.positional_embedding",
    "vision_model.pre_layrnorm.weight": "visual.ln_pre.weight",
    "vision_model.pre_layrnorm.bias": "visual.ln_pre.bias",
    "vision_model.post_layernorm.weight": "visual.ln_post.weight",
    "vision_model.post_layernorm.bias": "visual.ln_post.bias",
    "text_model.embeddings.token_embedding.weight": "token_embedding.weight",
    "text_model.embeddings.position_embedding.weight": "positional_embedding",
    "text_model.final_layer_norm.weight": "ln_final.weight",
    "text_model.final_layer_norm.bias": "ln_final.bias",
}
# Parameters that multiply from the right, (W, D) where transformers has a Linear's (D, W).
_TRANSPOSED = {"visual_projection.weight": "visual.proj", "text_projection.weight": "text_projection"}


def write(encoder: "PairEncoder", folder: Path, sides: Sequence[str]) -> None:  # noqa: ARG001 - always both
    """Write weights, configuration and tokenizer, for ``open_clip.create_model_and_transforms("local-dir:...")``.

    Raises:
        ModelError: open_clip has no setting for something that the model has.
    """
    from safetensors.torch import save_file

    model_cfg = model_config(encoder.model.config)
    preprocess = preprocess_config(encoder.image_processor.to_dict(), model_cfg["vision_cfg"]["image_size"])
    write_json(folder / CONFIG_FILE, {"model_cfg": model_cfg, "preprocess_cfg": preprocess})
    save_file(rename_weights(encoder.model.state_dict()), folder / WEIGHTS_FILE, metadata={"format": "pt"})
    encoder.tokenizer.save_pretrained(folder)


def model_config(config: Any) -> dict[str, Any]:
    """``model_cfg``, from a ``CLIPConfig``.

    Raises:
        ModelError: open_clip has no setting for something that it has.
    """
    vision, text = config.vision_config, config.text_config
    if vision.hidden_act != text.hidden_act or vision.hidden_act not in _ACTIVATIONS:
        raise ModelError(
            f"the towers' activations are {vision.hidden_act} and {text.hidden_act}; expected quick_gelu or gelu in "
            "both: open_clip has no other"
        )
    if vision.num_channels != 3:
        raise ModelError(
            f"the model takes {vision.num_channels} channels; expected 3: open_clip has no other"
        )
    return {
        "embed_dim": config.projection_dim,
        "quick_gelu": _ACTIVATIONS[vision.hidden_act],
        "vision_cfg": {
            "image_size": vision.image_size,
            "patch_size": vision.patch_size,
            "head_width": vision.hidden_size // vision.num_attention_heads,
            **_tower(vision),
        },
        "text_cfg": {
            "context_length": text.max_position_embeddings,
            "vocab_size": text.vocab_size,
            "heads": text.num_attention_heads,
            # Any name makes open_clip read the tokenizer that lies in the folder itself.
            "hf_tokenizer_name": "tokenizer.json",
            **_pooling(text),
            **_tower(text),
        },
    }


def _tower(config: Any) -> dict[str, Any]:
    width, hidden = config.hidden_size, config.intermediate_size
    ratio = hidden / width
    if int(width * ratio) != hidden:  # open_clip multiplies it out again, and rounds down
        ratio = (hidden + 0.5) / width
    tower = {"layers": config.num_hidden_layers, "width": width, "mlp_ratio": ratio}
    eps = config.layer_norm_eps
    return tower if eps == DEFAULT_EPS else {**tower, "norm_kwargs": {"eps": eps}}


def _pooling(text: Any) -> dict[str, Any]:
    # The end token of CLIP's own vocabulary is its last, so that both ways of pooling are one.
    if text.eos_token_id in {LEGACY_EOS, text.vocab_size - 1}:
        return {"pool_type": "argmax"}
    return {"pool_type": "eos", "eos_id": text.eos_token_id}


def preprocess_config(processor: Mapping[str, Any], image_size: int) -> dict[str, Any]:
    """``preprocess_cfg``, from a CLIP image processor's settings.

    Args:
        processor: its ``to_dict()``.
        image_size: of the model.

    Raises:
        ModelError: open_clip cannot make the same pixels.
    """
    size, crop = processor.get("size") or {}, processor.get("crop_size") or {}
    square = {"height": image_size, "width": image_size}
    shortest = size == {"shortest_edge": image_size} and crop == square and processor.get("do_center_crop")
    # A crop to the size that the image has already changes nothing.
    squash = size == square and (crop == square or not processor.get("do_center_crop"))
    resample = _INTERPOLATIONS.get(int(processor.get("resample") or 0))
    usual = all(processor.get(step) for step in ("do_resize", "do_rescale", "do_normalize"))
    if not (shortest or squash) or resample is None or not usual or not _is_byte(processor["rescale_factor"]):
        shown = {name: processor.get(name) for name in ("size", "crop_size", "resample", "rescale_factor")}
        raise ModelError(
            f"found the preprocessing {shown}; expected a resize by bilinear or bicubic interpolation and a crop to "
            f"{image_size} x {image_size}, then 1/255 and a normalisation: open_clip has no other"
        )
    return {
        "size": image_size,
        "mode": "RGB",
        "mean": list(processor["image_mean"]),
        "std": list(processor["image_std"]),
        "interpolation": resample,
        "resize_mode": "shortest" if shortest else "squash",
    }


def crops_alike(encoder: "PairEncoder", image: "Image") -> bool:
    """Whether open_clip's centre crop of an image, torchvision's, is that of the model's own preprocessing.

    Of half a margin torchvision takes the nearest whole number, of two the even one; transformers rounds down. So
    after a resize that leaves a margin of 3, 7, 11, ... pixels the two crops lie a pixel apart.
    """
    side = (encoder.image_processor.to_dict().get("size") or {}).get("shortest_edge")
    if side is None:
        return True  # resized to the square itself
    margin: int = int(side * max(image.size) / min(image.size)) - side
    return margin % 4 != 3


def _is_byte(factor: float) -> bool:
    return abs(255 * factor - 1) < 1e-6


def rename_weights(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A ``CLIPModel``'s weights under open_clip's names, queries, keys and values in one matrix.

    Raises:
        ModelError: one has no name in open_clip.
    """
    renamed: dict[str, Tensor] = {}
    for name, weight in weights.items():
        if name.endswith("position_ids") or ".k_proj." in name or ".v_proj." in name:
            continue  # counted, not learnt; or taken with the queries
        if name in _TRANSPOSED:
            renamed[_TRANSPOSED[name]] = weight.T.contiguous().clone()
        elif ".q_proj." in name:
            stem, _, kind = name.partition(".self_attn.q_proj.")
            parts = [weights[name.replace(".q_proj.", f".{part}_proj.")] for part in "qkv"]
            renamed[f"{_block(stem)}.attn.in_proj_{kind}"] = torch.cat(parts)
        else:
            renamed[_NAMES.get(name) or _in_block(name)] = weight.contiguous().clone()
    return renamed


def _block(stem: str) -> str:
    tower, _, number = stem.partition("_model.encoder.layers.")
    return f"{'visual.' if tower == 'vision' else ''}transformer.resblocks.{number}"


def _in_block(name: str) -> str:
    stem, _, kind = name.rpartition(".")
    layer, inner = ".".join(stem.split(".")[:4]), ".".join(stem.split(".")[4:])
    if "_model.encoder.layers." not in name or inner not in _BLOCK:
        raise ModelError(f"the weight {name} has no name in open_clip; expected those of a CLIPModel")
    return f"{_block(layer)}.{_BLOCK[inner]}.{kind}"
