"""The projection head: made, saved, read again, and applied wherever a student is judged."""

import io
import re
import shutil
from pathlib import Path

import pytest
import torch
from conftest import draw_pair
from safetensors.torch import save_file
from torch.nn.functional import normalize
from transformers import CLIPModel

from mmkd.encoders import PairEncoder, load_encoder, read_teacher_spec
from mmkd.errors import ModelError
from mmkd.heads import HEAD_FILE, ProjectionHead, load_head, save_head
from mmkd.model_card import write_model_card
from mmkd.runs import Run
from mmkd.weights import hash_weights, weights_files

CPU = torch.device("cpu")
IMAGES = [draw_pair(number)[0] for number in range(4)]
TEXTS = [draw_pair(number)[1] for number in range(4)]


def test_both_maps_start_as_one_isometry_of_the_seed() -> None:
    before = torch.get_rng_state()
    head, again, other = (ProjectionHead(16, 24, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(head.image.weight, again.image.weight)
    assert not torch.equal(head.image.weight, other.image.weight)
    assert head.image.weight.data_ptr() != head.text.weight.data_ptr()
    image, text = torch.randn(5, 16), torch.randn(5, 16)
    projected = head(image, text)
    assert [tuple(side.shape) for side in projected] == [(5, 24), (5, 24)]
    torch.testing.assert_close(projected[0] @ projected[1].T, image @ text.T)


def test_each_side_has_its_own_map_and_an_absent_side_passes() -> None:
    head = ProjectionHead(2, 3)
    head.load_state_dict(
        {
            "image.weight": torch.tensor([[1.0, 0], [0, 2], [1, 1]]),
            "text.weight": torch.tensor([[0.0, 1], [1, 0], [0, 0]]),
        }
    )
    image, text = head(torch.tensor([[1.0, 3.0]]), torch.tensor([[1.0, 3.0]]))
    assert (image.tolist(), text.tolist()) == ([[1, 6, 4]], [[3, 1, 0]])
    absent = torch.empty(1, 0)
    assert head(image[:, :2], absent)[1] is absent
    assert head(absent, text[:, :2])[0] is absent


@pytest.fixture
def headed(tiny_clip: Path, tmp_path: Path) -> Path:
    """``tiny_clip`` with a head to 48 dimensions whose sides differ."""
    folder = Path(shutil.copytree(tiny_clip, tmp_path / "run" / "student"))
    head = ProjectionHead(32, 48)
    with torch.no_grad():
        head.text.weight.mul_(-3)
    save_head(head.state_dict(), folder)
    return folder


def test_every_encoder_applies_the_head_it_finds(headed: Path, tiny_encoder: PairEncoder) -> None:
    encoder = load_encoder(headed, device=CPU)
    assert encoder.head is not None
    assert encoder.head.dims == (32, 48)
    assert encoder.spec.dim == read_teacher_spec(headed).dim == 48
    image, text = encoder.encode_images(IMAGES), encoder.encode_texts(TEXTS)
    torch.testing.assert_close(image, tiny_encoder.encode_images(IMAGES) @ encoder.head.image.weight.T)
    torch.testing.assert_close(text, tiny_encoder.encode_texts(TEXTS) @ encoder.head.text.weight.T)
    assert not any(parameter.requires_grad for parameter in encoder.head.parameters())
    CLIPModel.from_pretrained(headed)  # still a plain CLIP


def test_the_head_is_part_of_what_identifies_a_student(headed: Path, tiny_clip: Path) -> None:
    before = hash_weights(headed)
    assert before != hash_weights(tiny_clip)
    assert [file.name for file in weights_files(headed)] == ["model.safetensors"]
    save_head(ProjectionHead(32, 48, seed=5).state_dict(), headed)
    assert hash_weights(headed) != before


def test_zero_shot_sees_through_the_head(headed: Path, tiny_encoder: PairEncoder) -> None:
    from mmkd.evaluation.zero_shot import evaluate
    from mmkd.evaluation.zero_shot_task import ZeroShotTask

    streams = [io.BytesIO() for _ in IMAGES]
    for image, stream in zip(IMAGES, streams, strict=True):
        image.save(stream, "PNG")
    texts = normalize(tiny_encoder.encode_texts(["a circle", "a square"]))
    labels = (tiny_encoder.encode_images(IMAGES) @ texts.T).argmax(dim=1).tolist()
    images = [(stream.getvalue(), label) for stream, label in zip(streams, labels, strict=True)]
    task = ZeroShotTask("shapes", images, ("circle", "square"), ("a {}",))
    reports = evaluate({"without": tiny_encoder, "with": load_encoder(headed, device=CPU)}, task)
    top1 = {name: report.scores["top-1"].value for name, report in reports.models.items()}
    # The head turns every text round, so that of two classes the other one wins.
    assert top1 == {"without": 1.0, "with": 0.0}


@pytest.mark.parametrize(
    ("weights", "found"),
    [
        ({}, "nothing"),
        ({"image.weight": torch.ones(48, 32)}, "image.weight F32"),
        (
            {"image.weight": torch.ones(48, 32), "text.weight": torch.ones(40, 32)},
            r"text.weight F32 \[40, 32\]",
        ),
        ({"image.weight": torch.ones(48, 16), "text.weight": torch.ones(48, 16)}, r"\[48, 16\]"),
        ({"image.weight": torch.ones(32), "text.weight": torch.ones(32)}, r"\[32\]"),
        ({"image.weight": torch.ones(0, 32), "text.weight": torch.ones(0, 32)}, r"\[0, 32\]"),
        ({name: torch.ones(48, 32).int() for name in ("image.weight", "text.weight")}, "I32"),
        ({name: torch.full((48, 32), torch.nan) for name in ("image.weight", "text.weight")}, "not finite"),
    ],
)
def test_another_file_under_its_name_is_refused(tmp_path: Path, weights, found) -> None:
    save_file(weights, tmp_path / HEAD_FILE)
    with pytest.raises(ModelError, match=found) as refused:
        load_head(tmp_path, 32)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "content",
    [b"", b"not safetensors", b"\xff\xff\xff\xff\xff\xff\xff\x7f{}", b"\x08" + bytes(7) + b'{"a": 1}'],
)
def test_a_damaged_file_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / HEAD_FILE).write_bytes(content)
    with pytest.raises(ModelError, match="cannot read") as refused:
        load_head(tmp_path, 32)
    assert "\n" not in str(refused.value)


