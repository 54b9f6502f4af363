"""Which tars a spec names: a file, a glob, a list in braces, or a folder; img2dataset's folders of files among them."""

import glob
import itertools
import re
from pathlib import Path

from mmkd.errors import DataError
from mmkd.img2dataset import output_folders
from mmkd.tar_headers import UNPACK

COMPRESSED_SUFFIXES = (".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst")
MAX_LIST = 1_000_000
_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d+)\.\.(\d+)")


def find_tars(spec: str) -> dict[str, list[Path]] | None:
    """The tars that a local spec names, sorted, by split; None where it names something else.

    In a folder the splits are those that ``datasets`` finds in the files' names (``train-00.tar``); elsewhere all
    tars are ``train``.

    Raises:
        DataError: tars are compressed, or one of a list in braces is missing.
    """
    if "://" in spec:
        return None
    path = Path(spec)
    if path.is_dir():
        return tars_of_folder(path)
    names = [spec] if path.is_file() else expand_braces(spec)
    found = [match for name in names for match in _matches(name, spec)]
    if not any(_is_tar(one) for one in found):
        return None
    return {"train": _only_tars(sorted(dict.fromkeys(found)))}


def expand_braces(spec: str) -> list[str]:
    """``x-{000..002}.tar`` and ``{a,b}.tar`` as a shell would write them out.

    Raises:
        DataError: the list would be longer than ``MAX_LIST``.
    """
    parts = _BRACES.split(spec)
    choices = [_choices(part) if number % 2 else [part] for number, part in enumerate(parts)]
    total = 1
    for some in choices:
        total *= len(some)
        if total > MAX_LIST:
            raise DataError(f"{spec} names more than {MAX_LIST:,} files")
    return ["".join(words) for words in itertools.product(*choices)]


def _choices(inner: str) -> list[str]:
    if (match := _RANGE.fullmatch(inner)) is not None:
        first, last = int(match[1]), int(match[2])
        width = len(match[1]) if match[1].startswith("0") else 0
        if abs(last - first) >= MAX_LIST:
            raise DataError(f"{{{inner}}} names more than {MAX_LIST:,} files")
        step = 1 if last >= first else -1
        return [f"{number:0{width}d}" for number in range(first, last + step, step)]
    return inner.split(",") if "," in inner else [f"{{{inner}}}"]


def _matches(name: str, spec: str) -> list[Path]:
    path = Path(name)
    if path.is_file():
        return [path]
    if glob.has_magic(name):
        return [Path(found) for found in glob.glob(name, recursive=True)]  # noqa: PTH207 - takes absolute patterns
    if name != spec and _is_tar(path):
        raise DataError(f"{path} is missing; expected every tar of {spec}")
    return []


def _is_tar(path: Path) -> bool:
    return path.name.lower().endswith((".tar", *COMPRESSED_SUFFIXES))


def _only_tars(paths: list[Path]) -> list[Path]:
    for path in paths:
        if path.name.lower().endswith(COMPRESSED_SUFFIXES):
            raise DataError(f"{path} is compressed; {UNPACK}")
        if not _is_tar(path):
            raise DataError(f"found {path} among tars; expected tars alone")
    return paths


def tars_of_folder(folder: Path) -> dict[str, list[Path]] | None:
    """The tars of a folder by split; None where it holds something else."""
    if folders := output_folders(folder):
        return {"train": folders}
    names = [path for path in folder.rglob("*") if not path.name.startswith(".")]
    tars = [path for path in names if _is_tar(path)]
    parquet = sum(path.suffix == ".parquet" for path in names)
    described = any(path.name.startswith("metadata.") for path in names)
    if not tars or described or parquet > len(tars):
        return None
    from datasets.data_files import DataFilesDict, get_data_patterns

    _only_tars(sorted(tars))
    files = DataFilesDict.from_patterns(get_data_patterns(str(folder)), base_path=str(folder))
    splits = {str(split): sorted(Path(name) for name in found) for split, found in files.items()}
    chosen = {split: [path for path in found if _is_tar(path)] for split, found in splits.items()}
    return {split: found for split, found in chosen.items() if found}
