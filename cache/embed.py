"""From rows of the data to the arrays of a shard: decoding overlaps the teacher's forward pass."""

from collections import Counter, deque
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from mmkd.cache.settings import CacheSettings
from mmkd.cache.shard import shard_fields
from mmkd.data import PairDataset, row_hash
from mmkd.encoders import PairEncoder
from mmkd.errors import CacheError, ModelError
from mmkd.images import BadImageError, decode_image
from mmkd.pixels import normalise_pixels, pixel_levels, resize_images

if TYPE_CHECKING:
    from PIL.Image import Image

NO_CAPTION = "no caption"

Teachers = PairEncoder | Sequence[PairEncoder]
"""One teacher, or several in the order of ``CacheSettings.teachers``."""


@dataclass(frozen=True)
class Prepared:
    """A batch of rows, ready for the teacher.

    Attributes:
        rows: which rows, consecutive.
        hashes: xxh3_64 of image bytes and captions, one pair a row.
        captions: the captions of each row; none where the row is masked.
        reasons: why a row is masked; None where it is not.
        pixels: for each view and each teacher, float32 (B - masked, 3, S, S) of the rows that are not masked; empty
            where all are.
        resized: uint8 (B - masked, S, S, 3), the untouched images as the shard stores them; None: it does not.
    """

    rows: range
    hashes: list[tuple[int, int]]
    captions: list[tuple[str, ...]]
    reasons: list[str | None]
    pixels: list[list[torch.Tensor]]
    resized: NDArray[np.uint8] | None = None


def listed(teachers: Teachers) -> list[PairEncoder]:
    """The teachers, of one too."""
    return list(teachers) if isinstance(teachers, Sequence) else [teachers]


def prepare(teachers: Teachers, pairs: PairDataset, settings: CacheSettings, rows: range) -> Prepared:
    """Read, decode, augment and preprocess ``rows``; each image is decoded once for all of its views and teachers."""
    encoders = listed(teachers)
    images: list[tuple[int, Image]] = []
    hashes, captions, reasons = [], [], []
    for row in rows:
        pair = pairs[row]
        hashes.append(row_hash(pair))
        reason = None if pair.captions else pair.dropped or NO_CAPTION
        try:
            if pair.dropped is None:
                image = decode_image(pair.image, jpeg_side=settings.jpeg_side)
                if reason is None:
                    images.append((row, image))
        except BadImageError as error:
            reason = error.reason
        reasons.append(reason)
        captions.append(pair.captions if reason is None else ())
    if settings.pixels is not None and images:
        processor = encoders[0].image_processor  # the same for all: `cache_settings` sees to it
        resized = resize_images(processor, [image for _, image in images])
        planes = torch.from_numpy(resized).permute(0, 3, 1, 2)
        pixels = [[normalise_pixels(planes, pixel_levels(processor))] * len(encoders)]
        return Prepared(rows, hashes, captions, reasons, pixels, resized)
    pixels = [
        _preprocess(encoders, [settings.augmentation(image, row=row, view=view) for row, image in images])
        for view in range(settings.views if images else 0)
    ]
    return Prepared(rows, hashes, captions, reasons, pixels)


def _preprocess(encoders: list[PairEncoder], images: "list[Image]") -> list[torch.Tensor]:
    """The pixels for each teacher; those that prepare images in the same way share them."""
    made: dict[str, torch.Tensor] = {}
    for one in encoders:
        if one.spec.preprocess_hash not in made:
            made[one.spec.preprocess_hash] = one.preprocess(images)
    return [made[one.spec.preprocess_hash] for one in encoders]


