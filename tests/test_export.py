"""Students in other libraries' forms, held against the original; loaded without our own reader where that can be."""

import re
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import draw_pair, save_tiny_clip
from PIL import Image
from test_cli_eval import mmkd, one_line

from mmkd.encoders import PairEncoder, load_encoder
from mmkd.errors import ConfigError, DataError, ModelError
from mmkd.export import forms
from mmkd.export.forms import TOLERANCE, Check, Form, Sample, compare, export_model
from mmkd.export.open_clip_form import crops_alike
from mmkd.heads import ProjectionHead

CPU = torch.device("cpu")
FORMS = ("onnx", "sentence-transformers", "open-clip")


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> PairEncoder:
    return load_encoder(save_tiny_clip(tmp_path_factory.mktemp("student") / "clip", layers=1), device=CPU)


@pytest.fixture(scope="module")
def sample() -> Sample:
    images, texts = zip(*map(draw_pair, range(5)), strict=True)
    return Sample(tuple(images), (*texts, "a", "a much longer caption of a picture, with many words in it"))


def unit(vectors: object) -> np.ndarray:
    values = np.asarray(vectors, dtype=np.float64)
    return values / np.linalg.norm(values, axis=-1, keepdims=True)


def close(check: Check) -> bool:
    return all(difference <= TOLERANCE for difference in check.differences.values())


def test_onnx_towers_give_the_students_embeddings_to_onnxruntime_alone(
    student: PairEncoder, sample: Sample, tmp_path: Path
) -> None:
    import onnxruntime

    headed = replace(student, head=ProjectionHead(32, 20))
    headed = replace(headed, spec=replace(student.spec, dim=20))
    check = export_model(headed, "onnx", tmp_path / "out", sample)
    assert close(check)
    assert check.counts == {"image": 5, "text": 7}
    pixels, tokens = headed.preprocess(sample.images), headed.tokenize(sample.texts)
    for name, inputs, expected in (
        ("image", {"pixel_values": pixels}, headed.encode_pixels(pixels)),
        ("text", tokens, headed.encode_tokens(tokens)),
    ):
        session = onnxruntime.InferenceSession(
            tmp_path / "out" / f"{name}.onnx", providers=["CPUExecutionProvider"]
        )
        wanted = {one.name for one in session.get_inputs()}
        (found,) = session.run(None, {key: value.numpy() for key, value in inputs.items() if key in wanted})
        assert found.shape == (len(expected), 20)  # the head is part of the graph
        assert np.abs(unit(found) - unit(expected)).max() <= TOLERANCE


def test_sentence_transformers_loads_the_folder_by_itself(
    student: PairEncoder, sample: Sample, tmp_path: Path
) -> None:
    from sentence_transformers import SentenceTransformer

    assert close(export_model(student, "sentence-transformers", tmp_path / "out", sample))
    model = SentenceTransformer(str(tmp_path / "out"), device="cpu", local_files_only=True)
    for inputs, expected in (
        (list(sample.images), student.encode_images(sample.images)),
        (list(sample.texts), student.encode_texts(sample.texts)),
    ):
        found = model.encode(inputs, show_progress_bar=False)
        assert np.abs(unit(found) - unit(expected)).max() <= TOLERANCE


def test_open_clips_form_has_its_names_and_the_students_embeddings(
    student: PairEncoder, sample: Sample, tmp_path: Path
) -> None:
    from safetensors.numpy import load_file

    check = export_model(student, "open-clip", tmp_path / "out", sample)
    assert close(check)
    assert check.by.startswith("open_clip")
    weights = load_file(tmp_path / "out" / "open_clip_model.safetensors")
    assert {"visual.conv1.weight", "positional_embedding", "text_projection", "logit_scale"} <= set(weights)
    assert (tmp_path / "out" / "open_clip_config.json").is_file()


@pytest.mark.parametrize("margin", range(13))
def test_images_that_torchvision_crops_a_pixel_aside_are_known(student: PairEncoder, margin: int) -> None:
    rows = np.repeat(np.arange(32 + margin, dtype=np.uint8)[:, None], 32, axis=1)
    image = Image.fromarray(np.stack([rows] * 3, axis=-1))  # as large as the model's, but for the margin
    first = student.preprocess([image])[0, 0, 0, 0].item()
    settings = student.image_processor
    ours = round((first * settings.image_std[0] + settings.image_mean[0]) * 255)
    theirs = round(margin / 2.0)  # torchvision.transforms.functional.center_crop
    assert crops_alike(student, image) is (ours == theirs)
    assert crops_alike(student, image.transpose(Image.Transpose.ROTATE_90)) is (ours == theirs)


