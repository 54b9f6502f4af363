"""The processes that write into one folder at a time: those that make the same cache, or one that is alone."""

import json
import os
import re
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import xxhash

from mmkd.cache.locks import EXCLUSIVE, SHARED, Lock
from mmkd.cache.manifest import shard_name
from mmkd.cache.settings import CacheSettings
from mmkd.cache.shard import disk_errors
from mmkd.errors import CacheError

_LOCK = ".writing.lock"
_ALONE = "alone"
_PATIENCE = 1.0  # seconds for a process that is just coming or going
_LEFT = re.compile(r"\.(manifest\.json|pairs\.parquet|shard-\d{5,}\.(h5|json))\.\d+\.tmp")
_SHARD_LOCK = re.compile(r"\.shard-\d{5,}\.h5\.lock")
_MINED = re.compile(r"\.(neighbours-.+\.h5\.(?P<saving>\d+)\.tmp|mining-lists-(?P<lists>\d+)\.faiss)")


@contextmanager
def writing(folder: Path, settings: CacheSettings, *, alone: bool = False) -> Iterator[None]:
    """Be one of the processes that write the cache of ``settings`` into ``folder``; leftovers of killed ones go.

    Args:
        folder: made where it is missing, and removed again where nothing was written.
        settings: what the cache is to say of itself.
        alone: let no other process in, not even for the same cache.

    Raises:
        CacheError: others write another cache into it, or (``alone``) any; or the disk refuses.
    """
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    with disk_errors(folder):
        lock = _join(folder, _ALONE if alone else _digest(settings))
    try:
        remove_mining_leftovers(folder)
        yield
    finally:
        if last := lock.sure and lock.change(EXCLUSIVE):
            with suppress(OSError):
                _remove_leftovers(folder)
        lock.release(remove=last or not lock.sure)
        with suppress(OSError):  # it is not empty
            for path in made:
                path.rmdir()


def take_shard(folder: Path, index: int) -> Lock | None:
    """Become the one process that makes shard ``index``; None where another is at it."""
    lock = Lock.take(folder / f".{shard_name(index)}.lock")
    if lock is not None and lock.sure:
        for name in (shard_name(index), f"{shard_name(index).removesuffix('.h5')}.json"):
            for left in folder.glob(f".{name}.*.tmp"):
                left.unlink(missing_ok=True)
    return lock


@contextmanager
def mining(folder: Path) -> Iterator[None]:
    """Let others know that this process keeps something half-written in ``folder``."""
    lock = Lock.take(_mining_lock(folder, os.getpid()))
    try:
        yield
    finally:
        if lock is not None:
            lock.release()


def remove_mining_leftovers(folder: Path) -> None:
    """Remove what killed processes left of mining, where no living one owns it and the folder can be written."""
    with suppress(OSError):
        for path in folder.glob(".*"):
            if match := _MINED.fullmatch(path.name):
                lock = Lock.take(_mining_lock(folder, int(match["saving"] or match["lists"])))
                if lock is not None:
                    if lock.sure:
                        path.unlink(missing_ok=True)
                    lock.release()


def _mining_lock(folder: Path, process: int) -> Path:
    return folder / f".mining-{process}.lock"


def _join(folder: Path, says: str) -> Lock:
    """The folder's lock, shared with processes that say the same."""
    deadline = time.monotonic() + _PATIENCE
    other = ""
    while True:
        lock = None
        with suppress(FileNotFoundError):  # the folder, removed by one that wrote nothing
            folder.mkdir(parents=True, exist_ok=True)
            lock = _try_to_join(folder, says)
        if lock is not None:
            if (other := lock.read()).startswith(says):
                return lock
            lock.release(remove=False)
        if time.monotonic() > deadline:
            raise CacheError(_busy(folder, says, other))
        time.sleep(0.02)


def _try_to_join(folder: Path, says: str) -> Lock | None:
    lock = Lock.take(folder / _LOCK)
    if lock is None:
        return None if says == _ALONE else Lock.take(folder / _LOCK, SHARED)
    if lock.sure:
        _remove_leftovers(folder)
    lock.write(f"{says} process {os.getpid()} on {socket.gethostname()}")
    if says == _ALONE or lock.change(SHARED):
        return lock
    lock.release(remove=False)
    return None


def _busy(folder: Path, says: str, other: str) -> str:
    if not other:
        with suppress(OSError):
            other = (folder / _LOCK).read_text(errors="replace")
    found, _, who = other.partition(" ")
    what = "into it" if _ALONE in (says, found) else "another cache into it"
    return (
        f"{folder} is taken: {who or 'another process'} is writing {what}; wait until that has ended and run the same "
        "command again, or pass another --out"
    )


def _remove_leftovers(folder: Path) -> None:
    """Remove what killed processes left half-written; only for one that is alone."""
    for path in folder.glob(".*"):
        if _LEFT.fullmatch(path.name):
            path.unlink(missing_ok=True)
        elif _SHARD_LOCK.fullmatch(path.name) and (lock := Lock.take(path)) is not None:
            lock.release()


def _digest(settings: CacheSettings) -> str:
    text = json.dumps(settings.to_json(), sort_keys=True, ensure_ascii=False)
    return xxhash.xxh3_128_hexdigest(text.encode("utf-8", "surrogatepass"))
