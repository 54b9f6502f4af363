"""Synthetic captions: which columns may hold them, and how often a step shows one."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from mmkd.errors import ConfigError
from mmkd.pairs import DataSource, Pair
from mmkd.sources import check_column

# MobileCLIP adds the loss of a batch with its real captions to that of the same batch with a synthetic caption of each
# image, drawn at random: both weigh the same (arXiv 2311.17049; ``loss_gt`` and ``loss_syn`` of its training code).
DEFAULT_SHARE = 0.5


def check_synthetic(source: DataSource, columns: Sequence[str], caption_column: str | None) -> None:
    """Refuse columns of synthetic captions that cannot be.

    Args:
        source: what was asked for.
        columns: those that hold text.
        caption_column: that of the real captions.

    Raises:
        DataError: there is no such column of text.
        ConfigError: it is named twice, or holds the real captions.
    """
    for place, name in enumerate(source.synthetic_columns):
        check_column(source.spec, dict.fromkeys(columns), name, "--synthetic-column")
        if name == caption_column or name in source.synthetic_columns[:place]:
            taken = "holds the real captions" if name == caption_column else "is named twice"
            raise ConfigError(f"the column {name!r} {taken}; name another with --synthetic-column")


def choose_captions(
    draws: NDArray[np.float64], pairs: Sequence[Pair], share: float | None = None
) -> NDArray[np.int64]:
    """Which of its captions each pair shows.

    A pair that has real and synthetic captions shows a synthetic one with probability ``share``; among those of either
    kind each is as likely. A draw of 0 is the first caption, unless the share is 1.

    Args:
        draws: float64 (B,), from [0, 1).
        pairs: B of them.
        share: from 0 to 1; default: ``DEFAULT_SHARE``.

    Returns:
        int64 (B,): each below the pair's number of captions, or 0 where it has none.
    """
    share = DEFAULT_SHARE if share is None else share
    synthetic = np.array([pair.synthetic for pair in pairs], dtype=np.int64)
    real = np.array([len(pair.captions) for pair in pairs], dtype=np.int64) - synthetic
    of_real = np.where(synthetic == 0, 1.0, np.where(real == 0, 0.0, 1 - share))
    shown = draws >= of_real
    with np.errstate(divide="ignore", invalid="ignore"):
        within = np.where(shown, (draws - of_real) / (1 - of_real), draws / of_real)
    count = np.where(shown, synthetic, real)
    number = np.minimum(
        (within * count).astype(np.int64), np.maximum(count - 1, 0)
    )  # where rounding reaches count
    chosen: NDArray[np.int64] = np.where(shown, real + number, number)
    return chosen
