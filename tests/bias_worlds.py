"""Synthetic word vectors of known bias, for the tests of the bias probe."""

from dataclasses import replace
from functools import cache

import numpy as np

from mmkd.evaluation.bias.vectors import WordVectors
from mmkd.evaluation.bias.word_lists import builtin_words
from mmkd.evaluation.bias.words import BiasWords
from mmkd.evaluation.statistics import unit_vectors

DIM = 96
LEAN = 0.35  # of a target along the axis of the attributes, in standard deviations


@cache
def few_words() -> BiasWords:
    """The built-in words with fewer templates, terms and targets, to be quick; 120 targets still."""
    words = builtin_words()
    return replace(
        words,
        first=words.first[:8],
        second=words.second[:8],
        targets=words.targets[:120],
        templates=words.templates[:3],
        groups={name: group[:12] for name, group in words.groups.items()},
    )


def leanings(seed: int, count: int) -> np.ndarray:
    """How far each target leans in a teacher: (count,)."""
    return LEAN * np.random.default_rng(seed).normal(size=count)


def make_world(
    lean: np.ndarray,
    *,
    world: int,
    model: int,
    noise: float = 0.1,
    knows: bool = True,
    gendered: bool = True,
    words: BiasWords | None = None,
) -> WordVectors:
    """Vectors of one model.

    Args:
        lean: (targets,), how far each lies along the attributes' axis.
        world: seed of what teacher and student share.
        model: seed of what this model has of its own.
        noise: of each word's vector, in units of the word's own spread.
        knows: whether words that belong together lie together.
        gendered: whether the terms of the attributes differ.
        words: default: ``few_words()``.
    """
    words = words or few_words()
    shared, own = np.random.default_rng(1000 + world), np.random.default_rng(2000 + model)
    nouns = words.all
    place = {word: row for row, word in enumerate(nouns)}
    base = shared.normal(size=(len(nouns), DIM)) / DIM**0.5
    axis = shared.normal(size=DIM) / DIM**0.5
    base[[place[word] for word in words.controls]] += 0.08 * np.outer(
        shared.normal(size=len(words.controls)), axis
    )
    for noun, thing in words.knowledge if knows else ():
        base[place[thing]] += 0.7 * base[place[noun]]
    for first, second in zip(words.first, words.second, strict=True):
        both = shared.normal(size=DIM) / DIM**0.5
        base[place[first]], base[place[second]] = both + gendered * axis, both - gendered * axis
    base[[place[word] for word in words.targets]] += np.outer(lean, axis)
    base = base + noise * own.normal(size=base.shape) / DIM**0.5
    templates = 0.3 * shared.normal(size=(len(words.templates), 1, DIM)) / DIM**0.5
    sentences = base + templates + 0.05 * own.normal(size=(len(words.templates), *base.shape)) / DIM**0.5
    tokens = {word: 1 + word.count(" ") for word in nouns}
    return WordVectors(words, unit_vectors(sentences), base, None, f"world {world}", tokens=tokens)
