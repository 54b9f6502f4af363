"""SigLIP teachers embed as transformers' own model does, and their students train, export and load."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from command_line import SMALL, mmkd
from conftest import draw_pair, save_tiny_clip
from transformers import SiglipModel, pipeline

from mmkd.encoders import PairEncoder, load_encoder, read_teacher_spec, tokenize
from mmkd.errors import ConfigError, ModelError
from mmkd.families import SIGLIP, load_processors, read_model_config
from mmkd.shapes import StudentShape
from mmkd.students import build_student, default_init, halve

CPU = torch.device("cpu")
LIMIT = ["--limit", "48"]
IMAGES = [draw_pair(number)[0] for number in range(5)]
TEXTS = ["a red circle", "a photo of a green square, drawn " + "very " * 20 + "small", "x"]


@pytest.fixture(scope="module")
def encoder(tiny_siglip: Path) -> PairEncoder:
    return load_encoder(tiny_siglip, device=CPU)


def test_embeddings_and_logits_are_those_of_the_models_own_forward(
    encoder: PairEncoder, tiny_siglip: Path
) -> None:
    model = SiglipModel.from_pretrained(tiny_siglip)
    texts = encoder.tokenizer(
        TEXTS, padding="max_length", max_length=64, truncation=True, return_tensors="pt"
    )
    pixels = encoder.image_processor(images=IMAGES, return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        own = model(input_ids=texts["input_ids"], pixel_values=pixels)
    image = torch.nn.functional.normalize(encoder.encode_images(IMAGES), dim=1)
    text = torch.nn.functional.normalize(encoder.encode_texts(TEXTS), dim=1)
    assert (image.shape, text.shape) == ((5, 48), (3, 48))
    torch.testing.assert_close(image, own.image_embeds, atol=1e-5, rtol=0)
    torch.testing.assert_close(text, own.text_embeds, atol=1e-5, rtol=0)
    logits = encoder.spec.logit_scale * image @ text.T + encoder.logit_bias
    torch.testing.assert_close(logits, own.logits_per_image, atol=1e-4, rtol=0)
    assert encoder.logit_bias == -12.5


def test_the_zero_shot_pipeline_agrees(encoder: PairEncoder, tiny_siglip: Path) -> None:
    image_processor, tokenizer = load_processors(tiny_siglip, name="tiny")
    classify = pipeline(
        "zero-shot-image-classification",
        model=SiglipModel.from_pretrained(tiny_siglip),
        image_processor=image_processor,
        tokenizer=tokenizer,
    )
    found = classify(IMAGES, candidate_labels=TEXTS, hypothesis_template="{}")
    image = torch.nn.functional.normalize(encoder.encode_images(IMAGES), dim=1)
    text = torch.nn.functional.normalize(encoder.encode_texts(TEXTS), dim=1)
    ours = torch.sigmoid(encoder.spec.logit_scale * image @ text.T + encoder.logit_bias)
    for row, answers in zip(ours, found, strict=True):
        theirs = {answer["label"]: answer["score"] for answer in answers}
        assert [theirs[label] for label in TEXTS] == pytest.approx(row.tolist(), abs=1e-5)


def test_padding_is_never_trimmed_and_never_masked(encoder: PairEncoder) -> None:
    tokens = tokenize(encoder.tokenizer, ["x"], 64, SIGLIP)
    assert tokens["input_ids"].shape == (1, 64)
    assert bool(tokens["attention_mask"].all())
    torch.testing.assert_close(
        encoder.encode_texts(["x"])[0], encoder.encode_texts(["x", TEXTS[1]])[0], atol=1e-5, rtol=0
    )


def test_what_a_cache_says_of_it(encoder: PairEncoder, tiny_siglip: Path) -> None:
    spec = read_teacher_spec(tiny_siglip)
    assert spec == encoder.spec
    assert (spec.dim, spec.layers, spec.logit_scale) == (48, (4, 4), pytest.approx(np.exp(4.7)))


def changed(folder: Path, to: Path, **values: object) -> Path:
    shutil.copytree(folder, to)
    config = json.loads((to / "config.json").read_text())
    for name, value in values.items():
        tower, _, field = name.rpartition("__")
        (config[f"{tower}_config"] if tower else config)[field] = value
    (to / "config.json").write_text(json.dumps(config))
    return to


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"model_type": "siglip2"}, "Siglip2Model of variable resolution"),
        ({"model_type": "blip"}, "is a 'blip' model; expected a CLIP or a SigLIP"),
        ({"model_type": ["clip"]}, "expected a CLIP or a SigLIP"),
        ({"text__projection_size": 32}, "images in 48 and texts in 32 dimensions"),
        ({"vision__vision_use_head": False}, "pooling head False"),
    ],
)
def test_models_of_other_kinds_are_refused_by_name(
    tiny_siglip: Path, tmp_path: Path, values: dict[str, object], says: str
) -> None:
    with pytest.raises(ModelError, match=says):
        load_encoder(changed(tiny_siglip, tmp_path / "other", **values), device=CPU)


def test_siglip_2_folds_case_as_it_was_trained(tiny_siglip: Path, tmp_path: Path) -> None:
    folder = tmp_path / "siglip2"
    shutil.copytree(tiny_siglip, folder)
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    tokenizer["normalizer"] = None
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    file = folder / "tokenizer_config.json"
    plain, gemma = (
        load_processors(folder, name="x")[1]
        for cls in ("SiglipTokenizer", "GemmaTokenizer")
        if file.write_text(json.dumps(json.loads(file.read_text()) | {"tokenizer_class": cls}))
    )
    same = [
        one(["A Red Circle"])["input_ids"] == one(["a red circle"])["input_ids"] for one in (plain, gemma)
    ]
    assert same == [False, True]


def test_half_the_layers_are_the_teachers_own(tiny_siglip: Path) -> None:
    student, teacher = halve(tiny_siglip), SiglipModel.from_pretrained(tiny_siglip)
    assert type(student) is SiglipModel
    ours, theirs = student.state_dict(), teacher.state_dict()
    for tower in ("vision", "text"):
        for mine, layer in ((0, 0), (1, 2)):
            name = f"{tower}_model.encoder.layers.{{}}.mlp.fc1.weight"
            assert torch.equal(ours[name.format(mine)], theirs[name.format(layer)])
        assert not any(f"{tower}_model.encoder.layers.2." in name for name in ours)
    for name in ("logit_scale", "logit_bias", "vision_model.head.probe", "text_model.head.weight"):
        assert torch.equal(ours[name], theirs[name])


def test_a_random_student_starts_as_siglips_paper_says(tiny_siglip: Path) -> None:
    student = build_student(tiny_siglip, StudentShape(width=24), seed=3)
    scale, bias = (getattr(student.clip, name).detach() for name in ("logit_scale", "logit_bias"))
    assert (float(scale.exp()), float(bias)) == pytest.approx((10, -10))
    assert student.clip.config.text_config.projection_size == 24
    assert student.head is not None
    assert student.head.dims == (24, 48)


def test_what_siglips_towers_cannot_be(tiny_siglip: Path, tiny_clip: Path) -> None:
    with pytest.raises(ConfigError, match="--width 24 changes what a SigLIP's image tower embeds in"):
        build_student(tiny_siglip, StudentShape(width=24, towers="image"))
    config = tiny_clip / "config.json"
    with pytest.raises(ConfigError, match=r"describes a CLIP.*the other tower is the teacher's, a SigLIP"):
        build_student(tiny_siglip, StudentShape(config=config, towers="image"))


@pytest.fixture(scope="module")
def clip_config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CLIP's ``config.json`` that takes what the tiny SigLIP's tokenizer gives."""
    folder = save_tiny_clip(tmp_path_factory.mktemp("student") / "clip", layers=2)
    return changed(folder, folder.parent / "64", text__max_position_embeddings=64) / "config.json"


