"""The arms of a study: what is varied, with the baselines that always stand beside it."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from difflib import get_close_matches
from types import NoneType
from typing import Any, Literal, get_args, get_type_hints

from mmkd.errors import ConfigError, MmkdError
from mmkd.recipe import Recipe

Role = Literal["arm", "scratch", "untrained"]
SCRATCH, UNTRAINED = "from scratch", "untrained"
FIELDS = tuple(f.name for f in fields(Recipe) if f.name != "seed")
# Another start and another loss, and no teacher; all else is the base's.
_SCRATCH: dict[str, Any] = {
    "kd": "none",
    "task": "clip",
    "init": "random",
    "towers": "both",
    "bank": 0,
    "layer_decay": 1.0,
    "text_lr": 1.0,
    "refresh_every": 0,
}
# What decides the first weights of a student; the rest of the base does not concern one that is never trained.
_SHAPE = ("depth", "width", "student_config", "limit", "batch_size", "precision")
MAX_SEEDS = 100


@dataclass(frozen=True)
class Arm:
    """One way to train.

    Attributes:
        name: what tables call it.
        settings: fields of the recipe that the study sets for it, base included.
        role: ``arm``, or a baseline: ``scratch`` (the same shape and budget, no teacher), ``untrained`` (the
            teacher's alternate layers before the first step).
    """

    name: str
    settings: Mapping[str, Any]
    role: Role = "arm"
    slug: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "slug", _slug(self.name))
        if not self.slug:
            raise ConfigError(f"the arm name {self.name!r} has no letter or digit; name it by what it is")

    @property
    def recipe(self) -> Recipe:
        """Its recipe, with the first seed's place still open.

        Raises:
            ConfigError: an unknown key, a value of another kind, or a recipe that contradicts itself; the message
                names the arm.
        """
        for key in self.settings:
            check_key(key, f"arm {self.name!r}")
        try:
            return Recipe(**{key: _typed(key, value) for key, value in self.settings.items()})
        except MmkdError as error:
            raise ConfigError(f"arm {self.name!r}: {error}") from error

    def seeds(self, seeds: Sequence[int]) -> tuple[int, ...]:
        """The seeds that it is run with: one for a student that is never trained, and so always the same."""
        return tuple(seeds[:1] if self.role == "untrained" else seeds)


def _slug(name: str) -> str:
    """``2000*mse + cos`` as part of a folder's name: ``2000xmse+cos``."""
    return re.sub(r"[^\w.+@=-]+", "-", name.replace("*", "x").replace(" + ", "+")).strip("-.")[:80]


def check_key(key: str, where: str) -> None:
    """Refuse what is no field of a recipe.

    Raises:
        ConfigError: names the nearest field.
    """
    if key == "seed":
        raise ConfigError(f"'seed' in {where}: every arm is run with every seed; use 'seeds' of the study")
    if key not in FIELDS:
        known = [name.replace("_", "-") for name in FIELDS]
        near = get_close_matches(key.replace("_", "-"), known, n=1)
        hint = f"did you mean '{near[0]}'?" if near else f"expected one of: {', '.join(known)}"
        raise ConfigError(f"unknown key {key!r} in {where}; {hint}")


def _typed(key: str, value: Any) -> Any:
    """The value as the recipe has it; a text where a number belongs is refused, a whole number may be a rate."""
    hint = get_type_hints(Recipe)[key]
    kinds = set(get_args(hint)) or {hint}
    if value is None and NoneType in kinds:
        return None
    if isinstance(value, bool):
        if bool in kinds:
            return value
    elif isinstance(value, int | float) and float in kinds:
        return float(value)
    elif isinstance(value, float) and int in kinds and value.is_integer():
        return int(value)
    elif (isinstance(value, int) and int in kinds) or (
        isinstance(value, str) and kinds.isdisjoint({int, float, bool})
    ):
        return value
    wanted = next((word for kind, word in _KINDS.items() if kind in kinds), "a text")
    raise ConfigError(f"'{key.replace('_', '-')}' is {value!r}; expected {wanted}")


_KINDS = {int: "a whole number", float: "a number", bool: "true or false"}


def with_baselines(arms: Sequence[Arm], base: Mapping[str, Any]) -> tuple[Arm, ...]:
    """The arms, then the student from scratch and the untrained one, all checked.

    Args:
        arms: what the study varies.
        base: the settings that all arms share.

    Raises:
        ConfigError: no arm, one name twice, two arms of the same settings, or an arm that cannot be trained.
    """
    if not arms:
        raise ConfigError(
            "the study has no arms; name some under 'arms', or give --kd, e.g. --kd mse+cos --kd kl"
        )
    untrained = {key: base[key] for key in _SHAPE if key in base}
    every = (
        *arms,
        Arm(SCRATCH, {**base, **_SCRATCH}, "scratch"),
        Arm(UNTRAINED, {**untrained, "init": "alternate"}, "untrained"),
    )
    _refuse_twins(every)
    for arm in every:
        assert arm.recipe  # one that contradicts itself is refused before anything is trained
    return every


def _refuse_twins(arms: Sequence[Arm]) -> None:
    for what, values in (("name", [arm.name for arm in arms]), ("folder", [arm.slug for arm in arms])):
        repeated = [value for value, count in Counter(values).items() if count > 1]
        if repeated:
            hint = "; that name is the baseline's" if repeated[0] in {SCRATCH, UNTRAINED} else ""
            raise ConfigError(f"two arms have the {what} {repeated[0]!r}{hint}; give each a name of its own")
    seen: dict[str, str] = {}
    for arm in arms:
        if arm.role == "untrained":
            continue
        key = repr(replace(arm.recipe, seed=0))
        if key in seen:
            raise ConfigError(
                f"arms {seen[key]!r} and {arm.name!r} are trained alike, to the last setting; drop one of them"
                + (f" ({SCRATCH!r} is always there)" if arm.role == "scratch" else "")
            )
        seen[key] = arm.name


def check_seeds(seeds: Sequence[Any]) -> tuple[int, ...]:
    """The seeds, each once.

    Raises:
        ConfigError: none, a repeated one, too many, or one that is no whole number from 0.
    """
    if not seeds or len(seeds) > MAX_SEEDS:
        raise ConfigError(
            f"found {len(seeds)} seeds; expected 1 to {MAX_SEEDS}, 3 or more to tell arms apart"
        )
    for seed in seeds:
        if not isinstance(seed, int) or isinstance(seed, bool) or not 0 <= seed < 1 << 31:
            raise ConfigError(f"seed {seed!r} is no whole number from 0 to 2^31; give e.g. seeds: [0, 1, 2]")
    if len(set(seeds)) < len(seeds):
        raise ConfigError(
            "a seed stands twice; the same seed trains the same student, which is no second run"
        )
    return tuple(seeds)
