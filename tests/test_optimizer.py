"""Groups of parameters, their rates, and the moving average."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from mmkd.averaging import FILE, MovingAverage
from mmkd.errors import TrainingError
from mmkd.optimizer import Schedule, make_optimizer
from mmkd.step import PairStudent
from mmkd.students import halve


def rates(tiny_clip: Path, layer_decay: float, text_lr: float = 1.0) -> dict[str, float]:
    student = PairStudent(halve(tiny_clip), learns_logit_scale=True)
    optimizer = make_optimizer(student, lr=1.0, weight_decay=0.1, layer_decay=layer_decay, text_lr=text_lr)
    Schedule(steps=10, warmup=0, peak=1.0).set_lr(optimizer, 0)
    of = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    return {name: of[id(p)] for name, p in student.named_parameters() if id(p) in of}


def test_each_layer_learns_slower_than_the_one_above(tiny_clip: Path) -> None:
    found = rates(tiny_clip, 0.5)  # 2 + 2 layers
    assert found["clip.visual_projection.weight"] == 1
    assert found["clip.vision_model.post_layernorm.weight"] == 1
    assert found["clip.vision_model.encoder.layers.1.mlp.fc1.weight"] == 0.5
    assert found["clip.vision_model.encoder.layers.0.mlp.fc1.bias"] == 0.25
    assert found["clip.vision_model.pre_layrnorm.weight"] == 0.125
    assert found["clip.text_model.embeddings.token_embedding.weight"] == 0.125
    assert found["clip.logit_scale"] == 1


def test_without_layer_decay_there_is_one_rate(tiny_clip: Path) -> None:
    assert set(rates(tiny_clip, 1.0).values()) == {1.0}


def test_the_text_tower_has_a_rate_of_its_own(tiny_clip: Path) -> None:
    found = rates(tiny_clip, 0.5, 0.1)
    assert found["clip.text_projection.weight"] == pytest.approx(0.1)
    assert found["clip.text_model.encoder.layers.1.mlp.fc1.weight"] == pytest.approx(0.05)
    assert found["clip.text_model.embeddings.token_embedding.weight"] == pytest.approx(0.0125)
    assert found["clip.vision_model.encoder.layers.1.mlp.fc1.weight"] == 0.5
    assert found["clip.visual_projection.weight"] == found["clip.logit_scale"] == 1


def test_the_average_follows_its_formula() -> None:
    model = torch.nn.Linear(1, 1, bias=False)
    average = MovingAverage(model, 0.9)
    expected = model.weight.item()
    for step, value in enumerate([3.0, -1.0, 4.0], start=1):
        model.weight.data.fill_(value)
        average.update(model, step)
        decay = min(0.9, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * value
    assert average.weights["weight"].item() == pytest.approx(expected, rel=1e-6)


def test_the_average_replaces_trained_weights_only() -> None:
    model = torch.nn.Linear(2, 1)
    model.bias.requires_grad_(False)
    average = MovingAverage(model, 0.5)
    weights = {"weight": torch.zeros(1, 2), "bias": torch.tensor([7.0])}
    over = average.over(weights)
    assert torch.equal(over["weight"], model.weight.detach())
    assert over["bias"] is weights["bias"]


def test_an_average_of_another_student_is_refused(tmp_path: Path) -> None:
    save_file({"weight": torch.zeros(3, 3)}, tmp_path / FILE)
    average = MovingAverage(torch.nn.Linear(2, 1), 0.5)
    with pytest.raises(TrainingError, match="another student"):
        average.load(tmp_path)
    (tmp_path / FILE).write_bytes(b"no weights")
    with pytest.raises(TrainingError, match="cannot be read"):
        average.load(tmp_path)
