"""Which models an evaluation compares: runs, folders and hub ids, and the teacher that a run names."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mmkd.cli.console import say
from mmkd.errors import ConfigError, ModelError
from mmkd.runs import RUN_FILE, Run, latest_run, read_run

if TYPE_CHECKING:
    from mmkd.embeddings import TeacherSpec
    from mmkd.encoders import PairEncoder

TEACHER = "teacher"


@dataclass(frozen=True)
class Subject:
    """A model to judge.

    Attributes:
        name: its heading in tables.
        source: hub id, or a folder that transformers can load.
        revision: commit on the Hub.
        run: the run that it is the student of, if it is one's.
    """

    name: str
    source: str
    revision: str | None = None
    run: Run | None = None

    def load(self) -> "PairEncoder":
        """Load the model onto this machine's best device, in float32."""
        from mmkd.encoders import load_encoder

        return load_encoder(self.source, revision=self.revision)


def find_students(models: Sequence[str], runs: Path) -> list[Subject]:
    """The models to judge: the latest run where none is named.

    A single one is called ``student``; several are called by their run or folder.

    Raises:
        ModelError: there is no run yet, or a run has no student.
    """
    if not models:
        return [_of_run("student", latest_run(runs))]
    if len(models) == 1:
        return [_subject("student", models[0])]
    names = distinct_names([Path(model).name or model for model in models])
    return [_subject(name, model) for name, model in zip(names, models, strict=True)]


def distinct_names(names: Sequence[str], *, reserved: str | None = TEACHER) -> list[str]:
    """Each name once, and none the reserved one: those that would not be are told apart by their place, ``run (2)``."""
    counts = Counter([*names, *([] if reserved is None else [reserved])])
    taken = {name for name, count in counts.items() if count == 1} | {reserved}
    found = []
    for place, name in enumerate(names, start=1):
        distinct = name
        while counts[name] > 1 and (distinct == name or distinct in taken):
            distinct = f"{distinct} ({place})"
        taken.add(distinct)
        found.append(distinct)
    return found


def find_teacher(teacher: str | None, students: Sequence[Subject]) -> Subject | None:
    """The teacher: the one named, else the first that a student's run names, else ``None``."""
    if teacher is not None:
        return _subject(TEACHER, teacher)
    for student in students:
        if student.run is not None and student.run.teacher is not None:
            return Subject(TEACHER, student.run.teacher, student.run.teacher_revision)
    return None


def report_file(out: Path | None, students: Sequence[Subject], work: Path, name: str) -> Path:
    """Where a report goes: ``out``, else the first student's run, else the workspace.

    Raises:
        ConfigError: ``out`` is a folder, or no ``.json``: the rest goes beside it, by other endings.
    """
    if out is None:
        run = students[0].run if students else None
        return (work if run is None else run.folder) / name
    if out.is_dir():
        raise ConfigError(f"{out} is a folder; expected the name of a file, such as {out / name}")
    if out.suffix != ".json":
        raise ConfigError(
            f"--out {out} does not end in .json; expected such as {out.with_name(f'{out.stem}.json')}"
        )
    return out


def refresh_card(file: Path, students: Sequence[Subject]) -> None:
    """Bring the student's model card up to date with the evaluation just written to its run."""
    from mmkd.model_card import refresh_model_card

    run = students[0].run
    if run is not None and file.parent.resolve() == run.folder.resolve() and refresh_model_card(run):
        say("card", f"{run.student / 'README.md'} says so too")


def describe(spec: "TeacherSpec") -> str:
    """``openai/clip-vit-base-patch32 @ 3d74acf · 12 + 12 layers · 512-d``."""
    if spec.layers is None:
        return f"unknown teacher · {spec.dim}-d"
    path = Path(spec.model)
    short = path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else spec.model
    revision = f" @ {spec.revision[:7]}" if spec.revision else ""
    return f"{short}{revision} · {spec.layers[0]} + {spec.layers[1]} layers · {spec.dim}-d"


def _subject(name: str, model: str) -> Subject:
    folder = Path(model)
    if (folder / RUN_FILE).is_file():
        return _of_run(name, read_run(folder))
    return Subject(name, model)


def _of_run(name: str, run: Run) -> Subject:
    if not run.student.is_dir():
        raise ModelError(
            f"{run.folder} has no student yet; let `mmkd train` come to its end (--resume), or pass --model"
        )
    return Subject(name, str(run.student), None, run)
