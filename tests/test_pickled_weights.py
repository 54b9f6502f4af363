"""Repositories without safetensors, OpenAI's ViT-B/32 among them, are read all the same, and safely."""

import os
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from mmkd.encoders import load_encoder, resolve_model
from mmkd.errors import ModelError
from mmkd.students import halve


@pytest.fixture(scope="module")
def pickled_clip(tiny_clip: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny CLIP as older transformers saved it."""
    folder = tmp_path_factory.mktemp("pickled") / "clip"
    shutil.copytree(tiny_clip, folder)
    (folder / "model.safetensors").unlink()
    torch.save(load_file(tiny_clip / "model.safetensors"), folder / "pytorch_model.bin")
    return folder


def test_pickled_weights_give_the_same_embeddings_and_the_same_student(
    tiny_clip: Path, pickled_clip: Path
) -> None:
    texts = ["a red circle", "a blue square"]
    expected, found = load_encoder(tiny_clip), load_encoder(pickled_clip)
    assert torch.equal(found.encode_texts(texts), expected.encode_texts(texts))
    assert found.spec.weights_hash != expected.spec.weights_hash
    ours, theirs = halve(pickled_clip).state_dict(), halve(tiny_clip).state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


class Attack:
    """Runs a command when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch {self.mark}",)


def test_a_pickle_that_runs_code_is_refused(pickled_clip: Path, tmp_path: Path) -> None:
    folder, mark = tmp_path / "evil", tmp_path / "was-here"
    shutil.copytree(pickled_clip, folder)
    torch.save({"logit_scale": Attack(mark)}, folder / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"cannot read .*pytorch_model\.bin"):
        halve(folder)
    with pytest.raises(ModelError, match="cannot load the weights"):
        load_encoder(folder)
    assert not mark.exists()


def test_no_weights_at_all_is_named(pickled_clip: Path, tmp_path: Path) -> None:
    folder = tmp_path / "empty"
    shutil.copytree(pickled_clip, folder)
    (folder / "pytorch_model.bin").unlink()
    with pytest.raises(ModelError, match="holds no weights"):
        halve(folder)


@pytest.mark.parametrize(("kept", "asked"), [("model.safetensors", 1), ("pytorch_model.bin", 2)])
def test_pickles_are_downloaded_only_where_there_is_nothing_else(
    kept: str, asked: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests: list[list[str]] = []

    def snapshot_download(repo: str, *, revision: str | None, allow_patterns: list[str]) -> str:
        requests.append(allow_patterns)
        if any(Path(kept).match(pattern) for pattern in allow_patterns):
            (tmp_path / kept).touch()
        return str(tmp_path)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    assert (resolve_model("openai/clip-vit-base-patch32") / kept).exists()
    assert len(requests) == asked
    assert "pytorch_model.bin" not in requests[0]
