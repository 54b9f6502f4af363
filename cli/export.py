"""``mmkd export``: a student in the form of another library, held against the original before it is kept."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from mmkd.cli.console import console, say
from mmkd.cli.models import Subject, describe, find_students
from mmkd.cli.options import DEFAULT_WORK, Config, Work
from mmkd.cli.workspace import Workspace
from mmkd.errors import ConfigError, DataError

if TYPE_CHECKING:
    from mmkd.export.forms import Check, Sample
    from mmkd.runs import Run

Target = Literal["onnx", "sentence-transformers", "open-clip"]


def export(
    model: Annotated[
        str | None,
        typer.Argument(metavar="[MODEL]", help="Run, folder or hub id. Default: the latest run."),
    ] = None,
    *,
    to: Annotated[Target, typer.Option(help="The form to write.")],
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Where to write; not there yet, or empty. Default: a folder named after the form, in the run.",
        ),
    ] = None,
    data: Annotated[
        list[str] | None,
        typer.Option(
            metavar="SPEC",
            help="Images and captions to check the export on. Default: the run's own, where they still are.",
        ),
    ] = None,
    images: Annotated[int, typer.Option(min=1, help="How many images to check on.")] = 64,
    work: Work = DEFAULT_WORK,
    config: Config = None,  # noqa: ARG001 - read by its callback
) -> None:
    """Write a student as ONNX, or as sentence-transformers or open_clip load it, its head included.

    The export is loaded again and embeds real images and captions beside the original; where any coordinate of
    two unit vectors differs by more than 1e-4, nothing is written.

    \b
    Examples:
      mmkd export --to onnx
      mmkd export work/runs/my-run --to sentence-transformers --out my-student
      mmkd export my-student-folder --to open-clip --out exported --data photos.parquet
    """
    import torch

    from mmkd.encoders import load_encoder
    from mmkd.export.forms import check_folder, choose_form, export_model

    choose_form(to)  # a library that is missing is said before anything long is done
    (subject,) = find_students([] if model is None else [model], Workspace(work).runs)
    folder = _default_folder(subject, to, work) if out is None else out
    check_folder(folder)
    run = subject.run or _run_around(Path(subject.source))
    sample = _draw_sample(run, data, images)
    encoder = load_encoder(subject.source, revision=subject.revision, device=torch.device("cpu"))
    say(subject.name, describe(encoder.spec))
    check = export_model(encoder, to, folder, sample, sides=_trained_sides(run))
    console.print(report(check), markup=False, soft_wrap=True)
    say("exported", f"{folder} · {', '.join(sorted(file.name for file in folder.iterdir()))}")


def report(check: "Check") -> str:
    """``64 images differ by at most 2.4e-07 and 64 texts by 1.8e-07 · expected 1e-4 · onnxruntime 1.32.0``."""
    from mmkd.export.forms import TOLERANCE

    parts = [
        f"{check.counts[side]:,} {side}s by at most {found:.1e}" for side, found in check.differences.items()
    ]
    unlike = f" · {check.unlike:,} images left out, which it crops a pixel aside" if check.unlike else ""
    return f"differs on {' and on '.join(parts)} (allowed {TOLERANCE:.0e}) · {check.by}{unlike}"


def _default_folder(subject: Subject, to: str, work: Path) -> Path:
    return work / f"{Path(subject.source).name}-{to}" if subject.run is None else subject.run.folder / to


def _run_around(student: Path) -> "Run | None":
    """The run whose ``student`` folder was named instead of the run itself."""
    from mmkd.runs import RUN_FILE, read_run

    return read_run(student.parent) if (student.parent / RUN_FILE).is_file() else None


def _draw_sample(run: "Run | None", data: list[str] | None, count: int) -> "Sample":
    from mmkd.data import DataSource, open_pairs
    from mmkd.export.forms import draw_sample

    if data:
        sources = [DataSource(spec) for spec in data]
    else:
        sources = [DataSource.from_json(value) for value in (run.record.get("data") or [] if run else [])]
        if not sources:
            raise ConfigError(
                "no run names data to check the export on; pass images and captions with --data"
            )
    try:
        pairs = open_pairs(sources)
    except DataError as error:
        raise error if data else DataError(f"{error}; pass other images and captions with --data") from error
    for line in pairs.describe():
        say("data", line)
    return draw_sample(pairs, count)


def _trained_sides(run: "Run | None") -> tuple[str, ...]:
    """The towers worth writing: where there was no teacher to take one from, it has random weights."""
    towers = run.record["recipe"].get("towers") if run is not None and not run.record.get("teacher") else None
    return (towers,) if towers in ("image", "text") else ("image", "text")
