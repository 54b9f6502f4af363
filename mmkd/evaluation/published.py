"""Does this installation reproduce the scores that were published of a model?"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from mmkd.errors import ConfigError
from mmkd.evaluation.builtin_sets import builtin_sets
from mmkd.evaluation.zero_shot_report import TOP_1

if TYPE_CHECKING:
    from mmkd.evaluation.zero_shot_report import SetReport

TOLERANCE = 0.4  # points; two published tables differ by up to 0.31
DEFAULT_MODEL = "openai/clip-vit-base-patch32"


@dataclass(frozen=True, slots=True)
class Reproduction:
    """A model's top-1 on a set, published and found, in percent; and of how many images each is, where it is known."""

    set: str
    model: str
    published: float
    found: float
    images: int | None = None
    published_images: int | None = None

    @property
    def reproduced(self) -> bool:
        """Whether the two are of as many images, and differ by no more than ``TOLERANCE``."""
        return self.complete and abs(self.found - self.published) <= TOLERANCE + 1e-9

    @property
    def complete(self) -> bool:
        """Whether the score is of all images that the published one is of."""
        return self.published_images is None or self.images == self.published_images

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        return {**asdict(self), "tolerance": TOLERANCE, "reproduced": self.reproduced}


def published_sets(models: Sequence[str]) -> list[str]:
    """The built-in sets on which a score of any of ``models`` was published.

    Raises:
        ConfigError: there is none; names the models that there are scores of.
    """
    sets = builtin_sets()
    found = [name for name, one in sets.items() if set(models) & set(one.published)]
    if not found:
        known = sorted({model for one in sets.values() for model in one.published})
        raise ConfigError(
            f"no published score of {' or '.join(models)} is known; expected --model {' or '.join(known)}"
        )
    return found


def check_published(sets: "Sequence[SetReport]", models: Mapping[str, str]) -> list[Reproduction]:
    """Hold top-1 against what was published, wherever it was.

    Args:
        sets: what was found.
        models: hub id by the model's name in ``sets``.
    """
    known = builtin_sets()
    return [
        Reproduction(
            one.task.name,
            hub_id,
            known[one.task.name].published[hub_id][TOP_1],
            found,
            len(one.labels),
            known[one.task.name].images,
        )
        for one in sets
        if one.task.name in known
        for name, hub_id in models.items()
        if hub_id in known[one.task.name].published
        for found in (100 * one.models[name].scores[TOP_1].value,)
    ]
