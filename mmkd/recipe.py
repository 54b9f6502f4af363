"""What a training was told to do: every setting with its default, resolved once and saved with the run."""

from dataclasses import asdict, dataclass, replace
from math import isfinite
from pathlib import Path
from typing import Any

from mmkd.augment import POLICIES, Augmentation
from mmkd.errors import ConfigError
from mmkd.mining.plan import choose_method
from mmkd.mining.rules import NegativeRules
from mmkd.objective import Objective, check_triplet, parse_terms
from mmkd.shapes import TOWERS, TRAINED, StudentShape, Towers
from mmkd.students import INITS, Init
from mmkd.synthetic import DEFAULT_SHARE

MIN_STEPS_PER_EPOCH = 20
# What is learnt from the pairs where --task is not given: with one tower, what needs no mined negatives; with
# isolated ones, nothing, since every task loss compares images with texts.
DEFAULT_TASKS = {"both": "triplet", "image": "clip", "text": "clip", "isolated": "none"}


@dataclass(frozen=True)
class Recipe:
    """The settings of a training that change its result.

    Attributes:
        kd: KD losses, as ``mse+cos``; ``none`` for no teacher.
        task: task losses, as ``triplet`` or ``triplet + 0.5*clip``; ``none`` to learn from the teacher alone;
            ``None``: ``triplet``, with one tower ``clip``, with isolated ones ``none``.
        negatives: which negative the triplet loss takes: ``semi-hard``, ``hard`` or ``random``.
        margin: of the triplet loss, in cosine distance.
        towers: ``both``; ``image`` or ``text`` alone, beside the teacher's cached embeddings of the other;
            ``isolated``: both, with no term across them.
        bank: cached embeddings of other rows that each step's student embeddings are scored against, too.
        init: where the student's weights come from; ``None``: ``alternate`` where the teacher's layers fit.
        depth: layers of each trained tower; ``None``: half the teacher's.
        width: hidden size of each trained tower; ``None``: the teacher's.
        student_config: a CLIP's ``config.json`` that says the student's shape instead.
        epochs: passes over the data.
        batch_size: rows of a step over all processes; ``None``: chosen from device and data.
        accumulate: such batches that make one step together, equal to one batch so many times as large.
        lr: peak learning rate of AdamW.
        warmup: steps of warm-up; ``None``: a tenth of all, 2,000 at most.
        weight_decay: on matrices only.
        layer_decay: the learning rate of a layer, as a share of the layer's above; 1 for one rate.
        text_lr: the learning rate of the text tower, as a share of the image tower's.
        ema: decay of the moving average of the weights that is saved in their stead; 0 for none.
        clip_grad: largest norm of the gradient; 0 for no clipping.
        precision: ``fp32``, ``bf16`` or ``fp16``; ``None``: bf16 on a GPU that has it, else fp32.
        seed: of initialisation, order of the rows, choice of captions and mining.
        gradient_checkpointing: whether activations are computed again in the backward pass, to save memory.
        eval_every: steps between two evaluations; ``None``: an epoch.
        patience: evaluations without a better ``keep_best`` after which the training stops; ``None``: never.
        keep_best: the metric whose best student is saved; ``None``: the last student, or with ``patience`` the
            first metric that is measured.
        neighbours: mined negatives a row.
        mining_search: ``auto``, ``exact``, ``ivf`` or ``ivf-pq``.
        mining_range_min: that many of the hardest negatives of a row are skipped.
        mining_range_max: nearest captions looked at; ``None``: mining_range_min + neighbours.
        absolute_margin: mined negatives lie at least this far below the positive's teacher similarity.
        relative_margin: mined negatives lie at least this share of the positive's teacher similarity below it.
        max_score: highest teacher similarity of a mined negative.
        refresh_every: epochs after which negatives are mined again, in the student's space; 0 for never.
        limit: pairs to train on, a random subset; ``None``: all.
        hold_out: of these, pairs that are kept from training, to judge the student by on the way.
        views: views of each image that are shown by turns; ``None``: all that the cache holds.
        mismatched_augment: shows views that no target was made from, of this policy, against the targets of
            view 0; ``None``: every view with the target made from it.
        shuffle_tars: tars whose rows are shuffled with each other, while the tars come in a new order each epoch;
            ``None``: all rows.
        synthetic_share: how often a pair that has both real and synthetic captions shows a synthetic one; ``None``:
            ``mmkd.synthetic.DEFAULT_SHARE`` where there are any.
    """

    kd: str = "mse+cos"
    task: str | None = None
    negatives: str = "semi-hard"
    margin: float = 0.2
    towers: Towers = "both"
    bank: int = 0
    init: Init | None = None
    depth: int | None = None
    width: int | None = None
    student_config: str | None = None
    epochs: int = 10
    batch_size: int | None = None
    accumulate: int = 1
    lr: float = 1e-3
    warmup: int | None = None
    weight_decay: float = 0.1
    layer_decay: float = 1.0
    text_lr: float = 1.0
    ema: float = 0.0
    clip_grad: float = 1.0
    precision: str | None = None
    seed: int = 0
    gradient_checkpointing: bool = False
    eval_every: int | None = None
    patience: int | None = None
    keep_best: str | None = None
    neighbours: int = 32
    mining_search: str = "auto"
    mining_range_min: int = 0
    mining_range_max: int | None = None
    absolute_margin: float | None = None
    relative_margin: float = 0.05
    max_score: float | None = None
    refresh_every: int = 0
    limit: int | None = None
    hold_out: int = 0
    views: int | None = None
    mismatched_augment: str | None = None
    shuffle_tars: int | None = None
    synthetic_share: float | None = None

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if isinstance(value, float) and not isfinite(value):
                raise ConfigError(f"--{name.replace('_', '-')} {value} is not finite; expected a number")
        for option in ("task", "kd"):  # an unknown loss is refused in the words that were typed
            parse_terms(getattr(self, option) or "none", option=f"--{option}")
        check_triplet(self.negatives, self.margin)
        if self.init is not None and self.init not in INITS:
            raise ConfigError(f"--init {self.init} is unknown; expected one of {', '.join(INITS)}")
        if not 0 <= self.seed < 1 << 63:
            raise ConfigError(f"--seed {self.seed} is no seed; expected 0 or more, below 2^63")
        for name in ("epochs", "lr"):
            if getattr(self, name) <= 0:
                raise ConfigError(f"--{name} {getattr(self, name)} is not above 0")
        self._check_towers()
        self._check_views()
        self._check_steps()
        self._check_mining()
        if self.hold_out < 0 or self.hold_out == 1:
            raise ConfigError(
                f"--hold-out {self.hold_out} is no set to judge by; expected 2 pairs or more, or 0"
            )
        if self.batch_size is not None and self.batch_size < 2:
            raise ConfigError(f"--batch-size {self.batch_size} leaves no negatives; expected 2 or more")

    def _check_towers(self) -> None:
        if self.towers not in TOWERS:
            raise ConfigError(f"--towers {self.towers} is unknown; expected one of {', '.join(TOWERS)}")
        if self.bank < 0:
            raise ConfigError(f"--bank {self.bank} is below 0; 0 is for no bank")
        objective, one_tower = self.objective, len(TRAINED[self.shape.towers]) == 1
        if self.towers == "isolated" and (crossing := objective.crossing):
            raise ConfigError(
                f"--towers isolated trains with no term across the towers, but {crossing[0]} compares images with "
                "texts; leave it out, or use --towers both"
            )
        if one_tower and not self.bank and any(term.name == "triplet" for term in objective.terms):
            raise ConfigError(
                f"--towers {self.towers} with --task {self.task} has only the batch to find its negatives in; add "
                "--bank 1024, or use --task clip"
            )
        if self.bank and not objective.uses_bank:
            raise ConfigError(
                f"--bank {self.bank} is used by no term of {objective.expression}; leave it out, or use triplet, clip "
                "or icl"
            )

    def _check_steps(self) -> None:
        for name in ("weight_decay", "clip_grad", "warmup"):
            if (getattr(self, name) or 0) < 0:
                raise ConfigError(f"--{name.replace('_', '-')} {getattr(self, name)} is below 0")
        for name in ("accumulate", "eval_every", "patience", "shuffle_tars", "limit"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"--{name.replace('_', '-')} {value} is not at least 1")
        if not 0 < self.layer_decay <= 1:
            raise ConfigError(f"--layer-decay {self.layer_decay} is not above 0 and at most 1")
        if not self.text_lr > 0:
            raise ConfigError(
                f"--text-lr {self.text_lr} is not above 0; --towers image leaves the text tower alone"
            )
        if not 0 <= self.ema < 1:
            raise ConfigError(f"--ema {self.ema} is not from 0 (none) to below 1; 0.999 is usual")

    def _check_mining(self) -> None:
        choose_method(0, 0, memory=0, asked=self.mining_search)
        assert self.rules.candidates  # one out of its range was refused
        if self.refresh_every < 0:
            raise ConfigError(
                f"--refresh-every {self.refresh_every} is below 0; expected epochs, or 0 for never"
            )
        if self.refresh_every and not self.mines:
            raise ConfigError(
                f"--refresh-every {self.refresh_every} mines for --task triplet or a --bank, and this training has "
                "neither (or takes --negatives random); leave it out"
            )

    def _check_views(self) -> None:
        if self.views is not None and self.views < 1:
            raise ConfigError(f"--views {self.views} shows nothing; expected at least 1")
        if self.synthetic_share is not None and not 0 <= self.synthetic_share <= 1:
            raise ConfigError(f"--synthetic-share {self.synthetic_share} is not from 0 to 1")
        if self.mismatched is not None and (self.views or 1) > 1:
            raise ConfigError(
                f"--mismatched-augment {self.mismatched_augment} holds every view against the target of view 0, and "
                f"--views {self.views} each against its own; leave one of them out"
            )

    @property
    def mismatched(self) -> Augmentation | None:
        """The views that no target was made from, if they were asked for."""
        if self.mismatched_augment is None:
            return None
        if self.mismatched_augment not in (shown := POLICIES[1:]):
            raise ConfigError(
                f"--mismatched-augment {self.mismatched_augment} is unknown; expected one of {', '.join(shown)}"
            )
        return Augmentation(self.mismatched_augment, self.seed)

    @property
    def objective(self) -> Objective:
        """Task and KD losses together."""
        parts = [part for part in (self._chosen_task, self.kd) if part != "none"]
        expression = " + ".join(parts) if parts else "none"
        return Objective(expression, negatives=self.negatives, margin=self.margin)

    @property
    def shape(self) -> StudentShape:
        """What the student looks like beside its teacher."""
        file = None if self.student_config is None else Path(self.student_config)
        return StudentShape(self.depth, self.width, file, self.towers)

    @property
    def _chosen_task(self) -> str:
        return self.task or DEFAULT_TASKS[self.towers]

    @property
    def mines(self) -> bool:
        """Whether batches, or the bank, are put together from mined negatives."""
        triplet = any(term.name == "triplet" for term in parse_terms(self._chosen_task, option="--task"))
        return self.negatives != "random" and (triplet or self.bank > 0)

    @property
    def rules(self) -> NegativeRules:
        """Which of a row's nearest captions are its negatives."""
        return NegativeRules(
            neighbours=self.neighbours,
            range_min=self.mining_range_min,
            range_max=self.mining_range_max,
            absolute_margin=self.absolute_margin,
            relative_margin=self.relative_margin,
            max_score=self.max_score,
        )

    @property
    def global_batch(self) -> int:
        """Rows of one step, over all processes and accumulated batches."""
        return (self.batch_size or 0) * self.accumulate

    @property
    def name(self) -> str:
        """A short name for the run's folder."""
        losses = self.kd if self.kd != "none" else f"{self._chosen_task}-only"
        towers = "" if self.towers == "both" else f"-{self.towers}"
        return "".join(losses.split()).replace("*", "x") + towers

    def resolve(
        self,
        *,
        pairs: int,
        processes: int,
        accelerated: bool,
        precision: str,
        views: int = 1,
        init: Init = "alternate",
        synthetic: bool = False,
    ) -> "Recipe":
        """Fill in what depends on the data and the machine.

        Args:
            pairs: usable pairs.
            processes: that share a step.
            accelerated: whether there is a GPU.
            precision: the machine's default.
            views: of each image in the cache.
            init: where the student's weights come from, unless it was chosen.
            synthetic: whether the data has columns of synthetic captions.

        Raises:
            ConfigError: the batch is larger than the data, or cannot be shared evenly; the cache has fewer views; a
                share of synthetic captions is asked for where there are none.
        """
        if self.synthetic_share is not None and not synthetic:
            raise ConfigError(
                f"--synthetic-share {self.synthetic_share} needs synthetic captions, and the pairs have none; leave it "
                "out, or make a cache of them with `mmkd cache-teacher --synthetic-column NAME --out NEW`"
            )
        share = DEFAULT_SHARE if synthetic and self.synthetic_share is None else self.synthetic_share
        if self.views is not None and self.views > views:
            raise ConfigError(
                f"--views {self.views} is more than the cache holds, {views}; leave it out, or make them with "
                f"`mmkd cache-teacher --views {self.views} --out NEW`"
            )
        batch = self.batch_size
        if batch is None:
            batch = 1024 if accelerated else 128
            while batch > 8 and pairs // batch < MIN_STEPS_PER_EPOCH:
                batch //= 2
        if batch * self.accumulate > pairs:
            times = f" times --accumulate {self.accumulate}" if self.accumulate > 1 else ""
            raise ConfigError(
                f"--batch-size {batch:,}{times} is larger than the {pairs:,} usable pairs; use a smaller one"
            )
        if batch % processes:
            raise ConfigError(f"--batch-size {batch} cannot be divided among {processes} processes")
        steps = pairs // (batch * self.accumulate) * self.epochs
        warmup = min(steps // 10, 2000) if self.warmup is None else self.warmup
        shown = 1 if self.mismatched is not None else self.views or views
        file = self.student_config
        return replace(
            self,
            task=self._chosen_task,
            init=self.init or init,
            student_config=None if file is None else str(Path(file).resolve()),
            batch_size=batch,
            warmup=warmup,
            precision=self.precision or precision,
            views=shown,
            synthetic_share=share,
        )

    def to_dict(self) -> dict[str, Any]:
        """All settings by name."""
        return asdict(self)
