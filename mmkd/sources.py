"""Open whatever ``datasets.load_dataset`` can open, and say in one line why it cannot."""

import difflib
import glob
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmkd.errors import DataError
from mmkd.img2dataset import output_parquet

if TYPE_CHECKING:
    from datasets import Dataset

BUILDERS = {
    ".parquet": "parquet",
    ".tar": "webdataset",
    ".csv": "csv",
    ".tsv": "csv",
    ".json": "json",
    ".jsonl": "json",
}
IMAGE_NAMES = (
    "image",
    "jpg",
    "jpeg",
    "png",
    "webp",
    "img",
    "picture",
    "photo",
    "image_path",
    "file_name",
    "path",
)


def open_table(
    spec: str, split: str | None, *, prefer: Sequence[str], files: str | None = None
) -> "tuple[Dataset, str]":
    """Open one data set and one of its splits.

    Args:
        spec: hub id (``owner/name`` or ``owner/name:config``), file, glob or folder.
        split: a split's name, or a slice as ``datasets`` writes it (``train[:1000]``).
        prefer: splits to take, in order, where ``split`` is None.
        files: pattern of the hub's or folder's files that hold ``split``; no other is downloaded.

    Returns:
        The data set and the split's name.

    Raises:
        DataError: it cannot be found, reached or read, or lacks the split.
    """
    with quiet():
        try:
            builder = _builder(spec, None if files is None else {split or "train": files})
            # What the data set says of its splits' sizes is of all its files.
            builder.download_and_prepare(verification_mode=None if files is None else "no_checks")
            splits = [str(name) for name in builder.info.splits or {}]
            chosen = choose_split(spec, splits, split, prefer)
            if chosen in splits and builder.info.splits[chosen].num_examples == 0:
                raise DataError(_empty(spec, chosen))
            table = builder.as_dataset(split=chosen)
        except DataError:
            raise
        except Exception as error:  # datasets raises nearly anything, its builders' parsers included
            raise DataError(_explain(spec, error)) from error
    if len(table) == 0:
        raise DataError(_empty(spec, chosen))
    return table, chosen


def choose_image_column(spec: str, features: Mapping[str, Any], wanted: str | None) -> str:
    """The column that holds images: the one asked for, else guessed from the features."""
    from datasets import Image

    if wanted is not None:
        check_column(spec, features, wanted, "--image-column")
        if not (isinstance(features[wanted], Image) or _may_hold_image(features[wanted])):
            raise DataError(
                f"column {wanted!r} of {spec} holds {features[wanted]}; expected images, bytes or paths "
                "(--image-column)"
            )
        return wanted
    images = [name for name, feature in features.items() if isinstance(feature, Image)]
    candidates = images or [name for name in features if _may_hold_image(features[name])]
    for name in IMAGE_NAMES:
        if name in candidates:
            return name
    if len(images) == 1:
        return images[0]
    raise DataError(
        f"{spec} has {len(images) or 'no'} image columns among {', '.join(features)}; "
        "name the one to take with --image-column"
    )


def check_column(spec: str, features: Mapping[str, Any], wanted: str, option: str) -> str:
    """``wanted`` itself.

    Raises:
        DataError: there is no such column; names those that are there, and the nearest.
    """
    if wanted in features:
        return wanted
    near = difflib.get_close_matches(wanted, list(features), n=1, cutoff=0.5)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise DataError(f"{spec} has no column {wanted!r}, only {', '.join(features)}{hint} ({option})")


def cast_to_bytes(table: "Dataset", column: str) -> "Dataset":
    """The same table, its image column giving ``{"bytes", "path"}`` undecoded."""
    from datasets import Image

    return table.cast_column(column, Image(decode=False))


def base_folder(spec: str) -> Path | None:
    """The folder that relative image paths in a csv or json file start from; None for a hub id."""
    if "://" in spec:
        return None
    if is_pattern(spec) or Path(spec).is_file():
        return Path(spec).resolve().parent
    return Path(spec).resolve() if Path(spec).is_dir() else None


def is_pattern(spec: str) -> bool:
    """Whether a spec stands for several files: a glob, or a list in braces."""
    return glob.has_magic(spec) or ("{" in spec and not Path(spec).exists())


def absolute_spec(spec: str) -> str:
    """A local file, glob or folder made absolute, to be found again from anywhere; a hub id as it is."""
    return spec if base_folder(spec) is None else str(Path.cwd() / spec)


def short_spec(spec: str) -> str:
    """A spec as short as it can be said: relative where it lies below the current folder."""
    path = Path(spec)
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else spec


def _may_hold_image(feature: Any) -> bool:
    if isinstance(feature, dict):
        return "bytes" in feature
    return getattr(feature, "dtype", None) in ("binary", "large_binary", "string", "large_string")


