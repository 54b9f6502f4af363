"""``mmkd cache export``: a cache as clip-retrieval's files."""

from pathlib import Path
from typing import Annotated

import typer

from mmkd.cli.console import progress, say
from mmkd.cli.options import DEFAULT_WORK, Config, Work
from mmkd.cli.workspace import Workspace


def cache_export(
    cache: Annotated[
        Path | None, typer.Argument(metavar="[CACHE]", help="The cache's folder. Default: cache/ in --work.")
    ] = None,
    *,
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="Where the files go; not there yet, or empty.")],
    data: Annotated[
        list[str] | None,
        typer.Option(metavar="SPEC", help="The pairs, where they moved since they were cached."),
    ] = None,
    pick_teacher: Annotated[
        str | None,
        typer.Option(
            metavar="NAME_OR_NUMBER", help="One of the cache's teachers. Default: all, side by side."
        ),
    ] = None,
    work: Work = DEFAULT_WORK,
    config: Config = None,  # noqa: ARG001 - read by its callback
) -> None:
    """Write a cache as clip-retrieval does: img_emb/, text_emb/ and metadata/, a row for each caption.

    Vectors are the cache's own float16 ones, so that importing them again gives the same bytes; captions come from
    the data. Masked rows are left out, and of several views only the untouched image's is written.

    \b
    Examples:
      mmkd cache export --out exported
      mmkd cache export caches/photos --out exported
      clip-retrieval index --embeddings_folder exported --index_folder index
    """
    from mmkd.cache.exporting import export_cache
    from mmkd.cache.store import check_data, open_cache

    store = open_cache(Workspace(work).cache if cache is None else cache, teacher=pick_teacher)
    pairs = store.open_pairs(data) if store.readable else None
    if pairs is not None:
        check_data(store, pairs)
    if store.views > 1:
        say("views", f"the untouched images only, of {store.views} views each")
    with progress("rows") as bar:
        task = bar.add_task("exporting", total=len(store))
        rows = export_cache(store, pairs, out, on_progress=lambda done: bar.update(task, completed=done))
    masked = len(store) - len(store.usable)
    left_out = f" · {masked:,} masked rows left out" if masked else ""
    say(
        "exported",
        f"{out} · {rows:,} rows of {store.spec.dim}-d {' and '.join(store.sides)} vectors{left_out}",
    )
