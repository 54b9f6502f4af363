"""``mmkd study``: several ways to train on one cache, ranked with intervals."""

from pathlib import Path
from typing import Annotated, Any

import typer

from mmkd.cli.option_groups import takes_option_groups
from mmkd.cli.options import DEFAULT_WORK, Config, Work
from mmkd.cli.study_options import DesignOptions, HowOptions, JudgeOptions, StudyDataOptions


@takes_option_groups
def study(
    file: Annotated[
        Path | None,
        typer.Argument(metavar="FILE", help="YAML that says what is varied; see docs/study.md."),
    ] = None,
    *,
    design: DesignOptions,
    data: StudyDataOptions,
    judge: JudgeOptions,
    how: HowOptions,
    config: Config = None,  # noqa: ARG001 (its callback reads the file)
    work: Work = DEFAULT_WORK,
) -> None:
    """Train every arm with every seed on the same cache and rows, judge all students, and rank them.

    Beside the arms always stand the student from scratch (same shape, rows and budget, no teacher) and the untrained
    one (every other layer of the teacher). Arms are ranked by the mean over the seeds; what cannot be told from the
    best is called so. Stopped or killed, the same command goes on with the run where it was.

    \b
    Examples:
      mmkd study --kd mse+cos --kd kl --kd nst
      mmkd study --kd mse+cos --kd affinity --set epochs=4 --set lr=5e-4 --eval-data cifar10
      mmkd study configs/studies/original.yaml --jobs 4
      mmkd study my.yaml --launch configs/accelerate/multi-gpu.yaml
    """
    settings: dict[str, Any] = {}
    for group in (design, data, judge, how):
        settings |= vars(group)
    from mmkd.cli.study_start import run_study

    run_study(file, settings, work=work)
