"""Where a user's caches and runs live."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Workspace:
    """A folder that the commands share: each takes from it what the one before wrote.

    Attributes:
        root: ``--work``, ``MMKD_WORK`` or ``./work``; need not exist yet.
    """

    root: Path

    @property
    def cache(self) -> Path:
        """The teacher's embeddings, unless ``--cache`` or ``--out`` says otherwise."""
        return self.root / "cache"

    @property
    def runs(self) -> Path:
        """One folder a run."""
        return self.root / "runs"

    @property
    def embeddings(self) -> Path:
        """Embeddings of evaluation sets, found again by what they were made from."""
        return self.root / "embeddings"

    @property
    def settings(self) -> Path:
        """YAML with the workspace's own defaults; optional."""
        return self.root / "mmkd.yaml"
