"""What a model costs, against the formula on paper, and a clock that is ours."""

from itertools import count
from pathlib import Path

import pytest
import torch

from mmkd.encoders import PairEncoder, load_encoder
from mmkd.evaluation.cost import LEAST_ROUNDS, TEXT, count_cost, measure_rates
from mmkd.heads import ProjectionHead


def macs_of_layers(layers: int, tokens: int, width: int, inner: int) -> int:
    """Four projections, two products with the attention matrix, two layers of the perceptron."""
    return layers * (4 * tokens * width * width + 2 * tokens * tokens * width + 2 * tokens * width * inner)


def test_multiply_adds_and_parameters_by_hand(tiny_encoder: PairEncoder) -> None:
    cost = count_cost(tiny_encoder)
    # 32 x 32 pixels in patches of 8: 16 patches and the class token; width 32, inner 64, 4 layers, projected to 32.
    assert cost.image_macs == 16 * 3 * 8 * 8 * 32 + macs_of_layers(4, 17, 32, 64) + 32 * 32
    tokens = len(TEXT) + 2
    assert cost.text_tokens == tokens
    assert cost.text_macs == macs_of_layers(4, tokens, 32, 64) + 32 * 32
    assert cost.parameters == sum(p.numel() for p in tiny_encoder.model.parameters())
    # The logit scale is neither tower's.
    assert cost.image_parameters + cost.text_parameters == cost.parameters - 1


def test_counting_leaves_the_model_as_it_was(tiny_encoder: PairEncoder) -> None:
    towers = (tiny_encoder.model, tiny_encoder.model.vision_model, tiny_encoder.model.text_model)
    before = [tower.config._attn_implementation for tower in towers]
    vectors = tiny_encoder.encode_texts(["a dog"])
    count_cost(tiny_encoder)
    assert [tower.config._attn_implementation for tower in towers] == before
    assert torch.equal(tiny_encoder.encode_texts(["a dog"]), vectors)


def test_a_head_and_a_siglip_are_counted_whole(tiny_encoder: PairEncoder, tiny_siglip: Path) -> None:
    from dataclasses import replace

    plain = count_cost(tiny_encoder)
    headed = count_cost(replace(tiny_encoder, head=ProjectionHead(32, 20)))
    extra = sum(p.numel() for p in ProjectionHead(32, 20).parameters())
    assert headed.parameters - plain.parameters == extra
    assert headed.image_macs - plain.image_macs == 32 * 20
    siglip = count_cost(load_encoder(tiny_siglip, device=torch.device("cpu")))
    assert siglip.text_tokens == 64  # it is always padded
    assert siglip.text_macs >= macs_of_layers(4, 64, 48, 64)
    assert siglip.image_macs >= 16 * 3 * 8 * 8 * 48 + macs_of_layers(4, 16, 48, 64)
    assert siglip.parameters == siglip.image_parameters + siglip.text_parameters + 2  # scale and bias


def test_rates_are_batch_over_the_median_time_of_turns(tiny_encoder: PairEncoder) -> None:
    calls = []

    class Noted:
        model, head, device = tiny_encoder.model, None, tiny_encoder.device
        tokenize = staticmethod(tiny_encoder.tokenize)

        def __init__(self, name: str) -> None:
            self.name = name

        def encode_pixels(self, pixels: torch.Tensor) -> None:
            calls.append((self.name, "image", len(pixels)))

        def encode_tokens(self, tokens: dict[str, torch.Tensor]) -> None:
            calls.append((self.name, "text", len(tokens["input_ids"])))

    ticks = count()
    cost = count_cost(tiny_encoder)
    found = measure_rates(
        {"a": Noted("a"), "b": Noted("b")},
        {"a": cost, "b": cost},
        seconds=0.1,
        clock=lambda: 0.5 * next(ticks),  # every pass takes half a second
    )
    turn = [("a", "image", 16), ("a", "text", 16), ("b", "image", 16), ("b", "text", 16)]
    assert calls == turn * (2 + LEAST_ROUNDS)
    for one in found.values():
        assert one.images_per_second.value == one.texts_per_second.low == pytest.approx(32)
        assert (one.batch_size, one.device, one.images_per_second.rounds) == (16, "cpu", LEAST_ROUNDS)


def test_half_the_layers_take_about_half(tiny_clip: Path, tmp_path: Path) -> None:
    import mmkd

    folder = tmp_path / "half"
    mmkd.halve(str(tiny_clip), depth=2).save_pretrained(folder)
    for file in (*tiny_clip.glob("token*"), *tiny_clip.glob("prepro*"), *tiny_clip.glob("process*")):
        (folder / file.name).write_bytes(file.read_bytes())
    whole = count_cost(load_encoder(tiny_clip, device=torch.device("cpu")))
    half = count_cost(load_encoder(folder, device=torch.device("cpu")))
    outside = 16 * 3 * 8 * 8 * 32 + 32 * 32
    assert (half.image_macs - outside) * 2 == whole.image_macs - outside