def test_a_truncated_head_is_refused(headed: Path) -> None:
    file = headed / HEAD_FILE
    file.write_bytes(file.read_bytes()[:-8])
    with pytest.raises(ModelError, match="cannot read"):
        load_encoder(headed, device=CPU)


def test_the_model_cards_own_lines_apply_the_head(headed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = {"task": "clip", "kd": "mse", "init": "random", "batch_size": 8, "lr": 1e-3, "precision": "fp32"}
    record = {"recipe": recipe | {"seed": 0, "towers": "both"}, "data": [], "pairs": 8, "steps": 1}
    write_model_card(headed, Run(headed.parent, record))
    (code,) = re.findall(r"```python\n(.*?)```", (headed / "README.md").read_text(), re.DOTALL)
    monkeypatch.chdir(headed.parent.parent)
    names: dict = {}
    exec(code, names)
    encoder = load_encoder(headed, device=CPU)
    with torch.no_grad():
        image = names["embed_images"](encoder.preprocess(IMAGES))
        text = names["embed_texts"](**encoder.tokenize(TEXTS))
    torch.testing.assert_close(image, normalize(encoder.encode_images(IMAGES)))
    torch.testing.assert_close(text, normalize(encoder.encode_texts(TEXTS)))
    (headed / HEAD_FILE).unlink()
    write_model_card(headed, Run(headed.parent, record))
    assert HEAD_FILE not in (headed / "README.md").read_text()
