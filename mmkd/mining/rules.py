"""Which of a row's nearest captions are its negatives."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mmkd.errors import ConfigError


@dataclass(frozen=True)
class NegativeRules:
    """Negatives as sentence-transformers' ``mine_hard_negatives`` chooses them, with its words.

    Attributes:
        neighbours: negatives a row.
        range_min: that many of the hardest that pass the margins are skipped.
        range_max: nearest captions looked at; ``None``: range_min + neighbours.
        absolute_margin: a negative's score lies at least this far below the positive's.
        relative_margin: a negative's score lies at least this share of the positive's below it.
        max_score: a negative's score is at most this.

    Raises:
        ConfigError: one is out of its range.

    Source: NV-Retriever, arXiv 2407.15831 (positive-aware margins).
    """

    neighbours: int = 32
    range_min: int = 0
    range_max: int | None = None
    absolute_margin: float | None = None
    relative_margin: float | None = 0.05
    max_score: float | None = None

    def __post_init__(self) -> None:
        if self.neighbours < 1:
            raise ConfigError(
                f"--neighbours {self.neighbours} leaves nothing to mine; expected 1 or more, or --negatives random"
            )
        if self.range_min < 0:
            raise ConfigError(f"--mining-range-min {self.range_min} is below 0; expected how many to skip")
        if self.range_max is not None and self.range_max <= self.range_min:
            raise ConfigError(
                f"--mining-range-max {self.range_max} is not above --mining-range-min {self.range_min}; raise it, "
                "or leave it out"
            )
        for option, value, low, high in (
            ("--absolute-margin", self.absolute_margin, 0, 2),
            ("--relative-margin", self.relative_margin, 0, 1),
            ("--max-score", self.max_score, -1, 1),
        ):
            if value is not None and not low <= value <= high:
                raise ConfigError(f"{option} {value:g} is out of range; expected {low} to {high}")

    @property
    def candidates(self) -> int:
        """Nearest captions looked at."""
        return self.range_max if self.range_max is not None else self.range_min + self.neighbours

    def choose(
        self,
        candidates: NDArray[np.int64],
        scores: NDArray[np.float32],
        judged: NDArray[np.float32],
        positive: NDArray[np.float32],
    ) -> tuple[NDArray[np.int64], int]:
        """The hardest candidates that pass.

        Args:
            candidates: (B, K), -1 where there is none.
            scores: (B, K): how hard each is; the hardest come first, ties by candidate.
            judged: (B, K): similarities that the margins look at.
            positive: (B,): the same of the row's own caption.

        Returns:
            int64 (B, neighbours), -1 at the end where fewer passed, and how many candidates were dropped.
        """
        there = candidates >= 0
        passed = there & (judged <= self._limit(positive)[:, None])
        if self.absolute_margin is not None:
            passed &= judged + np.float32(self.absolute_margin) <= positive[:, None]
        hardness = np.where(passed, scores, -np.inf)
        order = np.lexsort((candidates, -hardness), axis=-1)
        order = order[:, self.range_min : self.range_min + self.neighbours]
        chosen = np.where(
            np.take_along_axis(passed, order, axis=1), np.take_along_axis(candidates, order, axis=1), -1
        )
        missing = self.neighbours - chosen.shape[1]
        return np.pad(chosen, ((0, 0), (0, missing)), constant_values=-1), int((there & ~passed).sum())

    def _limit(self, positive: NDArray[np.float32]) -> NDArray[np.float32]:
        limit = np.full_like(positive, np.inf if self.max_score is None else self.max_score)
        if self.relative_margin is not None:
            limit = np.minimum(limit, positive - np.float32(self.relative_margin) * np.abs(positive))
        return limit
