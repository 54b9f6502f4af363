"""What is to be classified: images, the classes that they may belong to, and how a class is put into words."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from mmkd.errors import ConfigError, DataError


class LabelledImages(Protocol):
    """Encoded images with an integer label each."""

    def __len__(self) -> int: ...

    def __getitem__(self, row: int, /) -> tuple[bytes, int]: ...


@dataclass(frozen=True)
class ZeroShotTask:
    """Images, the classes they may belong to, and how a class is put into words.

    Attributes:
        name: what the set is called in tables.
        images: the images, with the data's own labels.
        class_names: names of the K classes.
        templates: sentences with ``{}`` where a class name goes.
        classes: the data's label ``i`` means class ``classes[i]``; ``None``: labels are classes.
        source: where the images came from, to be said aloud.
        synonyms: further names of a class, averaged with its own.
        shared_names: a name may be that of several classes, which nothing then tells apart.
    """

    name: str
    images: LabelledImages
    class_names: tuple[str, ...]
    templates: tuple[str, ...]
    classes: tuple[int, ...] | None = None
    source: str = ""
    synonyms: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    shared_names: bool = False

    def __post_init__(self) -> None:
        if len(self.class_names) < 2:
            raise DataError(
                f"{self.name} has {len(self.class_names)} class names; expected at least 2 to choose from"
            )
        repeated = self.repeated_names
        if repeated and not self.shared_names:
            raise DataError(
                f"{self.name} has the class name {repeated[0]!r} more than once; rename or merge the classes"
            )
        check_templates(self.templates, self.name)

    @property
    def repeated_names(self) -> list[str]:
        """The names that several classes share."""
        return [name for name, count in Counter(self.class_names).items() if count > 1]

    def label(self, row: int, label: int) -> int:
        """The class of a row whose label in the data is ``label``.

        Raises:
            DataError: the label is out of range.
        """
        known = len(self.class_names if self.classes is None else self.classes)
        if not 0 <= label < known:
            raise DataError(
                f"row {row} of {self.name} has label {label}; expected 0 to {known - 1}, one for each of its "
                f"{known} class names"
            )
        return label if self.classes is None else self.classes[label]


def check_templates(templates: Sequence[str], where: str) -> None:
    """Refuse what is no list of templates.

    Raises:
        ConfigError: there is none, or one lacks its ``{}``.
    """
    if not templates:
        raise ConfigError(f"{where} has no templates; expected at least one, such as 'a photo of a {{}}.'")
    for template in templates:
        if template.count("{}") != 1:
            raise ConfigError(f"template {template!r} of {where} has no single {{}} to put the class name in")
