"""What frozen image embeddings hold of a set's classes: a linear probe and k nearest neighbours."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mmkd.errors import DataError
from mmkd.evaluation.embedded import BATCH_SIZE, ContentHash, KeptEmbeddings, embed_images
from mmkd.evaluation.probe_report import ModelProbe, ProbeReport
from mmkd.evaluation.statistics import Score, geometry, top_k_chance, wilson_interval
from mmkd.evaluation.zero_shot import choose_rows, true_ranks
from mmkd.evaluation.zero_shot_task import LabelledImages

if TYPE_CHECKING:
    from mmkd.encoders import PairEncoder

NEIGHBOURS = (10, 20, 100, 200)
TEMPERATURE = 0.07
HELD_OUT = 0.1  # of the training images, to choose C on
_CELLS = 20_000_000  # cosines held at a time


@dataclass(frozen=True)
class ProbeTask:
    """Labelled images to learn from, and others to be judged on; labels mean the same in both.

    Attributes:
        name: what the set is called in tables.
        train: images to learn from.
        test: images to be judged on.
        class_names: names of the K classes.
        to_test: the test set's label of each of the training set's labels.
        source: where both came from, to be said aloud.
    """

    name: str
    train: LabelledImages
    test: LabelledImages
    class_names: tuple[str, ...]
    to_test: tuple[int, ...]
    source: str = ""


def softmax_regression(
    features: ArrayLike,
    labels: NDArray[np.int64],
    classes: int,
    *,
    c: float,
    start: NDArray[np.float64] | None = None,
    iterations: int = 1_000,
) -> NDArray[np.float64]:
    """Weights (D + 1, K), the last row the biases, that minimise ``|W|^2 / 2 + c * cross-entropy``, by L-BFGS.

    The biases are not penalised; the cross-entropy is summed over images. As scikit-learn's
    ``LogisticRegression(C=c)``.

    Args:
        features: (N, D).
        labels: int (N,), each in ``[0, classes)``.
        classes: K.
        c: inverse strength of the regularisation.
        start: weights to start from; ``None``: zeros.
        iterations: at most this many; CLIP takes 1,000.
    """
    from scipy.optimize import minimize
    from scipy.special import logsumexp

    values = np.asarray(features, dtype=np.float64)
    count, width = values.shape
    rows = np.arange(count)
    # Divided by its number of images, the same minimum has a gradient whose size does not hang on c.
    scale = c * count

    def loss(flat: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        weights = flat.reshape(width + 1, classes)
        logits = values @ weights[:-1] + weights[-1]
        normal = logsumexp(logits, axis=1, keepdims=True)
        value = (normal[:, 0] - logits[rows, labels]).mean() + (weights[:-1] ** 2).sum() / (2 * scale)
        error = np.exp(logits - normal)
        error[rows, labels] -= 1
        error /= count
        gradient = np.concatenate([values.T @ error + weights[:-1] / scale, error.sum(axis=0)[None]])
        return float(value), gradient.ravel()

    first = np.zeros((width + 1) * classes) if start is None else start.ravel()
    options = {"maxiter": iterations, "maxfun": 2 * iterations, "gtol": 1e-6, "ftol": 1e-12}
    found = minimize(loss, first, jac=True, method="L-BFGS-B", options=options)
    weights: NDArray[np.float64] = found.x.reshape(width + 1, classes)
    return weights


def choose_c(features: ArrayLike, labels: NDArray[np.int64], classes: int, *, seed: int = 0) -> float:
    """The C with the best top-1 on a tenth of the images, held out at random: CLIP's search.

    From 1e-6, 1e-4, ... 1e6 the best is taken, then the step around it is halved until there are 8 to a decade. Among
    equals the strongest regularisation wins.

    Source: Radford et al., arXiv 2103.00020, appendix A.3 (which holds out a set of its own where there is one).
    """
    values = np.asarray(features, dtype=np.float64)
    order = np.random.default_rng(seed).permutation(len(values))
    held = max(1, round(HELD_OUT * len(values)))
    out, rest = order[:held], order[held:]
    tried: dict[float, int] = {}
    weights: NDArray[np.float64] | None = None

    def right(exponent: float) -> int:
        nonlocal weights
        if exponent not in tried:
            weights = softmax_regression(values[rest], labels[rest], classes, c=10.0**exponent, start=weights)
            ranks = true_ranks(values[out] @ weights[:-1] + weights[-1], labels[out])
            tried[exponent] = int((ranks == 0).sum())
        return tried[exponent]

    def best(exponents: list[float]) -> float:
        return max(sorted(exponents), key=right)

    peak, step = best([float(e) for e in range(-6, 7, 2)]), 2.0
    while step > 1 / 8:
        step /= 2
        peak = best([e for e in (peak - step, peak, peak + step) if -6 <= e <= 6])
    return float(10.0**peak)


def neighbour_votes(
    train: ArrayLike,
    labels: NDArray[np.int64],
    test: ArrayLike,
    classes: int,
    *,
    k: int,
    temperature: float = TEMPERATURE,
) -> NDArray[np.float64]:
    """Votes (M, K) of the ``k`` training images nearest by cosine, each weighing ``exp(cosine / temperature)``.

    Args:
        train: (N, D), unit length.
        labels: int (N,).
        test: (M, D), unit length.
        classes: K.
        k: at most N.
        temperature: the lower, the more the nearest count.

    Source: Caron et al. (DINO), arXiv 2104.14294, after Wu et al., arXiv 1805.01978, section 3.4.
    """
    known, asked = np.asarray(train, dtype=np.float64), np.asarray(test, dtype=np.float64)
    votes = np.zeros((len(asked), classes))
    step = max(1, _CELLS // len(known))
    for first in range(0, len(asked), step):
        cosines = asked[first : first + step] @ known.T
        nearest = np.argpartition(-cosines, min(k, len(known)) - 1, axis=1)[:, :k]
        weights = np.exp(np.take_along_axis(cosines, nearest, axis=1) / temperature)
        rows = np.arange(first, first + len(cosines))[:, None]
        np.add.at(votes, (np.broadcast_to(rows, nearest.shape), labels[nearest]), weights)
    return votes


def judge_probe(
    train: NDArray[np.float32],
    train_labels: NDArray[np.int64],
    test: NDArray[np.float32],
    test_labels: NDArray[np.int64],
    classes: int,
    *,
    seed: int = 0,
) -> ModelProbe:
    """Both probes of one model's unit vectors (N, D) and (M, D), with intervals and chance lines."""
    answers: dict[str, NDArray[np.float64]] = {}
    c = choose_c(train, train_labels, classes, seed=seed)
    weights = softmax_regression(train, train_labels, classes, c=c)
    answers["linear probe"] = test.astype(np.float64) @ weights[:-1] + weights[-1]
    for k in NEIGHBOURS:
        if k <= len(train):
            answers[f"{k}-NN"] = neighbour_votes(train, train_labels, test, classes, k=k)
    scores: dict[str, Score] = {}
    right, predicted = {}, {}
    for name, values in answers.items():
        ranks = true_ranks(values, test_labels)
        right[name], predicted[name] = ranks == 0, values.argmax(axis=1)
        for depth in (1, 5):
            if depth < classes or depth == 1:
                hits = int((ranks < depth).sum())
                scores[f"{name} top-{depth}"] = Score(
                    hits / len(ranks),
                    wilson_interval(hits, len(ranks)),
                    top_k_chance(test_labels, depth, classes),
                )
    return ModelProbe(scores, right, predicted, c, geometry(test))


