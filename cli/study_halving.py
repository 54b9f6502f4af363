"""``mmkd study --halving``: arms that are hopeless after a part of the training are not trained to its end."""

from pathlib import Path

from mmkd.cli.console import say, warn
from mmkd.cli.study_runs import StudyFolder, carry_out_all
from mmkd.cli.study_trials import METRIC, Trial, held_out, make_trial
from mmkd.study.design import Study
from mmkd.study.halving import rungs, survivors


def halve_arms(study: Study, place: StudyFolder, *, jobs: int, pairs: int) -> dict[str, str]:
    """Train all arms for a quarter of the epochs, the better half for a half, and say which are dropped.

    Each part is a training of its own, with a schedule that ends where it ends, on the study's first seed, judged on
    pairs held out of the study's own. Baselines are never dropped.

    Args:
        study: what is to be run.
        place: its folder.
        jobs: trainings at a time.
        pairs: usable pairs of the cache.

    Returns:
        Why each dropped arm was, by name.

    Raises:
        MmkdError: there is nothing to halve, or an arm cannot be trained so.
    """
    left = [arm for arm in study.arms if arm.role == "arm"]
    hold_out, dropped = held_out(study, pairs), {}
    epochs = min(arm.recipe.epochs for arm in left)
    for number, rung in enumerate(rungs(len(left), epochs), start=1):
        trials = []
        for arm in left:
            name = f"halving/rung-{number}/{arm.slug}"
            settings = {"epochs": rung.epochs, "eval_every": 1_000_000_000}
            trials.append(make_trial(study, place, arm, name, settings, hold_out))
        say("halving", f"{len(left)} arms for {rung.epochs} of {epochs} epochs; {rung.keeps} go on")
        outcomes = carry_out_all([trial.order for trial in trials], jobs=jobs, quiet=True)
        failures = {outcome.order.folder: outcome.failure for outcome in outcomes if outcome.failure}
        scores = [_score(trial, failures) for trial in trials]
        kept = survivors(scores, rung.keeps)
        for place_of, (arm, score) in enumerate(zip(left, scores, strict=True)):
            if place_of not in kept:
                why = (
                    failures.get(trials[place_of].folder)
                    or f"{METRIC} {score:.3f} on {hold_out:,} held-out pairs"
                )
                dropped[arm.name] = f"dropped after {rung.epochs} of {epochs} epochs: {why}"
                warn(f"{arm.name} is {dropped[arm.name]}")
        left = [left[place_of] for place_of in kept]
    return dropped


def _score(trial: Trial, failures: dict[Path, str]) -> float:
    return float("-inf") if trial.folder in failures else trial.score
