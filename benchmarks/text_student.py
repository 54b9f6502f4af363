"""A text student of six layers, learnt from real CLIP ViT-B/32 embeddings of 1,000 texts alone.

    python benchmarks/text_student.py --out build/text-student

Imports 1,000 of LVIS's 1,203 texts with their vectors as a cache of one side, trains a text tower with random weights
on it with ``mmkd train``, and asks for the remaining 203 and for COCO's 80: how near is the student's vector to the
real one, and which place does the right text take among all of its set? The data is expected in ../shared/data.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
SEED = 0
TRAINED = 1_000
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Texts:
    """Texts with unit vectors (N, D) of the teacher's."""

    texts: list[str]
    vectors: Floats

    def take(self, rows: Sequence[int]) -> "Texts":
        """Some of them, in the order asked for."""
        return Texts([self.texts[row] for row in rows], self.vectors[list(rows)])


@dataclass(frozen=True)
class Scores:
    """How well vectors stand for texts.

    Attributes:
        count: N.
        cosine: mean cosine with the right text's vector.
        rank: mean place of the right text among all N, by cosine, from 1; ties count against.
        median: the median place.
        top1: share of rows whose right text comes first.
        top10: share whose right text is among the first ten.
    """

    count: int
    cosine: float
    rank: float
    median: float
    top1: float
    top10: float


def score(found: Floats, right: Floats) -> Scores:
    """Hold vectors (N, D) against those of the same texts (N, D); both of unit length."""
    similarity = found @ right.T
    own = similarity.diagonal()
    places = (similarity >= own[:, None]).sum(axis=1)
    return Scores(
        len(own),
        float(own.mean()),
        float(places.mean()),
        float(np.median(places)),
        float((places == 1).mean()),
        float((places <= 10).mean()),
    )


def chance(right: Floats, train: Floats) -> Scores:
    """What is had without looking at the text: the cosine of the training texts' mean, and a place drawn by lot."""
    count = len(right)
    mean = train.mean(axis=0)
    cosine = float((right @ (mean / np.linalg.norm(mean))).mean())
    return Scores(count, cosine, (count + 1) / 2, (count + 1) / 2, 1 / count, min(1.0, 10 / count))


def read_texts(file: Path) -> Texts:
    """Texts and vectors of an ``.npz`` of the shared data."""
    with np.load(file, allow_pickle=False) as arrays:
        vectors = arrays["embeddings"].astype(np.float64)
        return Texts(arrays["texts"].tolist(), vectors / np.linalg.norm(vectors, axis=1, keepdims=True))


def split(lvis: Texts) -> tuple[list[int], list[int]]:
    """Rows to train on, and the rest."""
    order = np.random.default_rng(SEED).permutation(len(lvis.texts)).tolist()
    return order[:TRAINED], order[TRAINED:]


def write_student(folder: Path, tokenizer_folder: Path, *, dim: int, layers: int, width: int) -> Path:
    """A CLIP's ``config.json`` with CLIP's own tokenizer; its image tower is there in name only."""
    from transformers import AutoTokenizer, CLIPConfig, CLIPImageProcessorPil

    tokenizer = AutoTokenizer.from_pretrained(tokenizer_folder)
    special = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")}
    sizes = {"hidden_size": width, "intermediate_size": 4 * width, "num_attention_heads": max(1, width // 64)}
    text = {**sizes, **special, "num_hidden_layers": layers, "vocab_size": len(tokenizer)}
    image = {"hidden_size": 8, "intermediate_size": 8, "num_attention_heads": 1, "num_hidden_layers": 1}
    config = CLIPConfig(
        text_config=text,
        vision_config={**image, "image_size": 32, "patch_size": 32},
        projection_dim=dim,
    )
    config.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}).save_pretrained(
        folder
    )
    return folder / "config.json"


def run(arguments: Sequence[object]) -> None:
    """A command of mmkd's, in this process."""
    from mmkd.cli.app import run as command

    try:
        command([str(argument) for argument in arguments])
    except SystemExit as left:
        if left.code:
            raise


def train_student(train: Path, out: Path, options: argparse.Namespace) -> Path:
    """Import, train, and give the student's folder."""
    student = write_student(
        out / "config", SHARED / "clip-tokenizer", dim=512, layers=options.layers, width=options.width
    )
    run(
        [
            "cache",
            "import",
            train,
            "--text-column",
            "embeddings",
            "--caption-column",
            "texts",
            "--out",
            out / "cache",
        ]
    )
    again = ["--resume"] if (out / "run").exists() else []
    settings = {
        "towers": "text",
        "task": "none",
        "kd": options.kd,
        "cache": out / "cache",
        "model-config": student,
        "epochs": options.epochs,
        "batch-size": 100,
        "lr": options.lr,
        "workers": 0,
        "out": out / "run",
    }
    run(["train", *(part for name, value in settings.items() for part in (f"--{name}", value)), *again])
    return out / "run" / "student"


def embed(student: Path, texts: list[str]) -> Floats:
    """The student's unit vectors (N, D)."""
    from mmkd.encoders import load_encoder

    vectors: Floats = load_encoder(student).encode_texts(texts).numpy().astype(np.float64)
    unit: Floats = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return unit


def table(rows: dict[str, tuple[Scores, Scores]]) -> str:
    """Markdown: each set's scores beside chance."""
    lines = [
        "| texts | | mean cosine | mean place of the right text | median | first | in the first ten |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, (student, blind) in rows.items():
        for who, found in (("student", student), ("chance", blind)):
            label = f"{name} ({found.count:,})" if who == "student" else ""
            lines.append(
                f"| {label} | {who} | {found.cosine:.3f} | {found.rank:.1f} | {found.median:.0f} | "
                f"{found.top1:.1%} | {found.top10:.1%} |"
            )
    return "\n".join(lines)


def main() -> int:
    """Train and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("build/text-student"))
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--lr", default="1e-3")
    parser.add_argument("--kd", default="mse+cos")
    options = parser.parse_args()
    folder = SHARED / "clip-embeddings"
    if not folder.is_dir():
        print(f"skipped: the embeddings are not here ({folder})")
        return 0
    lvis, coco = read_texts(folder / "lvis_text_vitb32.npz"), read_texts(folder / "coco_text_vitb32.npz")
    rows, held_out = split(lvis)
    options.out.mkdir(parents=True, exist_ok=True)
    train_file = options.out / "train.npz"
    with np.load(folder / "lvis_text_vitb32.npz", allow_pickle=False) as arrays:
        np.savez(train_file, **{name: arrays[name][rows] for name in arrays.files})
    student = train_student(train_file, options.out, options)
    seen = set(lvis.take(rows).texts)
    new = [row for row, text in enumerate(coco.texts) if text not in seen]
    sets = {
        "LVIS, trained on": lvis.take(rows),
        "LVIS, held out": lvis.take(held_out),
        "COCO": coco,
        "COCO, not trained on": coco.take(new),
    }
    results: dict[str, tuple[Scores, Scores]] = {}
    for name, texts in sets.items():
        blind = chance(texts.vectors, lvis.take(rows).vectors)
        results[name] = score(embed(student, texts.texts), texts.vectors), blind
    print(table(results))
    report: dict[str, Any] = {
        name: {"student": vars(found), "chance": vars(blind)} for name, (found, blind) in results.items()
    }
    (options.out / "scores.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
