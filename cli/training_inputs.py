"""What a training reads: the cache, the pairs, the mined neighbours and the student's first weights."""

import os
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mmkd.cli.console import say, warn
from mmkd.cli.imported_inputs import (
    check_width,
    open_student_folder,
    refuse_absent_sides,
    teacher_is_unknown,
)
from mmkd.cli.pixel_inputs import describe_pixels, sides_to_read
from mmkd.encoders import read_teacher_spec
from mmkd.errors import ConfigError, MmkdError, ModelError, StaleCacheError
from mmkd.families import load_processors, read_model_config
from mmkd.hub import resolve_model
from mmkd.parse import read_yaml
from mmkd.recipe import Recipe
from mmkd.row_set import RowSet, split_rows
from mmkd.runs import Run, list_runs, read_run

if TYPE_CHECKING:
    from accelerate import Accelerator

    from mmkd.cache.store import CacheStore
    from mmkd.data import PairDataset
    from mmkd.mining import Neighbours, SearchOptions
    from mmkd.students import Init, Student

CHANGEABLE = ("save_every", "keep")  # kept with a run, but another value may be typed to resume it


@dataclass(frozen=True)
class Inputs:
    """What a training reads.

    Attributes:
        pairs: images and captions.
        rows: those to train on.
        held_out: int64 (M,): the rows of ``--hold-out``.
        image_processor: the student's preprocessing, the teacher's own.
        tokenizer: the student's tokenizer, the teacher's own.
        model: the teacher's hub id or folder, or the folder of ``--model-config``.
        revision: the teacher's commit on the Hub.
        store: the teacher's embeddings; ``None`` for a CLIP from scratch.
        has_teacher: whether ``model`` is a teacher, whose shape and weights the student may take.
    """

    pairs: "PairDataset"
    rows: RowSet
    image_processor: Any
    tokenizer: Any
    model: str
    revision: str | None
    store: "CacheStore | None"
    has_teacher: bool = True
    held_out: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, dtype=np.int64))

    def record(self) -> dict[str, Any]:
        """What ``run.json`` says of them."""
        sources = [source.to_json() for source in self.pairs.sources]
        spec = None if self.store is None else asdict(self.store.lead) | {"model": self.model}
        folder = (
            None if self.store is None else {"path": str(self.store.folder.resolve()), "key": self.store.key}
        )
        record = {
            "teacher": spec if self.has_teacher else None,
            "cache": folder,
            "data": sources,
            "pairs": len(self.rows),
        }
        if self.store is not None and len(self.store.teachers) > 1:
            record["teachers"] = [asdict(one) for one in self.store.teachers]
        return record if self.has_teacher else record | {"model_config": self.model}

    def settings(self) -> dict[str, Any]:
        """The options that name them, as ``mmkd train --config`` reads them."""
        config = {} if self.has_teacher else {"model-config": str(Path(self.model) / "config.json")}
        if self.store is None:
            return config | {"data": [source.spec for source in self.pairs.sources]}
        picked = {} if self.store.picked is None else {"pick-teacher": str(self.store.picked + 1)}
        return config | picked | {"cache": str(self.store.folder.resolve())}

    def build_student(self, recipe: Recipe) -> "Student":
        """The student before its first step."""
        from mmkd.students import build_student, student_of_config

        if not self.has_teacher:
            config = read_model_config(Path(self.model), name=self.model)
            return student_of_config(config, recipe.shape.towers, seed=recipe.seed)
        return build_student(
            self.model,
            recipe.shape,
            init=recipe.init,
            seed=recipe.seed,
            revision=self.revision,
            dim=None if self.store is None else self.store.spec.dim,
        )

    def default_init(self, recipe: Recipe) -> "Init":
        """Where the student's weights come from, unless it was chosen."""
        from mmkd.students import default_init

        if not self.has_teacher:
            return "random"
        return default_init(self.model, recipe.shape, revision=self.revision)

    def mine(self, recipe: Recipe, accelerator: "Accelerator", memory: str | None) -> "Neighbours | None":
        """Negatives for the triplet loss and the bank, mined once by all processes and kept beside the cache.

        Args:
            recipe: what is trained.
            accelerator: of the processes that share the work.
            memory: ``--mining-memory``.
        """
        if self.store is None and recipe.refresh_every:
            raise ConfigError(
                "--refresh-every needs a cache, whose teacher tells false negatives; leave it out"
            )
        if self.store is None or not recipe.mines:
            return None
        from mmkd.cache.neighbours import load_or_mine
        from mmkd.cli.mining_progress import MiningProgress, say_mined
        from mmkd.mining import Share

        search = self.search_options(recipe, accelerator, memory)
        with MiningProgress() as bar:
            found = load_or_mine(
                self.store,
                self.rows.to_array(),
                self.first_captions,
                rules=recipe.rules,
                seed=recipe.seed,
                search=search,
                share=Share.current(),
                on_progress=bar,
            )
        say_mined(found, recipe.neighbours, "among first captions", kept=not bar.mined)
        return found

    @cached_property
    def first_captions(self) -> NDArray[np.uint64]:
        """Hash of each row's first caption, uint64 (N,); every process must ask for it, and each reads a part."""
        from mmkd.cli.mining_progress import MiningProgress
        from mmkd.mining import Share
        from mmkd.mining.first_captions import first_caption_ids

        assert self.store is not None
        rows, share = self.rows.to_array(), Share.current()
        with MiningProgress() as bar:
            return first_caption_ids(self.pairs, self.store, rows, share=share, on_progress=bar)

    def search_options(
        self, recipe: Recipe, accelerator: "Accelerator", memory: str | None
    ) -> "SearchOptions":
        """The search that suits data and machine: the same for any number of processes."""
        from mmkd.mining import SearchOptions, choose_method, parse_memory

        assert self.store is not None
        machine = parse_memory(memory)
        cuda = accelerator.device.type == "cuda"
        captions, dim = len(np.unique(self.first_captions)), self.store.spec.dim
        method = choose_method(captions, dim, memory=machine, asked=recipe.mining_search, cuda=cuda)
        own = machine // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
        return SearchOptions(method, own, accelerator.device if cuda else None, self.store.folder)

    @property
    def views(self) -> int:
        """Views of each image that there are targets for."""
        return 1 if self.store is None else self.store.views

    def _made_by(self) -> str:
        assert self.store is not None
        imported = self.store.manifest.settings.imported
        if imported is None:
            others = len(self.store.teachers) - 1
            return f"made by {self.model}" + (f" and {others} more, side by side" if others else "")
        sides = f"imported {' and '.join(imported.sides)} vectors"
        return (
            f"{sides}, said to be of {self.model}"
            if self.store.spec.known
            else f"{sides} of an unknown teacher"
        )

    def describe_views(self, recipe: Recipe) -> None:
        """Say which views are shown, where they are not the untouched images against their own targets."""
        if recipe.mismatched is not None:
            target = "" if self.store is None else ", against the targets of the untouched images"
            say("views", f"mismatched: a new one each epoch of {recipe.mismatched}{target}")
        elif self.store is not None and self.store.views > 1:
            unused = "" if recipe.views == self.store.views else f" of the cache's {self.store.views}"
            say("views", f"{recipe.views}{unused} by turns, one each epoch ({self.store.augmentation})")

    def describe(self, recipe: Recipe, student: "Student") -> None:
        """Say what the training takes for granted."""
        if self.store is None:
            for line in self.pairs.describe():
                say("data", line)
        else:
            say("cache", f"{self.store.folder} · {len(self.rows):,} pairs · {self._made_by()} ✓ verified")
            if not self.store.spec.known:
                warn(
                    "the teacher could not be checked: the cache does not say what made its vectors"
                    + (f", and {self.model} was taken on your word" if self.has_teacher else "")
                )
        self.describe_views(recipe)
        if self.store is not None:
            describe_pixels(self.store, recipe)
        if (share := recipe.synthetic_share) is not None:
            say("captions", f"synthetic with probability {share:g} where a pair has both kinds")
        say("student", student.describe(recipe.init or "random", recipe.towers))
        say("loss", recipe.objective.describe())
        say(
            "steps",
            f"{recipe.epochs} epochs of {len(self.rows) // recipe.global_batch:,} x {recipe.global_batch} pairs"
            + (f", in {recipe.accumulate} parts" if recipe.accumulate > 1 else ""),
        )


