"""``mmkd cache import``: a cache of embeddings that exist already."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mmkd.cli.console import progress, say, warn
from mmkd.cli.options import DEFAULT_WORK, Config, Work
from mmkd.cli.workspace import Workspace

if TYPE_CHECKING:
    from mmkd.cache.importing import ImportPlan
    from mmkd.cache.manifest import CacheManifest
    from mmkd.embeddings import TeacherSpec


def cache_import(
    source: Annotated[
        Path,
        typer.Argument(help="clip-retrieval's folder, an .npy, .npz or .parquet file, or a folder of them."),
    ],
    *,
    out: Annotated[Path | None, typer.Option(help="The cache's folder. Default: cache/ in --work.")] = None,
    teacher: Annotated[
        str | None,
        typer.Option(
            metavar="ID_OR_FOLDER", help="The CLIP that made the vectors. Default: recorded as unknown."
        ),
    ] = None,
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit of a teacher's hub id.")] = None,
    image_column: Annotated[
        str | None, typer.Option(help="Column or array of the images' vectors. Default: guessed.")
    ] = None,
    text_column: Annotated[
        str | None, typer.Option(help="Column or array of the texts' vectors. Default: guessed.")
    ] = None,
    caption_column: Annotated[
        str | None, typer.Option(help="Column or array of captions. Default: guessed.")
    ] = None,
    captions: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Captions of .npy or .npz vectors: a line a row, or Parquet. Default: of the same name, beside them.",
        ),
    ] = None,
    images: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER", help="Where the images of the column image_path are, for training on them."
        ),
    ] = None,
    shard_rows: Annotated[int, typer.Option(min=1, help="Rows a shard.")] = 16_384,
    max_bad: Annotated[
        float, typer.Option(min=0, max=1, help="Largest share of rows that cannot be used.")
    ] = 0.05,
    work: Work = DEFAULT_WORK,
    config: Config = None,  # noqa: ARG001 - read by its callback
) -> None:
    """Make a cache of embeddings that exist already: of images, of texts, or of both.

    Vectors are normalised, their lengths kept; those of zeros or not finite are masked and counted. A cache of one
    side trains that side's tower. Stopped or killed, the same command goes on where it was.

    \b
    Examples:
      mmkd cache import laion/embeddings --teacher openai/clip-vit-base-patch32 --out caches/laion
      mmkd cache import texts.npz --text-column embeddings --caption-column texts --out caches/texts
      mmkd cache import text_vectors.npy --captions texts.txt --out caches/texts
      mmkd cache import vectors.parquet --image-column image_embedding --text-column text_embedding
    """
    from mmkd.cache.importing import plan_import, run_import
    from mmkd.cache.vector_source import Columns, open_vectors

    folder = Workspace(work).cache if out is None else out
    found = open_vectors(source, Columns(image_column, text_column, caption_column, captions))
    say("vectors", found.describe())
    plan = plan_import(
        found, folder, teacher=_teacher(teacher, revision), images=images, shard_rows=shard_rows
    )
    say("writes", _writes(plan))
    with progress("rows") as bar:
        task = bar.add_task("importing", total=plan.settings.rows)
        manifest = run_import(
            plan, max_bad=max_bad, on_progress=lambda rows: bar.update(task, completed=rows)
        )
    say("imported", _summary(manifest))
    say("next", _next_command(plan))


def _teacher(teacher: str | None, revision: str | None) -> "TeacherSpec | None":
    from mmkd.encoders import read_teacher_spec
    from mmkd.errors import ConfigError

    if teacher is None:
        if revision is not None:
            raise ConfigError(f"--revision {revision} is of a --teacher, and none is named; leave it out")
        warn("no --teacher: what made these vectors is recorded as unknown, and training cannot check it")
        return None
    from mmkd.cli.models import describe

    spec = read_teacher_spec(teacher, revision=revision)
    say("teacher", f"{describe(spec)} · taken on your word")
    return spec


def _writes(plan: "ImportPlan") -> str:
    from mmkd.cache.shard import size_text

    shards = f"{plan.settings.shards:,} shard{'s' * (plan.settings.shards != 1)}"
    done = f" · {len(plan.done):,} already there" if plan.done else ""
    return f"{plan.folder} · {shards} · {size_text(plan.needed)} (disk has {size_text(plan.free)}){done}"


def _summary(manifest: "CacheManifest") -> str:
    from mmkd.cache.shard import size_text

    masked = sum(manifest.masked.values())
    reasons = ", ".join(f"{reason} {number:,}" for reason, number in manifest.masked.items())
    return f"{manifest.rows - masked:,} of {manifest.rows:,} rows, {size_text(manifest.bytes)}" + (
        f" · {masked:,} masked ({reasons})" if masked else ""
    )


def _next_command(plan: "ImportPlan") -> str:
    settings = plan.settings
    trainable = [
        side
        for side, readable in (("image", plan.images is not None), ("text", plan.source.caption is not None))
        if readable and side in settings.sides
    ]
    if not trainable:
        return f"mmkd cache export {plan.folder} (without captions and images nothing can be trained)"
    one = "" if len(trainable) == 2 else f" --towers {trainable[0]} --task none"
    student = "" if settings.teacher.known else " --model-config FOLDER/config.json"
    return f"mmkd train --cache {plan.folder}{one} --kd mse+cos{student}"
