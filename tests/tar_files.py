"""Tars to read: well made, badly made, and hostile."""

import io
import tarfile
from pathlib import Path


def save_tar(
    path: Path, members: list[tuple[str, bytes] | tarfile.TarInfo], *, form: int = tarfile.PAX_FORMAT
) -> Path:
    """Pack members in the order given; a bare ``TarInfo`` has no data."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=form) as tar:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                tar.addfile(member)
                continue
            entry = tarfile.TarInfo(member[0])
            entry.size = len(member[1])
            tar.addfile(entry, io.BytesIO(member[1]))
    return path


def samples(first: int, last: int) -> list[tuple[str, bytes]]:
    """Members of the samples ``first`` to ``last - 1``: ``jpg`` (no picture, but bytes of its own) and ``txt``."""
    return [
        member
        for number in range(first, last)
        for member in (
            (f"{number:06d}.jpg", f"picture {number} ".encode() * (number % 7 + 1)),
            (f"{number:06d}.txt", f"caption {number}".encode()),
        )
    ]