def open_inputs(
    recipe: Recipe,
    *,
    cache: Path,
    data: list[str] | None,
    teacher: str | None,
    model_config: Path | None,
    pick_teacher: str | None = None,
) -> Inputs:
    """Open what the training reads, and refuse what does not belong together.

    Raises:
        ConfigError: the options contradict each other.
        StaleCacheError: the cache was made by another teacher or from other data.
        CacheError, DataError, ModelError: something cannot be opened.
    """
    if model_config is not None:
        if pick_teacher is not None:
            raise ConfigError(
                f"--pick-teacher {pick_teacher} is of a cache's teachers; with --model-config leave it out"
            )
        learns_from_cache = recipe.objective.needs_teacher or recipe.towers != "both"
        if learns_from_cache and teacher_is_unknown(cache):
            return _open_without_teacher(recipe, cache, data, model_config)
        return _open_from_scratch(recipe, data, model_config)
    return _open_cached(recipe, cache, data, teacher, pick_teacher)


def _open_from_scratch(recipe: Recipe, data: list[str] | None, model_config: Path) -> Inputs:
    from mmkd.data import DataSource, open_pairs

    if recipe.objective.needs_teacher:
        raise ConfigError(
            f"--kd {recipe.kd} needs a teacher, and --model-config trains from scratch; use --kd none, or a --cache"
        )
    if (recipe.views or 1) > 1:
        raise ConfigError(
            f"--views {recipe.views} needs the targets of a cache, and --model-config trains without one; leave it out"
        )
    _refuse_teachers_options(recipe)
    if not data:
        raise ConfigError("--model-config trains without a cache, so it needs the pairs: pass --data")
    folder, image_processor, tokenizer = open_student_folder(model_config)
    pairs = open_pairs([DataSource(spec) for spec in data])
    rows, held_out = split_rows(RowSet.all_of(len(pairs)), recipe.limit, recipe.hold_out)
    model = str(folder.resolve())
    return Inputs(pairs, rows, image_processor, tokenizer, model, None, None, False, held_out)


