"""All runs of a study, some at a time: what is finished is skipped, what was cut off goes on."""

import multiprocessing
import os
import signal
from collections.abc import Collection, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from mmkd.cli.console import progress, say, warn
from mmkd.cli.study_worker import Order, Outcome, carry_out, is_done, start_worker
from mmkd.errors import ConfigError, TrainingError
from mmkd.files import write_text
from mmkd.parse import read_yaml
from mmkd.recipe import Recipe
from mmkd.report.plain import mapping
from mmkd.runs import RUN_FILE, read_run
from mmkd.study.arms import FIELDS, Arm
from mmkd.study.design import Study


@dataclass(frozen=True)
class StudyFolder:
    """Where a study keeps what it makes."""

    root: Path

    @property
    def runs(self) -> Path:
        """One folder a run."""
        return self.root / "runs"

    def config(self, arm: Arm) -> Path:
        """YAML of ``mmkd train`` for an arm, all but the seed."""
        return self.root / "arms" / f"{arm.slug}.yaml"

    def run(self, arm: Arm, seed: int) -> Path:
        """An arm's run with a seed."""
        return self.runs / (arm.slug if arm.role == "untrained" else f"{arm.slug}-seed{seed}")

    def log(self, arm: Arm, seed: int) -> Path:
        """What a run said."""
        return self.root / "logs" / f"{self.run(arm, seed).name}.log"


def write_configs(study: Study, place: StudyFolder) -> None:
    """Write each arm's YAML."""
    for arm in study.arms:
        write_config(arm, study, place.config(arm))


def write_config(arm: Arm, study: Study, file: Path) -> None:
    """Write an arm's YAML: every field of its recipe, so that no default elsewhere changes it."""
    inputs: dict[str, Any] = {"cache": str(study.cache.resolve())}
    if study.data:
        inputs["data"] = list(study.data)
    if study.teacher is not None:
        inputs["teacher"] = study.teacher
    recipe = {
        name.replace("_", "-"): value
        for name, value in arm.recipe.to_dict().items()
        if name != "seed" and value is not None
    }
    write_text(file, yaml.safe_dump({**recipe, **inputs}, sort_keys=True))


def orders_of(
    study: Study, place: StudyFolder, *, launch: Path | None, jobs: int, without: Collection[str] = ()
) -> list[Order]:
    """Every run of the study, seed by seed, so that an interrupted study has all arms with fewer seeds."""
    found = []
    for seed in study.seeds:
        for arm in study.arms:
            if arm.name in without or seed not in arm.seeds(study.seeds):
                continue
            folder = place.run(arm, seed)
            options = () if study.workers is None else ("--workers", str(study.workers))
            found.append(
                Order(
                    title=f"{arm.name}, seed {seed}",
                    seed=seed,
                    config=place.config(arm),
                    folder=folder,
                    log=place.log(arm, seed),
                    study=place.root,
                    evaluation=study.evaluation,
                    trains=arm.role != "untrained",
                    launch=launch,
                    meters_energy=jobs == 1,
                    options=options,
                )
            )
    return found


def refuse_other_runs(study: Study, place: StudyFolder, *, but: Collection[str] = ()) -> None:
    """Refuse a study in whose folder lies a run that is not one of its own, before any file of it is written.

    Args:
        study: what is to be run.
        place: its folder.
        but: fields of the recipe that are not settled yet.

    Raises:
        ConfigError: a run that is there already was made with other settings or from another cache.
    """
    for arm in study.arms:
        for seed in arm.seeds(study.seeds):
            refuse_other_settings(place.run(arm, seed), place.config(arm), arm, study, but=but)


def refuse_other_settings(
    folder: Path, config: Path, arm: Arm, study: Study, *, but: Collection[str] = ()
) -> None:
    """Refuse to count a run of other settings as this arm's.

    Args:
        folder: the run's, if there is one.
        config: what the arm was when that was trained: it tells what was named from what was left to be chosen.
        arm: what it is now.
        study: whose it is.
        but: fields that are not compared.

    Raises:
        ConfigError: names the setting.
    """
    if not (folder / RUN_FILE).is_file():
        return
    record = read_run(folder).record
    recipe, cache = mapping(record.get("recipe")), mapping(record.get("cache")).get("path")
    if cache is not None and cache != str(study.cache.resolve()):
        raise ConfigError(
            f"{folder} was trained from the cache {cache}, and the study names {study.cache.resolve()}; give the study "
            "another --out, or delete that run"
        )
    named = mapping(read_yaml(config)) if config.is_file() else {}
    defaults, wanted = Recipe().to_dict(), arm.recipe.to_dict()
    if arm.recipe.student_config is not None:
        wanted["student_config"] = str(Path(arm.recipe.student_config).resolve())
    for name in FIELDS:
        key = name.replace("_", "-")
        # What is left open was chosen for the run, and is again, unless the arm named it then.
        has = wanted[name]
        had = named.get(key) if has is None else recipe.get(name, defaults[name])
        if name not in but and had != has:
            now = "leaves it open" if has is None else f"has {has}"
            raise ConfigError(
                f"{folder} was trained with {key} {had}, and arm {arm.name!r} {now}; give the study another --out, or "
                "delete that run"
            )


