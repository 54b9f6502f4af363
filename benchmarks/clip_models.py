"""CLIPs of the published sizes with random weights, which cost what real ones do; their arithmetic; real captions."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from memory import TEACHERS, student_config
from numpy.typing import NDArray

from mmkd.embeddings import TeacherSpec
from mmkd.encoders import PairEncoder

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
SIZES = {"b32": TEACHERS[0], "b16": TEACHERS[1], "l14": TEACHERS[2]}
NAMES = {"b32": "ViT-B/32", "b16": "ViT-B/16", "l14": "ViT-L/14", "tiny": "tiny"}
# Of a caption of Conceptual Captions, begin and end included; caption_trimming.py counts them.
MEDIAN_TOKENS = 11


def config_of(size: str, *, half: bool = False) -> Any:
    """The configuration of a teacher, or of its student of half the layers."""
    from transformers import CLIPConfig

    if size != "tiny":
        config = student_config(SIZES[size])
        if not half:
            for tower in (config.vision_config, config.text_config):
                tower.num_hidden_layers *= 2
        return config
    tower = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2, "projection_dim": 512}
    tower["num_hidden_layers"] = 2 if half else 4
    return CLIPConfig(
        text_config={**tower, "vocab_size": 49408, "max_position_embeddings": 77},
        vision_config={**tower, "image_size": 224, "patch_size": 32},
        projection_dim=512,
    )


def random_clip(size: str, *, half: bool = False, seed: int = 0) -> Any:
    """A CLIP of that size with weights drawn as transformers draws them."""
    from transformers import CLIPModel

    torch.manual_seed(seed)
    return CLIPModel(config_of(size, half=half))


def random_encoder(size: str) -> PairEncoder:
    """A teacher of that size with CLIP's own preprocessing, and CLIP's tokenizer where it is at hand.

    Without ../shared/data the demo's tokenizer, which knows few words, serves: its tokens are more a caption.
    """
    from importlib.resources import files

    from transformers import AutoTokenizer, CLIPImageProcessorPil

    folder = SHARED / "clip-tokenizer"
    if not folder.is_dir():
        folder = Path(str(files("mmkd.configs").joinpath("demo", "teacher")))
    model = random_clip(size).eval().requires_grad_(False)
    spec = TeacherSpec(f"random {NAMES[size]}", None, "0" * 32, "1" * 32, "2" * 32, 512, 100.0, (12, 12))
    spec = replace(spec, dim=model.config.projection_dim)
    return PairEncoder(model, CLIPImageProcessorPil(), AutoTokenizer.from_pretrained(folder), spec)


def real_captions() -> list[str]:
    """The captions of Conceptual Captions' validation part, or made-up ones where it is not at hand."""
    path = SHARED / "conceptual-captions" / "validation.tsv"
    if path.is_file():
        lines = path.read_text(encoding="utf-8").splitlines()
        return [line.partition("\t")[0] for line in lines]
    draw = np.random.default_rng(0)
    words = ("a", "dog", "red", "house", "on", "the", "hill", "with", "two", "trees")
    return [" ".join(draw.choice(words, draw.integers(5, 20))) for _ in range(5000)]


def random_pixels(count: int, *, seed: int = 0) -> torch.Tensor:
    """float32 (count, 3, 224, 224)."""
    return torch.randn(count, 3, 224, 224, generator=torch.Generator().manual_seed(seed))


def random_tokens(count: int, length: int, *, seed: int = 0) -> torch.Tensor:
    """int64 (count, length): begin, words, end."""
    draw = torch.Generator().manual_seed(seed)
    tokens = torch.randint(1000, 40_000, (count, length), generator=draw)
    tokens[:, 0], tokens[:, -1] = 49_406, 49_407
    return tokens


def flops(config: Any, tokens: int, *, training: bool) -> float:
    """Multiplications and additions of one pair: both towers forward and, in training, backward.

    Counted by PyTorch on a model without data, attention written out.
    """
    from torch.utils.flop_counter import FlopCounterMode
    from transformers import CLIPConfig, CLIPModel

    plain: Any = CLIPConfig.from_dict(config.to_dict())
    plain._attn_implementation = "eager"
    with torch.device("meta"):
        clip = CLIPModel(plain)
        pixels = torch.empty(2, 3, plain.vision_config.image_size, plain.vision_config.image_size)
        ids = torch.ones(2, tokens, dtype=torch.int64)
    clip.requires_grad_(training)
    with FlopCounterMode(display=False) as counter:
        image = clip.get_image_features(pixel_values=pixels).pooler_output
        text = clip.get_text_features(input_ids=ids, attention_mask=torch.ones_like(ids)).pooler_output
        if training:
            (image.sum() + text.sum()).backward()
    return float(counter.get_total_flops()) / 2


def token_counts(encoder: PairEncoder, captions: list[str]) -> NDArray[np.int64]:
    """Tokens of each caption, begin and end included, at most 77: int64 (N,)."""
    found = encoder.tokenizer(captions, truncation=True, max_length=77)["input_ids"]
    return np.array([len(ids) for ids in found])
