"""Captions trimmed to a batch's longest, against padded to 77 tokens.

    python benchmarks/caption_trimming.py [--batch 16]

A training step of the half-depth B/32 student, at the median length of Conceptual Captions' captions, which is counted
here; and on random batches of real captions, whose longest sets the length. The embeddings of both ways are compared.
"""

import statistics
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from clip_models import MEDIAN_TOKENS, random_clip, random_encoder, random_tokens, real_captions, token_counts
from side_by_side import Bench, arguments
from training_steps import Trainer, made_up_batch

from mmkd.batches import DistillBatch

PADDED = 77


def main() -> None:
    """Measure, print and write the result."""
    parser = arguments(__doc__, clock="cpu")
    parser.add_argument("--batch", type=int, default=16)
    options = parser.parse_args()
    bench = Bench(__file__, options)
    size = "tiny" if options.small else "b32"
    lengths = token_counts(random_encoder("tiny"), real_captions())
    median = MEDIAN_TOKENS if options.small else int(np.median(lengths))
    draw = np.random.default_rng(0)
    longest = statistics.mean(int(draw.choice(lengths, options.batch).max()) for _ in range(1000))
    bench.settings = {"batch": options.batch, "median_tokens": median, "mean_longest_of_a_batch": longest}
    trainer = Trainer(size)
    trimmed, mixed = (made_up_batch(options.batch, tokens) for tokens in (median, round(longest)))
    padded = pad(trimmed)
    ways = {f"{median} tokens, the median caption": trimmed, "padded to 77": padded}
    ways[f"{round(longest)} tokens, the longest of a mean batch"] = mixed
    names = list(ways)
    bench.time({name: partial(trainer, batch) for name, batch in ways.items()})
    bench.figure("trimmed to the median, times as fast as 77", bench.ratio(names[1], names[0]), at_least=1.3)
    bench.figure("trimmed to a batch's longest, times as fast", bench.ratio(names[1], names[2]))
    bench.figure("largest difference of embeddings", difference(size, median), at_most=1e-5)
    bench.close()


def pad(batch: DistillBatch) -> DistillBatch:
    """The same captions with padding, as CLIP's tokenizer pads them."""
    rows, tokens = batch.input_ids.shape
    ids = torch.full((rows, PADDED), 49_407)
    ids[:, :tokens] = batch.input_ids
    mask = torch.zeros_like(ids)
    mask[:, :tokens] = 1
    return replace(batch, input_ids=ids, attention_mask=mask)


@torch.inference_mode()
def difference(size: str, tokens: int) -> float:
    """Of unit embeddings of the same captions, trimmed and padded."""
    clip = random_clip(size, half=True).eval()
    batch = replace(made_up_batch(16, tokens), input_ids=random_tokens(16, tokens, seed=1))
    found = [
        torch.nn.functional.normalize(
            clip.get_text_features(input_ids=one.input_ids, attention_mask=one.attention_mask).pooler_output
        )
        for one in (batch, pad(batch))
    ]
    return float((found[0] - found[1]).abs().max())


if __name__ == "__main__":
    main()
