"""A random order of any number of places that is asked for piece by piece and held nowhere."""

import numpy as np
from numpy.typing import NDArray

ROUNDS = 6
_U64 = np.uint64


def mix(values: NDArray[np.uint64], key: int) -> NDArray[np.uint64]:
    """Random-looking 64 bits of each value: splitmix64's finaliser (Steele, Lea and Flood 2014)."""
    mixed = (values + _U64(key)) * _U64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> _U64(30))) * _U64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> _U64(27))) * _U64(0x94D049BB133111EB)
    return mixed ^ (mixed >> _U64(31))


class Shuffle:
    """A permutation of the numbers from 0 to ``size`` - 1, computed for the places that are asked for.

    A Feistel network over the least 4^h that is not below ``size``; what falls outside is enciphered again until it
    falls inside (cycle walking; Black and Rogaway 2002, "Ciphers with arbitrary finite domains").

    Args:
        size: of what is shuffled.
        seed: the same seed and size give the same order.
    """

    def __init__(self, size: int, seed: tuple[int, ...]) -> None:
        self.size = size
        self._half = _U64(max(1, ((size - 1).bit_length() + 1) // 2))
        self._keys = np.random.SeedSequence(seed).generate_state(ROUNDS, np.uint64).tolist()

    def __call__(self, places: NDArray[np.int64]) -> NDArray[np.int64]:
        """What stands at ``places``, int64 in their shape."""
        values = self._encipher(places.astype(np.uint64))
        while len(outside := np.flatnonzero(values >= self.size)):
            values[outside] = self._encipher(values[outside])
        return values.astype(np.int64)

    def _encipher(self, values: NDArray[np.uint64]) -> NDArray[np.uint64]:
        mask = (_U64(1) << self._half) - _U64(1)
        left, right = values >> self._half, values & mask
        for key in self._keys:
            left, right = right, left ^ (mix(right, key) & mask)
        return (left << self._half) | right
