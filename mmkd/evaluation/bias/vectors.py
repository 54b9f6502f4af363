"""The vectors of a probe's words: from a model, in every template, or as somebody else made them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mmkd.errors import ModelError
from mmkd.evaluation.bias.words import BiasWords, is_known, token_count
from mmkd.evaluation.embedded import BATCH_SIZE, KeptEmbeddings, embed_texts
from mmkd.evaluation.statistics import unit_vectors

if TYPE_CHECKING:
    from mmkd.embeddings import TeacherSpec
    from mmkd.encoders import PairEncoder


@dataclass(frozen=True)
class WordVectors:
    """One model's vectors of a probe's words.

    Attributes:
        words: what was asked; its ``all`` are the columns.
        sentences: float64 (T, N, D), unit length, each word in each template.
        bare: float64 (N, D), each word alone, of any length.
        spec: the model; ``None`` for vectors from a file.
        source: hub id, folder or file.
        missing: words that the lists have and the vectors do not.
        unknown: words that the tokenizer does not know.
        tokens: how many tokens each word has; empty for vectors from a file.
    """

    words: BiasWords
    sentences: NDArray[np.float64]
    bare: NDArray[np.float64]
    spec: "TeacherSpec | None"
    source: str
    missing: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()
    tokens: Mapping[str, int] | None = None

    def of(self, words: Sequence[str]) -> NDArray[np.float64]:
        """The sentences of some words: (T, n, D)."""
        return self.sentences[:, self._columns(words)]

    def alone(self, words: Sequence[str]) -> NDArray[np.float64]:
        """The vectors of some words alone: (n, D)."""
        return self.bare[self._columns(words)]

    def averaged(self, words: Sequence[str]) -> NDArray[np.float64]:
        """The mean of each word's unit sentence vectors, (n, D); of vectors from a file, these as they are."""
        return self.alone(words) if self.spec is None else self.of(words).mean(axis=0)

    def centred(self) -> "WordVectors":
        """The same, less the mean of all words in each template, at unit length again.

        Raises:
            ValueError: a word lies in that mean.
        """
        unit = unit_vectors(self.sentences - self.sentences.mean(axis=1, keepdims=True))
        return WordVectors(self.words, unit, self.bare, self.spec, self.source)

    def _columns(self, words: Sequence[str]) -> list[int]:
        places = {word: place for place, word in enumerate(self.words.all)}
        return [places[word] for word in words]


def embed_words(
    encoder: "PairEncoder",
    words: BiasWords,
    *,
    batch_size: int = BATCH_SIZE,
    kept: KeptEmbeddings | None = None,
    progress: Callable[[int], None] | None = None,
) -> WordVectors:
    """Embed every word alone and in every template.

    Args:
        encoder: the model.
        words: what to ask.
        batch_size: sentences a forward pass.
        kept: where embeddings are looked for, and kept.
        progress: called with the number of sentences of each batch done.

    Raises:
        ModelError: an embedding is zero or not finite.
    """
    nouns = words.all
    texts = [words.sentence(template, noun) for template in words.templates for noun in nouns] + list(nouns)
    tokens = {word: token_count(word, encoder.tokenizer) for word in nouns}
    # In order of length, so that little of a batch is padding.
    length = [tokens[nouns[i % len(nouns)]] + len(texts[i].split()) for i in range(len(texts))]
    order = np.argsort(length, kind="stable")
    flat = np.empty((len(texts), encoder.spec.dim))
    ordered = [texts[i] for i in order]
    flat[order] = embed_texts(encoder, ordered, batch_size=batch_size, kept=kept, progress=progress)
    split = len(words.templates) * len(nouns)
    return WordVectors(
        words,
        flat[:split].reshape(len(words.templates), len(nouns), -1),
        flat[split:],
        encoder.spec,
        encoder.spec.model,
        unknown=tuple(word for word in nouns if not is_known(word, encoder.tokenizer)),
        tokens=tokens,
    )


def take_vectors(names: Sequence[str], vectors: ArrayLike, words: BiasWords, *, source: str) -> WordVectors:
    """Find a probe's words among vectors that somebody else made.

    A word is looked for as it is, with ``_`` for its spaces, and both in lower case.

    Args:
        names: n words.
        vectors: (n, D), as they are.
        words: what to ask.
        source: where the vectors come from.

    Raises:
        ConfigError: too few of the words are there (see ``BiasWords.only``).
        ModelError: the shapes do not fit, or a vector that is needed is zero or not finite.
    """
    values = np.asarray(vectors, dtype=np.float64)
    if values.ndim != 2 or len(values) != len(names):
        raise ModelError(
            f"{source}: {len(names)} words and vectors of shape {values.shape}; expected (words, width)"
        )
    rows = {name: row for row, name in reversed(list(enumerate(names)))}
    found = {}
    for word in words.all:
        spellings = (word, word.replace(" ", "_"), word.lower(), word.lower().replace(" ", "_"))
        row = next((rows[one] for one in spellings if one in rows), None)
        if row is not None:
            found[word] = row
    left = replace(words, templates=("{}",)).only(found)  # each word is its own sentence
    bare = values[[found[word] for word in left.all]]
    lengths = np.linalg.norm(bare, axis=1)
    if bad := [
        word for word, size in zip(left.all, lengths, strict=True) if not np.isfinite(size) or size == 0
    ]:
        raise ModelError(
            f"{source}: the vector of {bad[0]!r} is zero or not finite; expected one with a direction"
        )
    missing = tuple(word for word in words.all if word not in found)
    return WordVectors(left, unit_vectors(bare)[None], bare, None, source, missing=missing)
