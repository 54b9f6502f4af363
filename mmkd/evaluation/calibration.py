"""Is a model as often right as it is sure?"""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

BINS = 15


def confidences(similarities: ArrayLike, logit_scale: float) -> NDArray[np.float64]:
    """The highest class probability of each image: the softmax over classes of the scaled cosines.

    Args:
        similarities: (N, K) cosines.
        logit_scale: the model's own, e.g. 100.
    """
    logits = logit_scale * np.asarray(similarities, dtype=np.float64)
    shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
    highest: NDArray[np.float64] = 1 / shifted.sum(axis=1)
    return highest


def expected_calibration_error(confidence: ArrayLike, right: NDArray[Any]) -> float:
    """Mean gap between how sure a model is and how often it is right, over 15 bins of equal width.

    Args:
        confidence: (N,), each in (0, 1].
        right: bool (N,).

    Returns:
        Between 0, calibrated, and 1.

    Source: Guo et al., "On Calibration of Modern Neural Networks", ICML 2017, eq. 3.
    """
    sure = np.asarray(confidence, dtype=np.float64)
    # A bin holds its upper end, as there.
    bins = np.clip(np.ceil(sure * BINS).astype(int) - 1, 0, BINS - 1)
    gaps = np.bincount(bins, weights=np.asarray(right, dtype=np.float64) - sure, minlength=BINS)
    return float(np.abs(gaps).sum() / len(sure))
