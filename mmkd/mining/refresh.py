"""Mining again in the student's own space, so that negatives stay hard while it learns."""

import math
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.utils.data import DataLoader

from mmkd.batches import BatchReader, DistillBatch
from mmkd.embeddings import TeacherStore
from mmkd.errors import TrainingError
from mmkd.files import atomic_file
from mmkd.mining.mine import Neighbours, mine_embeddings
from mmkd.mining.plan import SearchOptions
from mmkd.mining.rules import NegativeRules
from mmkd.mining.search import OnProgress
from mmkd.mining.sharing import Share
from mmkd.mining.spaces import ArraySpace, StoreSpace
from mmkd.sampling import StepRows


def embed_rows(
    student: nn.Module,
    reader: BatchReader,
    rows: NDArray[np.int64],
    *,
    batch: int,
    workers: int,
    device: torch.device,
    share: Share,
    on_progress: OnProgress,
) -> ArraySpace:
    """The student's embeddings of ``rows``: untouched images and first captions, the same in every process.

    Every process must call it, and makes the same number of forward passes, as ZeRO 3 needs.

    Args:
        student: a prepared ``PairStudent``; a side that it does not train is the teacher's.
        reader: reads the pairs.
        rows: int64 (N,).
        batch: rows of a forward pass.
        workers: loader processes.
        device: of the student.
        share: this process's part.
        on_progress: receives the rows that this process is done with.
    """
    each = math.ceil(len(rows) / share.world)
    mine = rows[np.arange(share.rank * each, (share.rank + 1) * each).clip(max=len(rows) - 1)]
    loader: DataLoader[DistillBatch] = DataLoader(
        reader,
        batch_sampler=_Untouched(mine, batch),  # type: ignore[arg-type]  # a batch is a StepRows, not a list
        collate_fn=_as_is,
        num_workers=workers,
    )
    training = student.training
    student.eval()
    sides: tuple[list[NDArray[np.float16]], list[NDArray[np.float16]]] = ([], [])
    done = 0
    with torch.no_grad():
        for pairs in loader:
            inputs = (pairs.pixel_values, pairs.input_ids, pairs.attention_mask)
            outputs = student(*(tensor.to(device, non_blocking=True) for tensor in inputs))
            for side, ours, teachers in zip(
                sides, outputs, (pairs.teacher_image, pairs.teacher_text), strict=False
            ):
                vectors = ours if ours.shape[1] else teachers
                side.append(nn.functional.normalize(vectors.float(), dim=1).half().cpu().numpy())
            done += len(pairs.caption_ids)
            on_progress("embedding", done, each)
    student.train(training)
    image, text = (share.gather(np.concatenate(side), [each] * share.world)[: len(rows)] for side in sides)
    return ArraySpace(image, text)


@dataclass(frozen=True)
class _Untouched:
    """Rows in batches, each with its untouched image and its first caption."""

    rows: NDArray[np.int64]
    batch: int

    def __iter__(self) -> Iterator[StepRows]:
        for start in range(0, len(self.rows), self.batch):
            rows = self.rows[start : start + self.batch]
            yield StepRows(rows, np.zeros(len(rows)), np.empty(0, dtype=np.int64), np.zeros_like(rows))

    def __len__(self) -> int:
        return math.ceil(len(self.rows) / self.batch)


def _as_is(batch: Any) -> Any:
    return batch


@dataclass(frozen=True)
class Refresher:
    """Gives each epoch's neighbours: the teacher's at first, then the student's of every ``every``-th epoch's start.

    What is mined is kept as ``<folder>/neighbours-epoch-N.npz`` and read again by a run that is resumed, so that it
    sees the same batches.

    Attributes:
        every: epochs between two minings.
        folder: of the run.
        store: the teacher's embeddings, which tell false negatives.
        rows: int64 (N,): the rows that are trained on.
        caption_ids: int (N,): equal where their first captions are.
        embed: the student's embeddings of ``rows``, as ``embed_rows`` gives them.
        rules: which of the nearest are negatives.
        seed: of the choice among rows with one caption.
        search: how captions are searched.
        share: this process's part.
        on_progress: receives what is being done.
        on_mined: receives what was mined.
    """

    every: int
    folder: Path
    store: TeacherStore
    rows: NDArray[np.int64]
    caption_ids: NDArray[np.integer]
    embed: Callable[[], ArraySpace]
    rules: NegativeRules
    seed: int
    search: SearchOptions
    share: Share
    on_progress: OnProgress
    on_mined: Callable[[Neighbours], None]

    def __call__(self, epoch: int, step: int) -> NDArray[np.int32] | None:
        """Neighbours of an epoch that goes on at its ``step``; ``None``: those that the training began with.

        Every process must call it.

        Raises:
            TrainingError: they were mined earlier in the run, and their file is gone.
        """
        mined_at = epoch // self.every * self.every
        if mined_at == 0:
            return None
        file = self.folder / f"neighbours-epoch-{mined_at}.npz"
        rows = load_neighbours(file, len(self.store))
        if not self.share.first(rows is not None):
            if epoch > mined_at or step > 0:
                raise TrainingError(
                    f"{file} is missing or damaged, and the student that it was mined with is gone; "
                    f"resume from the checkpoint at the start of epoch {mined_at}, or start another run"
                )
            rows = self._mine(mined_at, file)
        if rows is None:
            raise TrainingError(
                f"{file} cannot be read by every process; expected a folder that all of them share"
            )
        return rows

    def _mine(self, epoch: int, file: Path) -> NDArray[np.int32]:
        mined = mine_embeddings(
            self.embed(),
            self.caption_ids,
            judge=StoreSpace(self.store, self.rows),
            rules=self.rules,
            seed=self.seed + epoch,
            search=self.search,
            share=self.share,
            on_progress=self.on_progress,
        ).spread(self.rows, len(self.store))
        if self.share.rank == 0:
            with atomic_file(file) as temporary, temporary.open("wb") as stream:
                np.savez(stream, rows=mined.rows)
        self.share.wait()
        self.on_mined(mined)
        return mined.rows


def load_neighbours(file: Path, rows: int) -> NDArray[np.int32] | None:
    """Neighbours of a store of ``rows`` rows, or ``None`` where the file is missing or is not what mining writes."""
    if not file.is_file():
        return None
    try:
        with np.load(file, allow_pickle=False) as arrays:
            found: NDArray[np.int32] = arrays["rows"]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None
    fits = found.dtype == np.int32 and found.ndim == 2 and len(found) == rows
    return found if fits and (found >= -1).all() and (found < rows).all() else None
