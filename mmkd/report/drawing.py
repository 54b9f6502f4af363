"""How a report's plots look: as wide as a telephone, one palette, colours that a page may set to its own."""

import io
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmkd.evaluation.plots import FAINT, INK
from mmkd.evaluation.zero_shot_plot import COLOURS, MARKERS
from mmkd.files import write_csv, write_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SOFT, PAPER, CHANCE, GRID = "#595959", "#ffffff", "#cc3311", "#e4e4e4"
WIDTH = 4.8  # inches: 460 pixels of a page, which a telephone shows at four fifths
MOST_POINTS = 400
DASHES = (0, (4, 3))
# The page says what these are in light and in dark; every other colour can be told from both grounds.
_THEME = {INK: "ink", FAINT: "faint", SOFT: "soft", PAPER: "paper", CHANCE: "chance", GRID: "grid"}


@dataclass
class Plot:
    """A figure with what it shows.

    Attributes:
        name: of its files, without a suffix; any name at first, made safe and unique by ``name_apart``.
        title: its heading.
        caption: what it shows, and what not to read into it.
        figure: as matplotlib has it.
        rows: what is drawn, one row a point.
    """

    name: str
    title: str
    caption: str
    figure: "Figure"
    rows: Sequence[Mapping[str, Any]]

    @cached_property
    def _drawn(self) -> str:
        """The figure as SVG without a ground: laid out once, for that is what takes the time."""
        import matplotlib as mpl

        stream = io.StringIO()
        # Text stays text, to be searched and read aloud; the same figure gives the same bytes.
        with mpl.rc_context({"svg.hashsalt": "mmkd", "svg.fonttype": "none"}):
            self.figure.savefig(stream, format="svg", transparent=True, metadata={"Date": None})
        return stream.getvalue()

    def svg(self) -> str:
        """The figure as an ``svg`` element whose colours follow the page."""
        return _for_a_page(self._drawn, self.name, self.title)

    def save(self, folder: Path) -> None:
        """Write ``name.svg``, on white, and ``name.csv`` into ``folder``."""
        ground = rf'\g<0><rect width="100%" height="100%" fill="{PAPER}"/>'
        write_text(folder / f"{self.name}.svg", re.sub(r"<svg[^>]*>", ground, self._drawn, count=1))
        write_csv(folder / f"{self.name}.csv", self.rows)


def name_apart(plots: Sequence[Plot]) -> None:
    """Give plots names that a file may have, each its own: sets and runs may be called anything."""
    taken: set[str] = set()
    for plot in plots:
        stem = re.sub(r"[^A-Za-z0-9+@._-]+", "-", plot.name).strip(".-")[:100] or "plot"
        name, number = stem, 2
        while name.lower() in taken:
            name, number = f"{stem}-{number}", number + 1
        taken.add(name.lower())
        plot.name = name


@contextmanager
def drawing() -> Iterator[None]:
    """Within it, figures have the report's look, and names from anywhere are never read as formulas."""
    import matplotlib as mpl

    style: dict[Any, Any] = {
        "text.parse_math": False,
        "font.size": 10,
        "text.color": INK,
        "axes.labelcolor": INK,
        "axes.edgecolor": SOFT,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.titlelocation": "left",
        "axes.titlesize": 10,
        "axes.linewidth": 0.8,
        "axes.axisbelow": True,
        "xtick.color": SOFT,
        "ytick.color": SOFT,
        "grid.color": GRID,
        "grid.linewidth": 0.8,
        "legend.frameon": False,
        "legend.fontsize": 9,
    }
    with mpl.rc_context(style):
        yield


def new_figure(height: float) -> "Figure":
    """An empty figure of the report's width and ``height`` inches."""
    from matplotlib.figure import Figure

    return Figure(figsize=(WIDTH, height), layout="constrained")


def mark(place: int, *, known: bool = True) -> dict[str, Any]:
    """Colour and marker of the model at ``place``, the teacher being 0; grey and hollow where nothing is known."""
    turn = place if place == 0 else 1 + (place - 1) % (len(COLOURS) - 1)  # the teacher's is nobody else's
    colour = COLOURS[turn] if known else FAINT
    return {"marker": MARKERS[turn], "color": colour, "markerfacecolor": colour if known else PAPER}


def thin(steps: Sequence[float], values: Sequence[float]) -> tuple[list[float], list[float]]:
    """At most ``MOST_POINTS`` points of a curve: each the mean over as many neighbours."""
    every = -(-len(values) // MOST_POINTS)
    if every <= 1:
        return list(steps), list(values)
    parts = [slice(first, first + every) for first in range(0, len(values), every)]
    means = [sum(values[part]) / len(values[part]) for part in parts]
    return [steps[part][-1] for part in parts], means


def shorten(name: str, limit: int = 24) -> str:
    """A name that fits beside an axis: the middle is left out."""
    if len(name) <= limit:
        return name
    head = (limit - 1) // 2
    return f"{name[:head]}…{name[-(limit - 1 - head) :]}"


def legend_below(axes: "Axes", columns: int = 3) -> None:
    """A legend under the axes, where it covers nothing."""
    handles, labels = axes.get_legend_handles_labels()
    figure: Any = axes.figure
    figure.legend(
        handles, labels, loc="outside lower left", ncols=min(columns, max(1, len(labels))), handlelength=1.6
    )


def _for_a_page(svg: str, name: str, title: str) -> str:
    from html import escape

    body = svg[svg.index("<svg") :]
    body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.DOTALL)
    # Several figures share a page, so that their ids must differ.
    prefix = re.sub(r"[^A-Za-z0-9]+", "-", name)
    body = re.sub(r'\b(id="|href="#|url\(#)', rf"\g<1>{prefix}-", body)
    for colour, role in _THEME.items():
        body = re.sub(re.escape(colour), f"var(--{role})", body, flags=re.IGNORECASE)
    head, rest = body.split(">", 1)
    box = re.search(r'viewBox="[^"]*"', head)
    label = escape(title, quote=True)
    return (
        f'<svg {box.group(0) if box else ""} role="img" aria-label="{label}" '
        f'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink">{rest}'
    )
