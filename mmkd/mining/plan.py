"""Which search: exact while it takes about a minute, then inverted lists, compressed where memory wants it."""

import os
import re
from dataclasses import dataclass
from pathlib import Path

import torch

from mmkd.errors import ConfigError

METHODS = ("exact", "ivf", "ivf-pq")
EXACT_SECONDS = 60
CPU_FLOPS = 4e10  # float32 products and sums a second of one core, as FAISS reaches on older servers
CUDA_FLOPS = 2e13  # of one GPU in float32, merging included
MIN_MEMORY = 32 << 20
_UNITS = {
    "": 1,
    "k": 10**3,
    "m": 10**6,
    "g": 10**9,
    "t": 10**12,
    "ki": 2**10,
    "mi": 2**20,
    "gi": 2**30,
    "ti": 2**40,
}


@dataclass(frozen=True)
class SearchOptions:
    """How captions are searched.

    Attributes:
        method: one of ``METHODS``.
        memory: bytes that this process may use.
        device: of the matrix products of exact search; ``None``: the CPU.
        scratch: a folder that all processes see, for inverted lists; ``None``: this process builds its own.
    """

    method: str = "exact"
    memory: int = 1 << 30
    device: torch.device | None = None
    scratch: Path | None = None


def choose_method(captions: int, dim: int, *, memory: int, asked: str = "auto", cuda: bool = False) -> str:
    """``exact``, ``ivf`` or ``ivf-pq``, the same for any number of processes.

    Exact where ``2 * captions^2 * dim`` operations take at most ``EXACT_SECONDS`` at ``CPU_FLOPS`` a core of this
    machine, or ``CUDA_FLOPS`` on a GPU; else inverted lists of whole vectors where those fit into ``memory``, else
    compressed ones.

    Raises:
        ConfigError: ``asked`` is neither auto nor a method.
    """
    if asked not in ("auto", *METHODS):
        raise ConfigError(f"--mining-search {asked} is unknown; expected one of auto, {', '.join(METHODS)}")
    if asked != "auto":
        return asked
    rate = CUDA_FLOPS if cuda else CPU_FLOPS * (os.cpu_count() or 1)
    if 2 * captions**2 * dim <= EXACT_SECONDS * rate:
        return "exact"
    return "ivf" if captions * (4 * dim + 8) <= memory else "ivf-pq"


def mining_seconds(captions: int, dim: int, method: str, *, cuda: bool = False) -> float:
    """About how long negatives of ``captions`` distinct captions are searched, at the rates that the choice goes by.

    Exact search multiplies every pair of vectors. Otherwise 4 sqrt(N) lists are clustered in 10 rounds from 40 captions
    each, every caption is put into its nearest, and 8 lists are searched; where these find too little, more are.
    """
    rate = CUDA_FLOPS if cuda else CPU_FLOPS * (os.cpu_count() or 1)
    if method == "exact":
        return 2 * captions**2 * dim / rate
    lists = max(1, min(int(4 * captions**0.5), captions // 40))
    comparisons = 10 * 40 * lists * lists + captions * lists + captions**2 * min(8, lists) / lists
    return 2 * comparisons * dim / (CPU_FLOPS * (os.cpu_count() or 1))


def parse_memory(text: str | None) -> int:
    """Bytes of ``4GB``, ``500 MB`` or ``2GiB``; by default a quarter of this machine's memory.

    Raises:
        ConfigError: it cannot be read, or is too little to hold one block.
    """
    if text is None:
        return max(MIN_MEMORY, os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 4)
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]?i?)b?\s*", text, re.IGNORECASE)
    if match is None or match[2].lower() not in _UNITS:
        raise ConfigError(f"cannot read --mining-memory {text!r}; expected a size such as 4GB or 500MB")
    size = int(float(match[1]) * _UNITS[match[2].lower()])
    if size < MIN_MEMORY:
        raise ConfigError(
            f"--mining-memory {text} is too little for one block of vectors; expected {MIN_MEMORY >> 20}MiB or more"
        )
    return size
