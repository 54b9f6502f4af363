"""A plan: what was measured, what follows from it, and how it is told."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from mmkd.cache.probe import ProbedCache, count_captions, count_first_captions, probe_caching
from mmkd.cache.settings import CacheSettings
from mmkd.cache.shard import free_bytes, shard_bytes, size_text
from mmkd.cli.console import duration, progress
from mmkd.cli.plan_probe import Rehearsal, probe_training, rehearsal_inputs
from mmkd.cli.tables import align
from mmkd.distributed import default_precision, start_accelerator
from mmkd.errors import ConfigError
from mmkd.mining.plan import choose_method, mining_seconds, parse_memory
from mmkd.planning import (
    CachingProbe,
    Cost,
    Seconds,
    TrainingProbe,
    TrainingSize,
    caching_cost,
    training_cost,
)
from mmkd.recipe import Recipe

if TYPE_CHECKING:
    from mmkd.cli.train_options import RunOptions
    from mmkd.data import PairDataset
    from mmkd.encoders import PairEncoder


@dataclass(frozen=True)
class Measured:
    """What the probes gave."""

    caching: CachingProbe
    cached: TrainingProbe
    in_loop: TrainingProbe


@dataclass(frozen=True)
class Plan:
    """What a caching and a training will take.

    Attributes:
        settings: of the cache.
        captions: those that are distinct within their shard, of all shards.
        recipe: of the training, resolved.
        size: how long the training is.
        measured: what the probes gave.
        free: bytes that the disk has.
    """

    settings: CacheSettings
    captions: int
    recipe: Recipe
    size: TrainingSize
    measured: Measured
    free: int

    @property
    def caching(self) -> Cost:
        """Of embedding everything once."""
        total = sum(shard_bytes(self.settings, index) for index in range(self.settings.shards))
        probe, rows = self.measured.caching, self.settings.rows
        return caching_cost(probe, rows=rows, captions=self.captions, size=total)

    @property
    def cached(self) -> Cost:
        """Of training from the cache."""
        return training_cost(self.measured.cached, self.size)

    @property
    def in_loop(self) -> Cost:
        """Of the same training without a cache: the teacher embeds each batch, and nothing is mined."""
        size = TrainingSize(
            self.size.epochs, self.size.steps, self.size.batch, self.size.save_every, self.size.keep
        )
        return training_cost(self.measured.in_loop, size)

    @property
    def needed(self) -> int:
        """Bytes of the cache and the run."""
        return self.caching.bytes + self.cached.bytes

    @property
    def fits(self) -> bool:
        """Whether the disk has as much."""
        return self.needed <= self.free

    @property
    def ratio(self) -> float:
        """How many times as long the training with the teacher in the loop takes as caching and training from it."""
        return self.in_loop.seconds.mean / (self.caching.seconds.mean + self.cached.seconds.mean)

    def to_json(self) -> dict[str, Any]:
        """As a JSON object."""
        return {
            "rows": self.settings.rows,
            "batch": self.settings.batch_size,
            "views": self.settings.views,
            "captions": self.settings.captions,
            "distinct_captions": self.captions,
            "caching": self.caching.to_json(),
            "training": asdict(self.size)
            | {"cached": self.cached.to_json(), "in_loop": self.in_loop.to_json()},
            "ratio": self.ratio,
            "disk": {"needed": self.needed, "free": self.free, "fits": self.fits},
            "measured": asdict(self.measured),
        }


def make_plan(
    recipe: Recipe,
    encoder: "PairEncoder",
    pairs: "PairDataset",
    settings: CacheSettings,
    options: "RunOptions",
    *,
    model: str,
    mining_memory: str | None,
    seconds: float,
    work: Path,
) -> Plan:
    """Measure, and work out the rest.

    Args:
        recipe: of the training.
        encoder: the teacher.
        pairs: the data.
        settings: of the cache.
        options: of the run.
        model: the teacher's hub id or folder.
        mining_memory: ``--mining-memory``.
        seconds: to measure each of the three for.
        work: the workspace, whose disk is looked at.
    """
    if recipe.student_config is None and recipe.kd == "none" and not recipe.mines:
        raise ConfigError("--kd none trains without a cache, so there is nothing to plan; pass --kd mse+cos")
    home = work.absolute()
    while not home.is_dir():
        home = home.parent
    with TemporaryDirectory(prefix=".plan-", dir=home) as name:
        scratch = Path(name)
        with _bar("captions", "rows") as tell:
            captions = count_captions(settings, tell)
        with _bar("caching", "rows") as tell:
            cached = probe_caching(
                encoder, pairs, settings, scratch / "cache", seconds=seconds, on_progress=tell
            )
        rehearsal = _rehearse(recipe, cached, encoder, settings, options, model=model, scratch=scratch)
        probes = []
        for label, teacher in (("training", None), ("in loop", encoder)):
            with _bar(label, "s") as tell:
                probes.append(
                    probe_training(
                        rehearsal,
                        seconds=seconds,
                        encoder=teacher,
                        on_progress=lambda passed, tell=tell: tell(round(passed), round(seconds)),  # type: ignore[misc]
                    )
                )
    size = _size(rehearsal, settings, options, mining_memory)
    return Plan(settings, captions, rehearsal.recipe, size, Measured(cached.probe, *probes), free_bytes(work))


@contextmanager
def _bar(label: str, unit: str) -> Iterator[Callable[[int, int], None]]:
    with progress(unit) as bar:
        task = bar.add_task(label, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _rehearse(
    recipe: Recipe,
    cached: ProbedCache,
    encoder: "PairEncoder",
    settings: CacheSettings,
    options: "RunOptions",
    *,
    model: str,
    scratch: Path,
) -> Rehearsal:
    usable = round(settings.rows * cached.probe.usable)
    usable = usable if recipe.limit is None else min(usable, recipe.limit)
    inputs = rehearsal_inputs(cached, encoder, model, usable)
    precision = recipe.precision or default_precision()
    accelerator = start_accelerator(precision=precision)
    resolved = recipe.resolve(
        pairs=usable,
        processes=1,
        accelerated=accelerator.device.type != "cpu",
        precision=precision,
        views=settings.views,
        init=inputs.default_init(recipe),
        synthetic=any(source.synthetic_columns for source in settings.sources),
    )
    return Rehearsal(resolved, inputs, accelerator, scratch, options)


def _size(
    rehearsal: Rehearsal,
    settings: CacheSettings,
    options: "RunOptions",
    mining_memory: str | None,
) -> TrainingSize:
    recipe, pairs = rehearsal.recipe, len(rehearsal.inputs.rows)
    steps = pairs // recipe.global_batch
    mining, neighbours, refreshes = 0.0, 0, 0
    if recipe.mines:
        cuda = rehearsal.accelerator.device.type == "cuda"
        with _bar("first captions", "rows") as tell:
            captions = count_first_captions(settings, pairs, tell)
        dim, memory = settings.teacher.dim, parse_memory(mining_memory)
        method = choose_method(captions, dim, memory=memory, asked=recipe.mining_search, cuda=cuda)
        mining = mining_seconds(captions, dim, method, cuda=cuda)
        neighbours = 4 * settings.rows * recipe.neighbours
        refreshes = (recipe.epochs - 1) // recipe.refresh_every if recipe.refresh_every else 0
    return TrainingSize(
        recipe.epochs,
        steps,
        recipe.global_batch,
        options.save_every or max(steps, 200),
        options.keep,
        neighbours,
        refreshes,
        mining,
    )


def table(plan: Plan) -> list[str]:
    """A plan in a few lines."""
    settings, size, measured = plan.settings, plan.size, plan.measured
    stored = f"{settings.views} view{'s' * (settings.views > 1)}, up to {settings.captions} captions a row"
    rows = [
        ("", "time", "disk", "measured"),
        (
            "caching",
            _time(plan.caching.seconds),
            size_text(plan.caching.bytes),
            f"{1 / measured.caching.row.mean:,.1f} rows/s on {measured.caching.rows:,} of {settings.rows:,}; {stored}",
        ),
        (
            "training, cached",
            _time(plan.cached.seconds),
            size_text(plan.cached.bytes),
            _steps(measured.cached),
        ),
        (
            "  teacher in the loop",
            _time(plan.in_loop.seconds),
            size_text(plan.in_loop.bytes),
            _steps(measured.in_loop),
        ),
    ]
    return [
        *align(rows),
        "",
        f"training: {size.epochs} epochs of {size.steps:,} x {size.batch} pairs, {size.saves:,} checkpoint"
        f"{'s' * (size.saves != 1)}, mining "
        f"{duration(size.mining)}",
        f"teacher in the loop: {plan.ratio:.1f} times as long as caching and training from the cache",
        f"disk: {size_text(plan.needed)} needed, {size_text(plan.free)} free: "
        + ("fits" if plan.fits else "does not fit"),
    ]


def _time(seconds: Seconds) -> str:
    return f"{duration(seconds.mean)} ({duration(seconds.low)} to {duration(seconds.high)})"


def _steps(probe: TrainingProbe) -> str:
    return f"{1 / probe.pair.mean:,.1f} pairs/s in {probe.steps:,} steps of {probe.batch}"
