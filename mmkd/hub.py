"""Models by folder or by their id on the Hugging Face Hub, never with pickled weights."""

from functools import lru_cache
from pathlib import Path

from mmkd.errors import ModelError, first_line
from mmkd.weights import PICKLE_REFUSED, conversion_command, pickles_among

# What the Hub's own converter calls its pull requests: transformers/safetensors_conversion.py.
CONVERSION_TITLE = "Adding `safetensors` variant of this model"
CONVERSION_AUTHOR = "SFconvertbot"
# SigLIP's own tokenizer is a tokenizer.json beside a SentencePiece model, which is not needed.
_PATTERNS = ["*.json", "merges.txt", "vocab.txt", "*.safetensors"]
_REFS = "refs/pr/"


def resolve_model(model: str | Path, *, revision: str | None = None) -> Path:
    """Folder that holds the model's files, downloaded from the Hub where ``model`` is a hub id.

    Pickled weights are never fetched. Where a repository has no safetensors, those are taken that the Hub's
    conversion bot offers in a pull request onto the very commit asked for.

    Raises:
        ModelError: no such folder, no such repository, the Hub cannot be reached, or the weights are pickled only.
    """
    path = Path(model)
    if path.is_dir():
        if revision is not None:
            raise ModelError(f"--revision {revision} was given, but {model} is a folder; leave it out")
        return path
    if path.is_absolute() or str(model).startswith((".", "~")) or str(model).count("/") > 1:
        raise ModelError(
            f"no folder {model}; expected a Hugging Face id or a folder written by save_pretrained"
        )
    folder = _download(str(model), revision)
    if any(folder.glob("*.safetensors")):
        return folder
    return _download(str(model), _find_conversion(str(model), revision, folder.name))


def _download(model: str, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(model, revision=revision, allow_patterns=_PATTERNS))
    except LocalEntryNotFoundError as error:
        raise ModelError(
            f"{model} is neither a folder nor in the local Hub cache, and the Hugging Face Hub cannot be "
            "reached; check the name and the network, or pass a folder"
        ) from error
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        raise ModelError(f"cannot fetch {model} from the Hugging Face Hub: {first_line(error)}") from error


@lru_cache(maxsize=64)
def _find_conversion(model: str, revision: str | None, commit: str) -> str:
    """``refs/pr/N`` that holds safetensors of a repository whose ``commit`` has none.

    Raises:
        ModelError: there is none, or the Hub cannot be asked and none was fetched before.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError
    from huggingface_hub.utils import httpx  # type: ignore[attr-defined]

    api = HfApi()
    try:
        held = pickles_among(api.list_repo_files(model, revision=commit))
        offered = [
            pull.git_reference
            for pull in api.get_repo_discussions(
                model, author=CONVERSION_AUTHOR, discussion_type="pull_request", discussion_status="open"
            )
            # Anybody may open a pull request: author and state are checked here too.
            if (pull.title, pull.author, pull.status) == (CONVERSION_TITLE, CONVERSION_AUTHOR, "open")
            and pull.is_pull_request
            and pull.git_reference
        ]
        for reference in offered:
            commits = api.list_repo_commits(model, revision=reference)
            if len(commits) > 1 and commits[1].commit_id == commit:
                return str(reference)
    except (OSError, HfHubHTTPError, httpx.HTTPError) as error:
        if revision in {None, "main"}:  # what was fetched for it before
            return _fetched_conversion(model, first_line(error))
        raise ModelError(
            f"{model} has no safetensors at {revision}, and the Hub cannot be asked for a conversion "
            f"({first_line(error)}); pass --revision {_REFS}N, or try again with a network"
        ) from error
    raise ModelError(_refusal(model, held, offered))


def _fetched_conversion(model: str, why: str) -> str:
    """The one pull request of ``model`` in the local cache that holds safetensors."""
    from huggingface_hub.constants import HF_HUB_CACHE
    from huggingface_hub.file_download import repo_folder_name

    root = Path(HF_HUB_CACHE) / repo_folder_name(repo_id=model, repo_type="model")
    found = [
        f"{_REFS}{file.name}"
        for file in sorted((root / "refs" / _REFS).glob("*"))
        if any((root / "snapshots" / file.read_text(encoding="utf-8").strip()).glob("*.safetensors"))
    ]
    if len(found) == 1:
        return found[0]
    raise ModelError(
        f"{model} has no safetensors in the local Hub cache, and the Hub cannot be asked for a conversion ({why}); "
        "try again with a network"
        if not found
        else f"{model} has no safetensors of its own, and the local Hub cache holds {' and '.join(found)}; pass "
        f"--revision {found[0]}, or the other"
    )


def _refusal(model: str, pickles: list[str], offered: list[str]) -> str:
    if not pickles:
        return f"{model} holds no weights; expected model.safetensors"
    remedy = (
        f"the Hub's converter made {offered[0]} of another commit: pass --revision {offered[0]} to use it"
        if offered
        else f"if you trust it, convert it once with {conversion_command(model)} and pass that folder"
    )
    return f"{model} holds {pickles[0]}, {PICKLE_REFUSED}; expected model.safetensors: {remedy}"
