"""What a training of a half-depth CLIP student holds in memory, by engine: computed, so no GPU is needed.

    python benchmarks/memory.py --out build/memory --write docs/scaling.md     the tables, and memory.json
    python benchmarks/memory.py --check         the same counting against this machine's own memory

Activations are counted as PyTorch's autograd saves them, by hooks on every saved tensor, over fake tensors that have
shapes and no data: each storage once, the weights' own not. Weights, gradients and optimizer state are the number of
parameters times what each engine keeps a parameter. The caching allocator's fragments, NCCL's buffers, cuBLAS's
workspace and the CUDA context are in none of it.
"""

import argparse
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

GB = 1e9
CAPTION_TOKENS = 32
BUCKET = 500_000_000  # elements: DeepSpeed's reduce_bucket_size, which mmkd cuts to the trained parameters
BATCH = 256  # pairs of one process, in the table of totals
MARKS = ("<!-- memory: written by benchmarks/memory.py -->\n", "<!-- end of memory -->\n")


@dataclass(frozen=True)
class Teacher:
    """The sizes of OpenAI's published config.json; the student has half of the layers."""

    name: str
    patch: int
    vision: tuple[int, int, int]  # hidden size, heads, layers
    text: tuple[int, int, int]
    projection: int


TEACHERS = (
    Teacher("ViT-B/32", 32, (768, 12, 12), (512, 8, 12), 512),
    Teacher("ViT-B/16", 16, (768, 12, 12), (512, 8, 12), 512),
    Teacher("ViT-L/14", 14, (1024, 16, 24), (768, 12, 12), 768),
)


@dataclass(frozen=True)
class Engine:
    """Bytes that one of N processes keeps a parameter: whole, and divided by N, on its GPU and in its host's memory.

    ``compute`` is the width that the student computes in: under DeepSpeed the weights themselves, otherwise a copy
    that autocast makes in bf16 (and which the activations' constant part counts). ``bucket`` is the width of an element
    of DeepSpeed's bucket.
    """

    name: str
    whole: int
    divided: int = 0
    host_whole: int = 0
    host_divided: int = 0
    bucket: int = 0


def engines(precision: str) -> Iterator[Engine]:
    """What each engine keeps, for AdamW: two float32 moments a parameter, and float32 weights to step."""
    yield Engine("one GPU", whole=4 + 4 + 8)
    yield Engine("DDP", whole=4 + 4 + 8 + 4)  # the reducer's buckets hold the gradients once more
    low = 2 if precision == "bf16" else 4
    state = 4 + 8
    yield Engine("ZeRO 1", whole=low + low, divided=state, bucket=low)
    yield Engine("ZeRO 2", whole=low, divided=low + state, bucket=low)
    # Weights of the very width that is stepped are not kept twice by ZeRO 3.
    yield Engine("ZeRO 3", whole=0, divided=low + low + (state if low == 2 else 8), bucket=low)
    yield Engine("ZeRO 1, offload", whole=low + low, host_divided=state + low, bucket=low)
    yield Engine("ZeRO 2, offload", whole=low, divided=low, host_divided=state + low, bucket=low)
    yield Engine("ZeRO 3, offload", whole=0, divided=low, host_divided=low + state, bucket=low)


def student_config(teacher: Teacher) -> Any:
    """The CLIP configuration of a student of half the teacher's layers."""
    from transformers import CLIPConfig

    def tower(hidden: int, heads: int, layers: int) -> dict[str, Any]:
        return {
            "hidden_size": hidden,
            "intermediate_size": 4 * hidden,
            "num_attention_heads": heads,
            "num_hidden_layers": layers // 2,
            "hidden_act": "quick_gelu",
            "projection_dim": teacher.projection,
        }

    return CLIPConfig(
        text_config={**tower(*teacher.text), "vocab_size": 49408, "max_position_embeddings": 77},
        vision_config={**tower(*teacher.vision), "image_size": 224, "patch_size": teacher.patch},
        projection_dim=teacher.projection,
    )


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    """Makes new weights of ``dtype``."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


class SavedBytes:
    """Counts the storages that autograd saves, each once, without the weights' own."""

    def __init__(self, model: torch.nn.Module) -> None:
        self._weights = {parameter.untyped_storage()._cdata for parameter in model.parameters()}
        self._kept: list[Tensor] = []  # alive, so that no address is used twice
        self.storages: dict[int, int] = {}

    def __call__(self, tensor: Tensor) -> Tensor:
        """To be called with each tensor that is saved."""
        storage = tensor.untyped_storage()
        if storage._cdata not in self._weights:
            self._kept.append(tensor)
            self.storages[storage._cdata] = storage.nbytes()
        return tensor

    @property
    def total(self) -> int:
        """Bytes saved so far."""
        return sum(self.storages.values())