def evaluate_probe(
    encoders: "Mapping[str, PairEncoder]",
    task: ProbeTask,
    *,
    batch_size: int = BATCH_SIZE,
    limit: int | None = None,
    kept: KeptEmbeddings | None = None,
    progress: Callable[[int], None] | None = None,
    seed: int = 0,
) -> ProbeReport:
    """Fit both probes on the training images of ``task`` with every model, and judge them on its test images.

    Args:
        encoders: models by name, at least one.
        task: the two sets.
        batch_size: images a forward pass.
        limit: images to take of each of both, evenly spread; ``None``: all.
        kept: embeddings of earlier evaluations, and where those of this one are kept.
        progress: called with the number of images of each batch done.
        seed: of the images that C is chosen on.

    Raises:
        DataError: fewer than 2 images of either can be decoded, fewer than 2 classes, or a label is out of range.
        ModelError: a model's embeddings are zero or not finite.
    """
    classes = len(task.class_names)
    sides, skipped = [], {}
    for side, images, meaning in (
        ("train", task.train, task.to_test),
        ("test", task.test, tuple(range(classes))),
    ):
        rows = choose_rows(len(images), limit)
        labels, content = _survey(f"{task.name} ({side})", images, rows, meaning)
        embedded = embed_images(
            encoders,
            _Bytes(images),
            rows.tolist(),
            batch_size=batch_size,
            kept=kept,
            content=content,
            progress=progress,
        )
        first = next(iter(embedded.values()))
        skipped[side] = sum(first.skipped.values())
        if len(first.places) < 2:
            raise DataError(
                f"{task.name} has {len(first.places)} {side} images that can be decoded; expected at least 2"
            )
        sides.append((embedded, labels[first.places]))
    (train, train_labels), (test, test_labels) = sides
    if len(np.unique(train_labels)) < 2:
        raise DataError(f"{task.name} has training images of one class; expected at least 2 to tell apart")
    models = {
        name: judge_probe(
            train[name].vectors, train_labels, test[name].vectors, test_labels, classes, seed=seed
        )
        for name in encoders
    }
    return ProbeReport(
        task.name,
        task.source,
        task.class_names,
        len(train_labels),
        len(test_labels),
        skipped,
        {name: encoder.spec for name, encoder in encoders.items()},
        models,
        unlearnt=classes - len(np.unique(train_labels)),
    )


class _Bytes:
    """Images without their labels."""

    def __init__(self, images: LabelledImages) -> None:
        self._images = images

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, row: int) -> bytes:
        return self._images[row][0]


def _survey(
    name: str, images: LabelledImages, rows: NDArray[np.int64], meaning: tuple[int, ...]
) -> tuple[NDArray[np.int64], str]:
    content, labels = ContentHash(), np.empty(len(rows), dtype=np.int64)
    for place, row in enumerate(rows.tolist()):
        data, label = images[row]
        if not 0 <= label < len(meaning):
            raise DataError(f"row {row} of {name} has label {label}; expected 0 to {len(meaning) - 1}")
        content.add(data)
        labels[place] = meaning[label]
    return labels, content.hexdigest()
