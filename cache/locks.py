"""Locks that the kernel frees with their holder, however it dies and on whatever host it ran.

They are advisory ``flock`` locks on small hidden files, which whoever lets go of them removes. Nothing is read off
process numbers or clocks, so a file that a killed process left locks nobody out.
"""

import errno
import fcntl
import os
from contextlib import suppress
from pathlib import Path

from mmkd.errors import CacheError

SHARED, EXCLUSIVE = fcntl.LOCK_SH, fcntl.LOCK_EX


class Lock:
    """A lock on ``path``; made by ``Lock.take``.

    Attributes:
        path: the file that it is on.
        sure: whether others respect it; False on file systems without locks.
    """

    def __init__(self, path: Path, descriptor: int, sure: bool) -> None:
        self.path = path
        self.sure = sure
        self._descriptor = descriptor

    @classmethod
    def take(cls, path: Path, kind: int = EXCLUSIVE) -> "Lock | None":
        """Take the lock on ``path``, in a folder that is there; None where another process holds it."""
        while True:
            descriptor = _open(path)
            taken = _flock(descriptor, kind)
            if taken is False:
                os.close(descriptor)
                return None
            if _is_at(path, descriptor):
                return cls(path, descriptor, taken is True)
            os.close(descriptor)  # its last holder removed the file between our opening and locking it

    def change(self, kind: int) -> bool:
        """Make it shared or exclusive; False where another process is in the way, and then it may be lost."""
        return _flock(self._descriptor, kind) is not False and _is_at(self.path, self._descriptor)

    def write(self, text: str) -> None:
        """Say something to those who find it held."""
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, text.encode(), 0)

    def read(self) -> str:
        """What was last said."""
        return os.pread(self._descriptor, 4096, 0).decode("utf-8", "replace")

    def release(self, *, remove: bool = True) -> None:
        """Let go of it."""
        with suppress(OSError):
            if remove and _is_at(self.path, self._descriptor):
                self.path.unlink()
        with suppress(OSError):
            os.close(self._descriptor)


def _open(path: Path) -> int:
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise CacheError(f"{path} is a link; expected a file of the cache's own, delete it") from error
        raise


def _flock(descriptor: int, kind: int) -> bool | None:
    """Whether it was taken; None where the file system has no locks."""
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def _is_at(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(path.lstat(), os.fstat(descriptor))
    except OSError:
        return False
