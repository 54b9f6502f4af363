"""Several processes on one global batch are one process; DeepSpeed trains where it is asked for."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

WORKER = Path(__file__).parent / "gather_worker.py"
ROOT = Path(__file__).parents[1]


def launch(
    processes: int, *arguments: str, timeout: int = 300, **environment: str
) -> subprocess.CompletedProcess:
    """Run a script under torchrun, on CPUs; alone where ``processes`` is 1."""
    runner = [sys.executable]
    if processes > 1:
        runner += ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
        environment |= {"ACCELERATE_USE_CPU": "true"}
    settings = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", **environment}
    return subprocess.run(
        [*runner, *arguments], env=settings, timeout=timeout, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("expression", ["triplet + 2000*mse + cos", "clip + affinity@0.1"])
def test_two_processes_are_one(tiny_clip: Path, tmp_path: Path, expression: str) -> None:
    results = []
    for processes in (1, 2):
        out = tmp_path / f"{processes}.pt"
        done = launch(processes, str(WORKER), str(tiny_clip), expression, str(out))
        assert done.returncode == 0, done.stderr
        results.append(torch.load(out, weights_only=True))
    alone, together = results
    assert together["loss"].item() == pytest.approx(alone["loss"].item(), rel=1e-6)
    assert alone["gradients"].keys() == together["gradients"].keys()
    assert ("logit_scale" in alone["gradients"]) == ("clip" in expression.split(" + "))
    for name, expected in alone["gradients"].items():
        if name.endswith("k_proj.bias"):
            continue  # adds the same to all of a row's scores, so its gradient is nothing but rounding
        error = (together["gradients"][name] - expected).norm() / expected.norm()
        assert error < 1e-5, f"{name}: {error}"


def make_cache(tiny_clip: Path, pairs: Path, out: Path) -> None:
    command = [
        "-m",
        "mmkd",
        "cache-teacher",
        "--teacher",
        str(tiny_clip),
        "--data",
        str(pairs),
        "--out",
        str(out),
    ]
    done = launch(1, *command)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_deepspeed_zero2_trains_on_two_processes(
    tiny_clip: Path, pairs_parquet: Path, tmp_path: Path
) -> None:
    """From the root and in the README's words, with the launch file that the package carries."""
    make_cache(tiny_clip, pairs_parquet, tmp_path / "cache")
    losses = {}
    for name, launcher in {
        "one": ["-m", "mmkd"],
        "zero2": [
            "-m",
            "accelerate.commands.launch",
            "--config_file",
            "configs/accelerate/zero2.yaml",
            "mmkd",
        ],
    }.items():
        options = f"--kd mse+cos --batch-size 16 --epochs 3 --clip-grad 0 --out {tmp_path / name}"
        done = subprocess.run(
            [sys.executable, *launcher, "train", *options.split(), "--cache", str(tmp_path / "cache")],
            cwd=ROOT,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            timeout=600,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        lines = (tmp_path / name / "metrics.jsonl").read_text().splitlines()
        losses[name] = [json.loads(line)["loss"] for line in lines]
    # The same rows in the same steps: were the processes reading alike, the losses would differ at once.
    assert losses["zero2"] == pytest.approx(losses["one"], rel=1e-3)
    weights = [load_file(tmp_path / name / "student" / "model.safetensors") for name in losses]
    for name, expected in weights[0].items():
        torch.testing.assert_close(
            weights[1][name], expected, rtol=1e-2, atol=2e-3, msg=lambda text, n=name: f"{n}: {text}"
        )
