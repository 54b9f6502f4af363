"""Shorter or differently set trainings of an arm, judged on pairs held out of training: for halving and for search."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mmkd.cli.study_runs import StudyFolder, refuse_other_settings, write_config
from mmkd.cli.study_worker import Order
from mmkd.errors import ConfigError, TrainingError
from mmkd.study.arms import Arm
from mmkd.study.design import Study

METRIC = "val/recall@1"
MOST_HELD_OUT = 1_000  # as many as a validation takes
SHARE = 0.1


@dataclass(frozen=True)
class Trial:
    """A training that no ranking counts.

    Attributes:
        arm: what is trained, with the trial's own settings.
        folder: its run.
        order: to make it.
    """

    arm: Arm
    folder: Path
    order: Order

    @property
    def score(self) -> float:
        """Recall@1 among the held-out pairs at the training's end.

        Raises:
            TrainingError: its run says nothing of it.
        """
        found = None
        for line in (self.folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines():
            found = json.loads(line).get(METRIC, found)
        if found is None:
            raise TrainingError(f"{self.folder} has no {METRIC}; delete it and run the study again")
        return float(found)


def held_out(study: Study, pairs: int) -> int:
    """How many pairs a trial holds out: a tenth of the study's, 1,000 at most.

    Raises:
        ConfigError: the study has too few pairs.
    """
    limit = study.base.get("limit") or pairs
    count = min(MOST_HELD_OUT, int(SHARE * min(limit, pairs)))
    if count < 2:
        raise ConfigError(
            f"a study of {min(limit, pairs)} pairs has none to hold out; expected 20 or more for --halving and --search"
        )
    return count


def make_trial(
    study: Study, place: StudyFolder, arm: Arm, name: str, settings: Mapping[str, Any], hold_out: int
) -> Trial:
    """A trial of an arm, with the study's first seed.

    Args:
        study: whose arm it is.
        place: the study's folder.
        arm: what is tried.
        name: of the trial, such as ``halving/rung-1/mse``.
        settings: that differ from the arm's.
        hold_out: pairs to judge by.

    Raises:
        ConfigError: with these settings it cannot be trained, or its folder holds a run of others.
    """
    own = replace(arm, settings={**arm.settings, **settings, "hold_out": hold_out})
    folder, config = place.root / name, place.root / f"{name}.yaml"
    refuse_other_settings(folder, config, own, study)
    write_config(own, study, config)
    options = () if study.workers is None else ("--workers", str(study.workers))
    seed = study.seeds[0]
    order = Order(
        title=f"{arm.name} ({name})",
        seed=seed,
        config=config,
        folder=folder,
        log=place.root / "logs" / f"{name.replace('/', '-')}.log",
        study=place.root,
        evaluation=None,
        meters_energy=False,
        options=options,
    )
    return Trial(own, folder, order)
