"""``mmkd cache-teacher``: embed a data set once."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mmkd.cli.cache_options import DATA, DTYPES, TEACHER, CachingOptions, PairOptions, TeacherOptions
from mmkd.cli.console import progress, say
from mmkd.cli.option_groups import takes_option_groups
from mmkd.cli.options import DEFAULT_WORK, Config, Work
from mmkd.cli.workspace import Workspace
from mmkd.errors import ConfigError

if TYPE_CHECKING:
    import torch

    from mmkd.augment import Augmentation
    from mmkd.cache.build import BuildPlan
    from mmkd.cache.manifest import CacheManifest
    from mmkd.cache.settings import CacheSettings
    from mmkd.cache.tally import BuildProgress
    from mmkd.data import PairDataset
    from mmkd.encoders import PairEncoder


@takes_option_groups
def cache_teacher(
    *,
    teacher: TeacherOptions,
    data: PairOptions,
    caching: CachingOptions,
    out: Annotated[Path | None, typer.Option(help="The cache's folder. Default: cache/ in --work.")] = None,
    work: Work = DEFAULT_WORK,
    config: Config = None,  # noqa: ARG001 - read by its callback
) -> None:
    """Embed every image and caption once with a CLIP teacher, into a folder of HDF5 shards.

    Stopped or killed, the same command goes on where it was. Under `accelerate launch` or `torchrun` each
    process embeds its own shards.

    \b
    Examples:
      mmkd cache-teacher
      mmkd cache-teacher --teacher openai/clip-vit-base-patch16 --data photos.parquet --out caches/photos
      mmkd cache-teacher --views 5 --augment crop+flip
      mmkd cache-teacher --teacher openai/clip-vit-base-patch32 --teacher laion/CLIP-ViT-B-32-laion2B-s34B-b79K
      mmkd cache-teacher --data cifar10/train.parquet --template "a photo of a {}."
      accelerate launch -m mmkd cache-teacher
    """
    from mmkd.cache.build import plan_build

    rank, world = _place()
    folder = Workspace(work).cache if out is None else out
    encoders, pairs, settings = open_caching(teacher, data, caching)
    plan = plan_build(settings, pairs, folder, rank=rank, world=world)
    say("writes", _writes(plan))
    manifest = _run(encoders, pairs, plan, data.max_bad)
    if manifest is not None:
        say("cached", _summary(manifest))
        say("next", _next_command(folder, work))


def open_caching(
    teacher: TeacherOptions, data: PairOptions, caching: CachingOptions
) -> "tuple[list[PairEncoder], PairDataset, CacheSettings]":
    """Load the teachers, open the pairs, and say aloud what was guessed.

    Returns:
        Teachers, pairs, and what a cache of them will say of itself.
    """
    if teacher.dtype not in DTYPES:
        raise typer.BadParameter(f"{teacher.dtype!r} is none of {', '.join(DTYPES)}", param_hint="--dtype")
    from mmkd.cache.build import cache_settings

    augmentation = _augmentation(caching.views, caching.augment, caching.augment_seed)
    encoders = _load_teachers(teacher.teacher or [TEACHER], teacher.revision, teacher.dtype)
    pairs = _open_pairs(data)
    settings = cache_settings(
        encoders,
        pairs,
        shard_rows=caching.shard_rows,
        batch_size=caching.batch_size,
        views=caching.views,
        augmentation=augmentation,
        store_pixels=caching.store_pixels,
        scaled_jpeg=caching.scaled_jpeg,
    )
    return encoders, pairs, settings


def _open_pairs(options: PairOptions) -> "PairDataset":
    from mmkd.captions import CaptionFilter
    from mmkd.data import DataSource, open_pairs

    filters = CaptionFilter(
        options.min_words, options.max_words, options.caption_regex, options.clean_captions
    )
    columns = (options.split, options.image_column, options.caption_column, options.template)
    synthetic = tuple(options.synthetic_column or ())
    sources = [DataSource(spec, *columns, synthetic, filters) for spec in options.data or [DATA]]
    pairs = open_pairs(sources, options.limit)
    for line in pairs.describe():
        say("data", line)
    for spec, links in pairs.links():
        say("links", f"{spec}: {links.describe()}")
    if options.limit is not None and options.limit <= len(pairs):
        say("limit", f"the first {len(pairs):,} pairs")
    return pairs


def _augmentation(views: int, policy: str | None, seed: int) -> "Augmentation":
    """What the views beyond the first are, said aloud where there are any."""
    from mmkd.augment import DEFAULT_POLICY, Augmentation
    from mmkd.cache.build import check_views

    augmentation = Augmentation(policy or (DEFAULT_POLICY if views > 1 else "none"), seed)
    check_views(views, augmentation)
    if views > 1:
        others = "view 1" if views == 2 else f"views 1 to {views - 1}"
        chosen = "" if policy else ", since --augment names nothing else"
        say("views", f"view 0 is the untouched image; {others}: {augmentation}{chosen}")
    return augmentation


def _load_teachers(teachers: list[str], revision: str | None, dtype: str) -> "list[PairEncoder]":
    from mmkd.cli.models import describe
    from mmkd.encoders import load_encoder

    if revision is not None and len(teachers) > 1:
        raise ConfigError(
            f"--revision {revision} is of one teacher, and {len(teachers)} are named; leave it out, or make a cache "
            "of one"
        )
    encoders = []
    for teacher in teachers:
        encoders.append(load_encoder(teacher, revision=revision, device=_device(), dtype=dtype))
        say("teacher", f"{describe(encoders[-1].spec)} · {encoders[-1].device} · {dtype}")
    return encoders


def _run(
    encoders: "list[PairEncoder]", pairs: "PairDataset", plan: "BuildPlan", max_bad: float
) -> "CacheManifest | None":
    from mmkd.cache.build import run_build

    try:
        with progress("pairs") as bar:
            bar_id = bar.add_task("caching", total=plan.own_rows, start=False)

            def show(state: "BuildProgress") -> None:
                note = f"{state.masked:,} masked" if state.masked else ""
                if state.awaited:
                    note = f"waits for {_shards(state.awaited)} of other processes"
                if not bar.tasks[bar_id].started:
                    # What an earlier start finished is no part of this run's rate.
                    bar.reset(bar_id, total=plan.own_rows, completed=state.rows)
                bar.update(bar_id, completed=state.rows, note=note)

            return run_build(encoders, pairs, plan, max_bad=max_bad, on_progress=show)
    except KeyboardInterrupt:
        say("stopped", _stopped(plan))
        raise typer.Exit(130) from None


def _place() -> tuple[int, int]:
    """This process's rank and the number of processes, as torchrun and accelerate launch say them."""
    try:
        rank, world = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    except ValueError:
        rank, world = -1, 0
    if not 0 <= rank < world:
        raise ConfigError(
            f"found RANK={os.environ.get('RANK')} and WORLD_SIZE={os.environ.get('WORLD_SIZE')} in the "
            "environment; expected what torchrun sets, or neither"
        )
    return rank, world