def test_such_images_are_left_out_and_counted(
    student: PairEncoder, sample: Sample, tmp_path: Path, pairs_parquet: Path
) -> None:
    odd = Image.new("RGB", (32, 35), "red")
    mixed = replace(sample, images=(*sample.images, odd))
    assert export_model(student, "open-clip", tmp_path / "out", mixed).unlike == 1
    with pytest.raises(DataError, match="all 1 images are cropped otherwise by the other library"):
        export_model(student, "open-clip", tmp_path / "other", replace(sample, images=(odd,)))
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize("form", FORMS)
def test_real_photos(
    form: str, shared_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The photo teacher with half its layers, on photographs and captions of Flickr8k, as typed."""
    import mmkd as library

    teacher, half = shared_data / "teachers" / "photos-32", tmp_path / "half"
    library.halve(str(teacher), depth=2).save_pretrained(half)
    for file in (*teacher.glob("token*"), *teacher.glob("prepro*")):
        (half / file.name).write_bytes(file.read_bytes())
    photos = shared_data / "flickr8k-1000" / "train.parquet"
    command = ("export", half, "--to", form, "--out", tmp_path / "out", "--data", photos, "--images", 24)
    assert mmkd(*command) == 0
    printed = capsys.readouterr().out
    count = 22 if form == "open-clip" else 24  # two are cropped a pixel aside
    assert f"differs on {count} images by at most " in printed
    assert " on 24 texts by at most " in printed
    images, texts = map(float, re.findall(r"at most (\S+)", printed))
    assert max(images, texts) <= TOLERANCE


@pytest.mark.parametrize("form", ["sentence-transformers", "open-clip"])
def test_an_export_that_differs_is_not_kept(
    form: str, student: PairEncoder, sample: Sample, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = forms.FORMS[form]()

    def spoil(encoder: PairEncoder, folder: Path, sides: object) -> None:
        other = load_encoder(save_tiny_clip(tmp_path / "other", layers=1, seed=9), device=CPU)
        whole.write(other, folder, sides)

    monkeypatch.setitem(forms.FORMS, form, lambda: Form(spoil, whole.read))
    with pytest.raises(
        ModelError, match=r"differs from the original by .* on 5 images and .* nothing was written"
    ):
        export_model(student, form, tmp_path / "out", sample)
    assert not (tmp_path / "out").exists()


def test_not_a_number_and_another_width_are_no_agreement(student: PairEncoder, sample: Sample) -> None:
    class Off:
        by = "nobody"

        def encode_images(self, images: object) -> torch.Tensor:
            return torch.full((len(images), 32), torch.nan)

        def encode_texts(self, texts: object) -> torch.Tensor:
            return torch.ones(len(texts), 31)

    assert compare(student, Off(), sample).differences == {"image": float("inf"), "text": float("inf")}


def test_one_wrong_image_of_many_is_found(student: PairEncoder, sample: Sample) -> None:
    class Nearly:
        by = "nobody"
        seen = 0

        def encode_images(self, images: object) -> torch.Tensor:
            vectors = student.encode_images(images).clone()
            self.seen += len(vectors)
            if self.seen == len(sample.images):
                vectors[-1, 0] += 1e-3 * vectors[-1].norm()
            return vectors

        encode_texts = staticmethod(student.encode_texts)

    found = compare(student, Nearly(), sample).differences
    assert found["text"] == 0
    assert TOLERANCE < found["image"] < 2e-3


def test_what_cannot_be_exported_gives_one_line(
    tiny_clip: Path,
    tiny_siglip: Path,
    pairs_parquet: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fails(*arguments: object) -> str:
        assert mmkd("export", *arguments) == 1
        return one_line(capsys)

    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("mine")
    out = ("--out", tmp_path / "out")
    data = ("--data", pairs_parquet, "--images", 3)
    assert "is there already" in fails(tiny_clip, "--to", "open-clip", "--out", tmp_path / "full", *data)
    assert "no run names data to check the export on" in fails(tiny_clip, "--to", "open-clip", *out)
    assert "--to open-clip writes CLIPs only; pass --to onnx" in fails(
        tiny_siglip, "--to", "open-clip", *out, *data
    )
    with pytest.raises(
        ConfigError, match="unknown form 'coreml'; expected one of: onnx, sentence-transformers"
    ):
        forms.choose_form("coreml")
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    assert 'needs onnxscript, which is not installed: pip install "mmkd[export]"' in fails(
        tiny_clip, "--to", "onnx", *out, *data
    )
    assert not (tmp_path / "out").exists()
