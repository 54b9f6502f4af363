"""Large JPEGs prepared for the teacher with ``--scaled-jpeg``, against Pillow's full decode and the model's processor.

    python benchmarks/large_jpegs.py [--images 32]

Photos blown up to 1024 x 768, with noise so that they have a photo's bytes, prepared for 224 x 224. Beside the times:
how far the pixels differ, and the cosine of what a trained teacher makes of both. The only one at hand takes in 32 x 32
(../shared/data/teachers/photos-32); without it there is no cosine.
"""

import io

import numpy as np
import torch
from clip_models import SHARED
from numpy.typing import NDArray
from PIL import Image
from side_by_side import Bench, arguments
from transformers import CLIPImageProcessorPil

from mmkd.encoders import load_encoder
from mmkd.images import decode_image
from mmkd.pixels import prepare_images, resize_images

SIZE, SIDE, MARGIN = (1024, 768), 224, 1.5
SCALED, EXACT, FULL = "mmkd --scaled-jpeg", "mmkd, in full", "Pillow's full decode and the processor"


def main() -> None:
    """Measure, print and write the result."""
    parser = arguments(__doc__, clock="cpu")
    parser.add_argument("--images", type=int, default=32)
    options = parser.parse_args()
    bench = Bench(__file__, options)
    files = [large_photo(number) for number in range(4 if options.small else options.images)]
    processor = CLIPImageProcessorPil()

    def mmkd(jpeg_side: int | None) -> torch.Tensor:
        return prepare_images(processor, [decode_image(data, jpeg_side=jpeg_side) for data in files])

    def pillow() -> torch.Tensor:
        images = [Image.open(io.BytesIO(data)).convert("RGB") for data in files]
        found: torch.Tensor = processor(images=images, return_tensors="pt")["pixel_values"]
        return found

    side = round(MARGIN * SIDE)
    bench.time({SCALED: lambda: mmkd(side), EXACT: lambda: mmkd(None), FULL: pillow})
    bench.settings = {
        "images": len(files),
        "size": SIZE,
        "kilobytes": sum(map(len, files)) / len(files) / 1e3,
    }
    bench.figure(
        "scaled JPEGs, times as fast as Pillow's full decode", bench.ratio(FULL, SCALED), at_least=2.5
    )
    bench.figure("in full, to the same bits, times as fast", bench.ratio(FULL, EXACT))
    assert torch.equal(mmkd(None), pillow())
    levels = [
        resize_images(processor, [decode_image(data, jpeg_side=given) for data in files]).astype(np.int16)
        for given in (side, None)
    ]
    apart = np.abs(levels[0] - levels[1])
    bench.figure("mean difference of pixels, of 255", float(apart.mean()))
    bench.figure("largest difference of pixels, of 255", float(apart.max()))
    bench.figure("least cosine, trained teacher of 32 x 32", least_cosine(files), at_least=0.999)
    bench.close()


def large_photo(number: int) -> bytes:
    """A JPEG of ``SIZE``: a photo of Flickr8k, or a drawn picture, blown up and with a camera's noise."""
    path, draw = SHARED / "flickr8k-1000" / "train.parquet", np.random.default_rng(number)
    if path.is_file():
        small = _photos(str(path))[number]
    else:
        small = Image.fromarray(draw.integers(0, 256, (24, 32, 3), dtype=np.uint8))
    large = np.asarray(small.convert("RGB").resize(SIZE, Image.Resampling.BICUBIC), np.int16)
    noisy: NDArray[np.uint8] = (large + draw.normal(0, 6, large.shape)).clip(0, 255).astype(np.uint8)
    stream = io.BytesIO()
    Image.fromarray(noisy).save(stream, "JPEG", quality=90)
    return stream.getvalue()


def _photos(path: str) -> list[Image.Image]:
    from datasets import Dataset

    rows: list[Image.Image] = Dataset.from_parquet(path)[:64]["image"]
    return rows


def least_cosine(files: list[bytes]) -> float | None:
    """Between what the trained teacher makes of images in full, and scaled with the same margin."""
    folder = SHARED / "teachers" / "photos-32"
    if not folder.is_dir():
        return None
    encoder = load_encoder(folder, device=torch.device("cpu"))
    scaled, full = (
        torch.nn.functional.normalize(
            encoder.encode_images([decode_image(data, jpeg_side=given) for data in files])
        )
        for given in (round(MARGIN * 32), None)
    )
    return float((scaled * full).sum(dim=1).min())


if __name__ == "__main__":
    main()
