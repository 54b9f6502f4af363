"""What a model costs: parameters, multiply-adds, and images and texts a second on this machine."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from statistics import median, quantiles
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from mmkd.encoders import PairEncoder

TEXT = "a photo of a small brown dog that runs over wet grass."
"""What a text costs is counted and timed on this one."""
BATCH = {"cpu": 16}  # images, or texts, a forward pass
ACCELERATOR_BATCH = 256
SECONDS = 1.0  # of one side of one model, all rounds together
LEAST_ROUNDS, MOST_ROUNDS = 5, 50


@dataclass(frozen=True, slots=True)
class Rate:
    """How many a second: the median of ``rounds`` forward passes, and their quartiles."""

    value: float
    low: float
    high: float
    rounds: int


@dataclass(frozen=True, slots=True)
class Cost:
    """One model's.

    Attributes:
        parameters: of the whole model, its projection head included.
        image_parameters: of the image tower with its projection.
        text_parameters: of the text tower with its projection, token embeddings included.
        image_macs: multiply-adds of the forward pass of one image.
        text_macs: multiply-adds of the forward pass of one text of ``text_tokens`` tokens.
        text_tokens: tokens of ``TEXT``, as the model pads it.
        images_per_second: forward passes only; ``None``: not measured.
        texts_per_second: forward passes only; ``None``: not measured.
        batch_size: of those passes.
        device: what they ran on.
        threads: of this process, where they ran on the CPU.
    """

    parameters: int
    image_parameters: int
    text_parameters: int
    image_macs: int
    text_macs: int
    text_tokens: int
    images_per_second: Rate | None = None
    texts_per_second: Rate | None = None
    batch_size: int | None = None
    device: str | None = None
    threads: int | None = None

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self)


def count_cost(encoder: "PairEncoder") -> Cost:
    """Parameters and multiply-adds, by one forward pass of an image and of a text."""
    model, head = encoder.model, encoder.head
    pixels, tokens = _pixels(encoder, 1), _tokens(encoder, 1)
    with _plain_attention(model):
        image_macs = _count_macs(lambda: encoder.encode_pixels(pixels))
        text_macs = _count_macs(lambda: encoder.encode_tokens(tokens))
    extra: Sequence[Any] = () if head is None else (head,)
    text = [model.text_model, getattr(model, "text_projection", None), getattr(head, "text", None)]
    image = [model.vision_model, getattr(model, "visual_projection", None), getattr(head, "image", None)]
    return Cost(
        _count_parameters([model, *extra]),
        _count_parameters(image),
        _count_parameters(text),
        image_macs,
        text_macs,
        int(tokens["input_ids"].shape[1]),
    )


def measure_rates(
    encoders: "Mapping[str, PairEncoder]",
    costs: Mapping[str, Cost],
    *,
    seconds: float = SECONDS,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, Cost]:
    """Time the forward passes of every model by turns, so that what slows the machine down slows all of them.

    Decoding, resizing and tokenizing, which cost teacher and student the same, are not part of it.

    Args:
        encoders: models by name.
        costs: what ``count_cost`` found, by name.
        seconds: to spend on each side of the slowest model, about.
        clock: gives seconds.
    """
    passes: dict[tuple[str, str], Callable[[], Any]] = {}
    sizes = {}
    for name, encoder in encoders.items():
        sizes[name] = BATCH.get(encoder.device.type, ACCELERATOR_BATCH)
        pixels, tokens = _pixels(encoder, sizes[name]), _tokens(encoder, sizes[name])
        passes[name, "image"] = lambda encoder=encoder, pixels=pixels: encoder.encode_pixels(pixels)  # type: ignore[misc]
        passes[name, "text"] = lambda encoder=encoder, tokens=tokens: encoder.encode_tokens(tokens)  # type: ignore[misc]
    # The first passes fill caches, and say how many more there is time for.
    slowest = max(_time(run, clock) for _ in range(2) for run in passes.values())
    rounds = max(LEAST_ROUNDS, min(MOST_ROUNDS, int(seconds / max(slowest, 1e-9))))
    taken: dict[tuple[str, str], list[float]] = {key: [] for key in passes}
    for _ in range(rounds):
        for key, run in passes.items():
            taken[key].append(_time(run, clock))
    return {
        name: replace(
            cost,
            images_per_second=_rate(sizes[name], taken[name, "image"]),
            texts_per_second=_rate(sizes[name], taken[name, "text"]),
            batch_size=sizes[name],
            device=_device_name(encoders[name].device),
            threads=torch.get_num_threads() if encoders[name].device.type == "cpu" else None,
        )
        for name, cost in costs.items()
    }


def _pixels(encoder: "PairEncoder", count: int) -> Tensor:
    config: Any = encoder.model.config.vision_config
    generator = torch.Generator().manual_seed(0)
    return torch.randn(count, 3, config.image_size, config.image_size, generator=generator)


def _tokens(encoder: "PairEncoder", count: int) -> dict[str, Tensor]:
    return encoder.tokenize([TEXT] * count)


@contextmanager
def _plain_attention(model: Any) -> Iterator[None]:
    """Attention as two matrix products: PyTorch's counter does not see the CPU's fused kernel."""
    towers = (model, model.vision_model, model.text_model)
    before = [tower.config._attn_implementation for tower in towers]
    model.set_attn_implementation("eager")
    try:
        yield
    finally:
        for tower, implementation in zip(towers, before, strict=True):
            tower.set_attn_implementation(implementation)


def _count_macs(run: Callable[[], Any]) -> int:
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        run()
    return int(counter.get_total_flops()) // 2


def _count_parameters(modules: Sequence[nn.Module | None]) -> int:
    seen = {id(p): p.numel() for module in modules if module is not None for p in module.parameters()}
    return sum(seen.values())


def _time(run: Callable[[], Any], clock: Callable[[], float]) -> float:
    start = clock()
    run()  # brings its result to the CPU, and so waits for the accelerator
    return clock() - start


def _rate(size: int, seconds: Sequence[float]) -> Rate:
    first, _, third = quantiles(seconds, n=4)
    return Rate(size / median(seconds), size / third, size / first, len(seconds))


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