def _device() -> "torch.device | None":
    import torch

    if torch.cuda.is_available():
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
    return None


def _shards(count: int) -> str:
    return f"{count:,} shard{'s' * (count != 1)}"


def _writes(plan: "BuildPlan") -> str:
    from mmkd.cache.shard import size_text

    parts = [
        str(plan.folder),
        _shards(plan.settings.shards),
        f"{plan.settings.rows:,} rows" + f" of {plan.settings.views:,} views" * (plan.settings.views > 1),
        *([f"pixels {plan.settings.describe_pixels()}"] if plan.settings.pixels else []),
        *([f"JPEGs {plan.settings.describe_jpeg()}"] if plan.settings.jpeg_side else []),
        f"{size_text(plan.total)} (disk has {size_text(plan.free)})",
    ]
    if plan.done:
        parts.append(f"{_shards(len(plan.done))} already there")
    if plan.world > 1:
        parts.append(f"{plan.world} processes")
    return " · ".join(parts)


def _stopped(plan: "BuildPlan") -> str:
    done = sum(1 for _ in plan.folder.glob("shard-*.json"))
    return f"after shard {done:,} of {plan.settings.shards:,}; the same command goes on from there"


def _summary(manifest: "CacheManifest") -> str:
    from mmkd.cache.shard import size_text

    masked = sum(manifest.masked.values())
    reasons = ", ".join(f"{reason} {number:,}" for reason, number in manifest.masked.items())
    return (
        f"{manifest.rows - masked:,} pairs in {_shards(len(manifest.shards))}, {size_text(manifest.bytes)}"
        + (f" · {masked:,} masked ({reasons})" if masked else "")
    )


def _next_command(folder: Path, work: Path) -> str:
    command = "accelerate launch mmkd train --kd mse+cos"
    if folder != Workspace(work).cache:
        return f"{command} --cache {folder}"
    default = Path(os.environ.get("MMKD_WORK", str(DEFAULT_WORK)))
    return command if work == default else f"{command} --work {work}"
