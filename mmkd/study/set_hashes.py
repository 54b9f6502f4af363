"""What a study's sets hold, as hashes: a score counts only for what it was measured on."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from mmkd.evaluation.embedded import ContentHash
from mmkd.evaluation.zero_shot import choose_rows

if TYPE_CHECKING:
    from mmkd.evaluation.captioned import RetrievalTask
    from mmkd.evaluation.zero_shot_task import ZeroShotTask


def hash_sets(
    labelled: "Sequence[ZeroShotTask]",
    captioned: "Sequence[RetrievalTask]",
    limit: int | None,
    on_read: Callable[[int], None] = lambda _: None,
) -> dict[str, str]:
    """Hash of each set by name: its images with their classes or captions, and how classes are put into words.

    Args:
        labelled: sets to be classified.
        captioned: sets to be retrieved from.
        limit: images that are taken of each; ``None``: all.
        on_read: called with 1 for each image.
    """
    found = {}
    for task in labelled:
        digest = ContentHash()
        for part in (task.class_names, task.templates, task.classes, sorted(task.synonyms.items())):
            digest.add(repr(part).encode())
        for row in choose_rows(len(task.images), limit).tolist():
            image, label = task.images[row]
            digest.add(image)
            digest.add(str(label).encode())
            on_read(1)
        found[task.name] = digest.hexdigest()
    for one in captioned:
        digest = ContentHash()
        for row in choose_rows(len(one.pairs), limit).tolist():
            pair = one.pairs[row]
            digest.add(pair.image)
            digest.add(repr(pair.captions[: one.captions]).encode())
            on_read(1)
        found[one.name] = digest.hexdigest()
    return found
