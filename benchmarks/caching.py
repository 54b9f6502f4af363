"""Caching end to end, from JPEGs to durable shards, against a bare loop of the teacher's forward passes.

    python benchmarks/caching.py [--teacher b32] [--images 128]

The bare loop is given the very batches that caching embeds, decoded, tokenised and on the device already: what is lost
is reading, decoding, resizing, tokenising, hashing and writing. Photos of 500 x 375 are drawn, captions are real where
../shared/data has them. On a CPU decoding takes its time from the cores that embed; on a GPU it runs beside it.
"""

import argparse
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from clip_models import NAMES, config_of, flops, random_encoder, real_captions, token_counts
from datasets import Dataset
from pixels import draw_photos
from side_by_side import Bench, arguments

from mmkd.cache.build import build_cache, cache_settings
from mmkd.cache.embed import prepare
from mmkd.data import DataSource, PairDataset, open_pairs
from mmkd.encoders import PairEncoder

CACHING, BARE = "cache-teacher, end to end", "the teacher's forward passes alone"


def main() -> None:
    """Measure, print and write the result."""
    parser = arguments(__doc__, clock="cpu")
    parser.add_argument("--teacher", default="b32")
    parser.add_argument("--images", type=int, default=128)
    parser.add_argument("--batch", type=int, default=64)
    options = parser.parse_args()
    bench = Bench(__file__, options)
    measure(bench, options)
    bench.close()


def measure(bench: Bench, options: argparse.Namespace) -> tuple[float, float]:
    """Both ways, wherever the teacher is: the share of the bare loop's rate, and FLOPs a second end to end."""
    size = "tiny" if options.small else options.teacher
    images, batch = (24, 8) if options.small else (options.images, options.batch)
    encoder = random_encoder(size)
    if torch.cuda.is_available():
        module: torch.nn.Module = encoder.model  # transformers' own annotation of `to` hides the arguments
        module.to("cuda", torch.bfloat16)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        pairs = with_real_captions(draw_photos(folder / "photos.parquet", images), folder / "pairs.parquet")
        out = folder / "cache"

        def caching() -> None:
            shutil.rmtree(out, ignore_errors=True)
            build_cache(encoder, pairs, out, batch_size=batch)

        sides = bench.time({CACHING: caching, BARE: bare_loop(encoder, pairs, batch)})
        captions = [pairs[row].captions[0] for row in range(len(pairs))]
        tokens = token_counts(encoder, captions)
    bench.settings = {
        "teacher": NAMES[size],
        "images": images,
        "batch": batch,
        "tokens": float(np.mean(tokens)),
    }
    share = bench.ratio(BARE, CACHING)
    bench.figure(f"caching by {NAMES[size]}, of a bare forward loop", share, at_least=0.95)
    each = flops(config_of(size), round(float(np.mean(tokens))), training=False)
    rate = images / sides[CACHING].median("wall")
    bench.figure("pairs a second, end to end", rate)
    return share, rate * each


def with_real_captions(photos: Path, path: Path) -> PairDataset:
    """The same photos, captioned by other people."""
    rows = Dataset.from_parquet(str(photos))
    texts = np.random.default_rng(0).choice(real_captions(), len(rows))
    rows = rows.remove_columns("caption").add_column("caption", texts.tolist())
    rows.to_parquet(str(path))
    return open_pairs([DataSource(str(path))])


def bare_loop(encoder: PairEncoder, pairs: PairDataset, batch: int) -> Callable[[], None]:
    """A forward pass for each batch that caching makes, of images and of captions sorted by length."""
    settings = cache_settings(encoder, pairs, batch_size=batch)
    pixels, tokens = list[torch.Tensor](), list[dict[str, Any]]()
    for first in range(0, len(pairs), batch):
        found = prepare(encoder, pairs, settings, range(first, min(first + batch, len(pairs))))
        pixels.append(found.pixels[0][0].to(encoder.device, encoder.model.dtype))
    texts = sorted({pairs[row].captions[0] for row in range(len(pairs))}, key=lambda text: (len(text), text))
    for first in range(0, len(texts), batch):
        said = encoder.tokenize(texts[first : first + batch])
        tokens.append({name: value.to(encoder.device) for name, value in said.items()})

    def loop() -> None:
        with torch.inference_mode():
            for part in pixels:
                encoder.model.get_image_features(pixel_values=part)
            for said in tokens:
                encoder.model.get_text_features(**said)
        if encoder.device.type == "cuda":
            torch.cuda.synchronize()

    return loop


if __name__ == "__main__":
    main()
