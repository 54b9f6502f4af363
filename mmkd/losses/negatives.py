"""Who may be whose negative: in the batch, and in a bank of other rows' teacher embeddings."""

from dataclasses import dataclass

import torch
from torch import Tensor

from mmkd.embeddings import Embeddings

FALSE_NEGATIVE_SHARE = 0.95  # of the positive's teacher similarity: NV-Retriever, arXiv 2407.15831


@dataclass(frozen=True, slots=True)
class Bank:
    """Cached teacher embeddings of rows that are not in the batch, for the student to be scored against.

    Attributes:
        embeddings: the teacher's, (N, D).
        caption_ids: int64 (N,): equal where captions are, to the batch's too.
        image_ids: int64 (N,): equal where images are, to the batch's too.
    """

    embeddings: Embeddings
    caption_ids: Tensor
    image_ids: Tensor

    def __len__(self) -> int:
        return len(self.caption_ids)


@dataclass(frozen=True, slots=True)
class Negatives:
    """Who may push whom away, worked out for the rows that are asked for: no (B, B) mask is ever held.

    The candidates of a row are the batch's B and then the bank's N. None is a negative that shares the row's caption
    or image, or whose teacher similarity to the row lies above 0.95 of the row's own pair's.

    Attributes:
        caption_ids: int64 (B,): equal where captions are.
        image_ids: int64 (B,): equal where images are.
        teacher: (B, D); ``None``: only identity counts.
        bank: (N, D) further candidates.
    """

    caption_ids: Tensor
    image_ids: Tensor
    teacher: Embeddings | None = None
    bank: Bank | None = None

    def texts(self, rows: slice) -> Tensor:
        """Bool (b, B + N): ``[i, j]`` where candidate text j is a negative of the i-th of these images."""
        different = self._different(rows)
        if self.teacher is None:
            return different
        texts, _ = candidates(self.teacher, self.bank)
        return different & (self.teacher.image[rows] @ texts.T <= self._limit(self.teacher, rows))

    def images(self, rows: slice) -> Tensor:
        """Bool (b, B + N): ``[i, j]`` where candidate image j is a negative of the i-th of these texts."""
        different = self._different(rows)
        if self.teacher is None:
            return different
        _, images = candidates(self.teacher, self.bank)
        return different & (self.teacher.text[rows] @ images.T <= self._limit(self.teacher, rows))

    def draws(self, rows: slice) -> Tensor:
        """Int64 (b, B + N): pseudo-random numbers, a pure function of each row's and each candidate's ids.

        So every process of a run, and a run that was resumed, draws alike.
        """
        captions, images = self._candidate_ids()
        keys = _scramble(captions ^ _scramble(images))
        own = keys[: len(self.caption_ids)][rows]
        return _scramble(_scramble(own)[:, None] ^ keys[None, :])

    def _candidate_ids(self) -> tuple[Tensor, Tensor]:
        if self.bank is None:
            return self.caption_ids, self.image_ids
        return (
            torch.cat([self.caption_ids, self.bank.caption_ids]),
            torch.cat([self.image_ids, self.bank.image_ids]),
        )

    def _different(self, rows: slice) -> Tensor:
        captions, images = self._candidate_ids()
        other_caption = self.caption_ids[rows][:, None] != captions[None, :]
        return other_caption & (self.image_ids[rows][:, None] != images[None, :])

    @staticmethod
    def _limit(teacher: Embeddings, rows: slice) -> Tensor:
        positive = (teacher.image[rows] * teacher.text[rows]).sum(dim=1)
        return false_negative_threshold(positive)[:, None]


def candidates(pairs: Embeddings, bank: Bank | None) -> tuple[Tensor, Tensor]:
    """Texts and images, each (B + N, D): those of the batch, then the bank's."""
    if bank is None:
        return pairs.text, pairs.image
    return torch.cat([pairs.text, bank.embeddings.text]), torch.cat([pairs.image, bank.embeddings.image])


def false_negative_threshold(positive: Tensor) -> Tensor:
    """Teacher similarity above which another item is taken for a match, given the positive's.

    0.95 of a positive similarity; a negative one is moved as far the same way, so that the threshold
    always lies below the positive itself.
    """
    return positive - (1 - FALSE_NEGATIVE_SHARE) * positive.abs()


def select_negatives(
    caption_ids: Tensor, image_ids: Tensor, teacher: Embeddings | None = None, bank: Bank | None = None
) -> Negatives:
    """Negatives of a batch: never a pair of the same caption or image, nor one the teacher takes for a match.

    Args:
        caption_ids: int64 (B,): equal where captions are.
        image_ids: int64 (B,): equal where images are.
        teacher: (B, D); without it only identity counts.
        bank: further candidates; the same one is to be given to the objective.
    """
    return Negatives(caption_ids, image_ids, teacher, bank)


def all_others(batch: int, device: torch.device | None = None) -> Negatives:
    """Every other pair is a negative."""
    ids = torch.arange(batch, device=device)
    return Negatives(ids, ids)


def _scramble(values: Tensor) -> Tensor:
    """Int64 to int64, each bit of the result depending on each of the value's.

    Source: the finaliser of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014, figure 18), on wrapping integers.
    """
    values = values + _signed(0x9E3779B97F4A7C15)  # zero would stay zero
    values = (values ^ _shift(values, 30)) * _signed(0xBF58476D1CE4E5B9)
    values = (values ^ _shift(values, 27)) * _signed(0x94D049BB133111EB)
    return values ^ _shift(values, 31)


def _shift(values: Tensor, bits: int) -> Tensor:
    # torch shifts the sign in; the mask makes the shift a logical one.
    return (values >> bits) & ((1 << (64 - bits)) - 1)


def _signed(value: int) -> int:
    return value - (1 << 64) if value >= 1 << 63 else value