def inputs(tower: str, batch: int, dtype: torch.dtype, image_size: int = 224) -> dict[str, Tensor]:
    """What a tower reads: pixels, or captions of 32 tokens."""
    if tower == "vision":
        return {"pixel_values": torch.zeros(batch, 3, image_size, image_size, dtype=dtype)}
    tokens = torch.ones(batch, CAPTION_TOKENS, dtype=torch.int64)
    return {"input_ids": tokens, "attention_mask": tokens}


def forward(clip: Any, tower: str, batch: int, dtype: torch.dtype) -> Tensor:
    """One tower's embeddings."""
    features = clip.get_image_features if tower == "vision" else clip.get_text_features
    embeddings: Tensor = features(**inputs(tower, batch, dtype)).pooler_output
    return embeddings


def saved_bytes(config: Any, tower: str, batch: int, *, mode: str, checkpointing: bool) -> int:
    """Bytes saved by one tower's forward pass.

    Args:
        config: of the student.
        tower: ``vision`` or ``text``.
        batch: pairs.
        mode: ``fp32``; ``autocast``: bf16 over float32 weights; ``bf16``: weights and all.
        checkpointing: keeps only what enters each layer.
    """
    from transformers import CLIPModel

    dtype = torch.bfloat16 if mode == "bf16" else torch.float32
    with FakeTensorMode(), default_dtype(dtype):
        config.dtype = dtype
        clip = CLIPModel(config).train()
        if checkpointing:
            # Renamed in the midst of transformers 5.
            enable = (
                getattr(clip, "activation_checkpointing_enable", None) or clip.gradient_checkpointing_enable
            )
            enable({"use_reentrant": False})
        saved = SavedBytes(clip)
        autocast = torch.autocast("cpu", torch.bfloat16) if mode == "autocast" else nullcontext()
        with torch.autograd.graph.saved_tensors_hooks(saved, lambda tensor: tensor), autocast:
            forward(clip, tower, batch, dtype)
        return saved.total


@dataclass(frozen=True)
class Activations:
    """Bytes: ``constant`` whatever the batch, and ``pair`` more with each pair."""

    constant: float
    pair: float


def activations(config: Any, *, mode: str, checkpointing: bool) -> Activations:
    """Both towers' saved tensors; with checkpointing also one layer's, which the backward pass makes again."""
    constant = pair = again = 0.0
    for tower in ("vision", "text"):
        few, many = (
            saved_bytes(config, tower, batch, mode=mode, checkpointing=checkpointing) for batch in (2, 4)
        )
        pair += (many - few) / 2
        constant += 2 * few - many
        if checkpointing:
            whole = [saved_bytes(config, tower, batch, mode=mode, checkpointing=False) for batch in (2, 4)]
            layers = getattr(config, f"{tower}_config").num_hidden_layers
            again = max(again, ((whole[1] - whole[0]) / 2 - (many - few) / 2) / layers)
    return Activations(constant, pair + again)


def count_parameters(config: Any) -> int:
    """Weights of the student."""
    from transformers import CLIPModel

    with FakeTensorMode():
        return sum(parameter.numel() for parameter in CLIPModel(config).parameters())


def measure(teacher: Teacher) -> dict[str, Any]:
    """All numbers of one student."""
    config = student_config(teacher)
    found: dict[str, Any] = {
        "layers": [config.vision_config.num_hidden_layers, config.text_config.num_hidden_layers],
        "parameters": count_parameters(config),
    }
    for mode in ("fp32", "autocast", "bf16"):
        for checkpointing in (False, True):
            name = mode + (", checkpointing" if checkpointing else "")
            found[name] = asdict(activations(config, mode=mode, checkpointing=checkpointing))
    return found


def state_bytes(engine: Engine, parameters: int, processes: int) -> tuple[float, float]:
    """Bytes of one process: on its GPU, and on its host."""
    device = (
        parameters * (engine.whole + engine.divided / processes) + min(parameters, BUCKET) * engine.bucket
    )
    return device, parameters * (engine.host_whole + engine.host_divided / processes)


def mode_of(engine: Engine, precision: str) -> str:
    """How an engine computes at a precision."""
    if precision == "fp32":
        return "fp32"
    return "bf16" if engine.name.startswith("ZeRO") else "autocast"


def total_bytes(
    student: dict[str, Any], engine: Engine, precision: str, *, batch: int, checkpointing: bool = False
) -> float:
    """Bytes of one of 8 processes (or of the one GPU) in training."""
    mode = mode_of(engine, precision) + (", checkpointing" if checkpointing else "")
    held = student[mode]
    device, _ = state_bytes(engine, student["parameters"], 8)
    return float(device + held["constant"] + batch * held["pair"])


def table(header: list[str], rows: list[list[str]]) -> str:
    """A Markdown table, its numbers to the right."""
    lines = ["| " + " | ".join(header) + " |", "| --- |" + " ---: |" * (len(header) - 1)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])


