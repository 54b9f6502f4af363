"""``mmkd doctor``: what is installed, what works, and what the machine has, to paste into a bug report."""

import json
import os
import platform
import shutil
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from mmkd.cli.console import console, status
from mmkd.cli.options import DEFAULT_WORK, Work
from mmkd.cli.tables import align

SCHEMA, SCHEMA_VERSION = "mmkd.doctor", 1
OK, ABSENT, BROKEN = "ok", "absent", "broken"
_HUB_SECONDS = 5.0
NEEDED = (
    "torch",
    "transformers",
    "accelerate",
    "datasets",
    "faiss-cpu",
    "h5py",
    "safetensors",
    "huggingface_hub",
)
OTHERS = ("deepspeed", "matplotlib", "numpy", "pillow", "tensorboard", "wandb", "optuna", "onnxruntime")


@dataclass(frozen=True)
class Finding:
    """One line.

    Attributes:
        what: was looked at.
        state: ``ok``, ``absent`` or ``broken``.
        detail: a version, a size, or why it does not work.
        needed: whether mmkd cannot do without.
    """

    what: str
    state: str
    detail: str
    needed: bool = False


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    work: Work = DEFAULT_WORK,
) -> None:
    """Say what is installed, which devices there are, and what of the stack works; exit 1 where something needed fails.

    Each library is not only imported but used: a search with FAISS, an HDF5 file, a step under Accelerate. The Hub is
    asked only where HF_HUB_OFFLINE is not set, and nothing of this machine is sent.

    \b
      mmkd doctor
      mmkd doctor --json > doctor.json
    """
    findings: list[Finding] = []
    for find in CHECKS:
        with status.status(find.__name__.strip("_").replace("_", " ")):
            findings += find(work)
    broken = [one for one in findings if one.needed and one.state != OK]
    if as_json:
        value = {
            "schema": SCHEMA,
            "schema_version": SCHEMA_VERSION,
            "findings": [asdict(one) for one in findings],
        }
        typer.echo(json.dumps(value, indent=2, ensure_ascii=False))
    else:
        for line in align([[one.what, one.state, one.detail] for one in findings]):
            console.print(line, markup=False, soft_wrap=True)
        console.print()
        console.print(
            f"{len(broken)} of what mmkd needs does not work: {', '.join(one.what for one in broken)}"
            if broken
            else "all that mmkd needs works",
            markup=False,
        )
    if broken:
        raise typer.Exit(1)


def _machine(_work: Path) -> list[Finding]:
    from importlib.metadata import version

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return [
        Finding("mmkd", OK, version("mmkd")),
        Finding("python", OK, f"{platform.python_version()} · {sys.executable}"),
        Finding("system", OK, f"{platform.platform()} · {cores} cores · {_memory()}"),
    ]


def _memory() -> str:
    try:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError):
        return "memory unknown"
    return f"{total / 1e9:.1f} GB of memory"


def _versions(_work: Path) -> list[Finding]:
    from importlib.metadata import PackageNotFoundError, version

    found = []
    for name in (*NEEDED, *OTHERS):
        try:
            found.append(Finding(name, OK, version(name), name in NEEDED))
        except PackageNotFoundError:
            found.append(Finding(name, ABSENT, "not installed", name in NEEDED))
    return found


def _devices(_work: Path) -> list[Finding]:
    def look() -> str:
        import torch

        if not torch.cuda.is_available():
            mps = getattr(torch.backends, "mps", None)
            return "none: training runs on the CPU" + (
                " (MPS is there)" if mps and mps.is_available() else ""
            )
        kind = "ROCm" if torch.version.hip else "CUDA"
        cards = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
        listed = ", ".join(f"{card.name} {card.total_memory / 1e9:.0f} GB" for card in cards)
        return f"{listed} · {kind} {torch.version.cuda or torch.version.hip}"

    return [_tried("accelerators", look, needed=False), _tried("torch computes", _multiply, needed=True)]


def _multiply() -> str:
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    one = torch.eye(8, device=device)
    if not torch.equal(one @ one, one):
        raise RuntimeError("the product of two identity matrices is no identity matrix")
    return f"on {device}, {torch.get_num_threads()} threads"


