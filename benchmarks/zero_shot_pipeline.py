"""Zero-shot classification of a set, against transformers' own pipeline with the same model, names and template.

    python benchmarks/zero_shot_pipeline.py [--images 300]

CIFAR-10's test photos and the trained teacher of ../shared/data, else drawn scenes and the demo's teacher; one template
for both. The pipeline embeds every class name anew for each image. That both name the same class is checked.
"""

import io
from collections.abc import Mapping
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import torch
from clip_models import SHARED
from PIL import Image
from side_by_side import Bench, arguments

from mmkd.encoders import load_encoder
from mmkd.evaluation.tasks import open_task
from mmkd.evaluation.zero_shot import evaluate
from mmkd.evaluation.zero_shot_task import ZeroShotTask

OURS, THEIRS = "mmkd.evaluate", "transformers' zero-shot-image-classification pipeline"
TEMPLATE = "a photo of a {}."


def main() -> None:
    """Measure, print and write the result."""
    parser = arguments(__doc__, clock="cpu")
    parser.add_argument("--images", type=int, default=300)
    options = parser.parse_args()
    count = 12 if options.small else options.images
    bench = Bench(__file__, options)
    folder, task = model_and_task(count)
    encoder = load_encoder(folder, device=torch.device("cpu"))
    ask = pipeline(folder)
    images = [Image.open(io.BytesIO(task.images[row][0])).convert("RGB") for row in range(count)]
    said: list[list[Mapping[str, Any]]] = []
    answers: list[Any] = []

    def ours() -> None:
        answers[:] = [evaluate({"model": encoder}, task, limit=count).models["model"].predicted]

    def theirs() -> None:
        names = list(task.class_names)
        said[:] = [ask(image, candidate_labels=names, hypothesis_template=TEMPLATE) for image in images]

    bench.time({OURS: ours, THEIRS: theirs})
    chosen = [task.class_names.index(scores[0]["label"]) for scores in said]
    bench.settings = {"images": count, "classes": len(task.class_names), "set": task.name}
    bench.figure("zero-shot, times as fast as the pipeline", bench.ratio(THEIRS, OURS), at_least=3)
    bench.figure(
        "images that both give the same class", float((np.array(chosen) == answers[0]).mean()), at_least=0.999
    )
    bench.close()


def pipeline(folder: Path) -> Any:
    """Transformers' pipeline on the CPU, with the processors that mmkd takes, too."""
    from transformers import AutoTokenizer, CLIPImageProcessorPil, CLIPModel
    from transformers import pipeline as make

    return make(
        "zero-shot-image-classification",
        model=CLIPModel.from_pretrained(folder, dtype=torch.float32),
        tokenizer=AutoTokenizer.from_pretrained(folder),
        image_processor=CLIPImageProcessorPil.from_pretrained(folder),
        device="cpu",
    )


def model_and_task(count: int) -> tuple[Path, ZeroShotTask]:
    """A model's folder, and the first images of a set with one template, in memory."""
    folder, data = SHARED / "teachers" / "photos-32", SHARED / "cifar10" / "test.parquet"
    if folder.is_dir() and data.is_file():
        task = open_task(str(data), [TEMPLATE])
        return folder, replace(task, images=[task.images[row] for row in range(count)])
    draw = np.random.default_rng(0)
    names = ("red", "green", "blue")
    images = []
    for number in range(count):
        plane = np.zeros((40, 40, 3), np.uint8)
        plane[..., number % 3] = draw.integers(100, 255, (40, 40))
        stream = io.BytesIO()
        Image.fromarray(plane).save(stream, "PNG")
        images.append((stream.getvalue(), number % 3))
    demo = Path(str(files("mmkd.configs").joinpath("demo", "teacher")))
    return demo, ZeroShotTask("planes", images, names, (TEMPLATE,))


if __name__ == "__main__":
    main()
