"""Makes the teacher that ``mmkd demo`` carries, from nothing but the recipe: ``make demo-teacher``.

Draws the scenes, trains a CLIP from scratch on them (about an hour on two cores), and puts its weights, in float16,
beside this file. Stopped, the same command goes on from the last checkpoint.
"""

import argparse
import subprocess
import sys
from pathlib import Path

from safetensors.torch import load_file, save

from mmkd.files import atomic_file
from mmkd.scenes import write_training_scenes

HERE = Path(__file__).resolve().parent
RECIPE = HERE.parent / "recipes" / "demo-teacher.yaml"
SCENES, SEED = 40_000, 1


def export(student: Path, weights: Path) -> None:
    """Save a student's weights in float16; the logit scale keeps its float32."""
    tensors = load_file(student / "model.safetensors")
    halves = {name: tensor if name == "logit_scale" else tensor.half() for name, tensor in tensors.items()}
    with atomic_file(weights) as temporary:
        temporary.write_bytes(save(halves, metadata={"format": "pt"}))


def main() -> None:
    """Draw, train, export."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--work", type=Path, default=Path("work/demo-teacher"), help="where the scenes and the run go"
    )
    parser.add_argument("--scenes", type=int, default=SCENES)
    parser.add_argument("--out", type=Path, default=HERE / "teacher" / "model.safetensors")
    parser.add_argument("train", nargs="*", help="after --: further options of mmkd train, to try things out")
    arguments = parser.parse_args()
    scenes, run = arguments.work / "scenes.parquet", arguments.work / "run"
    if not scenes.exists():
        print(f"drawing {arguments.scenes:,} scenes into {scenes}")
        write_training_scenes(scenes, arguments.scenes, SEED)
    command = [sys.executable, "-P", "-m", "mmkd", "train", "--config", str(RECIPE), "--out", str(run)]
    command += [
        "--model-config",
        str(HERE / "teacher" / "config.json"),
        "--data",
        str(scenes),
        *arguments.train,
    ]
    if run.exists():
        command.append("--resume")
    subprocess.run(command, check=True)
    export(run / "student", arguments.out)
    print(f"saved {arguments.out} ({arguments.out.stat().st_size / 1e6:.1f} MB)")


if __name__ == "__main__":
    main()
