"""On a GPU: pairs a second of open_clip's own trainer with ``--distill-model``, against a cached training of mmkd.

    python benchmarks/gpu_open_clip.py [--teacher b32 --batch 512]

The student is a B/32 of 6 + 6 layers on both sides, the batch and precision the same; weights are random. open_clip
trains on its own synthetic pictures and one caption of 77 tokens; mmkd on a batch that is on the device already, padded
to 77 tokens for the same arithmetic, and trimmed as it would be. open_clip is installed into an environment of its own.
"""

from pathlib import Path
from typing import Any

from clip_models import MEDIAN_TOKENS
from gpu import device_for, gpu_figure
from peers import Peer, peer_python
from side_by_side import Bench, arguments
from training_steps import Trainer, made_up_batch

REQUIREMENTS = ("open_clip_torch>=3,<4", "torchvision", "webdataset", "pandas")
STEPS = 20


def main() -> None:
    """Measure, print and write the result."""
    parser = arguments(__doc__)
    parser.add_argument("--teacher", default="b32", choices=("b32", "b16"))
    parser.add_argument("--batch", type=int, default=512)
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--without-peer", action="store_true", help="mmkd's side alone")
    options = parser.parse_args()
    device, bench = device_for(options), Bench(__file__, options)
    batch, steps, workers = (4, 3, 0) if options.small else (options.batch, STEPS, options.workers)
    trainer = Trainer("tiny" if options.small else "b32", device=device, precision="bf16")
    rates = {}
    for tokens in (77, MEDIAN_TOKENS):
        pairs = made_up_batch(batch, tokens).to(trainer.device)

        def run(pairs: Any = pairs) -> None:
            for _ in range(steps):
                trainer(pairs)
            trainer.wait()

        name = f"mmkd, cached, {tokens} tokens: {steps} steps"
        rates[tokens] = batch * steps / bench.time({name: run})[name].median("wall")
        gpu_figure(bench, f"GPU: mmkd cached, {tokens} tokens, pairs a second", rates[tokens])
    theirs = None if options.without_peer else open_clip_rate(options, device, batch, steps, workers)
    gpu_figure(bench, "GPU: open_clip --distill-model, pairs a second", theirs)
    for tokens, rate in rates.items():
        times = None if theirs is None else rate / theirs
        gpu_figure(bench, f"GPU: mmkd cached, {tokens} tokens, times open_clip --distill-model", times)
    bench.settings = {"batch": batch, "teacher": options.teacher, "peer": theirs is not None}
    bench.close()


def open_clip_rate(options: Any, device: str, batch: int, steps: int, workers: int) -> float | None:
    """Pairs a second of its trainer; None where it cannot be installed or run."""
    request: dict[str, Any] = {
        "models": {"student": config(6, 32, options.small), "teacher": config(12, 32, options.small)},
        "student": "student",
        "teacher": "teacher",
        "batch": batch,
        "steps": steps,
        "workers": workers,
        "device": device,
        "precision": "amp_bf16",
    }
    if options.teacher == "b16":
        request["models"]["teacher"] = config(12, 16, options.small)
    peer = None
    try:
        peer = Peer(peer_python("open-clip", *REQUIREMENTS), Path(__file__).with_name("peer_open_clip.py"))
        return float(peer.ask(**request)["samples_per_second"])
    except RuntimeError as error:
        print(f"  open_clip is left out: {error}")
        return None
    finally:
        if peer is not None:
            peer.close()


def config(layers: int, patch: int, small: bool) -> dict[str, Any]:
    """Of a ViT-B, as open_clip writes it."""
    width, layers, size = (64, 2, 32) if small else (768, layers, 224)
    return {
        "embed_dim": 64 if small else 512,
        "vision_cfg": {
            "image_size": size,
            "layers": layers,
            "width": width,
            "patch_size": 16 if small else patch,
        },
        "text_cfg": {
            "context_length": 77,
            "vocab_size": 49408,
            "width": 64 if small else 512,
            "heads": 8,
            "layers": layers,
        },
    }


if __name__ == "__main__":
    main()