def test_a_clip_that_learns_a_siglip_pools_where_its_texts_end(tiny_siglip: Path, clip_config: Path) -> None:
    shape = StudentShape(config=clip_config)
    student = build_student(tiny_siglip, shape)
    assert default_init(tiny_siglip, shape) == "random"
    assert student.head is not None
    assert student.head.dims == (32, 48)
    _, tokenizer = load_processors(tiny_siglip, name="tiny")
    assert student.clip.config.text_config.eos_token_id == tokenizer.eos_token_id
    tokens = tokenize(tokenizer, TEXTS, 64)
    with torch.no_grad():
        whole = student.clip.text_model(**tokens)
    ends = (tokens["input_ids"] == tokenizer.eos_token_id).int().argmax(dim=1)
    assert len(set(ends.tolist())) == 3
    assert torch.equal(whole.pooler_output, whole.last_hidden_state[torch.arange(3), ends])
    assert read_model_config(tiny_siglip, name="tiny").text_config.eos_token_id != tokenizer.eos_token_id


@pytest.fixture(scope="module")
def work(tiny_siglip: Path, pairs_parquet: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with a SigLIP's cache."""
    folder = tmp_path_factory.mktemp("work")
    done = mmkd("cache-teacher", "--teacher", tiny_siglip, "--data", pairs_parquet, "--work", folder, *LIMIT)
    assert done.returncode == 0, done.stderr
    return folder


def test_the_short_command_trains_half_a_siglip(work: Path, tiny_siglip: Path) -> None:
    out = work / "half"
    done = mmkd("train", "--task", "siglip", "--kd", "mse+cos", "--work", work, "--out", out, *SMALL)
    assert done.returncode == 0, done.stderr
    assert "2 + 2 layers of width 48 + 48, every other layer of the teacher" in done.stderr
    student = SiglipModel.from_pretrained(out / "student").state_dict()
    teacher = SiglipModel.from_pretrained(tiny_siglip).state_dict()
    for name in ("logit_scale", "logit_bias", "vision_model.head.probe"):
        assert student[name].shape == teacher[name].shape
        torch.testing.assert_close(student[name], teacher[name], atol=0.1, rtol=0)
        assert not torch.equal(student[name], teacher[name])
    spec = read_teacher_spec(out / "student")
    assert spec.preprocess_hash == read_teacher_spec(tiny_siglip).preprocess_hash
    assert spec.logit_scale == pytest.approx(float(student["logit_scale"].exp()))
    assert "A SigLIP distilled from" in (out / "student" / "README.md").read_text()
    assert "SiglipModel.from_pretrained" in (out / "student" / "README.md").read_text()


def test_a_clip_learns_a_siglip_through_a_head(work: Path, clip_config: Path, tiny_siglip: Path) -> None:
    out = work / "clip"
    done = mmkd("train", "--student-config", clip_config, "--work", work, "--out", out, *SMALL)
    assert done.returncode == 0, done.stderr
    assert "2 + 2 layers of width 32 + 32, random weights · head 32 -> 48" in done.stderr
    student, teacher = (load_encoder(one, device=CPU) for one in (out / "student", tiny_siglip))
    assert (student.spec.dim, student.family.name, teacher.family.name) == (48, "CLIP", "SigLIP")
    # The teacher's preprocessing and tokenizer, of whatever family, are kept with it.
    assert torch.equal(student.preprocess(IMAGES), teacher.preprocess(IMAGES))
    assert student.spec.preprocess_hash == teacher.spec.preprocess_hash
    texts = student.tokenize(TEXTS)["input_ids"]
    assert torch.equal(texts, teacher.tokenize(TEXTS)["input_ids"][:, : texts.shape[1]])