def devices_of(jobs: int) -> list[str | None]:
    """The card of each job, in turn; ``None`` for each where there are fewer than two."""
    import torch

    cards = torch.cuda.device_count() if torch.cuda.is_available() else 0
    return [str(job % cards) for job in range(jobs)] if cards > 1 else [None] * jobs


def carry_out_all(orders: Sequence[Order], *, jobs: int, quiet: bool = False) -> list[Outcome]:
    """Carry out every order, ``jobs`` at a time, each in a process of its own; failures do not stop the rest.

    Args:
        orders: runs; those that are done already start no process.
        jobs: at a time.
        quiet: without a line for each that is done.

    Raises:
        KeyboardInterrupt: a run was interrupted.
        TrainingError: a process was killed.
    """
    finished = [Outcome(order) for order in orders if is_done(order)]
    orders = [order for order in orders if not is_done(order)]
    if not orders:
        return finished
    context = multiprocessing.get_context("spawn")  # a fork would inherit torch's threads and a card's state
    devices = context.Queue()
    for device in devices_of(jobs):
        devices.put(device)
    total = len(finished) + len(orders)
    with progress("runs") as bar, sharing_cores(jobs):
        task = bar.add_task("study", total=total, completed=len(finished))
        pool = ProcessPoolExecutor(jobs, context, start_worker, (devices,))
        try:
            outcomes, left = finished, list(orders)
            bar.update(task, note=_at_work(left, jobs))
            for outcome in _finished(pool, orders):
                outcomes.append(outcome)
                left.remove(outcome.order)
                bar.update(task, advance=1, note=_at_work(left, jobs))
                if not quiet or outcome.failure is not None:
                    _say(outcome, len(outcomes), total)
            return outcomes
        except KeyboardInterrupt:
            _interrupt_workers()
            say("^C", "stopped; the same command goes on from there")
            raise
        except BrokenProcessPool as error:
            raise TrainingError(
                f"a process of the study was killed, maybe for want of memory; its runs say how far they came in "
                f"{orders[0].log.parent}; the same command goes on from there, with fewer --jobs if need be"
            ) from error
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
            devices.close()


@contextmanager
def sharing_cores(jobs: int) -> Iterator[None]:
    """Give each of so many processes that are started within its share of the cores, unless somebody chose already.

    They read it when they import torch, which comes before anything that they are told to do.
    """
    name = "OMP_NUM_THREADS"
    if jobs < 2 or name in os.environ:
        yield
        return
    os.environ[name] = str(max(1, (os.cpu_count() or 1) // jobs))
    try:
        yield
    finally:
        del os.environ[name]


def _at_work(left: Sequence[Order], jobs: int) -> str:
    """The runs that are being made: they start in order."""
    return ", ".join(order.title for order in left[:jobs])


def _interrupt_workers() -> None:
    """Pass ^C on to those at work, which a terminal does by itself and a signal to this process alone does not."""
    for child in multiprocessing.active_children():
        if child.pid is not None:
            with suppress(ProcessLookupError):
                os.kill(child.pid, signal.SIGINT)


def _finished(pool: ProcessPoolExecutor, orders: Sequence[Order]) -> Iterable[Outcome]:
    waiting: set[Future[Outcome]] = {pool.submit(carry_out, order) for order in orders}
    while waiting:
        done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
        for future in done:
            outcome = future.result()
            if outcome.interrupted:
                raise KeyboardInterrupt
            yield outcome


def _say(outcome: Outcome, done: int, total: int) -> None:
    if outcome.failure is not None:
        warn(f"{outcome.order.title} failed: {outcome.failure} (log: {outcome.order.log})")
    else:
        say("done", f"{done} of {total} · {outcome.order.title}")
