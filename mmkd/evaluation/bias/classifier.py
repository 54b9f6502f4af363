"""RNSB: what a classifier that learnt two attributes says of the targets."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mmkd.evaluation.bias.association import cosines


def rnsb(first_attributes: ArrayLike, second_attributes: ArrayLike, targets: ArrayLike) -> float:
    """Relative negative sentiment bias: how unevenly a classifier spreads the second attribute over the targets.

    Args:
        first_attributes: (a, D), the positive words, or any one group's.
        second_attributes: (b, D), the negative words, or the other group's.
        targets: (n, D), n at least 2.

    Returns:
        Kullback-Leibler divergence, in nats, of the targets' shares of the second attribute's probability from equal
        shares: 0 is no bias.

    Raises:
        ValueError: a set is empty, of another width, or holds a vector that is zero or not finite.

    Source: Sweeney and Najafian, ACL 2019, section 4. All attribute words are trained on, none held out.
    """
    return divergence(attribute_probability(first_attributes, second_attributes, targets))


def attribute_probability(
    first_attributes: ArrayLike, second_attributes: ArrayLike, targets: ArrayLike
) -> NDArray[np.float64]:
    """Probability (n,) of the second attribute for each target, by logistic regression as scikit-learn's (C = 1).

    The regression is fitted in the space of the attribute words' cosines with one another, which gives the same
    probabilities as in the full space on unit vectors, and is small.
    """
    from scipy.optimize import minimize
    from scipy.special import expit

    cosines(first_attributes, second_attributes)  # refuses what has no direction, or another width
    first, second = (np.asarray(one, dtype=np.float64) for one in (first_attributes, second_attributes))
    words = np.concatenate([first, second])
    words = words / np.linalg.norm(words, axis=1, keepdims=True)
    sign = np.concatenate([-np.ones(len(first)), np.ones(len(second))])
    kernel = words @ words.T

    def loss(values: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        weights, intercept = values[:-1], values[-1]
        along = kernel @ weights
        margins = sign * (along + intercept)
        slope = -sign * expit(-margins)
        value = 0.5 * weights @ along + np.logaddexp(0, -margins).sum()
        return float(value), np.append(along + kernel @ slope, slope.sum())

    options = {"maxiter": 2000, "gtol": 1e-9, "ftol": 1e-16}
    found = minimize(loss, np.zeros(len(words) + 1), jac=True, method="L-BFGS-B", options=options)
    probability: NDArray[np.float64] = expit(cosines(targets, words) @ found.x[:-1] + found.x[-1])
    return probability


def divergence(probability: ArrayLike) -> float:
    """Kullback-Leibler divergence, in nats, of shares proportional to ``probability`` (n,) from equal shares."""
    shares = np.asarray(probability, dtype=np.float64)
    shares = shares / shares.sum()
    return float((shares * np.log(shares * len(shares))).sum())
