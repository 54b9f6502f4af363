"""``mmkd study --search``: weights, temperatures and learning rate of each arm, tuned on held-out training pairs."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from mmkd.cli.console import say
from mmkd.cli.study_runs import StudyFolder, carry_out_all
from mmkd.cli.study_trials import METRIC, Trial, held_out, make_trial
from mmkd.errors import ConfigError
from mmkd.files import write_json
from mmkd.study.arms import Arm
from mmkd.study.design import Study
from mmkd.study.search_space import SearchSpace, space_of


@dataclass
class _Search:
    """One arm's search."""

    arm: Arm
    space: SearchSpace
    sampler: Any  # an optuna study
    trials: list[tuple[Trial, Any]]

    @property
    def best(self) -> tuple[Trial, float]:
        """The trial with the highest score, the first of equals.

        Raises:
            ConfigError: none came to an end.
        """
        known = [(trial, asked.value) for trial, asked in self._told() if asked.value is not None]
        if not known:
            raise ConfigError(
                f"no trial of arm {self.arm.name!r} came to an end; give it settings that can be trained, or leave out "
                "--search"
            )
        return max(known, key=lambda one: one[1])

    def _told(self) -> list[tuple[Trial, Any]]:
        return [(trial, self.sampler.trials[asked.number]) for trial, asked in self.trials]

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        trial, score = self.best
        return {
            "settings": {name: trial.arm.settings[name] for name in self.space.fields},
            METRIC: score,
            "trials": [
                {
                    "folder": str(trial.folder.name),
                    "settings": {name: trial.arm.settings[name] for name in self.space.fields},
                    METRIC: asked.value,
                }
                for trial, asked in self._told()
            ],
        }


def require_optuna() -> Any:
    """The module.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        import optuna
    except ImportError as error:
        raise ConfigError(
            "--search needs Optuna, which is not installed; pip install 'mmkd[search]' (or optuna)"
        ) from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


def search(study: Study, place: StudyFolder, *, trials: int, jobs: int, pairs: int) -> Study:
    """Tune every arm that is trained, the one from scratch included, and give the study with what was best.

    Every arm gets as many trials, each judged on the same pairs, held out of the study's own and never trained on in a
    trial; the ranked runs then train on all pairs. No test set is looked at. The first trial is the arm as it is. A
    search that was stopped asks the same questions again, and finds the answers in its folders.

    Args:
        study: what is to be run.
        place: its folder.
        trials: of each arm.
        jobs: trainings at a time.
        pairs: usable pairs of the cache.

    Raises:
        MmkdError: Optuna is missing, or no trial of an arm came to an end.
    """
    optuna = require_optuna()
    hold_out = held_out(study, pairs)
    searches = []
    for arm in study.arms:
        if arm.role != "untrained":
            space = space_of(arm)
            sampler = optuna.create_study(
                direction="maximize", sampler=optuna.samplers.TPESampler(seed=study.seeds[0])
            )
            sampler.enqueue_trial(space.start)
            searches.append(_Search(arm, space, sampler, []))
    for number in range(trials):
        say("search", f"trial {number + 1} of {trials} of {len(searches)} arms")
        _one_round(study, place, searches, number, hold_out, jobs)
    found = {one.arm.name: one.to_json() for one in searches}
    write_json(
        place.root / "search.json", {"schema": "mmkd.study-search", "schema_version": 1, "arms": found}
    )
    for one in searches:
        values = ", ".join(f"{k.replace('_', '-')} {v}" for k, v in found[one.arm.name]["settings"].items())
        say("found", f"{one.arm.name}: {values}")
    tuned = {one.arm.name: found[one.arm.name]["settings"] for one in searches}
    return replace(study, arms=_with(study.arms, tuned), notes=(*study.notes, _note(trials, hold_out)))


def _one_round(
    study: Study, place: StudyFolder, searches: list[_Search], number: int, hold_out: int, jobs: int
) -> None:
    asked = []
    for one in searches:
        answer = one.sampler.ask(one.space.distributions())
        settings = one.space.settings(answer.params) | {"eval_every": 1_000_000_000}
        name = f"search/{one.arm.slug}/trial-{number:03}"
        trial = make_trial(study, place, one.arm, name, settings, hold_out)
        one.trials.append((trial, answer))
        asked.append((one, trial, answer))
    outcomes = carry_out_all([trial.order for _, trial, _ in asked], jobs=jobs, quiet=True)
    failed = {outcome.order.folder for outcome in outcomes if outcome.failure}
    for one, trial, answer in asked:
        if trial.folder in failed:
            from optuna.trial import TrialState

            one.sampler.tell(answer, state=TrialState.FAIL)
        else:
            one.sampler.tell(answer, trial.score)


def _with(arms: tuple[Arm, ...], tuned: Mapping[str, Mapping[str, Any]]) -> tuple[Arm, ...]:
    return tuple(replace(arm, settings={**arm.settings, **tuned.get(arm.name, {})}) for arm in arms)


def _note(trials: int, hold_out: int) -> str:
    return (
        f"Weights, temperatures and learning rates are the best of {trials} trials of each arm, by recall@1 among "
        f"{hold_out:,} of the training pairs that the trials did not train on (search.json)."
    )
