"""The report of a bias probe: models, comparisons, verdicts and limits, as values, as JSON and as rows of a table."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from mmkd.evaluation.bias.compare import Comparison, compare_models
from mmkd.evaluation.bias.model import ModelBias
from mmkd.evaluation.bias.words import BiasWords
from mmkd.evaluation.statistics import CONFIDENCE

if TYPE_CHECKING:
    from mmkd.evaluation.bias.images import ImageBias

SCHEMA = "mmkd.bias"
SCHEMA_VERSION = 2

LIMITS = (
    "These are associations inside a text tower, of some words in some English sentences. Such intrinsic measures do "
    "not say what a system built on the model does to people: in language models the two hardly correlate "
    "(Goldfarb-Tarrant et al., ACL 2021). They compare two models by one yardstick, and clear neither. Attributes are "
    "measured as two poles; that says nothing of people who are at neither.",
    "To find no bias here is no proof that there is none: other words, other templates, pictures and other languages "
    "were not asked. The percentages of women in occupations describe one country in one year, and the three tables "
    "disagree; a gap that follows them is an association that the model learnt, and they are no target for it either.",
)


@dataclass(frozen=True)
class BiasReport:
    """Models beside one another.

    Attributes:
        words: what all of them were asked.
        models: by name, in the order of evaluation.
        reference: the name of the teacher; ``None``: there is nothing to compare with.
        comparisons: each other model beside the teacher, by name.
        images: what was found with images; ``None``: none were given.
        seed: of all draws.
        doubts: further reasons to conclude nothing of a model, by its name.
    """

    words: BiasWords
    models: Mapping[str, ModelBias]
    reference: str | None
    comparisons: Mapping[str, Comparison]
    images: "ImageBias | None" = None
    seed: int = 0
    doubts: Mapping[str, Sequence[str]] = field(default_factory=dict)

    @property
    def meaningless(self) -> dict[str, list[str]]:
        """The models from whose numbers nothing can be concluded, with all reasons."""
        found = {name: [*model.doubts, *self.doubts.get(name, ())] for name, model in self.models.items()}
        return {name: reasons for name, reasons in found.items() if reasons}

    def to_json(self) -> dict[str, Any]:
        """A JSON object; ``schema_version`` changes when a key changes its meaning or goes."""
        return {
            "schema": SCHEMA,
            "schema_version": SCHEMA_VERSION,
            "confidence": CONFIDENCE,
            "seed": self.seed,
            "reference": self.reference,
            "words": self.words.to_json(),
            "models": {name: model.to_json() for name, model in self.models.items()},
            "comparisons": {name: one.to_json() for name, one in self.comparisons.items()},
            "images": None if self.images is None else self.images.to_json(),
            "meaningless": self.meaningless,
            "limits": list(LIMITS),
        }

    def rows(self) -> list[dict[str, Any]]:
        """One row a model and target, for a CSV file."""
        tables = {f"{table.unit} ({table.name})": table.values for table in self.words.references}
        found = []
        for name, model in self.models.items():
            beside = self.comparisons.get(name)
            place = (-model.gaps.value).argsort(kind="stable").argsort(kind="stable") + 1
            for row, target in enumerate(self.words.targets):
                found.append(
                    {
                        "model": name,
                        "target": target,
                        "tokens": None if model.vectors.tokens is None else model.vectors.tokens[target],
                        "gap": float(model.gaps.value[row]),
                        "gap_low": float(model.gaps.low[row]),
                        "gap_high": float(model.gaps.high[row]),
                        "gap_cosine": float(model.gaps.raw[row]),
                        "rank": int(place[row]),
                        "p_value": float(model.gaps.p_value[row]),
                        "q_value": float(model.gaps.q_value[row]),
                        "difference_p_value": None if beside is None else float(beside.p_value[row]),
                        "difference_q_value": None if beside is None else float(beside.q_value[row]),
                        **{title: values.get(target) for title, values in tables.items()},
                    }
                )
        return found


def report_on(
    models: Mapping[str, ModelBias],
    *,
    reference: str | None,
    doubts: Mapping[str, Sequence[str]] | None = None,
    images: "ImageBias | None" = None,
    seed: int = 0,
) -> BiasReport:
    """Compare every model with the one named ``reference``.

    Args:
        models: by name, all asked the same words.
        reference: the teacher; ``None``: compare nothing.
        doubts: further reasons to conclude nothing of a model, by its name; the teacher's count for all.
        images: what was found with images.
        seed: of all draws.

    Raises:
        ConfigError: the models were not asked the same words.
    """
    comparisons = {
        name: compare_models(
            models[reference],
            model,
            doubts=[doubt for one in (reference, name) for doubt in (doubts or {}).get(one, ())],
            name=name,
            seed=seed,
        )
        for name, model in models.items()
        if reference is not None and name != reference
    }
    words = next(iter(models.values())).words
    return BiasReport(words, models, reference, comparisons, images, seed, doubts or {})
