"""The options of ``mmkd train``, in the groups that its ``--help`` shows."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from typer import Option

from mmkd.cli.completion import complete_data, complete_kd, complete_runs, complete_task, one_of


@dataclass(frozen=True)
class LossOptions:
    """What is learnt."""

    kd: Annotated[
        str,
        Option(
            help="KD losses: [weight*]name[@temperature] joined by '+', or none.", autocompletion=complete_kd
        ),
    ] = "mse+cos"
    task: Annotated[
        str | None,
        Option(
            help="Task losses, learnt from the pairs: the same way of writing, or none; default: triplet, with one "
            "tower clip, with isolated ones none.",
            autocompletion=complete_task,
        ),
    ] = None
    towers: Annotated[
        str,
        Option(
            metavar="both|image|text|isolated",
            autocompletion=one_of("both", "image", "text", "isolated"),
            help="Train both; only one, beside the teacher's cached embeddings of the other; or each by itself.",
        ),
    ] = "both"
    bank: Annotated[
        int,
        Option(
            help="Score each student embedding also against N cached embeddings of other rows, the mined "
            "neighbours first.",
            metavar="N",
        ),
    ] = 0
    negatives: Annotated[
        str,
        Option(
            help="The triplet loss's negative of each row: semi-hard, hard or random.",
            autocompletion=one_of("semi-hard", "hard", "random"),
        ),
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
    pick_teacher: Annotated[
        str | None,
        Option(
            metavar="NAME_OR_NUMBER",
            help="Learn from one of the cache's teachers, by number from 1 or by name; default: all, side by side.",
        ),
    ] = None
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
    synthetic_share: Annotated[
        float | None,
        Option(
            metavar="P",
            help="How often a pair with real and synthetic captions shows a synthetic one; default: 0.5 where there "
            "are any.",
        ),
    ] = None
    limit: Annotated[int | None, Option(help="Train on a random subset of this many pairs.")] = None
    hold_out: Annotated[
        int,
        Option(
            metavar="N",
            help="Keep N of these pairs from training, to judge by as with --val-data; the same for every --seed.",
        ),
    ] = 0
    shuffle_tars: Annotated[
        int | None,
        Option(
            metavar="N",
            help="Go through WebDataset tars in a new order each epoch, shuffling rows within N tars at a time; "
            "default: all rows with each other.",
        ),
    ] = None


@dataclass(frozen=True)
class StudentOptions:
    """The student."""

    init: Annotated[
        str | None,
        Option(
            help="Student's weights: alternate (every other layer of the teacher), first or random; default: "
            "alternate, and random for a shape that the layers do not fit.",
            autocompletion=one_of("alternate", "first", "random"),
        ),
    ] = None
    depth: Annotated[
        int | None, Option(help="Layers of each trained tower; default: half the teacher's.")
    ] = None
    width: Annotated[
        int | None,
        Option(
            help="Hidden size of each trained tower; the projection stays the teacher's, and the weights start at "
            "random."
        ),
    ] = None
    student_config: Annotated[
        str | None,
        Option(
            metavar="FILE",
            help="config.json of a CLIP of any depth, width and projection, which fits the teacher's "
            "preprocessing and tokenizer.",
        ),
    ] = None
    model_config: Annotated[
        Path | None,
        Option(help="config.json of a CLIP to train from scratch, with tokenizer and processor beside it."),
    ] = None


@dataclass(frozen=True)
class MiningOptions:
    """Mined negatives."""

    neighbours: Annotated[int, Option(help="Mined negatives a row, for the triplet loss and the bank.")] = 32
    mining_range_min: Annotated[int, Option(help="Skip so many of a row's hardest negatives.")] = 0
    mining_range_max: Annotated[
        int | None, Option(help="Nearest captions to look at; default: range-min + neighbours.")
    ] = None
    absolute_margin: Annotated[
        float | None, Option(help="Drop those less than this below the positive's teacher similarity.")
    ] = None
    relative_margin: Annotated[
        float, Option(help="Drop those less than this share of the positive's similarity below it.")
    ] = 0.05
    max_score: Annotated[
        float | None, Option(help="Drop those of a higher teacher similarity than this.")
    ] = None
    refresh_every: Annotated[
        int, Option(help="Mine again in the student's space every so many epochs; 0 for never.")
    ] = 0
    mining_search: Annotated[
        str, Option(help="auto, exact, ivf or ivf-pq; auto is exact while that takes about a minute.")
    ] = "auto"
    mining_memory: Annotated[
        str | None, Option(metavar="SIZE", help="As 4GB; default: a quarter of the machine's.")
    ] = None


@dataclass(frozen=True)
class StepOptions:
    """Steps."""

    epochs: Annotated[int, Option(help="Passes over the pairs.")] = 10
    batch_size: Annotated[
        int | None,
        Option(help="Pairs a step, over all processes; default: 1024 on a GPU, 128 on a CPU."),
    ] = None
    accumulate: Annotated[
        int, Option(help="Batches that make one step, exactly as one batch so many times as large would.")
    ] = 1
    lr: Annotated[float, Option(help="Peak learning rate of AdamW.")] = 1e-3
    warmup: Annotated[int | None, Option(help="Steps of warm-up; default: a tenth, 2,000 at most.")] = None
    weight_decay: Annotated[float, Option(help="On matrices; norms and biases have none.")] = 0.1
    layer_decay: Annotated[
        float, Option(help="Each layer's learning rate as a share of the one above; 1 for one rate.")
    ] = 1.0
    text_lr: Annotated[
        float,
        Option(
            help="The text tower's learning rate as a share of the image tower's; below 1 where the captions hold few "
            "of the words that the student is to know."
        ),
    ] = 1.0
    ema: Annotated[
        float, Option(help="Save a moving average of the weights, of this decay (0.999); 0 for none.")
    ] = 0.0
    clip_grad: Annotated[float, Option(help="Largest norm of the gradient; 0 for no clipping.")] = 1.0
    precision: Annotated[
        str | None,
        Option(
            help="fp32, bf16 or fp16; default: bf16 on a GPU, fp32 on a CPU.",
            autocompletion=one_of("fp32", "bf16", "fp16"),
        ),
    ] = None
    gradient_checkpointing: Annotated[
        bool, Option("--gradient-checkpointing", help="Compute activations twice, to save memory.")
    ] = False
    seed: Annotated[int, Option(help="Of everything random.")] = 0


@dataclass(frozen=True)
class ValidationOptions:
    """Judging on the way."""

    val_data: Annotated[
        list[str] | None,
        Option(metavar="SPEC", help="Held-out pairs: val/loss and val/recall@1 over 1,000 of them."),
    ] = None
    eval_data: Annotated[
        list[str] | None,
        Option(
            metavar="SPEC",
            help="Sets to classify zero-shot, as `mmkd eval zero-shot --data` has them.",
            autocompletion=complete_data,
        ),
    ] = None
    eval_templates: Annotated[
        Path | None,
        Option(metavar="FILE", help="Templates for them, one a line, each with {} for the class."),
    ] = None
    eval_limit: Annotated[int | None, Option(min=2, help="Images to take of each set; default: all.")] = None
    eval_every: Annotated[int | None, Option(help="Steps between evaluations; default: an epoch.")] = None
    keep_best: Annotated[
        str | None,
        Option(
            metavar="METRIC", help="Save the best student instead of the last, by val/loss or cifar10/top-1."
        ),
    ] = None
    patience: Annotated[
        int | None, Option(help="Stop early after so many evaluations that brought nothing better.")
    ] = None


@dataclass(frozen=True)
class RunOptions:
    """The run."""

    out: Annotated[
        Path | None,
        Option(help="The run's folder; default: <work>/runs/<day>-<kd>.", autocompletion=complete_runs),
    ] = None
    resume: Annotated[
        bool, Option("--resume", help="Go on from the last checkpoint of --out or the latest run.")
    ] = False
    workers: Annotated[int | None, Option(help="Loader processes; default: by the number of cores.")] = None
    save_every: Annotated[
        int | None, Option(help="Steps between checkpoints; default: an epoch, at least 200.")
    ] = None
    keep: Annotated[int, Option(min=1, help="Newest checkpoints to keep.")] = 2
    compile: Annotated[
        bool, Option("--compile", help="Compile the towers: minutes at the start, faster steps on a GPU.")
    ] = False
    tracker: Annotated[str | None, Option(help="Also log to tensorboard, wandb or trackio.")] = None
