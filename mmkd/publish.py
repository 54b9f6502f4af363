"""A student's folder onto the Hugging Face Hub: what is sent, and what can go wrong, in one line."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from mmkd.errors import ConfigError, ModelError, first_line
from mmkd.model_card import CARD, WRITTEN, card_of
from mmkd.parse import read_text
from mmkd.runs import Run

SENT = (".json", ".safetensors", ".txt", ".md")


@dataclass(frozen=True)
class Published:
    """What was sent.

    Attributes:
        url: of the commit.
        files: names of what was sent.
        size: bytes.
        created: whether the repository is new.
    """

    url: str
    files: list[str]
    size: int
    created: bool


def files_to_publish(run: Run) -> list[Path]:
    """The student's files: configuration, tokenizer, weights in safetensors, card. No links, nothing hidden.

    Raises:
        ModelError: there is no student yet.
    """
    if not run.student.is_dir():
        raise ModelError(
            f"{run.folder} has no student yet; let its training come to its end: mmkd train --resume --out {run.folder}"
        )
    found = sorted(run.student.iterdir())
    return [
        file
        for file in found
        if file.suffix in SENT and file.is_file() and not file.is_symlink() and not file.name.startswith(".")
    ]


def publish(run: Run, repository: str, *, public: bool = False, license_id: str | None = None) -> Published:
    """Send a run's student to the Hub, as one commit; a repository that is not there is made.

    The card is written for the repository, with its name where it is loaded from; a card of one's own is sent as it is.

    Args:
        run: whose student is sent.
        repository: ``name`` or ``owner/name``.
        public: make a new repository public; one that is there keeps its visibility.
        license_id: of the card, as the Hub names it.

    Raises:
        ModelError: there is no student.
        ConfigError: no such name can be, nobody is logged in, the repository is somebody else's, or the Hub cannot be
            reached.
    """
    from huggingface_hub import CommitOperationAdd, HfApi, constants, get_token
    from huggingface_hub.errors import RepositoryNotFoundError

    files = files_to_publish(run)
    if constants.HF_HUB_OFFLINE:
        raise ConfigError("HF_HUB_OFFLINE is set, so nothing can be sent to the Hub; unset it to push")
    if get_token() is None:
        raise ConfigError(
            "not logged in to the Hub; log in with `hf auth login`, or set HF_TOKEN to a token that may write"
        )
    api = HfApi(library_name="mmkd")
    with _explained(repository):
        full = repository if "/" in repository else f"{api.whoami()['name']}/{repository}"
    with _explained(full):
        try:
            api.model_info(full)
            created = False
        except RepositoryNotFoundError:
            api.create_repo(full, private=not public)
            created = True
        operations = [CommitOperationAdd(file.name, file) for file in files if file.name != CARD]
        card = _card(run, full, license_id)
        operations.append(CommitOperationAdd(CARD, card.encode()))
        commit = api.create_commit(full, operations, commit_message=f"{run.folder.name}, by mmkd push")
    names = [operation.path_in_repo for operation in operations]
    return Published(commit.commit_url, names, sum(file.stat().st_size for file in files), created)


def is_written_here(run: Run) -> bool:
    """Whether the student's card is mmkd's to write, and not one of somebody's own."""
    file = run.student / CARD
    return not file.is_file() or WRITTEN in read_text(file)


def _card(run: Run, repository: str, license_id: str | None) -> str:
    """The card for the repository; one that somebody wrote themselves as it is."""
    if not is_written_here(run):
        return read_text(run.student / CARD)
    return card_of(run.student, run, source=repository, license_id=license_id)


@contextmanager
def _explained(repository: str) -> Iterator[None]:
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, RepositoryNotFoundError
    from huggingface_hub.utils import httpx  # type: ignore[attr-defined]

    try:
        yield
    except HFValidationError as error:
        raise ConfigError(f"{repository!r} cannot be a name on the Hub: {first_line(error)}") from error
    except HfHubHTTPError as error:
        status = error.response.status_code if error.response is not None else None
        if status == 401:
            raise ConfigError(
                "the Hub does not know this token; log in again with `hf auth login`, or check HF_TOKEN"
            ) from error
        if status in {403, 409} or isinstance(error, RepositoryNotFoundError):
            raise ConfigError(
                f"{repository} may not be written to with this login (the Hub answers {status}): it is somebody "
                "else's, or the token may only read; choose a name of your own, or a token that may write"
            ) from error
        raise ConfigError(f"the Hub refuses {repository}: {first_line(error)}") from error
    except (httpx.HTTPError, OSError) as error:
        raise ConfigError(
            f"the Hugging Face Hub cannot be reached ({first_line(error)}); check the network and try again"
        ) from error
