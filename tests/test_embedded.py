"""Embeddings of an evaluation set: computed once a model, kept, and never mixed up."""

import copy
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from test_zero_shot import FakeEncoder, png, task_of

from mmkd.evaluation.embedded import ContentHash, KeptEmbeddings, embed_images, embed_texts, model_hash
from mmkd.evaluation.zero_shot import evaluate


def encoder(seed: int = 0, rows: int = 12) -> FakeEncoder:
    generator = np.random.default_rng(seed)
    return FakeEncoder(generator.normal(size=(26, 2)), generator.normal(size=(rows, 2)))


def test_a_second_evaluation_embeds_nothing_and_finds_the_same(tmp_path: Path) -> None:
    kept, one = KeptEmbeddings(tmp_path / "kept"), encoder()
    first = evaluate({"a": one}, task_of(12), kept=kept, by_template=True)
    calls = one.preprocess_calls
    again = evaluate({"a": replace(one, text=one.text * np.nan)}, task_of(12), kept=kept, by_template=True)
    assert calls == 1
    assert again.to_json(None) == first.to_json(None)
    assert len(list((tmp_path / "kept").iterdir())) == 3  # images, sentences, scores


def test_only_the_new_model_is_run(tmp_path: Path) -> None:
    kept, old = KeptEmbeddings(tmp_path), encoder()
    alone = evaluate({"old": old}, task_of(12), kept=kept)
    new = replace(encoder(1), spec=replace(old.spec, weights_hash="other"))
    both = evaluate({"old": old, "new": new}, task_of(12), kept=kept)
    assert (old.preprocess_calls, new.preprocess_calls) == (1, 1)
    assert both.models["old"].scores == alone.models["old"].scores


@pytest.mark.parametrize("changed", ["weights_hash", "preprocess_hash", "tokenizer_hash"])
def test_another_model_has_another_hash(changed: str) -> None:
    one = encoder()
    assert model_hash(replace(one, spec=replace(one.spec, **{changed: "x"}))) != model_hash(one)
    assert model_hash(replace(one, spec=replace(one.spec, model="elsewhere"))) == model_hash(one)


@pytest.mark.parametrize(
    ("side", "setting", "value"),
    [
        ("text_config", "hidden_act", "relu"),
        ("vision_config", "num_attention_heads", 1),
        ("vision_config", "layer_norm_eps", 0.1),
        ("text_config", "eos_token_id", 1),
    ],
)
def test_another_computation_has_another_hash(tiny_encoder, side: str, setting: str, value: object) -> None:
    config = copy.deepcopy(tiny_encoder.model.config)
    computing = SimpleNamespace(config=config, dtype=tiny_encoder.model.dtype)
    same = SimpleNamespace(spec=tiny_encoder.spec, device=tiny_encoder.device, model=computing)
    config._name_or_path = "elsewhere"
    assert model_hash(same) == model_hash(tiny_encoder)
    setattr(getattr(config, side), setting, value)
    assert model_hash(same) != model_hash(tiny_encoder)


def test_other_images_or_another_order_are_embedded_anew(tmp_path: Path) -> None:
    images = [png("red", number) for number in range(4)]
    kept = KeptEmbeddings(tmp_path)
    keys = set()
    for data in (images, images[::-1], images[:3]):
        content = ContentHash()
        for image in data:
            content.add(image)
        keys.add(content.hexdigest())
        embed_images({"a": encoder()}, data, range(len(data)), kept=kept, content=content.hexdigest())
    assert len(keys) == len(list(tmp_path.iterdir())) == 3


def test_boundaries_count() -> None:
    one, other = ContentHash(), ContentHash()
    for data in (b"ab", b"c"):
        one.add(data)
    for data in (b"a", b"bc"):
        other.add(data)
    assert one.hexdigest() != other.hexdigest()


def test_images_that_cannot_be_decoded_are_remembered(tmp_path: Path) -> None:
    images = [png("red"), b"nothing", png("blue"), b""]
    kept = KeptEmbeddings(tmp_path)
    found = [
        embed_images({"a": encoder()}, images, range(4), kept=kept, content="c", batch_size=3)["a"]
        for _ in "12"
    ]
    for one in found:
        assert one.places.tolist() == [0, 2]
        assert one.skipped == {"not an image of a known format": 1, "no image data": 1}
    assert np.array_equal(found[0].vectors, found[1].vectors)


def test_a_damaged_file_is_made_again(tmp_path: Path) -> None:
    kept = KeptEmbeddings(tmp_path)
    expected = embed_texts(encoder(), ["a", "b"], kept=kept)
    (file,) = tmp_path.iterdir()
    whole = file.read_bytes()
    flipped = bytearray(whole)
    flipped[-1] ^= 1
    misnamed = whole.replace(b"vectors", b"vectorz")
    for damaged in (whole[:-3], bytes(flipped), misnamed, whole.replace(b"F64", b"I64"), b""):
        file.write_bytes(damaged)
        assert kept.read(file.stem) is None
        assert np.array_equal(embed_texts(encoder(), ["a", "b"], kept=kept), expected)
        assert file.read_bytes() == whole
    other = "0" * 32
    file.rename(tmp_path / f"{other}.safetensors")
    assert kept.read(other) is None  # what another key was kept under


def test_texts_are_told_apart(tmp_path: Path) -> None:
    kept = KeptEmbeddings(tmp_path)
    first = embed_texts(encoder(), ["a", "b"], kept=kept)
    assert np.array_equal(embed_texts(encoder(), ["b", "a"], kept=kept), first[::-1])
    assert np.array_equal(embed_texts(encoder(), ["a", "b"], kept=kept, batch_size=1), first)
