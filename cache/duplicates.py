"""Equal vectors among all those of a cache, counted exactly in a memory that does not grow with the rows."""

from dataclasses import asdict, dataclass
from tempfile import SpooledTemporaryFile
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

_ENTRY = np.dtype([("vector", "<u8"), ("content", "<u8"), ("row", "<i8")])
_PART = 1 << 18  # entries that are sorted at once: 6 MB
_MAX_PARTS = 128  # each may be an open file
_SPOOL = 1 << 18  # bytes of a part that stay in memory


@dataclass(frozen=True)
class Duplicates:
    """Vectors that are equal bit by bit.

    Attributes:
        vectors: how many were looked at.
        distinct: how many different ones there are.
        repeats: vectors that another vector made from the same content equals; as it should be.
        clashes: different contents beyond the first that share a vector; hardly any, as a rule.
        rows: a few rows of the vector that most contents share; empty without clashes.
    """

    vectors: int
    distinct: int
    repeats: int
    clashes: int
    rows: tuple[int, ...] = ()

    @property
    def clash_share(self) -> float:
        """Clashes as a share of the different contents."""
        return self.clashes / max(1, self.vectors - self.repeats)

    def to_json(self) -> dict[str, Any]:
        """As a JSON object."""
        return {**asdict(self), "rows": list(self.rows)}


class VectorIndex:
    """Collects the hashes of vectors; what does not fit in memory goes to temporary files.

    Args:
        expected: about how many vectors will come; chooses into how many parts the hashes are dealt.
    """

    def __init__(self, expected: int) -> None:
        count = max(1, min(_MAX_PARTS, -(-expected // _PART)))
        self._parts = [SpooledTemporaryFile(max_size=_SPOOL) for _ in range(count)]  # noqa: SIM115 - closed by close

    def add(
        self, vectors: NDArray[np.float16], contents: NDArray[np.uint64], rows: NDArray[np.int64]
    ) -> None:
        """Add vectors (N, D), the hash of what each was made from (N,), and the row it is of (N,)."""
        entries = np.empty(len(vectors), _ENTRY)
        width = vectors.shape[1] * vectors.itemsize
        data = memoryview(np.ascontiguousarray(vectors).tobytes())
        digest = xxhash.xxh3_64_intdigest
        hashes = (digest(data[first : first + width]) for first in range(0, len(data), width))
        entries["vector"] = np.fromiter(hashes, np.uint64, len(vectors))
        entries["content"], entries["row"] = contents, rows
        part_of = entries["vector"] % np.uint64(len(self._parts))
        for part in np.unique(part_of).tolist():
            self._parts[part].write(entries[part_of == part].tobytes())

    def count(self) -> Duplicates:
        """Count what was added."""
        vectors = distinct = pairs = most = 0
        rows: tuple[int, ...] = ()
        for part in self._parts:
            part.seek(0)
            entries = np.frombuffer(part.read(), _ENTRY)
            if not len(entries):
                continue
            entries = entries[np.lexsort((entries["row"], entries["content"], entries["vector"]))]
            new_vector = np.append(True, entries["vector"][1:] != entries["vector"][:-1])
            new_pair = new_vector | np.append(True, entries["content"][1:] != entries["content"][:-1])
            contents = np.add.reduceat(new_pair, np.flatnonzero(new_vector), dtype=np.int64)
            vectors, distinct, pairs = (
                vectors + len(entries),
                distinct + len(contents),
                pairs + new_pair.sum(),
            )
            if contents.max() > max(1, most):
                most, group = int(contents.max()), int(contents.argmax())
                shared = entries["row"][new_pair & (np.cumsum(new_vector) - 1 == group)]
                rows = tuple(np.sort(shared)[:5].tolist())
        return Duplicates(vectors, distinct, vectors - int(pairs), int(pairs) - distinct, rows)

    def close(self) -> None:
        """Let go of the temporary files."""
        for part in self._parts:
            part.close()