def _open_without_teacher(recipe: Recipe, cache: Path, data: list[str] | None, model_config: Path) -> Inputs:
    """A cache that does not say what made it, and a student that says itself what it is."""
    from mmkd.cache.store import check_data, open_cache

    _refuse_teachers_shape(recipe)
    folder, image_processor, tokenizer = open_student_folder(model_config)
    store = open_cache(cache, verify=True)
    refuse_absent_sides(recipe, store)
    check_width(store, folder)
    pairs = store.open_pairs(data)
    check_data(store, pairs)
    rows, held_out = split_rows(store.usable, recipe.limit, recipe.hold_out)
    model = str(folder.resolve())
    return Inputs(pairs, rows, image_processor, tokenizer, model, None, store, False, held_out)


def _refuse_teachers_options(recipe: Recipe) -> None:
    """Refuse what only makes sense beside a teacher and its cache."""
    if recipe.towers != "both":
        raise ConfigError(
            f"--towers {recipe.towers} needs the teacher's cached embeddings, and --model-config trains without a "
            "cache; leave one of them out"
        )
    if recipe.bank:
        raise ConfigError(
            f"--bank {recipe.bank} is for a student of a cached teacher; with --model-config leave it out"
        )
    _refuse_teachers_shape(recipe)


def _refuse_teachers_shape(recipe: Recipe) -> None:
    """Refuse what says how a student differs from its teacher."""
    if recipe.init not in {None, "random"}:
        raise ConfigError(f"--init {recipe.init} needs a teacher, and --model-config has none; leave it out")
    for name in ("depth", "width", "student_config"):
        if value := getattr(recipe, name):
            option = "--" + name.replace("_", "-")
            raise ConfigError(
                f"{option} {value} is for a student of a cached teacher; with --model-config leave it out"
            )


