"""A run: a folder with its resolved config, metrics, checkpoints, and the student as a Hugging Face folder."""

import re
from dataclasses import dataclass
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from mmkd.errors import ConfigError, ModelError
from mmkd.files import write_json
from mmkd.parse import read_json

RUN_FILE, CONFIG_FILE = "run.json", "config.yaml"
TRAINING, FINISHED, INTERRUPTED, FAILED = "training", "finished", "interrupted", "failed"
_CUT_OFF_START = re.compile(r"run\.json|\.(run\.json|config\.yaml)\.\d+\.tmp")


@dataclass(frozen=True)
class Run:
    """A run folder that holds ``run.json``.

    Attributes:
        folder: the run.
        record: what ``run.json`` says.
    """

    folder: Path
    record: dict[str, Any]

    @property
    def student(self) -> Path:
        """The trained student, as ``save_pretrained`` writes it."""
        return self.folder / "student"

    @property
    def checkpoints(self) -> Path:
        """Folder of the checkpoints."""
        return self.folder / "checkpoints"

    @property
    def metrics(self) -> Path:
        """One JSON object a line, each with its step."""
        return self.folder / "metrics.jsonl"

    @property
    def config(self) -> Path:
        """The resolved settings, as YAML that ``mmkd train --config`` reads."""
        return self.folder / CONFIG_FILE

    @property
    def teacher(self) -> str | None:
        """The teacher's hub id or folder; ``None`` for a student trained without one."""
        return (self.record.get("teacher") or {}).get("model")

    @property
    def teacher_revision(self) -> str | None:
        """The teacher's commit on the Hub."""
        return (self.record.get("teacher") or {}).get("revision")

    @property
    def finished(self) -> bool:
        """Whether the training came to its end and the student was saved."""
        return self.record.get("state") == FINISHED

    def update(self, **changes: Any) -> "Run":
        """Write ``run.json`` anew with some fields changed."""
        record = {**self.record, **changes}
        write_json(self.folder / RUN_FILE, record)
        return Run(self.folder, record)


def now() -> str:
    """This moment with its time zone, to the microsecond, as ISO 8601."""
    return datetime.now().astimezone().isoformat(timespec="microseconds")


def library_versions() -> dict[str, str]:
    """Versions of what a training's numbers depend on."""
    return {name: version(name) for name in ("mmkd", "torch", "transformers", "accelerate", "faiss-cpu")}


def read_run(folder: Path) -> Run:
    """Read a run's folder.

    Raises:
        ModelError: it is not a run.
    """
    if not (folder / RUN_FILE).is_file():
        raise ModelError(f"{folder} holds no {RUN_FILE}; expected a folder written by `mmkd train`")
    record = read_json(folder / RUN_FILE)
    for name in ("recipe", "teacher", "cache"):
        if not isinstance(record.get(name), dict | None):
            raise ModelError(
                f"{folder / RUN_FILE} holds a {type(record[name]).__name__} as {name!r}; expected an object, as "
                "`mmkd train` writes it"
            )
    return Run(folder, record)


def list_runs(runs: Path) -> list[Run]:
    """All runs in a folder, oldest first."""
    found = [read_run(file.parent) for file in runs.glob(f"*/{RUN_FILE}")]
    return sorted(found, key=lambda run: str(run.record.get("started")))


def latest_run(runs: Path) -> Run:
    """The newest finished run.

    Raises:
        ModelError: there is none.
    """
    finished = [run for run in list_runs(runs) if run.finished]
    if not finished:
        raise ModelError(
            f"no finished run in {runs}; train one with `mmkd train --kd mse+cos`, or pass --model"
        )
    return finished[-1]


def newest_run(runs: Path) -> Run:
    """The newest run, the newest finished one where there is one.

    Raises:
        ModelError: there is none.
    """
    found = list_runs(runs)
    if not found:
        raise ModelError(f"no run in {runs}; train one with `mmkd train --kd mse+cos`, or name a run")
    return ([run for run in found if run.finished] or found)[-1]


def new_run_folder(runs: Path, name: str) -> Path:
    """A folder name not taken yet: the day and the name, numbered from the second on."""
    stem = f"{datetime.now().astimezone():%Y-%m-%d}-{name}"
    folder, number = runs / stem, 2
    while folder.exists():
        folder, number = runs / f"{stem}-{number}", number + 1
    return folder


def claim_run_folder(folder: Path, record: dict[str, Any]) -> Run:
    """Make a new run's folder and write its first ``run.json``.

    A folder that was claimed before, but got no settings since that start was cut off, is taken over.

    Raises:
        ConfigError: the folder holds something else already.
    """
    held = list(folder.iterdir()) if folder.is_dir() else []
    is_file = folder.exists() and not folder.is_dir()
    if is_file or not all(_CUT_OFF_START.fullmatch(path.name) for path in held):
        raise ConfigError(
            f"{folder} holds something already; pass --resume to go on with it, or another --out"
        )
    for path in held:
        path.unlink()
    folder.mkdir(parents=True, exist_ok=True)
    return Run(folder, {}).update(schema=1, state=TRAINING, started=now(), **record)
