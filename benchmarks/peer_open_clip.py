"""The peer's side of gpu_open_clip.py: open_clip's own trainer with ``--distill-model``, on its own synthetic pictures.

Runs in an environment of its own, where mmkd is not installed. Reads a JSON line on standard input, answers with one.
"""

# mypy: ignore-errors
# Types are checked in our environment, and what this imports is in the other one.

import json
import logging
import re
import sys
import tempfile
from pathlib import Path

import torch


def import_torchvision() -> None:
    """Its wheel beside a torch without CUDA lacks its own operators, none of which are used here: stand-ins do."""
    library = torch.library.Library("torchvision", "DEF")
    for _ in range(50):
        try:
            import torchvision  # noqa: F401
        except RuntimeError as error:
            missing = re.search(r"operator torchvision::(\w+) does not exist", str(error))
            if missing is None:
                raise
            library.define(f"{missing[1]}(Tensor x) -> Tensor")
            for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
                del sys.modules[name]
        else:
            sys.modules["torchvision"].kept = library
            return


class Rates(logging.Handler):
    """Hears the trainer say how many samples a second it does."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[float] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep what a line says."""
        if match := re.search(r"([\d.]+)/s,", record.getMessage()):
            self.found.append(float(match[1]))


def train(request: dict) -> dict:
    """Train for some steps; the median samples a second, the first line left out."""
    import open_clip
    from open_clip_train.main import main

    rates = Rates()
    logging.getLogger().addHandler(rates)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for model, config in request["models"].items():
            (folder / f"{model}.json").write_text(json.dumps(config))
        open_clip.add_model_config(folder)
        teacher = open_clip.create_model(request["teacher"])
        torch.save(teacher.state_dict(), folder / "teacher.pt")
        samples = request["batch"] * request["steps"]
        words = ["--dataset-type", "synthetic", "--train-num-samples", str(samples), "--epochs", "1"]
        words += [
            "--batch-size",
            str(request["batch"]),
            "--workers",
            str(request["workers"]),
            "--warmup",
            "1",
        ]
        words += ["--model", request["student"], "--precision", request["precision"], "--logs", str(folder)]
        words += ["--log-every-n-steps", "1", "--save-frequency", "0", "--device", request["device"]]
        words += ["--distill-model", request["teacher"], "--distill-pretrained", str(folder / "teacher.pt")]
        main(words)
    kept = sorted(rates.found[1:])
    return {"samples_per_second": kept[len(kept) // 2]}


if __name__ == "__main__":
    import_torchvision()
    for line in sys.stdin:
        print(json.dumps(train(json.loads(line))), flush=True)
