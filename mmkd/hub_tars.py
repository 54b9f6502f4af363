"""WebDataset tars of a data set on the Hugging Face Hub: fetched file by file, then read where they lie."""

import glob
from pathlib import Path
from typing import Any

import xxhash

from mmkd.errors import DataError, first_line
from mmkd.files import write_json
from mmkd.parse import read_json
from mmkd.sources import choose_tar_split, hub_builder, is_local, is_unreachable, quiet
from mmkd.tar_index import index_folder

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
        # datasets raises nearly anything; the caller's own opening says what is wrong.
        except Exception as error:
            return _fetched_before(spec, split) if is_unreachable(error) else None
    if not isinstance(builder, WebDataset):
        return None
    files = {str(key): [_path_in(one) for one in found] for key, found in _data_files(builder).items()}
    chosen = _of_split(spec, files, split)
    folder = _fetch(name, [path for paths in chosen.values() for path in paths])
    write_json(_list_of(spec), files)
    return {key: [folder / path for path in paths] for key, paths in chosen.items()}


def _of_split(spec: str, files: dict[str, list[str]], split: str | None) -> dict[str, list[str]]:
    wanted = choose_tar_split(spec, list(files), split).partition("[")[0]
    return files if wanted == "all" else {wanted: files[wanted]}


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


def _list_of(spec: str) -> Path:
    """Where the tars of a data set are listed: what a stopped download has left must not pass for all of it."""
    return index_folder() / f"hub-{xxhash.xxh3_128_hexdigest(spec.encode())}.json"


def _fetched_before(spec: str, split: str | None) -> dict[str, list[Path]] | None:
    """The tars of one split, where the Hub's local cache holds them all; None where nothing was fetched before.

    Raises:
        DataError: it lacks the split, or holds a part of it.
    """
    from huggingface_hub import try_to_load_from_cache

    file = _list_of(spec)
    if not file.is_file():
        return None
    name = spec.partition(":")[0]
    found: dict[str, list[Path]] = {}
    for key, paths in _of_split(spec, read_json(file), split).items():
        places = [try_to_load_from_cache(name, path, repo_type="dataset") for path in paths]
        here = [Path(place) for place in places if isinstance(place, str)]
        if len(here) < len(paths):
            raise DataError(
                f"{len(paths) - len(here):,} of the {len(paths):,} tars of {spec} ({key}) are not here, and the "
                "Hugging Face Hub cannot be reached; run the same command again with a network"
            )
        found[key] = here
    return found
