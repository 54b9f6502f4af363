"""From the options of a study to its ranked table: all that can be refused is refused before anything is trained."""

import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmkd.cache.locks import Lock
from mmkd.cli.console import progress, say
from mmkd.cli.study_file import StudyFile, parse_assignment, read_study_file, seed_list
from mmkd.cli.study_halving import halve_arms
from mmkd.cli.study_result import save_and_show
from mmkd.cli.study_runs import StudyFolder, carry_out_all, orders_of, refuse_other_runs, write_configs
from mmkd.cli.study_search import require_optuna, search
from mmkd.cli.study_worker import Outcome, open_tasks
from mmkd.errors import CacheError, ConfigError, MmkdError
from mmkd.runs import library_versions
from mmkd.study.arms import Arm, check_key, check_seeds, with_baselines
from mmkd.study.design import RECALLS, TOP_1, Evaluation, Study
from mmkd.study.ranking import ArmResult
from mmkd.study.results import read_result
from mmkd.study.search_space import SEARCHED

if TYPE_CHECKING:
    from mmkd.cache.store import CacheStore
    from mmkd.evaluation.captioned import RetrievalTask
    from mmkd.evaluation.zero_shot_task import ZeroShotTask

DEFAULT_SETS = ("cifar10", "cifar100", "stl10")


def run_study(file: Path | None, settings: dict[str, Any], *, work: Path) -> None:
    """Run a study, or go on with it.

    Args:
        file: its YAML, if there is one.
        settings: every option by name.
        work: the workspace.

    Raises:
        MmkdError: something cannot be read, or a run failed.
    """
    study = read_study(file, settings, work=work)
    place = StudyFolder(settings["out"] or work / "studies" / study.name)
    _check_launch(settings["launch"], settings["jobs"])
    if settings["search"]:
        require_optuna()
    for line in describe(study):
        say("study", line)
    labelled, captioned = open_tasks(study.evaluation)
    check_metric(study, labelled, captioned)
    store = _open_or_make_cache(study, place)
    check_against_cache(study, store)
    hashes = _hash_sets(labelled, captioned, study.evaluation.limit)
    study = replace(study, evaluation=replace(study.evaluation, hashes=hashes))
    with _alone(place.root):
        _run(study, place, store, settings)


def _run(study: Study, place: StudyFolder, store: "CacheStore", settings: dict[str, Any]) -> None:
    jobs, pairs = settings["jobs"], len(store.usable)
    refuse_other_runs(study, place, but=SEARCHED if settings["search"] else ())
    if settings["search"]:
        study = search(study, place, trials=settings["search"], jobs=jobs, pairs=pairs)
        refuse_other_runs(study, place)
    dropped = halve_arms(study, place, jobs=jobs, pairs=pairs) if settings["halving"] else {}
    write_configs(study, place)
    orders = orders_of(study, place, launch=settings["launch"], jobs=jobs, without=dropped)
    say("writes", f"{place.root} · {len(orders)} runs, {jobs} at a time")
    outcomes = carry_out_all(orders, jobs=jobs)
    results = collect(study, place, outcomes, dropped)
    record = {
        "command": shlex.join(["mmkd", *sys.argv[1:]]),
        "versions": library_versions(),
        "cache": {"path": str(store.folder.resolve()), "key": store.key},
        "teacher": store.spec.model,
        "pairs": pairs,
    }
    save_and_show(study, results, place.root, record)
    if failed := [outcome for outcome in outcomes if outcome.failure]:
        raise MmkdError(
            f"{len(failed)} of {len(orders)} runs failed, the first ({failed[0].order.title}): {failed[0].failure}; "
            "the others are ranked above, and the same command tries those again"
        )


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Hold the study's folder, whose files two studies at once would take from each other.

    Raises:
        ConfigError: another study holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = Lock.take(folder / ".study.lock")
    if lock is None:
        raise ConfigError(f"another `mmkd study` is at work in {folder}; wait for it, or pass another --out")
    try:
        yield
    finally:
        lock.release()


def read_study(file: Path | None, settings: dict[str, Any], *, work: Path) -> Study:
    """The study that file and options describe together; an option beats the file.

    Raises:
        MmkdError: the file cannot be read, or arms, seeds or settings cannot be used.
    """
    said = StudyFile(base={}, arms={}) if file is None else read_study_file(file)
    base = dict(said.base)
    for text in settings["set"] or ():
        key, value = parse_assignment(text)
        check_key(key, "--set")
        base[key] = value
    for key in base:
        check_key(key, f"base of {file}" if file else "--set")
    listed = dict(said.arms)
    for kd in settings["kd"] or ():
        if kd in listed:
            raise ConfigError(f"--kd {kd!r} is an arm already; give each once")
        listed[kd] = {"kd": kd}
    arms = [Arm(name, {**base, **varied}) for name, varied in listed.items()]
    evaluation = Evaluation(
        tuple(settings["eval_data"] or said.zero_shot),
        tuple(settings["retrieval_data"] or said.retrieval),
        str(settings["templates"]) if settings["templates"] else said.templates,
        settings["eval_limit"] or said.limit,
    )
    if not evaluation.zero_shot and not evaluation.retrieval:
        evaluation = replace(evaluation, zero_shot=DEFAULT_SETS)
    cache = settings["cache"] or (Path(said.cache) if said.cache else work / "cache")
    workers = settings["workers"] if settings["workers"] is not None else said.workers
    return Study(
        name=file.stem if file else "study",
        base=base,
        arms=with_baselines(arms, base),
        seeds=check_seeds(said.seeds if settings["seeds"] is None else seed_list(settings["seeds"])),
        cache=cache,
        evaluation=evaluation,
        rank_by=settings["rank_by"] or said.rank_by,
        teacher=settings["teacher"] or said.teacher,
        data=tuple(settings["data"] or said.data),
        template=settings["template"] or said.template,
        workers=workers,
        notes=(said.about.strip(),) if said.about else (),
    )


