"""The options of ``mmkd cache-teacher``, in the groups that its ``--help`` shows; ``mmkd plan`` has them, too."""

from dataclasses import dataclass
from typing import Annotated

import typer

TEACHER = "openai/clip-vit-base-patch32"
DATA = "pixparse/cc3m-wds"
DTYPES = ("float32", "bfloat16", "float16")


@dataclass(frozen=True)
class TeacherOptions:
    """The teacher."""

    teacher: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ID_OR_FOLDER",
            help="Any Hugging Face CLIP or SigLIP, with its own preprocessing. Several, each named by an option of "
            f"its own, are stored side by side. Default: {TEACHER}.",
        ),
    ] = None
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit of the teacher's hub id.")] = (
        None
    )
    dtype: Annotated[
        str, typer.Option(metavar="|".join(DTYPES), help="Precision of the teacher's forward pass.")
    ] = "float32"


@dataclass(frozen=True)
class PairOptions:
    """The pairs."""

    data: Annotated[
        list[str] | None,
        typer.Option(
            metavar="SPEC",
            help="Pairs: hub id, Parquet file or glob, image folder, WebDataset tars. Several are joined in "
            f"order. Default: {DATA}.",
        ),
    ] = None
    split: Annotated[str | None, typer.Option(help="Default: train, or the only one.")] = None
    image_column: Annotated[str | None, typer.Option(help="Default: guessed from the features.")] = None
    caption_column: Annotated[
        str | None, typer.Option(help="Captions, lists of captions, or class labels. Default: guessed.")
    ] = None
    synthetic_column: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="Synthetic captions, or lists of them, beside the real ones; may be given several times.",
        ),
    ] = None
    template: Annotated[
        str | None, typer.Option(help='Makes captions of class labels. Default: "a photo of a {}.".')
    ] = None
    min_words: Annotated[
        int | None, typer.Option(min=1, help="Drop captions of fewer words; a row without any is masked.")
    ] = None
    max_words: Annotated[int | None, typer.Option(min=1, help="Drop captions of more words.")] = None
    caption_regex: Annotated[
        str | None, typer.Option(metavar="RE", help="Drop captions in which this finds nothing (re.search).")
    ] = None
    clean_captions: Annotated[
        bool,
        typer.Option(
            "--clean-captions",
            help="Drop captions with a URL, with fewer letters than other signs, or with a sign six times in a row.",
        ),
    ] = False
    limit: Annotated[int | None, typer.Option(min=1, help="Rows to take of the whole. Default: all.")] = None
    max_bad: Annotated[
        float, typer.Option(min=0, max=1, help="Largest share of rows without a usable image or caption.")
    ] = 0.05


@dataclass(frozen=True)
class CachingOptions:
    """What is stored."""

    batch_size: Annotated[int, typer.Option(min=1, help="Images of one forward pass.")] = 64
    shard_rows: Annotated[
        int | None,
        typer.Option(
            min=1, help="Rows a shard: what a stopped run loses at most. Default: 16,384; 2,048 with pixels."
        ),
    ] = None
    views: Annotated[
        int, typer.Option(min=1, help="Views of each image: the untouched one, then augmented ones.")
    ] = 1
    augment: Annotated[
        str | None,
        typer.Option(
            metavar="none|crop+flip|randaugment",
            help="What the augmented views are. Default: crop+flip where there are any.",
        ),
    ] = None
    augment_seed: Annotated[int, typer.Option(min=0, help="Of the augmented views.")] = 0
    store_pixels: Annotated[
        bool,
        typer.Option("--store-pixels", help="Keep the resized images, too: training then decodes none."),
    ] = False
    scaled_jpeg: Annotated[
        bool,
        typer.Option(
            "--scaled-jpeg",
            help="Decode large JPEGs at a fraction of their size: faster, and not the same bits. Training follows.",
        ),
    ] = False