def prefetch(
    batches: Iterable[range], prepare_rows: Callable[[range], Prepared], workers: int
) -> Generator[Prepared, None, None]:
    """Prepare ``batches`` in order by ``workers`` threads, a few ahead (Pillow and numpy free the interpreter)."""
    if workers < 1:
        yield from map(prepare_rows, batches)
        return
    pool = ThreadPoolExecutor(workers, thread_name_prefix="prepare")
    waiting: deque[Future[Prepared]] = deque()
    try:
        for rows in batches:
            waiting.append(pool.submit(prepare_rows, rows))
            if len(waiting) > workers + 2:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def embed_shard(
    teachers: Teachers,
    batches: Iterable[Prepared],
    settings: CacheSettings,
    index: int,
    on_batch: Callable[[Prepared], None],
) -> tuple[dict[str, NDArray[Any]], dict[str, int]]:
    """The arrays of shard ``index``, and its masked rows counted by reason.

    Args:
        batches: the shard's rows, in order; no batch reaches into another shard.
        on_batch: called after the images of a batch are embedded.

    Raises:
        ModelError: a teacher gives vectors that are not finite.
        CacheError: the device has too little memory for the batch.
    """
    encoders = listed(teachers)
    arrays = {name: np.zeros(f.shape, f.dtype) for name, f in shard_fields(settings, index).items()}
    norms = _norms_of_each(arrays["image_norm"], settings)
    start = settings.shard_range(index).start
    captions: list[tuple[str, ...]] = []
    masked: Counter[str] = Counter()
    try:
        for batch in batches:
            here = slice(batch.rows.start - start, batch.rows.stop - start)
            good = np.array([reason is None for reason in batch.reasons])
            arrays["row_hash"][here] = batch.hashes
            arrays["valid"][here] = good
            for view, pixels in enumerate(batch.pixels):
                for number, part in enumerate(settings.parts):
                    raw = encoders[number].encode_pixels(pixels[number])
                    image, norm = _unit(raw, settings, number)
                    arrays["image"][here][good, view, part], norms[here][good, view, number] = image, norm
            if batch.resized is not None:
                arrays["pixels"][here][good] = batch.resized
            captions += batch.captions
            masked.update(reason for reason in batch.reasons if reason is not None)
            on_batch(batch)
        _embed_captions(encoders, captions, settings, arrays)
    except torch.OutOfMemoryError as error:
        raise CacheError(
            f"the device has too little memory for batches of {settings.batch_size}; pass a smaller --batch-size"
        ) from error
    return arrays, dict(masked)


def _norms_of_each(norms: NDArray[np.float32], settings: CacheSettings) -> NDArray[np.float32]:
    """The same memory as (R, N, T), whatever the number of teachers T."""
    return norms.reshape(*norms.shape[:2], len(settings.teachers))


def _embed_captions(
    encoders: list[PairEncoder],
    captions: Sequence[tuple[str, ...]],
    settings: CacheSettings,
    arrays: dict[str, NDArray[Any]],
) -> None:
    # Each distinct caption once; neighbours in length share a batch, so that little of it is padding.
    distinct = sorted({text for texts in captions for text in texts}, key=lambda text: (len(text), text))
    place = {text: number for number, text in enumerate(distinct)}
    units = np.empty((len(distinct), settings.dim), np.float16)
    norms = np.empty((len(distinct), len(encoders)), np.float32)
    for first in range(0, len(distinct), settings.batch_size):
        batch = slice(first, first + settings.batch_size)
        for number, part in enumerate(settings.parts):
            raw = encoders[number].encode_texts(distinct[batch])
            units[batch, part], norms[batch, number] = _unit(raw, settings, number)
    found = _norms_of_each(arrays["text_norm"], settings)
    for row, texts in enumerate(captions):
        where = [place[text] for text in texts]
        arrays["captions"][row] = len(texts)
        arrays["text"][row, : len(texts)] = units[where]
        found[row, : len(texts)] = norms[where]


def _unit(
    vectors: torch.Tensor, settings: CacheSettings, number: int
) -> tuple[NDArray[np.float16], NDArray[np.float32]]:
    """Unit vectors (B, D) and the lengths (B,) that they had, of one teacher."""
    raw: NDArray[np.float32] = vectors.numpy()
    norms = np.linalg.norm(raw, axis=1)
    if not (np.isfinite(norms).all() and (norms > 0).all()):
        raise ModelError(
            f"the teacher {settings.teachers[number].model} gives vectors that are zero or not finite in "
            f"{settings.dtype}; "
            + ("its weights are broken" if settings.dtype == "float32" else "pass --dtype float32")
        )
    return (raw / norms[:, None]).astype(np.float16), norms