def _builder(spec: str, data_files: dict[str, str] | None = None) -> Any:
    from datasets import load_dataset_builder

    path = Path(spec)
    files = [spec] if path.is_file() else []
    if not files and glob.has_magic(spec):
        files = sorted(glob.glob(spec, recursive=True))  # noqa: PTH207 - Path.glob takes no absolute pattern
    if files:
        suffix = Path(files[0]).suffix.lower()
        if suffix not in BUILDERS:
            raise DataError(f"{files[0]} is no data set; expected a file that ends in {', '.join(BUILDERS)}")
        options = {"sep": "\t"} if suffix == ".tsv" else {}
        return load_dataset_builder(BUILDERS[suffix], data_files={"train": files}, **options)
    if path.is_dir():
        if downloads := output_parquet(path):
            return load_dataset_builder("parquet", data_files={"train": [str(file) for file in downloads]})
        if any(path.glob("metadata.*")) or any(path.glob("*/metadata.*")):
            return load_dataset_builder("imagefolder", data_dir=spec)
        own = f"{os.path.normpath(path.absolute())}/", f"{path.resolve()}/"
        return _of_itself(load_dataset_builder(spec, data_files=data_files), spec, own)
    if is_local(spec):
        raise DataError(f"no file or folder matches {spec}; expected a file, a glob, a folder or a hub id")
    return hub_builder(spec, data_files)


def is_local(spec: str) -> bool:
    """Whether a spec names files here, be they there or not, rather than a hub id."""
    path = Path(spec)
    looks_local = path.is_absolute() or spec.startswith((".", "~")) or spec.count("/") > 1
    return looks_local or path.exists() or is_pattern(spec) or path.suffix.lower() in BUILDERS


def hub_builder(spec: str, data_files: dict[str, str] | None = None) -> Any:
    """The builder of a hub data set, ``owner/name`` or ``owner/name:config``; raises nearly anything."""
    from datasets import load_dataset_builder

    name, _, config = spec.partition(":")
    builder = load_dataset_builder(name, config or None, data_files=data_files)
    return _of_itself(builder, spec, (f"hf://datasets/{name}@",))


def _of_itself(builder: Any, spec: str, own: tuple[str, ...]) -> Any:
    """``builder``, refused where the data set's own README.md names files that are not the data set's."""
    for files in (builder.config.data_files or {}).values():
        for file in files:
            plain = os.path.normpath(file) if file.startswith("/") else file
            if not plain.startswith(own):
                raise DataError(
                    f"the README.md of {spec} names the file {file}, which is not the data set's own; refused"
                )
    return builder


def choose_split(spec: str, splits: list[str], wanted: str | None, prefer: Sequence[str]) -> str:
    """``wanted`` itself, else the first of ``prefer`` that is there, else the only one.

    Raises:
        DataError: there is no such split, or there are several and none was named.
    """
    if wanted is not None:
        names = [part.partition("[")[0] for part in wanted.split("+")]
        if missing := [name for name in names if name not in splits and name != "all"]:
            raise DataError(
                f"{spec} has no split {missing[0]!r}, only {', '.join(splits)}; choose one with --split"
            )
        return wanted
    for name in prefer:
        if name in splits:
            return name
    if len(splits) == 1:
        return splits[0]
    raise DataError(f"{spec} has the splits {', '.join(splits) or '(none)'}; choose one with --split")


def choose_tar_split(spec: str, splits: list[str], wanted: str | None) -> str:
    """The same for tars, of which one split, or a slice of it, is read.

    Raises:
        DataError: as ``choose_split``, or several are asked for.
    """
    split = choose_split(spec, splits, wanted, prefer=("train",))
    if "+" in split:
        raise DataError(f"found the split {split!r} of tars; expected one, as train or train[:1000]")
    return split


def _empty(spec: str, split: str) -> str:
    return f"{spec} has no rows in its split {split!r}; expected at least one pair"


def is_unreachable(error: Exception) -> bool:
    """Whether the Hub could not be asked."""
    return isinstance(error, ConnectionError) or "OfflineMode" in type(error).__name__


def _explain(spec: str, error: Exception) -> str:
    from datasets.exceptions import DatasetGenerationError, DatasetNotFoundError
    from huggingface_hub.errors import RepositoryNotFoundError

    if isinstance(error, DatasetNotFoundError | RepositoryNotFoundError):
        return (
            f"no data set {spec} on the Hugging Face Hub (or it is private); check the name, or pass a file"
        )
    if is_unreachable(error):
        return (
            f"{spec} is neither a file nor a folder here, and the Hugging Face Hub cannot be reached; "
            "check the name and the network"
        )
    if isinstance(error, DatasetGenerationError) and error.__cause__ is not None:
        cause = error.__cause__
        if "BatchSize must be greater than 0" in str(
            cause
        ):  # what datasets makes of a Parquet file without rows
            return f"{spec} has no rows; expected at least one"
        return f"cannot read {spec}: {type(cause).__name__}: {' '.join(str(cause).split())[:300]}"
    text = " ".join(str(error).split())[:300] or type(error).__name__
    return f"cannot open {spec} as a data set: {text}"


@contextmanager
def quiet() -> Iterator[None]:
    """Keep the progress bars and warnings of ``datasets`` and the Hub's client off the terminal."""
    import datasets
    import huggingface_hub

    bars = not datasets.are_progress_bars_disabled()
    levels = datasets.logging.get_verbosity(), huggingface_hub.logging.get_verbosity()
    datasets.disable_progress_bars()
    datasets.logging.set_verbosity(logging.CRITICAL)
    huggingface_hub.logging.set_verbosity(logging.CRITICAL)
    try:
        yield
    finally:
        if bars:
            datasets.enable_progress_bars()
        datasets.logging.set_verbosity(levels[0])
        huggingface_hub.logging.set_verbosity(levels[1])
