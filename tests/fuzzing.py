"""What is fuzzed, and ``python tests/fuzzing.py``, which does it for ``MMKD_FUZZ_SECONDS`` (an hour).

A target makes one input and hands it to what a user would: the only way out may be an ``MmkdError``. What can
crash the interpreter, HDF5 above all, runs in a child with a clock and a bound on its memory.
"""

import json
import math
import os
import resource
import signal
import sys
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from typing import Any

import pyarrow  # noqa: F401 (each child would import it anew)
from fuzz_inputs import (
    FIELDS,
    JSON,
    SETTINGS,
    configs,
    edited_bytes,
    edited_json,
    expressions,
    images,
    scratch,
    shards,
    whole,
)
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from mmkd.cache.manifest import CacheManifest, ShardRecord, read_manifest, read_record
from mmkd.cache.shard import hash_file, map_shard
from mmkd.errors import ConfigError, MmkdError
from mmkd.images import BadImageError, decode_image
from mmkd.objective import Objective, parse_terms
from mmkd.parse import read_json

HANG = 30  # seconds for one input
MEMORY = 500 << 20  # bytes that one input may take
SEEN: Counter[str] = Counter()
"""How often each outcome was seen: ``manifest refused``, ``manifest taken`` and so on."""


class HungError(Exception):
    """An input took longer than ``HANG``."""


@contextmanager
def clock() -> Iterator[None]:
    def ring(*_: Any) -> None:
        raise HungError(f"took longer than {HANG} s")

    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(HANG)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def only_own_errors(target: str, action: Callable[[], object]) -> None:
    """Run ``action``; anything but an ``MmkdError`` of one line, in good time, is a fault."""
    with clock():
        try:
            action()
        except MmkdError as error:
            said = str(error)
            SEEN[f"{target} refused"] += 1
        else:
            said = ""
            SEEN[f"{target} taken"] += 1
    assert len(said) < 5000, f"a message of {len(said):,} characters"


def in_child(target: str, actions: list[Callable[[], object]]) -> None:
    """As ``only_own_errors``, in a fork that may crash and may take ``MEMORY`` more bytes than it has."""
    reading, writing = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", DeprecationWarning
        )  # of forks beside threads, which the child never needs
        child = os.fork()
    if child == 0:
        code = 1
        try:
            signal.alarm(HANG)
            size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_AS, (size + MEMORY, size + MEMORY))
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # libtiff writes there
            os.write(writing, bytes(_refused(action) for action in actions))
            code = 0
        except BaseException:
            os.write(writing, traceback.format_exc()[-3000:].encode(errors="replace"))
        finally:
            os._exit(code)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        said = pipe.read()
    _, status = os.waitpid(child, 0)
    assert not os.WIFSIGNALED(status), f"killed by {signal.Signals(os.WTERMSIG(status)).name}"
    assert os.WEXITSTATUS(status) == 0, said.decode(errors="replace")
    SEEN[f"{target} refused"] += sum(said)
    SEEN[f"{target} taken"] += len(said) - sum(said)


def _refused(action: Callable[[], object]) -> bool:
    try:
        action()
    except MmkdError:
        return True
    return False


def fuzz_manifest(data: bytes) -> None:
    """A manifest, read as ``open_cache`` does, and written again where it is taken."""
    folder = scratch()
    (folder / "manifest.json").write_bytes(data)

    def read() -> None:
        found = read_manifest(folder)
        again = CacheManifest.from_json(json.loads(json.dumps(found.to_json(), allow_nan=False)))
        assert again == found, "what was read is not what is written"
        assert found.settings.differences(SETTINGS) is not None

    only_own_errors("manifest", read)


def fuzz_record(data: bytes) -> None:
    """A completion record, read as a build does that goes on."""
    (scratch() / "shard-00000.json").write_bytes(data)
    only_own_errors("record", lambda: read_record(scratch(), 0))


def fuzz_json(data: bytes) -> None:
    """Any text, read as JSON."""
    (scratch() / "any.json").write_bytes(data)
    only_own_errors("json", lambda: read_json(scratch() / "any.json"))


def fuzz_config(data: bytes) -> None:
    """A ``--config`` file, read and parsed as ``mmkd train`` does before it opens anything else."""
    file = scratch() / "config.yaml"
    file.write_bytes(data)
    _train()  # imports the commands, which takes longer than any file
    only_own_errors("config", lambda: resolve_options(file))


