"""The options of ``mmkd train``, in the groups that its ``--help`` shows."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from typer import Option


@dataclass(frozen=True)
class LossOptions:
    """What is learnt."""

    kd: Annotated[str, Option(help="KD losses: [weight*]name[@temperature] joined by '+', or none.")] = (
        "mse+cos"
    )
    task: Annotated[
        str, Option(help="Task losses, learnt from the pairs: the same way of writing, or none.")
    ] = "triplet"
    negatives: Annotated[
        str, Option(help="The triplet loss's negative of each row: semi-hard, hard or random.")
    ] = "semi-hard"
    margin: Annotated[float, Option(help="Of the triplet loss, in cosine distance.")] = 0.2


@dataclass(frozen=True)
class DataOptions:
    """What is read."""

    cache: Annotated[Path | None, Option(help="The teacher's cache; default: the workspace's.")] = None
    data: Annotated[list[str] | None, Option(help="The pairs, where they moved since they were cached.")] = (
        None
    )
    teacher: Annotated[str | None, Option(help="The teacher, where it moved since it was cached.")] = None
    views: Annotated[
        int | None, Option(help="Views of each image, shown by turns; default: all that the cache holds.")
    ] = None
    mismatched_augment: Annotated[
        str | None,
        Option(
            metavar="crop+flip|randaugment",
            help="Show a new view each epoch against the untouched image's target: worse than --views.",
        ),
    ] = None
    limit: Annotated[int | None, Option(help="Train on a random subset of this many pairs.")] = None


@dataclass(frozen=True)
class StudentOptions:
    """The student."""

    init: Annotated[
        str, Option(help="Student's weights: alternate (every other layer), first or random.")
    ] = "alternate"
    depth: Annotated[int | None, Option(help="Layers of each tower; default: half the teacher's.")] = None
    model_config: Annotated[
        Path | None,
        Option(help="config.json of a CLIP to train from scratch, with tokenizer and processor beside it."),
    ] = None


@dataclass(frozen=True)
class MiningOptions:
    """Mined negatives."""

    neighbours: Annotated[int, Option(help="Mined negatives a row, for the triplet loss.")] = 32


@dataclass(frozen=True)
class StepOptions:
    """Steps."""

    epochs: Annotated[int, Option(help="Passes over the pairs.")] = 10
    batch_size: Annotated[
        int | None,
        Option(help="Pairs a step, over all processes; default: 1024 on a GPU, 128 on a CPU."),
    ] = None
    lr: Annotated[float, Option(help="Peak learning rate of AdamW.")] = 1e-3
    warmup: Annotated[int | None, Option(help="Steps of warm-up; default: a tenth, 2,000 at most.")] = None
    weight_decay: Annotated[float, Option(help="On matrices; norms and biases have none.")] = 0.1
    clip_grad: Annotated[float, Option(help="Largest norm of the gradient; 0 for no clipping.")] = 1.0
    precision: Annotated[
        str | None, Option(help="fp32, bf16 or fp16; default: bf16 on a GPU, fp32 on a CPU.")
    ] = None
    seed: Annotated[int, Option(help="Of everything random.")] = 0


@dataclass(frozen=True)
class RunOptions:
    """The run."""

    out: Annotated[Path | None, Option(help="The run's folder; default: <work>/runs/<day>-<kd>.")] = None
    resume: Annotated[
        bool, Option("--resume", help="Go on from the last checkpoint of --out or the latest run.")
    ] = False
    workers: Annotated[int | None, Option(help="Loader processes; default: by the number of cores.")] = None
    save_every: Annotated[
        int | None, Option(help="Steps between checkpoints; default: an epoch, at least 200.")
    ] = None
    tracker: Annotated[str | None, Option(help="Also log to tensorboard, wandb or trackio.")] = None
