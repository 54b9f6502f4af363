"""``mmkd train``: a half-depth student against a cache, or a CLIP from scratch."""

from typing import Any

import typer

from mmkd.cli.option_groups import takes_option_groups
from mmkd.cli.options import DEFAULT_WORK, Config, Work
from mmkd.cli.train_options import (
    DataOptions,
    LossOptions,
    MiningOptions,
    RunOptions,
    StepOptions,
    StudentOptions,
    ValidationOptions,
)


@takes_option_groups
def train(
    ctx: typer.Context,
    *,
    losses: LossOptions,
    data: DataOptions,
    student: StudentOptions,
    mining: MiningOptions,
    steps: StepOptions,
    validation: ValidationOptions,
    run_options: RunOptions,
    config: Config = None,  # noqa: ARG001 (its callback reads the file)
    work: Work = DEFAULT_WORK,
) -> None:
    """Train a half-depth student against the teacher's cache.

    \b
    Examples:
      accelerate launch mmkd train --kd mse+cos      (from the checkout)
      accelerate launch -m mmkd train --kd mse+cos   (anywhere)
      mmkd train --kd "2000*mse + affinity@0.05" --task clip --epochs 20
      mmkd train --kd none --task clip --init random      the fair baseline: same shape, no teacher

    \b
    Task losses for --task (a bare name takes the weight in brackets):
      triplet    the pair nearer than one negative (1; FaceNet)
      clip       contrastive cross-entropy (1; CLIP)
      siglip     a yes or a no for each image and text (1; SigLIP)
      soft-clip  clip with targets softened by the teacher, temperature 0.05 (1; ALBEF)

    \b
    KD losses for --kd:
      mse        squared error of unit vectors (2000; CLIP-KD)
      cos        one minus the cosine (1)
      l1         absolute error of unit vectors (100)
      huber      squared error of unit vectors, linear for the large (4000)
      kl         KL over the dimensions of an embedding, temperature 0.05 (1)
      nst        second moments of the batch's unit vectors (50; NST)
      mse-raw    squared error of the vectors before they are normalised (10)
      affinity   KL of in-batch similarities, temperature 0.05 (1; TinyCLIP)
      crd        the same, the student at its learnt scale, temperature 0.01 (1; CLIP-KD)
      icl        student images against teacher texts, and the reverse (1; CLIP-KD)
      gd         gradients of the contrastive loss, temperature 0.05 (0.01; CLIP-KD)
      rkd        distances and angles between rows (25; RKD)
    """
    settings: dict[str, Any] = {}
    for group in (losses, data, student, mining, steps, validation, run_options):
        settings |= vars(group)
    from mmkd.cli.training_start import run_training

    run_training(settings, run_options, typed=_typed(ctx), work=work)


def _typed(ctx: typer.Context) -> set[str]:
    """The options that stand on the command line."""
    sources = {name: ctx.get_parameter_source(name) for name in ctx.params}
    return {name for name, source in sources.items() if source is not None and source.name == "COMMANDLINE"}
