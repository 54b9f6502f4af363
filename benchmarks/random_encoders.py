"""How often is an encoder that knows nothing called better than chance? CLIPs of random weights on real photos.

By the interval over images alone, and with the p-value against shuffled class names, which is what mmkd does:

    python benchmarks/random_encoders.py --data ../shared/data/cifar10/test.parquet
"""

import argparse
from typing import Any

import numpy as np
import torch
from rich.progress import track

from mmkd.encoders import PairEncoder, load_encoder
from mmkd.evaluation.embedded import embed_images
from mmkd.evaluation.statistics import wilson_interval
from mmkd.evaluation.tasks import open_task
from mmkd.evaluation.zero_shot import answer, choose_rows, class_weights, scores_of


def main() -> None:
    """Print both rates with their intervals."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--model", default="../shared/data/teachers/photos-32", help="whose shape and tokenizer"
    )
    parser.add_argument("--data", required=True, help="labelled photos, as --data of mmkd eval zero-shot")
    parser.add_argument("--images", type=int, default=2_000)
    parser.add_argument("--encoders", type=int, default=100)
    arguments = parser.parse_args()
    encoder = load_encoder(arguments.model)
    task = open_task(arguments.data)
    rows = choose_rows(len(task.images), arguments.images).tolist()
    labels = np.array([task.label(row, task.images[row][1]) for row in rows])
    images = {row: task.images[row][0] for row in rows}
    by_interval, by_both = 0, 0
    for seed in track(range(arguments.encoders), description="random encoders"):
        one = randomised(encoder, seed)
        embedded = embed_images({"one": one}, [images[row] for row in rows], range(len(rows)))["one"]
        weights = class_weights(one, task.class_names, task.templates)
        top_1 = scores_of(answer(embedded.vectors, weights, labels), labels, len(weights))["top-1"]
        by_interval += top_1.interval.low > top_1.chance
        by_both += not top_1.at_chance
    print(
        f"{arguments.encoders} encoders of random weights, {len(rows):,} images, {len(task.class_names)} classes"
    )
    for name, count in (("interval alone", by_interval), ("interval and p", by_both)):
        interval = wilson_interval(count, arguments.encoders)
        print(
            f"called better than chance by {name:<15}: {count:3d}  [{interval.low:.3f}, {interval.high:.3f}]"
        )


def randomised(encoder: PairEncoder, seed: int) -> PairEncoder:
    """A CLIP of the same shape with weights drawn as transformers draws them."""
    from transformers import CLIPModel

    torch.manual_seed(seed)
    model: Any = CLIPModel(encoder.model.config)
    model.eval().requires_grad_(False)
    return PairEncoder(model, encoder.image_processor, encoder.tokenizer, encoder.spec)


if __name__ == "__main__":
    main()
