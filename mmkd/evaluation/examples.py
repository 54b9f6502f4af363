"""Which images a report shows, and what each model answered to them: drawn by a fixed seed, never chosen by hand."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from mmkd.evaluation.zero_shot_report import SetReport

SCHEMA = "mmkd.examples"
SCHEMA_VERSION = 1
EACH, SEED = 3, 0


@dataclass(frozen=True, slots=True)
class Group:
    """Images on which two models stand alike.

    Attributes:
        title: such as ``teacher right, student wrong``.
        images: how many there are.
        share: of all images.
        places: int (n,), those drawn to be shown; positions among the set's images.
    """

    title: str
    images: int
    share: float
    places: NDArray[np.int64]


def group_answers(
    right: Mapping[str, NDArray[np.bool_]], *, each: int = EACH, seed: int = SEED
) -> list[Group]:
    """Part the images by who was right, and draw some of each part.

    Args:
        right: by model, bool (N,); of more than two models the first two count, the reference first.
        each: at most so many of each group.
        seed: of the draw.
    """
    names = list(right)[:2]
    words = {True: "right", False: "wrong"}
    kinds: list[tuple[bool, ...]] = [(True,), (False,)]
    if len(names) == 2:
        kinds = [(True, True), (True, False), (False, True), (False, False)]
    generator, groups = np.random.default_rng(seed), []
    for kind in kinds:
        title = ", ".join(f"{name} {words[was]}" for name, was in zip(names, kind, strict=True))
        if len(names) == 2 and len(set(kind)) == 1:
            title = f"both {words[kind[0]]}"
        masks = [right[name] == was for name, was in zip(names, kind, strict=True)]
        found = np.flatnonzero(np.logical_and.reduce(masks))
        drawn = np.sort(generator.permutation(found)[:each])
        groups.append(Group(title, len(found), len(found) / max(1, len(masks[0])), drawn))
    return groups


def set_examples(report: "SetReport", reference: str | None) -> list[dict[str, Any]]:
    """Groups of a zero-shot set as JSON values, without the pictures; ``row`` says which they are.

    Args:
        report: the set.
        reference: the teacher's name, which stands first.
    """
    names = list(report.models)
    if reference in names:
        names = [str(reference), *(name for name in names if name != reference)]
    groups = group_answers({name: report.models[name].right for name in names})
    return [
        {
            "title": group.title,
            "images": group.images,
            "share": group.share,
            "examples": [_example(report, names, place) for place in group.places.tolist()],
        }
        for group in groups
    ]


def _example(report: "SetReport", names: Sequence[str], place: int) -> dict[str, Any]:
    classes = report.task.class_names
    return {
        "row": int(report.rows[place]),
        "true": classes[int(report.labels[place])],
        "answers": {
            name: [
                {"class": classes[int(number)], "confidence": float(confidence)}
                for number, confidence in zip(
                    report.models[name].leading[place],
                    report.models[name].leading_confidence[place],
                    strict=True,
                )
            ]
            for name in names
        },
    }


def leading(
    scores: NDArray[np.floating[Any]], logit_scale: float, most: int = 5
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """The classes of the highest scores, highest first, and the softmax's probability of each.

    Args:
        scores: (N, K) cosines.
        logit_scale: that they are multiplied with.
        most: how many.

    Returns:
        int64 and float32, both (N, min(most, K)).
    """
    order = np.argsort(-scores, axis=1, kind="stable")[:, :most]
    logits = scores.astype(np.float64) * logit_scale
    logits -= logits.max(axis=1, keepdims=True)
    chosen = np.exp(np.take_along_axis(logits, order, axis=1))
    return order, (chosen / np.exp(logits).sum(axis=1, keepdims=True)).astype(np.float32)
