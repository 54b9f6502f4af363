"""Reads open_clip's form: with open_clip itself where it is installed, else with its graph written out in PyTorch."""

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.functional import conv2d, gelu, layer_norm, linear, scaled_dot_product_attention

from mmkd.export.open_clip_form import CONFIG_FILE, DEFAULT_EPS, WEIGHTS_FILE

if TYPE_CHECKING:
    from PIL.Image import Image

_RESAMPLE = {"bilinear": 2, "bicubic": 3}


def read(folder: Path) -> "OpenClipReader | OpenClipGraph":
    """The library's own reader where it can be imported, else ours."""
    try:
        import open_clip  # noqa: F401
    except (
        ImportError,
        RuntimeError,
        OSError,
    ):  # a torchvision made for another torch raises either of these
        return OpenClipGraph(folder)
    return OpenClipReader(folder)


class OpenClipReader:
    """The folder as open_clip itself loads it: model, transform and tokenizer.

    Args:
        folder: with ``open_clip_config.json``, ``open_clip_model.safetensors`` and the tokenizer.
    """

    def __init__(self, folder: Path) -> None:
        import open_clip

        self.by = f"open_clip {open_clip.__version__}"
        name = f"local-dir:{folder}"
        logging.disable(logging.INFO)
        try:
            self._model, _, self._transform = open_clip.create_model_and_transforms(name)
        finally:
            logging.disable(logging.NOTSET)
        self._model.eval()
        self._tokenizer = open_clip.get_tokenizer(name)

    @torch.inference_mode()
    def encode_images(self, images: "Sequence[Image]") -> Tensor:
        """Image embeddings (B, D), not normalised."""
        pixels = torch.stack([self._transform(image) for image in images])
        embeddings: Tensor = self._model.encode_image(pixels)
        return embeddings

    @torch.inference_mode()
    def encode_texts(self, texts: Sequence[str]) -> Tensor:
        """Text embeddings (B, D), not normalised."""
        embeddings: Tensor = self._model.encode_text(self._tokenizer(list(texts)))
        return embeddings


class OpenClipGraph:
    """What open_clip's ``CLIP`` computes, from the same files, without open_clip.

    open_clip needs torchvision, whose wheels do not go with every build of torch, so that mmkd does not depend on
    it. Weights are looked up by open_clip's names, and every one must be used.

    Args:
        folder: with ``open_clip_config.json``, ``open_clip_model.safetensors`` and the tokenizer.
    """

    by = "open_clip's graph in PyTorch; open_clip is not installed"

    def __init__(self, folder: Path) -> None:
        from safetensors.torch import load_file
        from transformers import AutoTokenizer, CLIPImageProcessorPil

        config = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
        self._config = config["model_cfg"]
        self._weights = load_file(folder / WEIGHTS_FILE)
        preprocess = config["preprocess_cfg"]
        side = preprocess["size"]
        square = {"height": side, "width": side}
        shortest = preprocess["resize_mode"] == "shortest"
        self._image_processor = CLIPImageProcessorPil(
            size={"shortest_edge": side} if shortest else square,
            crop_size=square,
            do_center_crop=shortest,
            resample=_RESAMPLE[preprocess["interpolation"]],
            image_mean=preprocess["mean"],
            image_std=preprocess["std"],
        )
        self._tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)

    @torch.inference_mode()
    def encode_images(self, images: "Sequence[Image]") -> Tensor:
        """Image embeddings (B, D), not normalised."""
        weights, config = self._weights, self._config["vision_cfg"]
        pixels = self._image_processor(images=list(images), return_tensors="pt")["pixel_values"]
        patches = conv2d(pixels, weights["visual.conv1.weight"], stride=config["patch_size"]).flatten(2).mT
        first = weights["visual.class_embedding"].expand(len(patches), 1, -1)
        x = torch.cat([first, patches], dim=1) + weights["visual.positional_embedding"]
        x = self._norm(x, "visual.ln_pre", config)
        x = self._blocks(x, "visual.", config, heads=config["width"] // config["head_width"], causal=False)
        return self._norm(x, "visual.ln_post", config)[:, 0] @ weights["visual.proj"]

    @torch.inference_mode()
    def encode_texts(self, texts: Sequence[str]) -> Tensor:
        """Text embeddings (B, D), not normalised."""
        weights, config = self._weights, self._config["text_cfg"]
        length = config["context_length"]
        tokens = self._tokenizer(
            list(texts), padding="max_length", truncation=True, max_length=length, return_tensors="pt"
        )["input_ids"]
        x = weights["token_embedding.weight"][tokens] + weights["positional_embedding"]
        x = self._blocks(x, "", config, heads=config["heads"], causal=True)
        last = (tokens if config["pool_type"] == "argmax" else (tokens == config["eos_id"]).int()).argmax(
            dim=1
        )
        x = self._norm(x, "ln_final", config)[torch.arange(len(x)), last]
        return x @ weights["text_projection"]

    def _blocks(self, x: Tensor, tower: str, config: dict[str, Any], *, heads: int, causal: bool) -> Tensor:
        for number in range(config["layers"]):
            name = f"{tower}transformer.resblocks.{number}"
            attended = self._norm(x, f"{name}.ln_1", config)
            query, key, value = (
                part.reshape(*part.shape[:2], heads, -1).transpose(1, 2)
                for part in self._linear(attended, f"{name}.attn.in_proj", "_").chunk(3, dim=-1)
            )
            mixed = scaled_dot_product_attention(query, key, value, is_causal=causal)
            x = x + self._linear(mixed.transpose(1, 2).flatten(2), f"{name}.attn.out_proj")
            hidden = self._linear(self._norm(x, f"{name}.ln_2", config), f"{name}.mlp.c_fc")
            hidden = hidden * torch.sigmoid(1.702 * hidden) if self._config["quick_gelu"] else gelu(hidden)
            x = x + self._linear(hidden, f"{name}.mlp.c_proj")
        return x

    def _norm(self, x: Tensor, name: str, config: dict[str, Any]) -> Tensor:
        eps = config.get("norm_kwargs", {}).get("eps", DEFAULT_EPS)
        weight, bias = self._weights[f"{name}.weight"], self._weights[f"{name}.bias"]
        return layer_norm(x, weight.shape, weight, bias, eps)

    def _linear(self, x: Tensor, name: str, separator: str = ".") -> Tensor:
        return linear(x, self._weights[f"{name}{separator}weight"], self._weights[f"{name}{separator}bias"])