@cache
def _train() -> Any:
    import typer

    from mmkd import recipe  # noqa: F401
    from mmkd.cli.app import app

    return typer.main.get_command(app).commands["train"]  # type: ignore[attr-defined]


def resolve_options(file: Path) -> None:
    """The recipe that ``mmkd train --config FILE`` comes to."""
    from mmkd.recipe import Recipe

    try:
        given = _train().make_context("train", ["--config", str(file)]).params
    except Exception as error:
        if hasattr(error, "format_message"):  # a wrong value, in Typer's words: one line, exit code 2
            raise ConfigError(error.format_message()[:1000]) from error
        raise
    Recipe(**{name: given[name] for name in Recipe.__dataclass_fields__ if name in given})


def fuzz_kd(text: str) -> None:
    """A ``--kd`` expression; what is taken is finite."""

    def read() -> None:
        terms = parse_terms(text, option="--kd")
        assert all(math.isfinite(t.weight) and t.weight >= 0 for t in terms)
        assert all(t.temperature is None or 0 < t.temperature < math.inf for t in terms)
        if terms:
            assert Objective(text).describe()

    only_own_errors("kd", read)


def fuzz_shards(files: list[bytes]) -> None:
    """Shards whose records agree with them, so that all that stands before the reader is their structure."""
    path = scratch() / "fuzzed" / "shard-00000.h5"
    path.parent.mkdir(exist_ok=True)

    def read(data: bytes) -> None:
        path.write_bytes(data)
        record = ShardRecord(path.name, 12, len(data), hash_file(path), {})
        for name, array in map_shard(path, record, FIELDS).items():
            assert array.shape == FIELDS[name].shape
            assert len(array.tobytes()) == FIELDS[name].bytes

    in_child("shard", [partial(read, data) for data in files])


def fuzz_images(files: list[bytes]) -> None:
    """Images; each is decoded, or refused by one of a few reasons."""

    def read(data: bytes) -> None:
        try:
            assert decode_image(data).mode == "RGB"
        except BadImageError as error:
            raise MmkdError(error.reason) from error

    in_child("image", [partial(read, data) for data in files])


def several(strategy: st.SearchStrategy[bytes]) -> st.SearchStrategy[list[bytes]]:
    """For one child, since a fork costs more than reading a file."""
    return st.lists(strategy, min_size=1, max_size=40)


TARGETS: dict[str, tuple[Callable[[Any], None], Callable[[], st.SearchStrategy[Any]]]] = {
    "manifest": (fuzz_manifest, lambda: edited_json(whole()[0])),
    "record": (fuzz_record, lambda: edited_json(whole()[1])),
    "json": (fuzz_json, lambda: edited_bytes(b'{"a": [1, {"b": null}], "c": "d", "e": -1.5e3}', JSON)),
    "config": (fuzz_config, configs),
    "kd": (fuzz_kd, expressions),
    "shard": (fuzz_shards, lambda: several(shards())),
    "image": (fuzz_images, lambda: several(images())),
}

CHILDREN = ("shard", "image")  # an input of theirs is several files


def fuzz(name: str, examples: int) -> None:
    """Hand ``examples`` new inputs to a target; raises the smallest one that is a fault."""
    check, strategy = TARGETS[name]
    options = {
        "deadline": None,
        "database": None,
        "suppress_health_check": list(HealthCheck),
        "print_blob": True,
    }
    phases = (Phase.generate, Phase.shrink)
    settings(max_examples=examples, phases=phases, **options)(given(strategy())(check))()


def main(seconds: float, names: list[str]) -> int:
    """Fuzz each of the targets for its share of ``seconds``; 1 where a fault was found."""
    faults = 0
    for name in names:
        began = time.monotonic()
        while time.monotonic() - began < seconds / len(names):
            try:
                fuzz(name, 100 if name in CHILDREN else 1000)
            except Exception:
                faults += 1
                traceback.print_exc()
                break
        taken, refused = SEEN[f"{name} taken"], SEEN[f"{name} refused"]
        print(
            f"{name:<9} {taken + refused:>9,} inputs in {time.monotonic() - began:,.0f} s: {refused:,} refused, "
            f"{taken:,} taken",
            flush=True,
        )
    print(f"{sum(SEEN.values()):,} inputs, {faults} faults")
    return int(faults > 0)


if __name__ == "__main__":
    sys.exit(main(float(os.environ.get("MMKD_FUZZ_SECONDS", "3600")), sys.argv[1:] or [*TARGETS]))
