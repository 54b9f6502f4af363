"""How fast batches come to a training that decodes its images, and to one that reads stored pixels.

    python benchmarks/pixels.py
    python benchmarks/pixels.py --data PHOTOS/flickr8k-1000/train.parquet --teacher PHOTOS/clip

Without --data it draws scenes of 500 x 375 as JPEG; without --teacher the teacher is a tiny one of random weights that
takes in 224 x 224, since what it gives is not looked at. Both ways are timed by turns, in one process without workers.
"""

import argparse
import io
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mmkd.batches import BatchReader, BatchStream
from mmkd.cache.build import build_cache
from mmkd.cache.store import CacheStore, open_cache
from mmkd.data import DataSource, PairDataset, open_pairs
from mmkd.encoders import PairEncoder, load_encoder, max_text_length
from mmkd.pixels import normalise_pixels, pixel_levels
from mmkd.sampling import BatchPlan

BATCH = 64


def draw_photos(path: Path, count: int) -> Path:
    """A Parquet file of drawn pictures of 500 x 375, with the detail of a photo, as JPEG of quality 90."""
    from datasets import Dataset, Features, Value
    from datasets import Image as ImageFeature
    from PIL import Image

    rows: dict[str, list[object]] = {"image": [], "caption": []}
    for number in range(count):
        draw = np.random.default_rng(number)
        coarse = Image.fromarray(draw.integers(0, 256, (12, 16, 3), dtype=np.uint8))
        smooth = np.asarray(coarse.resize((500, 375), Image.Resampling.BICUBIC), dtype=np.int16)
        noisy = (smooth + draw.normal(0, 8, smooth.shape)).clip(0, 255).astype(np.uint8)
        stream = io.BytesIO()
        Image.fromarray(noisy).save(stream, "JPEG", quality=90)
        rows["image"].append({"bytes": stream.getvalue(), "path": None})
        rows["caption"].append(f"picture {number}")
    features = Features({"image": ImageFeature(), "caption": Value("string")})
    Dataset.from_dict(rows, features=features).to_parquet(str(path))
    return path


def tiny_teacher(folder: Path) -> PairEncoder:
    """The demo's teacher's words, a small random tower of 224 x 224 pixels, and CLIP's own preprocessing."""
    from importlib.resources import files

    from transformers import AutoTokenizer, CLIPConfig, CLIPImageProcessorPil, CLIPModel

    demo = Path(str(files("mmkd.configs").joinpath("demo", "teacher")))
    config: Any = CLIPConfig.from_pretrained(demo)
    config.vision_config.image_size, config.vision_config.patch_size = 224, 32
    CLIPModel(config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(demo).save_pretrained(folder)
    CLIPImageProcessorPil().save_pretrained(folder)
    return load_encoder(folder, device=torch.device("cpu"))


def images_per_second(
    store: CacheStore, pairs: PairDataset, encoder: PairEncoder, seconds: float, *, normalised: bool = True
) -> float:
    """Images a second of the training's own stream, as the student takes them, or as they go to its device."""
    reader = BatchReader(
        pairs, encoder.image_processor, encoder.tokenizer, max_text_length(encoder.model), store
    )
    plan = BatchPlan(store.usable, BATCH, 0)
    levels = pixel_levels(encoder.image_processor)
    batches = BatchStream(reader, plan, rank=0, world=1, workers=0).from_step(0)
    next(batches)
    start, images = time.perf_counter(), 0
    while (passed := time.perf_counter() - start) < seconds:
        pixels = next(batches).pixel_values
        if normalised and pixels.dtype == torch.uint8:
            pixels = normalise_pixels(pixels, levels)
        images += len(pixels)
    return images / passed


def main() -> None:
    """Make both caches, time them by turns, and print images a second and the ratio."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--teacher")
    parser.add_argument("--data")
    parser.add_argument("--limit", type=int, default=512)
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        encoder = (
            load_encoder(options.teacher, device=torch.device("cpu"))
            if options.teacher
            else tiny_teacher(folder / "teacher")
        )
        data = options.data or str(draw_photos(folder / "photos.parquet", options.limit))
        pairs = open_pairs([DataSource(data)], options.limit)
        build_cache(encoder, pairs, folder / "decoded")
        build_cache(encoder, pairs, folder / "stored", store_pixels=True)
        decoded, stored = open_cache(folder / "decoded"), open_cache(folder / "stored")
        captions = stored.open_pairs(sides=("text",))
        ratios = []
        for turn in range(options.repeats):
            slow = images_per_second(decoded, pairs, encoder, options.seconds)
            fast = images_per_second(stored, captions, encoder, options.seconds)
            raw = images_per_second(stored, captions, encoder, options.seconds, normalised=False)
            ratios.append((fast / slow, raw / slow))
            print(
                f"turn {turn}: decoded {slow:,.0f} images/s, stored {fast:,.0f} ({fast / slow:.1f} times), "
                f"as they go to an accelerator {raw:,.0f} ({raw / slow:.1f} times)"
            )
        each = stored.manifest.bytes / len(stored), decoded.manifest.bytes / len(decoded)
        print(
            f"{len(pairs):,} images, {each[0]:,.0f} bytes a row with pixels, {each[1]:,.0f} without; "
            f"median ratios {' and '.join(f'{ratio:.1f}' for ratio in np.median(ratios, axis=0))}"
        )


if __name__ == "__main__":
    main()
