"""Which tower of a student loses what its teacher knew: each beside the teacher's other tower.

    python benchmarks/tower_swap.py --model photos/runs/my-run --teacher PHOTOS/photos-32 --data cifar10=cifar10.parquet

Prints zero-shot top-1 of both towers together, of the student's image tower with the teacher's texts, and of the
teacher's images with the student's text tower, each with what is kept of the teacher's score over chance.
"""

import argparse
from pathlib import Path
from typing import Any


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument(
        "--model", action="append", required=True, help="run or folder; may be given several times"
    )
    parser.add_argument("--teacher", required=True, help="folder or hub id")
    parser.add_argument("--data", action="append", required=True, help="as mmkd eval zero-shot --data has it")
    parser.add_argument("--templates", type=Path, help="one a line, each with {} for the class")
    return parser.parse_args()


def main() -> None:
    """Embed, cross, print."""
    options = arguments()
    import numpy as np

    from mmkd.encoders import load_encoder
    from mmkd.evaluation.embedded import embed_images
    from mmkd.evaluation.statistics import top_k_chance
    from mmkd.evaluation.tasks import open_task, read_templates
    from mmkd.evaluation.zero_shot import answer, class_weights

    teacher = load_encoder(options.teacher)
    students = {}
    for model in options.model:
        folder = Path(model) / "student"
        students[model] = load_encoder(str(folder if folder.is_dir() else model))
    templates = read_templates(options.templates) if options.templates else None
    print(
        "| set | student | both towers | its images, the teacher's texts | the teacher's images, its texts |"
    )
    print("|---|---|---|---|---|")
    for spec in options.data:
        task = open_task(spec, templates)
        rows = range(len(task.images))
        labels = np.array([task.label(row, task.images[row][1]) for row in rows])
        encoders = {"teacher": teacher, **students}
        images = embed_images(encoders, _Bytes(task.images), list(rows))
        texts = {name: class_weights(one, task.class_names, task.templates) for name, one in encoders.items()}
        chance = top_k_chance(labels, 1, len(task.class_names))

        def top_1(image: str, text: str) -> float:
            found = images[image]  # noqa: B023 (called at once)
            ranks = answer(found.vectors, texts[text], labels[found.places]).ranks  # noqa: B023
            return float((ranks == 0).mean())

        whole = top_1("teacher", "teacher") - chance
        for name in students:
            cells = [top_1(name, name), top_1(name, "teacher"), top_1("teacher", name)]
            shown = " | ".join(f"{100 * cell:.2f} ({100 * (cell - chance) / whole:.0f} %)" for cell in cells)
            print(f"| {task.name} | {name} | {shown} |", flush=True)


class _Bytes:
    """Labelled images without their labels."""

    def __init__(self, images: Any) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, row: int) -> bytes:
        data: bytes = self.images[row][0]
        return data


if __name__ == "__main__":
    main()
