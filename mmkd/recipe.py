"""What a training was told to do: every setting with its default, resolved once and saved with the run."""

from dataclasses import asdict, dataclass, replace
from typing import Any

from mmkd.augment import POLICIES, Augmentation
from mmkd.errors import ConfigError
from mmkd.objective import Objective, parse_terms
from mmkd.students import INITS, Init

LIMIT_SEED = (
    7012  # the subset that --limit draws is the same for every --seed, so that seeds share their data
)
MIN_STEPS_PER_EPOCH = 20


@dataclass(frozen=True)
class Recipe:
    """The settings of a training that change its result.

    Attributes:
        kd: KD losses, as ``mse+cos``; ``none`` for no teacher.
        task: task losses, as ``triplet`` or ``triplet + 0.5*clip``; ``none`` to learn from the teacher alone.
        negatives: which negative the triplet loss takes: ``semi-hard``, ``hard`` or ``random``.
        margin: of the triplet loss, in cosine distance.
        init: where the student's weights come from.
        depth: layers of each tower; ``None``: half the teacher's.
        epochs: passes over the data.
        batch_size: rows of a step over all processes; ``None``: chosen from device and data.
        lr: peak learning rate of AdamW.
        warmup: steps of warm-up; ``None``: a tenth of all, 2,000 at most.
        weight_decay: on matrices only.
        clip_grad: largest norm of the gradient; 0 for no clipping.
        precision: ``fp32``, ``bf16`` or ``fp16``; ``None``: bf16 on a GPU that has it, else fp32.
        seed: of initialisation, order of the rows, choice of captions and mining.
        neighbours: mined negatives a row.
        limit: pairs to train on, a random subset; ``None``: all.
        views: views of each image that are shown by turns; ``None``: all that the cache holds.
        mismatched_augment: shows views that no target was made from, of this policy, against the targets of
            view 0; ``None``: every view with the target made from it.
    """

    kd: str = "mse+cos"
    task: str = "triplet"
    negatives: str = "semi-hard"
    margin: float = 0.2
    init: Init = "alternate"
    depth: int | None = None
    epochs: int = 10
    batch_size: int | None = None
    lr: float = 1e-3
    warmup: int | None = None
    weight_decay: float = 0.1
    clip_grad: float = 1.0
    precision: str | None = None
    seed: int = 0
    neighbours: int = 32
    limit: int | None = None
    views: int | None = None
    mismatched_augment: str | None = None

    def __post_init__(self) -> None:
        for option in ("task", "kd"):  # an unknown loss is refused in the words that were typed
            parse_terms(getattr(self, option), option=f"--{option}")
        if self.init not in INITS:
            raise ConfigError(f"--init {self.init} is unknown; expected one of {', '.join(INITS)}")
        for name in ("epochs", "lr"):
            if getattr(self, name) <= 0:
                raise ConfigError(f"--{name} {getattr(self, name)} is not above 0")
        self._check_views()
        if self.batch_size is not None and self.batch_size < 2:
            raise ConfigError(f"--batch-size {self.batch_size} leaves no negatives; expected 2 or more")

    def _check_views(self) -> None:
        if self.views is not None and self.views < 1:
            raise ConfigError(f"--views {self.views} shows nothing; expected at least 1")
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
        parts = [part for part in (self.task, self.kd) if part != "none"]
        expression = " + ".join(parts) if parts else "none"
        return Objective(expression, negatives=self.negatives, margin=self.margin)

    @property
    def name(self) -> str:
        """A short name for the run's folder."""
        return "".join((self.kd if self.kd != "none" else f"{self.task}-only").split()).replace("*", "x")

    def resolve(
        self, *, pairs: int, processes: int, accelerated: bool, precision: str, views: int = 1
    ) -> "Recipe":
        """Fill in what depends on the data and the machine.

        Args:
            pairs: usable pairs.
            processes: that share a step.
            accelerated: whether there is a GPU.
            precision: the machine's default.
            views: of each image in the cache.

        Raises:
            ConfigError: the batch is larger than the data, or cannot be shared evenly; the cache has fewer views.
        """
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
        if batch > pairs:
            raise ConfigError(
                f"--batch-size {batch:,} is larger than the {pairs:,} usable pairs; use a smaller one"
            )
        if batch % processes:
            raise ConfigError(f"--batch-size {batch} cannot be divided among {processes} processes")
        steps = pairs // batch * self.epochs
        warmup = min(steps // 10, 2000) if self.warmup is None else self.warmup
        shown = 1 if self.mismatched is not None else self.views or views
        return replace(
            self, batch_size=batch, warmup=warmup, precision=self.precision or precision, views=shown
        )

    def to_dict(self) -> dict[str, Any]:
        """All settings by name."""
        return asdict(self)
