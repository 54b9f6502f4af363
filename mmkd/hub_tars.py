"""WebDataset tars of a data set on the Hugging Face Hub: fetched file by file, then read where they lie."""

import glob
from pathlib import Path
from typing import Any

from mmkd.errors import DataError, first_line
from mmkd.sources import choose_split, hub_builder, is_local, is_unreachable, quiet
from mmkd.tar_specs import tars_of_folder

_SCHEME = "hf://datasets/"


def fetch_tars(spec: str, split: str | None) -> dict[str, list[Path]] | None:
    """The tars of one split of a hub data set, in the Hub's own local cache.

    A download that was stopped goes on file by file; what was fetched before is found without a network.

    Args:
        spec: ``owner/name`` or ``owner/name:config``.
        split: the split asked for, or a slice of one; None: ``train``, or the only one.

    Returns:
        The tars by split; None where ``spec`` is local, or no WebDataset.

    Raises:
        DataError: it lacks the split, or a file cannot be fetched.
    """
    if is_local(spec):
        return None
    from datasets.packaged_modules.webdataset.webdataset import WebDataset

    name = spec.partition(":")[0]
    with quiet():
        try:
            builder = hub_builder(spec)
        except DataError:
            raise
        except (
            Exception
        ) as error:  # datasets raises nearly anything; the caller's own opening says what is wrong
            return _fetched_before(name) if is_unreachable(error) else None
    if not isinstance(builder, WebDataset):
        return None
    files = {str(key): [_path_in(one) for one in found] for key, found in _data_files(builder).items()}
    wanted = choose_split(spec, list(files), split, prefer=("train",)).partition("[")[0]
    chosen = files if wanted == "all" else {wanted: files[wanted]}
    folder = _fetch(name, [path for paths in chosen.values() for path in paths])
    return {key: [folder / path for path in paths] for key, paths in chosen.items()}


def _data_files(builder: Any) -> dict[Any, list[str]]:
    return builder.config.data_files or {}


def _path_in(url: str) -> str:
    """``hf://datasets/owner/name@commit/a/b.tar`` to ``a/b.tar``."""
    return url.removeprefix(_SCHEME).partition("@")[2].partition("/")[2]


def _fetch(name: str, paths: list[str]) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError
    from huggingface_hub.utils import httpx  # type: ignore[attr-defined]

    exactly = [glob.escape(path) for path in paths]
    try:
        folder = Path(snapshot_download(name, repo_type="dataset", allow_patterns=exactly))
    except (HfHubHTTPError, httpx.HTTPError, OSError) as error:
        raise DataError(
            f"cannot fetch {name} from the Hugging Face Hub: {first_line(error)}; the same command goes on from there"
        ) from error
    if missing := [path for path in paths if not (folder / path).is_file()]:
        raise DataError(
            f"{name} changed while it was fetched: {missing[0]} is gone; run the same command again"
        )
    return folder


def _fetched_before(name: str) -> dict[str, list[Path]] | None:
    """What the local cache of the Hub holds of a data set."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        folder = snapshot_download(name, repo_type="dataset", local_files_only=True)
    except (LocalEntryNotFoundError, HFValidationError, OSError):
        return None
    return tars_of_folder(Path(folder))
