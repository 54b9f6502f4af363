"""An epoch of a plan, whole."""

import numpy as np

from mmkd.sampling import BatchPlan


def epoch_of(plan: BatchPlan, epoch: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows and draws of an epoch, (steps, global batch)."""
    rows, draws = zip(*plan.batches(epoch), strict=True)
    return np.stack(rows), np.stack(draws)
