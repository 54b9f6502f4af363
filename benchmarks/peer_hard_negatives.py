"""The peer's side of mining_peer.py: sentence-transformers' ``mine_hard_negatives`` on vectors that are given.

Runs in an environment of its own, where mmkd is not installed. Reads a JSON line on standard input, answers with one.
"""

# mypy: ignore-errors
# Types are checked in our environment, and what this imports is in the other one.

import json
import logging
import sys
import time
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset, disable_progress_bars
from sentence_transformers.util import mine_hard_negatives

disable_progress_bars()
logging.disable(logging.WARNING)


class Given:
    """What ``mine_hard_negatives`` needs of a model: every text is a number, and its vector is looked up."""

    device = torch.device("cpu")

    def __init__(self, vectors: np.ndarray) -> None:
        self.vectors = vectors

    def get_embedding_dimension(self):
        """D."""
        return self.vectors.shape[1]

    get_sentence_embedding_dimension = get_embedding_dimension

    def encode_query(self, texts, **_):
        """Of queries."""
        return self.vectors[[int(text[1:]) for text in texts]]

    encode_document = encode = encode_query

    def similarity(self, a, b):
        """Cosines of all with all."""
        return torch.as_tensor(a) @ torch.as_tensor(b).T

    def similarity_pairwise(self, a, b):
        """Cosines of each with its own."""
        return (torch.as_tensor(a) * torch.as_tensor(b)).sum(dim=1)


def mine(request: dict) -> dict:
    """Mine, and write the negatives' numbers, int64 (N, K), -1 at the end."""
    if request["threads"]:
        import faiss

        torch.set_num_threads(request["threads"])
        faiss.omp_set_num_threads(request["threads"])
    vectors = np.load(request["vectors"])
    count, wanted = len(vectors), request["negatives"]
    pairs = Dataset.from_dict(
        {"anchor": [f"q{i}" for i in range(count)], "positive": [f"c{i}" for i in range(count)]}
    )
    wall, cpu = time.perf_counter(), time.process_time()
    found = mine_hard_negatives(
        pairs,
        Given(vectors),
        range_max=request["range_max"],
        num_negatives=wanted,
        relative_margin=request["relative_margin"],
        output_format="triplet",
        use_faiss=request["faiss"],
        verbose=False,
    )
    spent = {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}
    rows: list[list[int]] = [[] for _ in range(count)]
    for anchor, negative in zip(found["anchor"], found["negative"], strict=True):
        rows[int(anchor[1:])].append(int(negative[1:]))
    padded = np.full((count, wanted), -1, dtype=np.int64)
    for number, row in enumerate(rows):
        padded[number, : len(row)] = row
    np.save(Path(request["out"]), padded)
    return spent


if __name__ == "__main__":
    for line in sys.stdin:
        print(json.dumps(mine(json.loads(line))), flush=True)