def _stack(_work: Path) -> list[Finding]:
    return [
        _tried("transformers' CLIP", _clip, needed=True),
        _tried("faiss searches", _search, needed=True),
        _tried("HDF5 writes and maps", _hdf5, needed=True),
        _tried("accelerate starts", _accelerate, needed=True),
        _tried("deepspeed imports", _deepspeed, needed=False),
    ]


def _clip() -> str:
    from transformers import CLIPModel, CLIPTokenizer

    return f"{CLIPModel.__name__}, {CLIPTokenizer.__name__}"


def _search() -> str:
    import faiss
    import numpy as np

    index = faiss.IndexFlatIP(4)
    index.add(np.eye(4, dtype=np.float32))
    _, nearest = index.search(np.eye(4, dtype=np.float32), 1)
    if nearest[:, 0].tolist() != [0, 1, 2, 3]:
        raise RuntimeError(f"the nearest of four axes are {nearest[:, 0].tolist()}")
    return "exact search" + (" · GPU" if hasattr(faiss, "StandardGpuResources") else " on the CPU")


def _hdf5() -> str:
    import tempfile

    import h5py
    import numpy as np

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "one.h5"
        with h5py.File(file, "w") as out:
            out.create_dataset("rows", data=np.arange(8, dtype=np.float16))
        with h5py.File(file, "r") as back:
            offset = back["rows"].id.get_offset()
        mapped = np.memmap(file, np.float16, "r", offset, (8,))
        if mapped.tolist() != list(range(8)):
            raise RuntimeError("a mapped data set reads back differently")
    return f"HDF5 {h5py.version.hdf5_version}"


def _accelerate() -> str:
    from accelerate import PartialState

    state = PartialState()
    return f"on {state.device}, {state.num_processes} process(es)"


def _deepspeed() -> str:
    # In a process of its own: it prints, compiles, and changes what transformers does afterwards.
    import subprocess

    line = "import deepspeed; print(deepspeed.__version__, deepspeed.get_accelerator()._name)"
    done = subprocess.run(
        [sys.executable, "-P", "-c", line], capture_output=True, text=True, timeout=120, check=False
    )
    if done.returncode:
        raise RuntimeError((done.stderr.strip().splitlines() or ["it ends without a word"])[-1])
    version, accelerator = done.stdout.split()[-2:]
    return f"{version} on {accelerator}"


def _disk(work: Path) -> list[Finding]:
    place = work
    while not place.exists():
        place = place.absolute().parent
    free = shutil.disk_usage(place).free
    writable = os.access(place, os.W_OK)
    detail = f"{free / 1e9:.1f} GB free at {place.resolve()}" + (
        "" if writable else ", which may not be written to"
    )
    return [Finding("disk", OK if writable and free > 1e9 else BROKEN, detail, needed=True)]


def _hub(_work: Path) -> list[Finding]:
    from huggingface_hub import constants, get_token

    login = "logged in" if get_token() else "not logged in (needed for private models and for mmkd push)"
    if constants.HF_HUB_OFFLINE:
        return [Finding("hub", ABSENT, f"not asked: HF_HUB_OFFLINE is set · {login}")]

    def ask() -> str:
        from huggingface_hub import get_session

        answer = get_session().get(constants.ENDPOINT + "/api/models?limit=1", timeout=_HUB_SECONDS)
        if answer.status_code != 200:
            raise RuntimeError(f"{constants.ENDPOINT} answers with {answer.status_code}")
        return f"{constants.ENDPOINT} answers · {login}"

    return [_tried("hub", ask, needed=False)]


def _tried(what: str, work: Callable[[], str], *, needed: bool) -> Finding:
    import warnings

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return Finding(what, OK, work(), needed)
    except ModuleNotFoundError as error:
        return Finding(what, ABSENT, str(error), needed)
    except Exception as error:
        said: Any = (str(error).strip().splitlines() or [""])[0]
        return Finding(what, BROKEN, f"{type(error).__name__}: {said}"[:300], needed)


CHECKS: tuple[Callable[[Path], list[Finding]], ...] = (_machine, _versions, _devices, _stack, _disk, _hub)
