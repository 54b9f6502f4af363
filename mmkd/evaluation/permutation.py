"""Could the classes' names be shuffled without anybody noticing? The null that a classifier must beat.

An encoder that knows nothing of the names still maps images of one class to one place, so its right answers come
in whole classes: an interval over images, which takes them for independent, finds "better than chance" in many
random encoders. What is exchangeable when the names mean nothing is the names, not the images.
"""

from itertools import permutations
from math import factorial, perm
from typing import Any

import numpy as np
from numpy.typing import NDArray

DRAWS = 9_999
EXACT = 7  # up to 5,040 orders of the names are all gone through
FEWEST = 40  # different orders: with fewer no score could come below 0.025
_CHUNK = 2_000_000  # names a block of drawn orders holds


def enough_orders(classes: int, present: int) -> bool:
    """Whether a p against shuffled names can say anything: of ``classes`` names, ``present`` have images.

    Exchanging the names of two classes without images changes nothing. Four classes have 24 orders, and five with
    images of two have 20 that differ.
    """
    return perm(classes, present) >= FEWEST


def class_permutation_p(credit: NDArray[np.floating[Any] | np.integer[Any]], *, seed: int = 0) -> float:
    """Share of the orders of the classes' names under which the score is at least as high as under the true one.

    All orders where there are at most 7 classes, else 9,999 drawn ones and the true one.

    Args:
        credit: (K, K): what the images of class ``i`` would add to the score if their name were that of ``j``;
            the score itself is the sum of the diagonal.
        seed: of the drawn orders.

    Raises:
        ValueError: not square.

    Source: Fisher's permutation test; the count of the true order as in Phipson and Smyth, "Permutation P-values
    should never be zero", Stat. Appl. Genet. Mol. Biol. 9 (2010).
    """
    classes = len(credit)
    if credit.shape != (classes, classes):
        raise ValueError(f"found credit of shape {credit.shape}; expected one row and one column a class")
    rows = np.arange(classes)
    values = np.asarray(credit, dtype=np.float64)
    # Sums of fractions in another order may differ in the last bit.
    own = values[rows, rows].sum() - 1e-9 * max(1.0, np.abs(values).sum())
    if classes <= EXACT:
        orders = np.array(list(permutations(range(classes))))
        return float((values[rows, orders].sum(axis=1) >= own).sum()) / factorial(classes)
    generator = np.random.default_rng(seed)
    block = max(1, _CHUNK // classes)
    as_good = 0
    for first in range(0, DRAWS, block):
        orders = generator.permuted(np.tile(rows, (min(block, DRAWS - first), 1)), axis=1)
        as_good += int((values[rows, orders].sum(axis=1) >= own).sum())
    return (1 + as_good) / (1 + DRAWS)
