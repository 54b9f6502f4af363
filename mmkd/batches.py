"""Batches of pixels, tokens and the teacher's embeddings of the same rows."""

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
import xxhash
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from mmkd.data import Pair, PairDataset, row_hash
from mmkd.embeddings import Embeddings, TeacherStore
from mmkd.encoders import tokenize
from mmkd.errors import DataError, StaleCacheError
from mmkd.images import decode_image
from mmkd.sampling import BatchPlan


@dataclass(frozen=True, slots=True)
class DistillBatch:
    """What one process sees in one step.

    Attributes:
        pixel_values: float32 (B, 3, S, S).
        input_ids: int64 (B, L), padded to the longest caption.
        attention_mask: int64 (B, L).
        caption_ids: int64 (B,): hash of the caption, equal where captions are.
        image_ids: int64 (B,): hash of the image bytes.
        teacher_image: float32 (B, D), as the teacher gave it, or (B, 0) without a teacher.
        teacher_text: float32 (B, D), as the teacher gave it, or (B, 0) without a teacher.
    """

    pixel_values: Tensor
    input_ids: Tensor
    attention_mask: Tensor
    caption_ids: Tensor
    image_ids: Tensor
    teacher_image: Tensor
    teacher_text: Tensor

    @property
    def teacher(self) -> Embeddings | None:
        """The teacher's embeddings of the same rows."""
        if self.teacher_image.shape[1] == 0:
            return None
        return Embeddings(self.teacher_image, self.teacher_text)

    def to(self, device: torch.device) -> "DistillBatch":
        """The same batch on ``device``."""
        return DistillBatch(
            *(getattr(self, field.name).to(device, non_blocking=True) for field in fields(self))
        )

    def pin_memory(self) -> "DistillBatch":
        """The same batch in page-locked memory."""
        return DistillBatch(*(getattr(self, field.name).pin_memory() for field in fields(self)))


class BatchReader(Dataset[DistillBatch]):
    """Reads the pairs of a batch, prepares them for the student and joins the teacher's embeddings.

    Raises:
        StaleCacheError: a row's bytes are not those that the cache was made from.
    """

    def __init__(
        self,
        pairs: PairDataset,
        image_processor: Any,
        tokenizer: Any,
        max_length: int,
        store: TeacherStore | None,
    ) -> None:
        self.pairs = pairs
        self.image_processor = image_processor
        self.tokenizer = tokenizer
        self.max_length = max_length
        self.store = store

    def __getitems__(self, items: list[tuple[int, float]]) -> DistillBatch:
        """One batch: ``items`` are rows, each with a draw from [0, 1) that picks one of its captions."""
        rows = np.array([row for row, _ in items], dtype=np.int64)
        pairs = [self._pair(row) for row, _ in items]
        numbers = np.array([int(draw * len(p.captions)) for p, (_, draw) in zip(pairs, items, strict=True)])
        hashes = np.array([row_hash(pair) for pair in pairs], dtype=np.uint64)
        if self.store is not None:
            self._check(rows, hashes, self.store.row_hashes[rows])
        captions = [pair.captions[number] for pair, number in zip(pairs, numbers.tolist(), strict=True)]
        images = [decode_image(pair.image) for pair in pairs]
        tokens = tokenize(self.tokenizer, captions, self.max_length)
        teacher = None if self.store is None else self.store.read(rows, numbers)
        nothing = torch.empty(len(rows), 0)
        return DistillBatch(
            pixel_values=self.image_processor(images=images, return_tensors="pt")["pixel_values"],
            input_ids=tokens["input_ids"],
            attention_mask=tokens["attention_mask"],
            caption_ids=torch.tensor(
                [_signed(xxhash.xxh3_64_intdigest(caption.encode())) for caption in captions]
            ),
            image_ids=torch.from_numpy(hashes[:, 0].astype(np.int64)),
            teacher_image=nothing if teacher is None else teacher.raw_image,
            teacher_text=nothing if teacher is None else teacher.raw_text,
        )

    def _pair(self, row: int) -> Pair:
        pair = self.pairs[row]
        if not pair.captions:
            raise DataError(f"row {row:,} of the data has no caption; `mmkd cache-teacher` masks such rows")
        return pair

    @staticmethod
    def _check(rows: Any, found: Any, expected: Any) -> None:
        wrong = np.flatnonzero((found != expected).any(axis=1))
        if len(wrong):
            what = "image" if (found[wrong[0], 0] != expected[wrong[0], 0]) else "caption"
            raise StaleCacheError(
                f"row {rows[wrong[0]]:,} of the data holds another {what} than the cache was made from; the data was "
                "edited or reordered: make the cache again with `mmkd cache-teacher --out NEW`"
            )


class _EpochBatches:
    """The (row, caption) lists of one process, from a given step of an epoch on."""

    def __init__(self, plan: BatchPlan, rank: int, world: int) -> None:
        self.plan, self.rank, self.world = plan, rank, world
        self.epoch, self.first = 0, 0

    def __iter__(self) -> Iterator[list[tuple[int, float]]]:
        rows, draws = self.plan.epoch(self.epoch)
        local = self.plan.global_batch // self.world
        mine = slice(self.rank * local, (self.rank + 1) * local)
        for step in range(self.first, len(rows)):
            yield list(zip(rows[step, mine].tolist(), draws[step, mine].tolist(), strict=True))

    def __len__(self) -> int:
        return self.plan.steps_per_epoch - self.first


class BatchStream:
    """The batches of one process, from any step on.

    Args:
        reader: reads a batch.
        plan: which rows a step sees; its global batch is divided among ``world`` processes.
        rank: this process.
        world: all processes.
        workers: loader processes beside this one; 0 reads in this one.
    """

    def __init__(self, reader: BatchReader, plan: BatchPlan, *, rank: int, world: int, workers: int) -> None:
        self.plan = plan
        self._batches = _EpochBatches(plan, rank, world)
        self._loader: DataLoader[DistillBatch] = DataLoader(
            reader,
            batch_sampler=self._batches,
            collate_fn=_as_is,
            num_workers=workers,
            pin_memory=torch.cuda.is_available(),
        )

    def from_step(self, step: int) -> Iterator[DistillBatch]:
        """Endless batches, the first of them that of ``step``."""
        epoch, first = divmod(step, self.plan.steps_per_epoch)
        while True:
            self._batches.epoch, self._batches.first = epoch, first
            yield from self._loader
            epoch, first = epoch + 1, 0


def _as_is(batch: Any) -> Any:
    return batch


def _signed(value: int) -> int:
    return value - (1 << 64) if value >= 1 << 63 else value
