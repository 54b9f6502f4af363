"""Images of people with a group each, and with an occupation where there is one."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mmkd.data import LabelledDataset, open_labelled
from mmkd.errors import DataError
from mmkd.evaluation.bias.words import some
from mmkd.evaluation.embedded import ContentHash
from mmkd.evaluation.zero_shot import choose_rows
from mmkd.sources import check_column, open_table

if TYPE_CHECKING:
    from mmkd.evaluation.bias.words import BiasWords

GROUP_COLUMNS = ("gender", "sex", "group", "attribute")
OCCUPATION_COLUMNS = ("occupation", "profession", "job")
SPLITS = ("test", "validation", "valid", "val", "train")
# What data sets write for the two genders that the built-in lists are about.
SPELLINGS = {"f": "female", "woman": "female", "women": "female", "m": "male", "man": "male", "men": "male"}


@dataclass(frozen=True)
class GroupedImages:
    """Images with a group each.

    Attributes:
        name: of the set.
        source: where it came from.
        data: the images.
        rows: which of them.
        groups: int64 (N,), of each row.
        group_names: by number.
        occupations: int64 (N,), of each row; ``None``: the set has none.
        occupation_names: by number.
        content: hash of the images' bytes.
    """

    name: str
    source: str
    data: LabelledDataset
    rows: Sequence[int]
    groups: NDArray[np.int64]
    group_names: tuple[str, ...]
    occupations: NDArray[np.int64] | None
    occupation_names: tuple[str, ...]
    content: str

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, row: int, /) -> bytes:
        return self.data[row][0]


def open_grouped(
    spec: str,
    words: "BiasWords",
    *,
    split: str | None = None,
    image_column: str | None = None,
    group_column: str | None = None,
    occupation_column: str | None = None,
    limit: int | None = None,
) -> GroupedImages:
    """Open a labelled set of images of people.

    Args:
        spec: hub id, file, glob or folder.
        words: their attributes are the names of the two groups that are set against each other.
        split: default: its test or validation split, else train.
        image_column: guessed where ``None``.
        group_column: default: gender, sex, group or attribute.
        occupation_column: default: occupation, profession or job, where there is one.
        limit: rows to take, evenly spread.

    Raises:
        DataError: it cannot be opened, lacks the columns, or has no image of either attribute's group.
    """
    table, split = open_table(spec, split, prefer=SPLITS)
    group_column = _column(spec, table.features, group_column, GROUP_COLUMNS, "--group-column")
    if group_column is None:
        raise DataError(
            f"{spec} has none of the columns {', '.join(GROUP_COLUMNS)}, only {', '.join(table.features)}; name the "
            "one with each image's group by --group-column"
        )
    occupation_column = _column(
        spec, table.features, occupation_column, OCCUPATION_COLUMNS, "--occupation-column"
    )
    data = open_labelled(spec, split, image_column, group_column)
    rows = choose_rows(len(data), limit)
    content, groups = ContentHash(), np.empty(len(rows), dtype=np.int64)
    for place, row in enumerate(rows):
        image, groups[place] = data[int(row)]
        content.add(image)
    raw = data.class_names or tuple(str(number) for number in range(int(groups.max()) + 1))
    plain = [_plain(name, words.attributes) for name in raw]
    names = tuple(dict.fromkeys(plain))
    if missing := [name for name in words.attributes if name not in names]:
        raise DataError(
            f"column {group_column!r} of {spec} holds {some(raw)}; expected {words.attributes[0]!r} and "
            f"{words.attributes[1]!r} among them, and {missing[0]!r} is not"
        )
    occupations: NDArray[np.int64] | None = None
    occupation_names: tuple[str, ...] = ()
    if occupation_column is not None:
        jobs = open_labelled(spec, split, image_column, occupation_column)
        if len(jobs.class_names) > 1:
            occupations = np.array([jobs[int(row)][1] for row in rows])
            occupation_names = tuple(name.replace("_", " ") for name in jobs.class_names)
    numbers = np.array([names.index(name) for name in plain])
    return GroupedImages(
        data.name,
        f"{spec} · {split} · group: {group_column}"
        + (f" · occupation: {occupation_column}" if occupation_names else ""),
        data,
        [int(row) for row in rows],
        numbers[groups],
        names,
        occupations,
        occupation_names,
        content.hexdigest(),
    )


def _column(
    spec: str, features: Mapping[str, Any], wanted: str | None, usual: Sequence[str], option: str
) -> str | None:
    if wanted is not None:
        return check_column(spec, features, wanted, option)
    by_name = {name.lower(): name for name in features}
    return next((by_name[name] for name in usual if name in by_name), None)


def _plain(name: str, attributes: tuple[str, str]) -> str:
    low = " ".join(name.casefold().replace("_", " ").split())
    by_name = {attribute.casefold(): attribute for attribute in attributes}
    spelt = SPELLINGS.get(low, low)
    return by_name.get(low) or by_name.get(spelt) or low
