"""What a cache of several views costs beside one of the untouched images alone: seconds of CPU, and the ratio.

    python benchmarks/views.py --teacher PHOTOS/photos-32 --data PHOTOS/flickr8k-1000/train.parquet
    python benchmarks/views.py --teacher PHOTOS/photos-32 --data PHOTOS/flickr8k-1000/train.parquet --b32 --limit 32

``--b32`` gives the teacher the size of CLIP ViT-B/32, with random weights: they cost what real ones do.
"""

import argparse
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from mmkd.augment import NO_AUGMENTATION, POLICIES, Augmentation
from mmkd.cache.build import build_cache
from mmkd.data import DataSource, PairDataset, open_pairs
from mmkd.encoders import PairEncoder, load_encoder


def as_large_as_b32(encoder: PairEncoder) -> PairEncoder:
    """An encoder of ViT-B/32's size that takes the same tokens."""
    from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel

    config: Any = CLIPConfig()  # the size of openai/clip-vit-base-patch32
    own = encoder.model.config.text_config
    for name in ("vocab_size", "bos_token_id", "eos_token_id", "pad_token_id", "max_position_embeddings"):
        setattr(config.text_config, name, getattr(own, name))
    model: Any = CLIPModel(config)
    spec = replace(encoder.spec, dim=config.projection_dim)
    return replace(encoder, model=model.eval(), image_processor=CLIPImageProcessorPil(), spec=spec)


def cpu_seconds(encoder: PairEncoder, pairs: PairDataset, views: int, augmentation: Augmentation) -> float:
    """CPU time, over all threads, of building a cache, start-up excluded."""
    with tempfile.TemporaryDirectory() as folder:
        start = time.process_time()
        build_cache(encoder, pairs, Path(folder) / "cache", views=views, augmentation=augmentation)
        return time.process_time() - start


def main() -> None:
    """Measure, and print a line a policy."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--teacher", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--limit", type=int, default=1000)
    parser.add_argument("--views", type=int, default=5)
    parser.add_argument("--b32", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    encoder = load_encoder(options.teacher, device=torch.device("cpu"))
    encoder = as_large_as_b32(encoder) if options.b32 else encoder
    pairs = open_pairs([DataSource(options.data)], options.limit)
    plain = cpu_seconds(encoder, pairs, 1, NO_AUGMENTATION)
    print(f"1 view: {plain:.1f} s of CPU for {len(pairs):,} images")
    for policy in POLICIES[1:]:
        seconds = cpu_seconds(encoder, pairs, options.views, Augmentation(policy))
        print(f"{options.views} views, {policy}: {seconds:.1f} s, {seconds / plain:.1f} times as long")


if __name__ == "__main__":
    main()
