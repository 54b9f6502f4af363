"""Which rows have the same first caption, the one that negatives are mined among."""

import numpy as np
from numpy.typing import NDArray

from mmkd.data import PairDataset, open_pairs
from mmkd.embeddings import TeacherStore
from mmkd.mining.search import OnProgress
from mmkd.mining.sharing import Share
from mmkd.pairs import caption_id

_EVERY = 1_000  # rows between two reports


def first_caption_ids(
    pairs: PairDataset,
    store: TeacherStore,
    rows: NDArray[np.int64],
    *,
    share: Share,
    on_progress: OnProgress,
) -> NDArray[np.uint64]:
    """Hash of each row's first caption, uint64 (N,), as a batch has it of the captions that it shows.

    The store's own hash is of all captions of a row. So the captions of those rows that have several are read, once;
    where the pairs hold no captions, the store's hash stands for them.

    Args:
        pairs: the data that the store was made from.
        store: the teacher's embeddings.
        rows: int64 (N,), none of them masked.
        share: this process's part; every process must call it, and gets the whole.
        on_progress: receives what is being done.
    """
    ids = store.hashes(rows)[:, 1]
    several = np.flatnonzero(store.caption_counts(rows) > 1)
    if len(several) == 0 or "text" not in pairs.sides:
        return ids
    texts = pairs if pairs.sides == ("text",) else open_pairs(pairs.sources, pairs.limit, sides=("text",))
    bounds = share.bounds(len(several))
    mine = several[bounds[share.rank] : bounds[share.rank + 1]]
    found = np.empty(len(mine), dtype=np.uint64)
    for place, row in enumerate(rows[mine].tolist()):
        found[place] = caption_id(next(iter(texts[row].captions), ""))
        if place % _EVERY == 0:
            on_progress("first captions", place, len(mine))
    ids[several] = share.gather(found.view(np.int64), np.diff(bounds).tolist()).view(np.uint64)
    return ids
