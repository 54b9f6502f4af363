"""What all figures of evaluations share; matplotlib is imported when one is drawn."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmkd.files import atomic_file

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Okabe and Ito's palette, told apart by all common kinds of colour vision; the markers differ too.
FEMALE, MALE, INK, FAINT = "#D55E00", "#0072B2", "#222222", "#B5B5B5"


@contextmanager
def as_written() -> Iterator[None]:
    """Within it, and in functions that it decorates, names from anywhere are drawn as they are, never as formulas."""
    import matplotlib as mpl

    with mpl.rc_context({"text.parse_math": False}):
        yield


@as_written()
def save_figure(figure: "Figure", path: Path) -> None:
    """Write a figure in the format of its suffix, whole or not at all; the same figure gives the same bytes."""
    import matplotlib as mpl

    metadata: dict[str, Any] = {"Date": None} if path.suffix == ".svg" else {"Software": None}
    # Text stays text in an SVG, to be searched and read aloud.
    with mpl.rc_context({"svg.hashsalt": "mmkd", "svg.fonttype": "none"}), atomic_file(path) as temporary:
        figure.savefig(temporary, format=path.suffix[1:], metadata=metadata)


def label_sides(chance: float, teacher: float, width: float) -> tuple[str, str]:
    """Where the names of the two lines go, so that they do not lie on each other, on an axis of that ``width``."""
    return ("right", "left") if abs(teacher - chance) < 0.25 * width else ("center", "center")
