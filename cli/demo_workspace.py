"""What the demo lays into its workspace before the first command: scenes, teacher, settings."""

import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mmkd.cli.console import progress, say
from mmkd.cli.workspace import Workspace
from mmkd.errors import ConfigError, ModelError
from mmkd.files import atomic_folder, write_json, write_text
from mmkd.parse import read_json

TEACHER_FILES = ("config.json", "model.safetensors", "preprocessor_config.json", "tokenizer.json")
# The carried teacher was trained on scenes of seed 1; these have never been drawn before.
_PAIRS_SEED, _TEST_SEED = 10_000, 20_000


@dataclass(frozen=True, slots=True)
class DemoSettings:
    """What makes one demo differ from another.

    Attributes:
        pairs: training scenes.
        epochs: passes over them, of the student and of the one from scratch alike.
        batch_size: pairs a step.
        lr: peak learning rate.
        seen: test scenes of each class that training draws.
        unseen: test scenes of each class that it never does.
        seed: of the scenes and of both trainings.
    """

    pairs: int
    epochs: int
    batch_size: int
    lr: float
    seen: int
    unseen: int
    seed: int


@dataclass(frozen=True, slots=True)
class DemoWorkspace:
    """The paths of a demo."""

    root: Path

    @property
    def space(self) -> Workspace:
        """The same folder, as the other commands see it."""
        return Workspace(self.root)

    @property
    def record(self) -> Path:
        """Marks the folder as a demo's."""
        return self.root / "demo.json"

    @property
    def pairs(self) -> Path:
        """Training scenes with captions."""
        return self.root / "scenes" / "train.parquet"

    @property
    def seen(self) -> Path:
        """Test scenes of classes that training draws."""
        return self.root / "scenes" / "seen.parquet"

    @property
    def unseen(self) -> Path:
        """Test scenes of classes that training never draws."""
        return self.root / "scenes" / "never-seen.parquet"

    @property
    def templates(self) -> Path:
        """How a class name becomes a caption."""
        return self.root / "scenes" / "templates.txt"

    @property
    def teacher(self) -> Path:
        """The teacher, copied from the package."""
        return self.root / "teacher"

    @property
    def scratch(self) -> Path:
        """The run of the student without a teacher; outside runs/, so that it is never the latest run."""
        return self.root / "scratch"


def claim(demo: DemoWorkspace, settings: DemoSettings) -> dict[str, Any]:
    """Make the folder a demo's, or find it to be this very demo's, to be gone on with.

    Returns:
        The demo's record.

    Raises:
        ConfigError: it holds something else, or a demo with other settings.
    """
    if demo.record.is_file():
        record = read_json(demo.record)
        found, wanted = record.get("settings") or {}, asdict(settings)
        if changed := [key for key in wanted if found.get(key) != wanted[key]]:
            there, here = (
                ", ".join(f"{key} {values.get(key)}" for key in changed) for values in (found, wanted)
            )
            raise ConfigError(
                f"{demo.root} holds a demo with {there}; this one has {here}; pass another --work, or "
                "remove that folder"
            )
        return record
    if demo.root.exists() and not demo.root.is_dir():
        raise ConfigError(f"{demo.root} is a file; pass an empty or new folder with --work")
    if demo.root.is_dir() and (names := sorted(path.name for path in demo.root.iterdir())):
        some = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
        raise ConfigError(
            f"{demo.root} holds {some}, which no demo wrote; pass an empty or new folder with --work"
        )
    record = {"schema": 1, "settings": asdict(settings)}
    write_json(demo.record, record)
    return record


def draw_scenes(demo: DemoWorkspace, settings: DemoSettings) -> None:
    """Draw what is not there yet: training scenes, and test scenes of seen and of never-seen classes."""
    from mmkd import scenes

    write_text(demo.templates, scenes.TEMPLATE + "\n")
    seen, unseen = scenes.SEEN_LABELS, scenes.HELD_OUT_LABELS

    def pairs(path: Path, advance: Callable[[int], None]) -> None:
        seed = _PAIRS_SEED + settings.seed
        scenes.write_training_scenes(path, settings.pairs, seed, on_scenes=advance)

    def test(path: Path, advance: Callable[[int], None]) -> None:
        each, labels = (settings.seen, seen) if path == demo.seen else (settings.unseen, unseen)
        scenes.write_test_scenes(path, each, _TEST_SEED + settings.seed, labels=labels, on_scenes=advance)

    plan = [
        (demo.pairs, pairs, settings.pairs),
        (demo.seen, test, settings.seen * len(seen)),
        (demo.unseen, test, settings.unseen * len(unseen)),
    ]
    with progress("scenes") as bar:
        task = bar.add_task("drawing", total=sum(count for _, _, count in plan))
        for path, write, count in plan:
            if path.is_file():
                bar.advance(task, count)
            else:
                write(path, lambda done: bar.advance(task, done))
    for path, _, count in plan:
        say("scenes", f"{path} · {count:,} scenes")
    combinations = ", ".join(" ".join(combination) for combination in sorted(scenes.HELD_OUT))
    say("held out", f"never drawn for training, {len(unseen)} classes: {combinations}; small and large")


def copy_teacher(demo: DemoWorkspace, source: Path) -> None:
    """Copy the teacher into the workspace.

    Raises:
        ModelError: a file of it is missing.
    """
    missing = [name for name in TEACHER_FILES if not (source / name).is_file()]
    if missing:
        raise ModelError(f"the demo's teacher in {source} lacks {missing[0]}; install mmkd again")
    if not demo.teacher.exists():
        with atomic_folder(demo.teacher) as folder:
            for file in source.iterdir():
                if file.is_file():
                    shutil.copyfile(file, folder / file.name)
    say("teacher", f"{demo.teacher} · copied from the package, trained on scenes and on nothing else")


def write_settings(demo: DemoWorkspace, settings: DemoSettings) -> None:
    """Write mmkd.yaml, with which the plain commands run offline in this workspace."""
    import yaml

    values = {
        "cache-teacher": {"teacher": str(demo.teacher.resolve()), "data": [str(demo.pairs.resolve())]},
        "train": {
            "epochs": settings.epochs,
            "batch-size": settings.batch_size,
            "lr": settings.lr,
            "seed": settings.seed,
        },
        "eval": {
            "zero-shot": {
                "data": [str(demo.seen.resolve()), str(demo.unseen.resolve())],
                "templates": str(demo.templates.resolve()),
            }
        },
    }
    head = "# Written by `mmkd demo`: what the commands take for granted in this workspace.\n"
    write_text(demo.space.settings, head + yaml.safe_dump(values, sort_keys=False))