def report(students: dict[str, Any]) -> str:
    """The tables of docs/scaling.md."""
    parts = []
    heads = [
        f"{name}, {s['layers'][0]} + {s['layers'][1]} layers, {s['parameters'] / 1e6:.1f}M"
        for name, s in students.items()
    ]
    rows = [
        [f"{precision}, {how}"] + [f"{s[mode + suffix]['pair'] / 1e6:.1f}" for s in students.values()]
        for precision, mode in (("fp32", "fp32"), ("bf16", "autocast"), ("bf16 under DeepSpeed", "bf16"))
        for how, suffix in (("plain", ""), ("--gradient-checkpointing", ", checkpointing"))
    ]
    parts += ["Activations, MB a pair:", table(["", *heads], rows)]
    for precision in ("bf16", "fp32"):
        rows = []
        for engine in engines(precision):
            cells = []
            for student in students.values():
                device, host = state_bytes(engine, student["parameters"], 8)
                cells.append(f"{device / GB:.2f}" + (f" + {host / GB:.2f}" if host else ""))
            rows.append([engine.name, *cells])
        parts += [
            f"Weights, gradients, optimizer and buckets in {precision}, GB for each of 8 processes "
            "(+ in the host's memory):",
            table(["", *students], rows),
        ]
    rows = []
    for engine in engines("bf16"):
        if "offload" in engine.name:
            continue
        cells = [
            f"{total_bytes(s, engine, 'bf16', batch=BATCH) / GB:.1f} / "
            f"{total_bytes(s, engine, 'bf16', batch=BATCH, checkpointing=True) / GB:.1f}"
            for s in students.values()
        ]
        rows.append([engine.name, *cells])
    parts += [
        f"All together in bf16 for each of 8 processes of {BATCH} pairs, GB without / with --gradient-checkpointing:",
        table(["", *students], rows),
    ]
    rows = []
    for memory in (8, 16, 24, 40, 80):
        cells = []
        for student in students.values():
            engine = next(engines("bf16"))
            held = [student["autocast" + suffix] for suffix in ("", ", checkpointing")]
            free = 0.85 * memory * GB - engine.whole * student["parameters"]
            fits = [max(0, int((free - entry["constant"]) / entry["pair"])) for entry in held]
            cells.append(f"{fits[0]:,} / {fits[1]:,}")
        rows.append([f"{memory} GB", *cells])
    parts += [
        "Pairs that one GPU takes at once in bf16, 15 % left over, without / with --gradient-checkpointing:",
        table(["", *students], rows),
    ]
    return "\n\n".join(parts)


def check(batch: int = 24) -> None:
    """The counting against what the process really takes, for a B/32 student in float32 on this CPU."""
    from transformers import CLIPModel

    def resident() -> int:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
        return pages * 4096

    config = student_config(TEACHERS[0])
    clip = CLIPModel(config).train()
    with torch.no_grad():
        for tower in ("vision", "text"):
            forward(clip, tower, batch, torch.float32)  # what is made once: kernels, threads
    before = resident()
    held = [forward(clip, tower, batch, torch.float32) for tower in ("vision", "text")]
    real = resident() - before
    counted = sum(
        saved_bytes(config, tower, batch, mode="fp32", checkpointing=False) for tower in ("vision", "text")
    )
    print(f"activations of {len(held[0])} pairs: counted {counted / 1e6:,.0f} MB, taken {real / 1e6:,.0f} MB, "
          f"ratio {counted / real:.3f}")  # fmt: skip
    before = resident()
    optimizer = torch.optim.AdamW(clip.parameters(), fused=True)
    torch.stack([embeddings.sum() for embeddings in held]).sum().backward()  # type: ignore[no-untyped-call]
    del held
    optimizer.step()
    weights = sum(parameter.numel() for parameter in clip.parameters())
    state = [value for entry in optimizer.state.values() for value in entry.values()]
    exact = sum(tensor.nbytes for tensor in state) + sum(
        p.grad.nbytes for p in clip.parameters() if p.grad is not None
    )
    print(f"gradients and AdamW's state: counted {12 * weights / 1e6:,.0f} MB, taken {exact / 1e6:,.0f} MB")


def main() -> None:
    """Print the tables and write ``memory.json``, or check the method."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--check", action="store_true", help="compare the counting with this machine's memory"
    )
    parser.add_argument("--out", type=Path, help="folder for memory.json; default: none is written")
    parser.add_argument("--write", type=Path, help="document whose marked part becomes the tables")
    options = parser.parse_args()
    if options.check:
        check()
        return
    students = {teacher.name: measure(teacher) for teacher in TEACHERS}
    text = report(students)
    print(text)
    if options.write is not None:
        before, _, rest = options.write.read_text(encoding="utf-8").partition(MARKS[0])
        after = rest.partition(MARKS[1])[2]
        document = f"{before}{MARKS[0]}\n{text}\n\n{MARKS[1]}{after}"
        options.write.write_text(document, encoding="utf-8")
    if options.out is not None:
        options.out.mkdir(parents=True, exist_ok=True)
        (options.out / "memory.json").write_text(json.dumps(students, indent=2) + "\n", encoding="utf-8")
        print(f"\nwrote {options.out / 'memory.json'}", file=sys.stderr)


if __name__ == "__main__":
    main()
