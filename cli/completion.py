"""What the shell offers when Tab is pressed: names that are found without a heavy import."""

import os
import re
from collections.abc import Callable
from pathlib import Path


def complete_runs(incomplete: str) -> list[str]:
    """Runs of the workspace, and folders as they are typed."""
    runs = Path(os.environ.get("MMKD_WORK", "work")) / "runs"
    known = sorted(str(file.parent) for file in runs.glob("*/run.json"))
    return _starting([*known, *_paths(incomplete, folders=True)], incomplete)


def complete_data(incomplete: str) -> list[str]:
    """The built-in zero-shot sets, and files as they are typed."""
    return _starting([*_configs("zero_shot"), *_paths(incomplete)], incomplete)


def complete_captioned(incomplete: str) -> list[str]:
    """The built-in captioned sets, and files as they are typed."""
    return _starting([*_configs("retrieval"), *_paths(incomplete)], incomplete)


def complete_kd(incomplete: str) -> list[str]:
    """KD losses, as the next term of a sum."""
    return _terms("KD losses for --kd:", incomplete)


def complete_task(incomplete: str) -> list[str]:
    """Task losses, as the next term of a sum."""
    return _terms("Task losses for --task", incomplete)


def one_of(*words: str) -> Callable[[str], list[str]]:
    """A completion from fixed words."""

    def complete(incomplete: str) -> list[str]:
        return _starting(list(words), incomplete)

    return complete


def loss_names(heading: str) -> list[str]:
    """The losses that ``mmkd train --help`` lists under ``heading``: their table itself would import torch."""
    from mmkd.cli.train import train

    _, _, menu = (train.__doc__ or "").partition(heading)
    menu = menu.partition("\n")[2].partition("\n\n")[0]
    return re.findall(r"^\s+([a-z][a-z0-9-]*)\s{2,}", menu, flags=re.MULTILINE)


def _terms(heading: str, incomplete: str) -> list[str]:
    sum_so_far = re.match(r".*[+*]\s*", incomplete)
    before = sum_so_far.group(0) if sum_so_far else ""
    names = [name for name in loss_names(heading) if name not in re.split(r"[+*@\s]+", before)]
    return _starting([before + name for name in (names if before else [*names, "none"])], incomplete)


def _configs(folder: str) -> list[str]:
    from importlib.resources import files

    names = (file.name for file in files("mmkd.configs").joinpath(folder).iterdir())
    return sorted(name.removesuffix(".yaml") for name in names if name.endswith(".yaml"))


def _paths(incomplete: str, *, folders: bool = False) -> list[str]:
    here = Path(incomplete) if incomplete.endswith("/") else Path(incomplete).parent
    try:
        found = [path for path in sorted(here.iterdir()) if not path.name.startswith(".")]
    except OSError:
        return []
    return [str(path) for path in found if path.is_dir() or not folders]


def _starting(names: list[str], incomplete: str) -> list[str]:
    return [name for name in dict.fromkeys(names) if name.startswith(incomplete)]