def _open_cached(
    recipe: Recipe, cache: Path, data: list[str] | None, teacher: str | None, pick_teacher: str | None
) -> Inputs:
    from mmkd.cache.store import check_data, check_teacher, open_cache

    store = open_cache(cache, verify=True, teacher=pick_teacher)
    if teacher is None and not store.spec.known:
        raise ConfigError(
            f"{cache} does not say what made its vectors; pass --teacher, or for a student with random weights "
            "--model-config FOLDER/config.json with its tokenizer beside it"
        )
    refuse_absent_sides(recipe, store)
    model = teacher or store.lead.model
    revision = None if Path(model).is_dir() else store.lead.revision
    check_teacher(store, read_teacher_spec(model, revision=revision))
    image_processor, tokenizer = load_processors(resolve_model(model, revision=revision), name=model)
    pairs = store.open_pairs(data, sides=sides_to_read(store, recipe, image_processor))
    check_data(store, pairs)
    rows, held_out = split_rows(store.usable, recipe.limit, recipe.hold_out)
    return Inputs(pairs, rows, image_processor, tokenizer, model, revision, store, held_out=held_out)


def run_to_resume(out: Path | None, runs: Path) -> Run:
    """The run in ``out``, or the newest of ``runs`` that was not finished.

    Raises:
        ModelError: there is none.
        ConfigError: it is finished.
    """
    if out is not None:
        run = read_run(out)
        if run.finished:
            raise ConfigError(
                f"{out} is finished, so there is nothing to resume; its student is {run.student}"
            )
        return run
    unfinished = [run for run in list_runs(runs) if not run.finished]
    if not unfinished:
        raise ModelError(f"no unfinished run in {runs} to resume; name one with --out")
    return unfinished[-1]


def saved_settings(run: Run, settings: dict[str, Any], *, typed: set[str]) -> dict[str, Any]:
    """The options that a run was started with; what is typed again must say the same, save for ``CHANGEABLE``.

    Raises:
        ConfigError: an option was typed with another value.
    """
    if not run.config.is_file():
        raise ConfigError(
            f"{run.folder} was stopped before it had its {run.config.name}; start it again as you did at first"
        )
    try:
        saved = {str(key).replace("-", "_"): value for key, value in read_yaml(run.config).items()}
    except (MmkdError, AttributeError) as error:
        raise ConfigError(f"{run.config} cannot be read, so the run cannot be resumed") from error
    saved |= {
        name: Path(saved[name]) for name in ("cache", "model_config", "eval_templates") if name in saved
    }
    for name in sorted((typed & saved.keys()).difference(CHANGEABLE)):
        if settings[name] != saved[name]:
            option = "--" + name.replace("_", "-")
            raise ConfigError(
                f"{option} {settings[name]} was typed, but {run.folder} was started with {saved[name]}; leave "
                f"{option} out to resume, or start another run"
            )
    return {name: value for name, value in saved.items() if name in settings.keys() - typed}


def check_resumed(run: Run, inputs: Inputs) -> None:
    """Refuse to go on with other data than a run was started with.

    Raises:
        StaleCacheError: the cache or the data changed.
    """
    now = inputs.record()
    for name in ("cache", "pairs"):
        if run.record.get(name) != now.get(name):
            raise StaleCacheError(
                f"{run.folder} was started with {name} {run.record.get(name)}, and now finds {now.get(name)}; "
                "start another run"
            )
