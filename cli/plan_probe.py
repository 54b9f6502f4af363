"""A few real steps of a training, from a cache and with the teacher in the loop, with a clock beside them."""

import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, cast

from mmkd.batches import BatchStream, DistillBatch
from mmkd.cache.probe import ProbedCache, RepeatedPairs, RepeatedStore
from mmkd.checkpoints import Checkpoints
from mmkd.cli.train_options import RunOptions
from mmkd.cli.training_inputs import Inputs
from mmkd.cli.training_loop import TrainingLoop, plan_batches
from mmkd.encoders import PairEncoder
from mmkd.families import load_processors
from mmkd.hub import resolve_model
from mmkd.pixels import normalise_pixels, pixel_levels
from mmkd.planning import TrainingProbe, measured
from mmkd.recipe import Recipe
from mmkd.row_set import RowSet
from mmkd.runs import Run
from mmkd.training import Hooks, Prepared, fit

if TYPE_CHECKING:
    from accelerate import Accelerator

    from mmkd.cache.store import CacheStore

FEW_PAIRS = 8  # of the first, unmeasured steps, from which the probe's batch follows
LEAST_STEPS = 6


class _EnoughError(Exception):
    """Ends a probe from within."""


@dataclass(frozen=True)
class Rehearsal:
    """What the steps of a planned training run on.

    Attributes:
        recipe: resolved for the whole data.
        inputs: the whole data, so it seems; in truth the pairs of a small cache, again and again.
        accelerator: one process.
        folder: for a checkpoint.
        options: of the run.
    """

    recipe: Recipe
    inputs: Inputs
    accelerator: "Accelerator"
    folder: Path
    options: RunOptions

    def loop(self, batch: int) -> TrainingLoop:
        """The training itself, of a student that has learnt nothing yet, in batches of ``batch``."""
        self.accelerator.free_memory()  # it saves every student that it has prepared
        recipe = replace(self.recipe, batch_size=batch, refresh_every=0)
        run = Run(self.folder, {"started": "never"})
        student = self.inputs.build_student(recipe)
        plan = plan_batches(recipe, self.inputs, None)
        return TrainingLoop(recipe, self.inputs, student, plan, None, self.accelerator, run, self.options)


def rehearsal_inputs(cached: ProbedCache, encoder: PairEncoder, model: str, pairs: int) -> Inputs:
    """What a training of ``pairs`` pairs would read, all of it from a small cache."""
    revision = None if Path(model).is_dir() else encoder.spec.revision
    image_processor, tokenizer = load_processors(resolve_model(model, revision=revision), name=model)
    store = cast("CacheStore", RepeatedStore(cached.store, cached.good, pairs))
    repeated = RepeatedPairs(cached.pairs, cached.good, pairs)
    if cached.store.pixels:
        repeated.sides = ("text",)  # images are then read from the cache
    return Inputs(repeated, RowSet.all_of(pairs), image_processor, tokenizer, model, revision, store)


class Clocked:
    """A stream of batches, maybe with the teacher's embeddings made on the spot; notes when the first one came."""

    def __init__(self, stream: BatchStream, encoder: PairEncoder | None) -> None:
        self.plan, self._stream, self._encoder = stream.plan, stream, encoder
        self.first = 0.0

    def from_step(self, step: int) -> Iterator[DistillBatch]:
        """As the stream's."""
        start = time.perf_counter()
        for batch in self._stream.from_step(step):
            self.first = self.first or time.perf_counter() - start
            yield batch if self._encoder is None else _embed(batch, self._encoder)


def _embed(batch: DistillBatch, encoder: PairEncoder) -> DistillBatch:
    """The batch with what the teacher gives for its images and captions."""
    made: dict[str, Any] = {}
    if (pixels := batch.pixel_values).shape[1]:
        if pixels.dtype != encoder.model.dtype and not pixels.is_floating_point():
            pixels = normalise_pixels(pixels, pixel_levels(encoder.image_processor))
        made["teacher_image"] = encoder.encode_pixels(pixels)
    if batch.input_ids.shape[1]:
        tokens = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask}
        made["teacher_text"] = encoder.encode_tokens(tokens)
    return replace(batch, **made)


def probe_training(
    rehearsal: Rehearsal,
    *,
    seconds: float,
    encoder: PairEncoder | None = None,
    on_progress: Callable[[float], None] = lambda _: None,
) -> TrainingProbe:
    """Train for about ``seconds``, then save once.

    What runs is ``mmkd train``'s own loop: loader, student, objective, optimizer. The first steps are not counted,
    nor is a checkpoint part of any. Where the batch is so large that six steps would not fit into the time, smaller
    ones are taken.

    Args:
        rehearsal: what is trained.
        seconds: to measure for.
        encoder: the teacher, to be asked in each step; ``None``: its embeddings are read from the cache.
        on_progress: called with the seconds that have passed.
    """
    recipe = rehearsal.recipe
    batch = recipe.batch_size or FEW_PAIRS
    if batch > FEW_PAIRS:
        small = _take_steps(rehearsal.loop(FEW_PAIRS), 0.0, encoder, lambda _: None)
        pair = measured(small.stamps).mean
        affordable = int(seconds / LEAST_STEPS / pair / recipe.accumulate)
        while batch > FEW_PAIRS and batch > affordable:
            batch = max(FEW_PAIRS, batch // 2)
    taken = _take_steps(rehearsal.loop(batch), seconds, encoder, on_progress)
    with TemporaryDirectory(dir=rehearsal.folder) as name:
        start = time.perf_counter()
        Checkpoints(Path(name) / "checkpoints", "never").save(taken.prepared, 1, [])
        save = time.perf_counter() - start
        size = sum(file.stat().st_size for file in Path(name).rglob("*") if file.is_file())
    student = sum(value.numel() * 4 for value in taken.prepared.clip.state_dict().values())
    steps = len(taken.stamps) - 1
    return TrainingProbe(measured(taken.stamps), taken.first, save, size, student, batch, steps)


@dataclass(frozen=True)
class _Taken:
    prepared: Prepared
    stamps: list[tuple[float, int]]
    first: float


def _take_steps(
    loop: TrainingLoop, seconds: float, encoder: PairEncoder | None, on_progress: Callable[[float], None]
) -> _Taken:
    prepared = loop.prepare_student()
    stream = Clocked(loop.stream(prepared), encoder)
    stamps = [(time.perf_counter(), 0)]
    workers = loop.options.workers
    queued = 1 + 2 * (1 if workers is None else workers)  # batches that the loader has ready at the start

    def note(step: int, _: dict[str, float]) -> None:
        stamps.append((time.perf_counter(), step * loop.recipe.global_batch))
        passed = stamps[-1][0] - stamps[0][0]
        on_progress(passed)
        if passed >= seconds and len(stamps) > 3:
            raise _EnoughError

    hooks = Hooks(on_log=note, log_every=1, on_save=lambda _: None, save_every=loop.schedule.steps + 1)
    with suppress(_EnoughError):
        fit(
            prepared,
            loop.recipe.objective,
            cast(BatchStream, stream),
            loop.schedule,
            hooks,
            clip_grad=loop.recipe.clip_grad,
            chunks=loop.recipe.accumulate,
        )
    skipped = max(1, min(queued, len(stamps) - 1 - LEAST_STEPS))
    return _Taken(prepared, stamps[skipped:], stream.first)
