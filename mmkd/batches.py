"""Batches of pixels, tokens and the teacher's embeddings of the same rows."""

import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from mmkd.augment import NO_AUGMENTATION, Augmentation
from mmkd.data import Pair, PairDataset, row_hash
from mmkd.embeddings import Embeddings, TeacherStore
from mmkd.encoders import tokenize
from mmkd.errors import DataError, StaleCacheError
from mmkd.families import CLIP, Family
from mmkd.images import decode_image
from mmkd.losses.negatives import Bank
from mmkd.pairs import caption_id
from mmkd.pixels import prepare_images
from mmkd.sampling import BatchPlan, StepRows
from mmkd.synthetic import choose_captions


@dataclass(frozen=True, slots=True)
class DistillBatch:
    """What one process sees in one step.

    Attributes:
        pixel_values: float32 (B, 3, S, S); uint8 and not normalised where they were stored, which ``PairStudent``
            makes up for; or (B, 0) where the image tower is not trained.
        input_ids: int64 (B, L), padded to the longest caption, or (B, 0) where the text tower is not trained.
        attention_mask: int64 (B, L), or (B, 0).
        caption_ids: int64 (B,): hash of the caption, equal where captions are.
        image_ids: int64 (B,): hash of the image bytes.
        teacher_image: float32 (B, D), as the teacher gave it, or (B, 0) without a teacher.
        teacher_text: float32 (B, D), as the teacher gave it, or (B, 0) without a teacher.
        bank_image: float32 (N, D): the teacher's embeddings of other rows; N is 0 without a bank.
        bank_text: float32 (N, D).
        bank_ids: int64 (N, 2): hashes of those rows' first captions and images.
    """

    pixel_values: Tensor
    input_ids: Tensor
    attention_mask: Tensor
    caption_ids: Tensor
    image_ids: Tensor
    teacher_image: Tensor
    teacher_text: Tensor
    bank_image: Tensor
    bank_text: Tensor
    bank_ids: Tensor

    @property
    def teacher(self) -> Embeddings | None:
        """The teacher's embeddings of the same rows."""
        if self.teacher_image.shape[1] == 0:
            return None
        return Embeddings(self.teacher_image, self.teacher_text)

    @property
    def bank(self) -> Bank | None:
        """The teacher's embeddings of other rows."""
        if len(self.bank_ids) == 0:
            return None
        return Bank(Embeddings(self.bank_image, self.bank_text), self.bank_ids[:, 0], self.bank_ids[:, 1])

    def inputs(self, parts: int) -> list[tuple[Tensor, Tensor, Tensor]]:
        """Pixels, tokens and mask, in ``parts`` parts of nearly the same size."""
        sides = (self.pixel_values, self.input_ids, self.attention_mask)
        return list(zip(*(side.tensor_split(parts) for side in sides), strict=True))

    def targets(self) -> "DistillBatch":
        """The same batch without pixels and tokens."""
        nothing = self.input_ids.new_empty(len(self.input_ids), 0)
        return replace(self, pixel_values=nothing, input_ids=nothing, attention_mask=nothing)

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

    Args:
        pairs: images and captions.
        image_processor: the student's.
        tokenizer: the student's.
        max_length: tokens that the text tower takes.
        store: the teacher's embeddings.
        sides: the towers that are trained; the other's input is neither decoded nor tokenised.
        mismatched: shows the student views that no target was made from; every target is then that of view 0.
            Default: the student sees the very view that its target was made from. Where the store holds pixels it
            sees those, and no image is decoded, unless ``mismatched`` asks for views.
        synthetic_share: how often a pair that has real and synthetic captions shows a synthetic one.
        family: the student's, whose texts are padded in its own way.
        first_captions: uint64 (R,): hash of each row's first caption, for the bank; default: the store's hashes, which
            are those of rows with one caption each.

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
        *,
        sides: tuple[str, ...] = ("image", "text"),
        mismatched: Augmentation | None = None,
        synthetic_share: float | None = None,
        family: Family = CLIP,
        first_captions: NDArray[np.uint64] | None = None,
    ) -> None:
        self.pairs = pairs
        self.image_processor = image_processor
        self.tokenizer = tokenizer
        self.max_length = max_length
        self.store = store
        self.sides = sides
        self.readable = pairs.sides
        self.augmentation = mismatched or (NO_AUGMENTATION if store is None else store.augmentation)
        self.mismatched = mismatched is not None
        self.synthetic_share = synthetic_share
        self.family = family
        self.first_captions = first_captions
        self.jpeg_side = None if store is None or self.mismatched else store.jpeg_side
        self.stored = store if store is not None and store.pixels and mismatched is None else None

    def __getitems__(self, step: StepRows) -> DistillBatch:
        """The batch of one step."""
        rows = step.rows
        pairs = [self._pair(row) for row in rows.tolist()]
        numbers = choose_captions(step.draws, pairs, self.synthetic_share)
        hashes = np.array([row_hash(pair) for pair in pairs], dtype=np.uint64)
        if self.store is not None:
            known = self.store.hashes(rows)
            unread = [side not in self.readable for side in ("image", "text")]
            hashes[:, unread] = known[:, unread]  # what is not read is what the store says it is
            self._check(rows, hashes, known)
        captions = [
            pair.captions[number] if pair.captions else ""
            for pair, number in zip(pairs, numbers.tolist(), strict=True)
        ]
        shown = hashes[:, 1]
        if "text" in self.readable:
            shown = np.array([caption_id(caption) for caption in captions], dtype=np.uint64)
        teacher = None if self.store is None else self.store.read(rows, numbers, self._targets(step))
        nothing = torch.empty(len(rows), 0)
        return DistillBatch(
            pixel_values=self._pixels(pairs, step) if "image" in self.sides else nothing,
            **self._tokens(captions),
            caption_ids=torch.from_numpy(shown.astype(np.int64)),
            image_ids=torch.from_numpy(hashes[:, 0].astype(np.int64)),
            teacher_image=nothing if teacher is None else teacher.raw_image,
            teacher_text=nothing if teacher is None else teacher.raw_text,
            **self._bank(step.bank),
        )

    def _targets(self, step: StepRows) -> NDArray[np.int64] | None:
        return None if self.mismatched else step.views

    def _pixels(self, pairs: list[Pair], step: StepRows) -> Tensor:
        if self.stored is not None:
            return torch.from_numpy(self.stored.read_pixels(step.rows)).permute(0, 3, 1, 2)
        images = [
            self.augmentation(decode_image(pair.image, jpeg_side=self.jpeg_side), row=row, view=view)
            for pair, row, view in zip(pairs, step.rows.tolist(), step.views.tolist(), strict=True)
        ]
        return prepare_images(self.image_processor, images)

    def _tokens(self, captions: list[str]) -> dict[str, Tensor]:
        if "text" in self.sides:
            return tokenize(self.tokenizer, captions, self.max_length, self.family)
        nothing = torch.empty(len(captions), 0, dtype=torch.int64)
        return {"input_ids": nothing, "attention_mask": nothing}

    def _bank(self, rows: NDArray[np.int64]) -> dict[str, Tensor]:
        if self.store is None or len(rows) == 0:
            nothing = torch.empty(0, 0)
            return {"bank_image": nothing, "bank_text": nothing, "bank_ids": nothing.long()}
        bank = self.store.read(rows)
        hashes = self.store.hashes(rows)
        if self.first_captions is not None:
            hashes[:, 1] = self.first_captions[rows]
        ids = torch.from_numpy(hashes[:, ::-1].astype(np.int64))
        return {"bank_image": bank.raw_image, "bank_text": bank.raw_text, "bank_ids": ids}

    def _pair(self, row: int) -> Pair:
        pair = self.pairs[row]
        if not pair.captions and "text" in self.readable:
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
    """The rows of one process, from a given step of an epoch on."""

    def __init__(self, plan: BatchPlan, rank: int, world: int) -> None:
        self.plan, self.rank, self.world = plan, rank, world
        self.epoch, self.first = 0, 0

    def __iter__(self) -> Iterator[StepRows]:
        plan, epoch = self.plan, self.epoch
        local = plan.global_batch // self.world
        mine = slice(self.rank * local, (self.rank + 1) * local)
        for step, (rows, draws) in enumerate(plan.batches(epoch, self.first), self.first):
            bank = plan.bank_rows(epoch, step, rows)
            yield StepRows(rows[mine], draws[mine], bank, plan.views_of(epoch, rows[mine]))

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
        on_epoch: called before the first batch of an epoch with the epoch and that batch's step in it; gives the
            neighbours to group rows by from now on, or ``None`` to leave them as they are.
    """

    def __init__(
        self,
        reader: BatchReader,
        plan: BatchPlan,
        *,
        rank: int,
        world: int,
        workers: int,
        on_epoch: Callable[[int, int], NDArray[np.int32] | None] | None = None,
    ) -> None:
        self.plan = plan
        self._on_epoch = on_epoch
        self._batches = _EpochBatches(plan, rank, world)
        self._loader: DataLoader[DistillBatch] = DataLoader(
            reader,
            batch_sampler=self._batches,  # type: ignore[arg-type]  # a batch is a StepRows, not a list
            collate_fn=_as_is,
            num_workers=workers,
            worker_init_fn=_leave_interrupts_to_the_trainer,
            pin_memory=torch.cuda.is_available(),
        )

    def from_step(self, step: int) -> Iterator[DistillBatch]:
        """Endless batches, the first of them that of ``step``."""
        epoch, first = divmod(step, self.plan.steps_per_epoch)
        while True:
            neighbours = None if self._on_epoch is None else self._on_epoch(epoch, first)
            if neighbours is not None:
                self.plan = self._batches.plan = replace(self.plan, neighbours=neighbours)
            self._batches.epoch, self._batches.first = epoch, first
            yield from self._loader
            epoch, first = epoch + 1, 0


def _leave_interrupts_to_the_trainer(_worker: int) -> None:
    # Ctrl-C reaches every process of the terminal, and a worker that left would fail the step being finished.
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _as_is(batch: Any) -> Any:
    return batch
