"""How good a student is while it trains: retrieval on held-out pairs, and zero-shot classification."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
import xxhash
from torch import Tensor

from mmkd.checkpoints import better
from mmkd.embeddings import Embeddings
from mmkd.errors import ConfigError, DataError
from mmkd.images import BadImageError, decode_image
from mmkd.losses.negatives import select_negatives
from mmkd.losses.task import clip

if TYPE_CHECKING:
    from mmkd.data import PairDataset
    from mmkd.encoders import PairEncoder
    from mmkd.evaluation.zero_shot_task import ZeroShotTask

MAX_PAIRS = 1_000  # Karpathy's Flickr30k test size: a pool in which chance is 0.1 %
PAIR_METRICS = ("val/loss", "val/recall@1")
_BATCH = 128


@dataclass(frozen=True)
class Validator:
    """Judges weights by a second copy of the student, so that the training's own is left alone.

    Attributes:
        encoder: the copy, with the student's preprocessing.
        pairs: held-out pairs, of which the first 1,000 that can be decoded are taken.
        rows: those of ``pairs`` that are held out; ``None``: all.
        tasks: sets to classify zero-shot.
        limit: images to take of each set, evenly spread; ``None``: all.
    """

    encoder: "PairEncoder"
    pairs: "PairDataset | None" = None
    tasks: "Sequence[ZeroShotTask]" = ()
    limit: int | None = None
    rows: "Sequence[int] | None" = None

    @property
    def metrics(self) -> list[str]:
        """The names of what ``measure`` gives."""
        of_tasks = [
            f"{task.name}/{metric}"
            for task in self.tasks
            for metric in ("top-1", *(("top-5",) if len(task.class_names) > 5 else ()), "recall")
        ]
        return [*(PAIR_METRICS if self.pairs is not None else ()), *of_tasks]

    def measure(self, weights: dict[str, Tensor], head: dict[str, Tensor]) -> dict[str, float]:
        """Every metric for a student of these weights.

        Returns:
            ``val/loss`` in nats: CLIP's loss over the pool of held-out pairs at the student's own logit scale;
            ``val/recall@1``: share of the pool whose own partner is the nearest, over both directions;
            ``SET/top-1``, ``SET/top-5`` and ``SET/recall``: shares of 1.

        Raises:
            DataError: fewer than 2 pairs, or images, can be used.
        """
        from mmkd.evaluation.zero_shot import evaluate

        self.encoder.model.load_state_dict(weights)
        if self.encoder.head is not None:
            self.encoder.head.load_state_dict(head)
        found = {} if self.pairs is None else _retrieval(self.encoder, self.pairs, self.rows)
        for task in self.tasks:
            report = evaluate({"student": self.encoder}, task, limit=self.limit)
            for name, score in report.models["student"].scores.items():
                found[f"{task.name}/{name.removeprefix('mean per-class ')}"] = score.value
        return found


def _retrieval(encoder: "PairEncoder", pairs: "PairDataset", rows: Sequence[int] | None) -> dict[str, float]:
    images, texts, ids = [], [], []
    taken = (range(len(pairs)) if rows is None else rows)[:MAX_PAIRS]
    for first in range(0, len(taken), _BATCH):
        decoded, captions = [], []
        for row in taken[first : first + _BATCH]:
            pair = pairs[row]
            try:
                image = decode_image(pair.image)
            except BadImageError:
                continue
            if pair.captions:
                decoded.append(image)
                captions.append(pair.captions[0])
                ids.append([_hash(pair.captions[0].encode()), _hash(pair.image)])
        if decoded:
            images.append(encoder.encode_images(decoded))
            texts.append(encoder.encode_texts(captions))
    if len(ids) < 2:
        raise DataError(f"there are {len(ids)} held-out pairs that can be used; expected at least 2")
    pool = Embeddings(torch.cat(images), torch.cat(texts))
    identity = torch.tensor(ids)
    negatives = select_negatives(identity[:, 0], identity[:, 1])
    scale = encoder.model.logit_scale.detach().float().exp().cpu()
    similarity = pool.image @ pool.text.T
    everything = slice(0, len(pool))
    own = similarity.diagonal()
    # A tie counts against; another pair with the same caption or image does not.
    texts_won = ~((own[:, None] <= similarity) & negatives.texts(everything)).any(dim=1)
    images_won = ~((own[:, None] <= similarity.T) & negatives.images(everything)).any(dim=1)
    return {
        "val/loss": float(clip(pool, negatives, logit_scale=scale)),
        "val/recall@1": float((texts_won.float().mean() + images_won.float().mean()) / 2),
    }


def _hash(data: bytes) -> int:
    return int(np.uint64(xxhash.xxh3_64_intdigest(data)).astype(np.int64))


@dataclass
class EvaluationLog:
    """All evaluations of a run, and when they say to stop.

    Attributes:
        metric: what counts; ``None`` where nothing is watched.
        patience: evaluations without a better ``metric`` after which to stop; ``None``: never.
        entries: each ``{"step": N, metric: value, ...}``.
    """

    metric: str | None
    patience: int | None
    entries: list[dict[str, float]]

    def add(self, step: int, found: dict[str, float]) -> None:
        """Take in one evaluation."""
        self.entries.append({"step": step, **found})

    @property
    def exhausted(self) -> bool:
        """Whether the last ``patience`` evaluations brought nothing better."""
        if self.metric is None or self.patience is None:
            return False
        best, since = self.entries[0][self.metric] if self.entries else 0.0, 0
        for entry in self.entries[1:]:
            if better(self.metric, entry[self.metric], best):
                best, since = entry[self.metric], 0
            else:
                since += 1
        return since >= self.patience


def watched_metric(name: str | None, known: Sequence[str], *, patience: int | None) -> str | None:
    """The metric that decides: ``name``, else the first known one where there is a ``patience``.

    Raises:
        ConfigError: there is no such metric, or nothing to measure.
    """
    if name is None and patience is None:
        return None
    if not known:
        raise ConfigError(
            "--keep-best and --patience need something to measure; name held-out pairs with --val-data, or a set with "
            "--eval-data"
        )
    if name is not None and name not in known:
        raise ConfigError(f"--keep-best {name} is not measured; expected one of {', '.join(known)}")
    return name or known[0]
