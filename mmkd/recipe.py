"""What a training was told to do: every setting with its default, resolved once and saved with the run."""

from dataclasses import asdict, dataclass, replace
from typing import Any

from mmkd.errors import ConfigError
from mmkd.objective import TASK_LOSSES, Objective, parse_terms
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
        task: ``triplet``, ``clip`` or ``none``.
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
    """

    kd: str = "mse+cos"
    task: str = "triplet"
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

    def __post_init__(self) -> None:
        if self.task not in (*TASK_LOSSES, "none"):
            raise ConfigError(
                f"--task {self.task} is unknown; expected one of {', '.join(TASK_LOSSES)}, none"
            )
        if self.init not in INITS:
            raise ConfigError(f"--init {self.init} is unknown; expected one of {', '.join(INITS)}")
        parse_terms(self.kd, option="--kd")  # an unknown loss is refused in the words that were typed
        for name in ("epochs", "lr"):
            if getattr(self, name) <= 0:
                raise ConfigError(f"--{name} {getattr(self, name)} is not above 0")
        if self.batch_size is not None and self.batch_size < 2:
            raise ConfigError(f"--batch-size {self.batch_size} leaves no negatives; expected 2 or more")

    @property
    def objective(self) -> Objective:
        """Task and KD losses together."""
        parts = [part for part in (self.task, self.kd) if part != "none"]
        return Objective(" + ".join(parts) if parts else "none")

    @property
    def name(self) -> str:
        """A short name for the run's folder."""
        return "".join((self.kd if self.kd != "none" else f"{self.task}-only").split()).replace("*", "x")

    def resolve(self, *, pairs: int, processes: int, accelerated: bool, precision: str) -> "Recipe":
        """Fill in what depends on the data and the machine.

        Args:
            pairs: usable pairs.
            processes: that share a step.
            accelerated: whether there is a GPU.
            precision: the machine's default.

        Raises:
            ConfigError: the batch is larger than the data, or cannot be shared evenly.
        """
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
        return replace(self, batch_size=batch, warmup=warmup, precision=self.precision or precision)

    def to_dict(self) -> dict[str, Any]:
        """All settings by name."""
        return asdict(self)
