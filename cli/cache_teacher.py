"""``mmkd cache-teacher``: embed a data set once."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mmkd.cli.console import progress, say
from mmkd.cli.options import DEFAULT_WORK, Config, Work
from mmkd.cli.workspace import Workspace
from mmkd.errors import ConfigError

if TYPE_CHECKING:
    import torch

    from mmkd.augment import Augmentation
    from mmkd.cache.build import BuildPlan, BuildProgress
    from mmkd.cache.manifest import CacheManifest
    from mmkd.data import PairDataset
    from mmkd.encoders import PairEncoder

TEACHER = "openai/clip-vit-base-patch32"
DATA = "pixparse/cc3m-wds"
DTYPES = ("float32", "bfloat16", "float16")


def cache_teacher(
    *,
    teacher: Annotated[
        str, typer.Option(metavar="ID_OR_FOLDER", help="Any Hugging Face CLIP, with its own preprocessing.")
    ] = TEACHER,
    data: Annotated[
        list[str] | None,
        typer.Option(
            metavar="SPEC",
            help="Pairs: hub id, Parquet file or glob, image folder, WebDataset tars. Several are joined in "
            f"order. Default: {DATA}.",
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="The cache's folder. Default: cache/ in --work.")] = None,
    split: Annotated[str | None, typer.Option(help="Default: train, or the only one.")] = None,
    image_column: Annotated[str | None, typer.Option(help="Default: guessed from the features.")] = None,
    caption_column: Annotated[
        str | None, typer.Option(help="Captions, lists of captions, or class labels. Default: guessed.")
    ] = None,
    synthetic_column: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="Synthetic captions, or lists of them, beside the real ones; may be given several times.",
        ),
    ] = None,
    template: Annotated[
        str | None, typer.Option(help='Makes captions of class labels. Default: "a photo of a {}.".')
    ] = None,
    min_words: Annotated[
        int | None, typer.Option(min=1, help="Drop captions of fewer words; a row without any is masked.")
    ] = None,
    max_words: Annotated[int | None, typer.Option(min=1, help="Drop captions of more words.")] = None,
    caption_regex: Annotated[
        str | None, typer.Option(metavar="RE", help="Drop captions in which this finds nothing (re.search).")
    ] = None,
    clean_captions: Annotated[
        bool,
        typer.Option(
            "--clean-captions",
            help="Drop captions with a URL, with fewer letters than other signs, or with a sign six times in a row.",
        ),
    ] = False,
    batch_size: Annotated[int, typer.Option(min=1, help="Images of one forward pass.")] = 64,
    shard_rows: Annotated[
        int | None,
        typer.Option(
            min=1, help="Rows a shard: what a stopped run loses at most. Default: 16,384; 2,048 with pixels."
        ),
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Rows to take of the whole. Default: all.")] = None,
    dtype: Annotated[
        str, typer.Option(metavar="|".join(DTYPES), help="Precision of the teacher's forward pass.")
    ] = "float32",
    max_bad: Annotated[
        float, typer.Option(min=0, max=1, help="Largest share of rows without a usable image or caption.")
    ] = 0.05,
    views: Annotated[
        int, typer.Option(min=1, help="Views of each image: the untouched one, then augmented ones.")
    ] = 1,
    augment: Annotated[
        str | None,
        typer.Option(
            metavar="none|crop+flip|randaugment",
            help="What the augmented views are. Default: crop+flip where there are any.",
        ),
    ] = None,
    augment_seed: Annotated[int, typer.Option(min=0, help="Of the augmented views.")] = 0,
    store_pixels: Annotated[
        bool,
        typer.Option("--store-pixels", help="Keep the resized images, too: training then decodes none."),
    ] = False,
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit of a teacher's hub id.")] = None,
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
      mmkd cache-teacher --data cifar10/train.parquet --template "a photo of a {}."
      accelerate launch -m mmkd cache-teacher
    """
    if dtype not in DTYPES:
        raise typer.BadParameter(f"{dtype!r} is none of {', '.join(DTYPES)}", param_hint="--dtype")
    from mmkd.cache.build import cache_settings, plan_build
    from mmkd.captions import CaptionFilter
    from mmkd.data import DataSource, open_pairs

    rank, world = _place()
    augmentation = _augmentation(views, augment, augment_seed)
    folder = Workspace(work).cache if out is None else out
    encoder = _load_teacher(teacher, revision, dtype)
    specs = data or [DATA]
    synthetic = tuple(synthetic_column or ())
    filters = CaptionFilter(min_words, max_words, caption_regex, clean_captions)
    sources = [
        DataSource(spec, split, image_column, caption_column, template, synthetic, filters) for spec in specs
    ]
    pairs = open_pairs(sources, limit)
    for line in pairs.describe():
        say("data", line)
    for spec, links in pairs.links():
        say("links", f"{spec}: {links.describe()}")
    if limit is not None and limit <= len(pairs):
        say("limit", f"the first {len(pairs):,} pairs")
    settings = cache_settings(
        encoder,
        pairs,
        shard_rows=shard_rows,
        batch_size=batch_size,
        views=views,
        augmentation=augmentation,
        store_pixels=store_pixels,
    )
    plan = plan_build(settings, pairs, folder, rank=rank, world=world)
    say("writes", _writes(plan))
    manifest = _run(encoder, pairs, plan, max_bad)
    if manifest is not None:
        say("cached", _summary(manifest))
        say("next", _next_command(folder, work))


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


def _load_teacher(teacher: str, revision: str | None, dtype: str) -> "PairEncoder":
    from mmkd.cli.models import describe
    from mmkd.encoders import load_encoder

    encoder = load_encoder(teacher, revision=revision, device=_device(), dtype=dtype)
    say("teacher", f"{describe(encoder.spec)} · {encoder.device} · {dtype}")
    return encoder


def _run(
    encoder: "PairEncoder", pairs: "PairDataset", plan: "BuildPlan", max_bad: float
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

            return run_build(encoder, pairs, plan, max_bad=max_bad, on_progress=show)
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