def describe(study: Study) -> list[str]:
    """What is compared, in a few lines."""
    arms = [arm.name for arm in study.arms if arm.role == "arm"]
    sets = ", ".join([*study.evaluation.zero_shot, *study.evaluation.retrieval])
    return [
        f"{len(arms)} arms: {', '.join(arms)}",
        f"beside them: {', '.join(arm.name for arm in study.arms if arm.role != 'arm')} · seeds: "
        f"{', '.join(map(str, study.seeds))}",
        f"judged by {sets}",
    ]


def check_metric(
    study: Study, labelled: "Sequence[ZeroShotTask]", captioned: "Sequence[RetrievalTask]"
) -> None:
    """Refuse to rank by what these sets do not measure.

    Raises:
        ConfigError: there is no such metric.
    """
    from mmkd.evaluation.zero_shot_report import RECALL, TOP_5

    known = [f"{task.name}/{metric}" for task in labelled for metric in (TOP_1, TOP_5, RECALL)]
    known += [f"{one.name}/{metric}" for one in captioned for metric in RECALLS]
    if study.rank_by is not None and study.rank_by not in known:
        near = get_close_matches(study.rank_by, known, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"expected one of {', '.join(known)}"
        raise ConfigError(f"--rank-by {study.rank_by!r} is not measured; {hint}")


def _hash_sets(
    labelled: "Sequence[ZeroShotTask]", captioned: "Sequence[RetrievalTask]", limit: int | None
) -> dict[str, str]:
    from mmkd.study.set_hashes import hash_sets

    sizes = [*(len(task.images) for task in labelled), *(len(one.pairs) for one in captioned)]
    with progress("images") as bar:
        task = bar.add_task("reading sets", total=sum(min(size, limit or size) for size in sizes))
        return hash_sets(labelled, captioned, limit, lambda done: bar.advance(task, done))


def _check_launch(launch: Path | None, jobs: int) -> None:
    if launch is None:
        return
    if not launch.is_file():
        raise ConfigError(
            f"--launch {launch} is no file; expected one such as configs/accelerate/multi-gpu.yaml"
        )
    if jobs > 1:
        raise ConfigError(
            f"--launch gives each run all the processes of {launch.name}, so runs follow one another; leave out "
            f"--jobs {jobs}"
        )


def _open_or_make_cache(study: Study, place: StudyFolder) -> "CacheStore":
    from mmkd.cache.store import open_cache

    if not (study.cache / "manifest.json").is_file():
        _make_cache(study, place)
    store = open_cache(study.cache, verify=True)
    if not store.spec.known:
        raise CacheError(
            f"{study.cache} does not say what made its vectors, and a study starts its students from their teacher's "
            "layers; make a cache with `mmkd cache-teacher`"
        )
    return store


def _make_cache(study: Study, place: StudyFolder) -> None:
    """Embed the pairs that the study names, or go on with that.

    Raises:
        ConfigError: it names none.
    """
    if not study.data:
        raise ConfigError(
            f"there is no cache in {study.cache}; make one with `mmkd cache-teacher --out {study.cache}`, name another "
            "with --cache, or name the pairs with --data (and --teacher) for the study to make it"
        )
    words = ["cache-teacher", "--out", str(study.cache), "--work", str(place.root)]
    for option, values in (
        ("--data", study.data),
        ("--teacher", (study.teacher,)),
        ("--template", (study.template,)),
    ):
        words += [word for value in values if value is not None for word in (option, value)]
    line = shlex.join(["mmkd", *words])
    say("cache", f"{study.cache} is not there yet: {line}")
    # -P: like the mmkd script, and unlike plain -m, this must not import what lies in the current folder.
    done = subprocess.run([sys.executable, "-P", "-m", "mmkd", *words], check=False)
    if done.returncode:
        raise CacheError(f"`{line}` stopped (exit code {done.returncode}); it says why above")


def check_against_cache(study: Study, store: "CacheStore") -> None:
    """Resolve every arm against the cache, so that what cannot be trained is refused before anything is.

    Raises:
        ConfigError: names the arm and what does not fit.
    """
    pairs = len(store.usable)
    for arm in study.arms:
        recipe = arm.recipe
        try:
            if recipe.limit is not None and recipe.limit < 2:
                raise ConfigError(f"--limit {recipe.limit} leaves nothing to train on; expected 2 or more")
            recipe.resolve(
                pairs=min(pairs, recipe.limit or pairs) - recipe.hold_out,
                processes=1,
                accelerated=False,
                precision="fp32",
                views=store.views,
            )
        except MmkdError as error:
            raise ConfigError(f"arm {arm.name!r}: {error}") from error


def collect(
    study: Study, place: StudyFolder, outcomes: list[Outcome], dropped: Mapping[str, str]
) -> list[ArmResult]:
    """Every arm with its runs that came to an end; one that was dropped has none."""
    failures = {outcome.order.folder: outcome.failure for outcome in outcomes if outcome.failure}
    found = []
    for arm in study.arms:
        if arm.name in dropped:
            found.append(ArmResult(arm, (), dropped=dropped[arm.name]))
            continue
        runs, failed = [], {}
        for seed in arm.seeds(study.seeds):
            folder = place.run(arm, seed)
            if folder in failures:
                failed[seed] = str(failures[folder])
            else:
                runs.append(read_result(folder, seed))
        found.append(ArmResult(arm, tuple(runs), failed))
    return found
