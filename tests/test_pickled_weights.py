"""Pickled weights are refused; the Hub's own conversion to safetensors is found instead, and again offline."""

import os
import re
import shlex
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from huggingface_hub.errors import OfflineModeIsEnabled
from safetensors.torch import load_file

from mmkd import hub
from mmkd.encoders import load_encoder, read_teacher_spec
from mmkd.errors import ModelError
from mmkd.hub import resolve_model
from mmkd.students import halve

MODEL = "openai/clip-vit-base-patch32"
HEAD, OLD, BOTS, OTHERS = "a" * 40, "b" * 40, "c" * 40, "d" * 40


class Attack:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch {self.mark}",)


@pytest.fixture
def pickled_clip(tiny_clip: Path, tmp_path: Path) -> Path:
    """The tiny CLIP as older transformers saved it."""
    folder = tmp_path / "pickled"
    shutil.copytree(tiny_clip, folder)
    (folder / "model.safetensors").unlink()
    torch.save(load_file(tiny_clip / "model.safetensors"), folder / "pytorch_model.bin")
    return folder


@pytest.mark.parametrize("name", ["pytorch_model.bin", "weights.pt"])
def test_a_folder_of_pickles_is_refused_unread(pickled_clip: Path, tmp_path: Path, name: str) -> None:
    mark = tmp_path / "was-here"
    (pickled_clip / "pytorch_model.bin").unlink()
    torch.save({"logit_scale": Attack(mark)}, pickled_clip / name)
    for use in (halve, load_encoder, read_teacher_spec):
        with pytest.raises(
            ModelError, match=rf"holds {re.escape(name)}, a pickle.*refused; expected model.safe"
        ) as error:
            use(pickled_clip)
        assert "\n" not in str(error.value)
    assert not mark.exists()


def test_a_pickle_beside_safetensors_is_not_read(tiny_clip: Path, pickled_clip: Path, tmp_path: Path) -> None:
    mark = tmp_path / "was-here"
    torch.save({"logit_scale": Attack(mark)}, pickled_clip / "pytorch_model.bin")
    shutil.copy(tiny_clip / "model.safetensors", pickled_clip)
    assert load_encoder(pickled_clip).spec.weights_hash == load_encoder(tiny_clip).spec.weights_hash
    assert not mark.exists()


def test_the_command_in_the_refusal_converts(tiny_clip: Path, pickled_clip: Path) -> None:
    with pytest.raises(ModelError) as error:
        halve(pickled_clip)
    python, option, code = shlex.split(str(error.value).split("`")[1])
    assert (python, option) == ("python", "-c")
    exec(code, {})
    texts = ["a red circle"]
    assert torch.equal(
        load_encoder(pickled_clip).encode_texts(texts), load_encoder(tiny_clip).encode_texts(texts)
    )


def test_no_weights_at_all_is_named(pickled_clip: Path) -> None:
    (pickled_clip / "pytorch_model.bin").unlink()
    with pytest.raises(ModelError, match="holds no weights"):
        halve(pickled_clip)


class FakeHub:
    """A repository of pickles with pull requests, laid out in a real local Hub cache as it is downloaded."""

    def __init__(self, cache: Path, clip: Path) -> None:
        self.cache, self.clip = cache, clip
        self.offline = False
        self.asked: list[str] = []
        self.pulls = [self.pull(15, author="somebody"), self.pull(66)]
        self.commits = {"refs/pr/15": [OTHERS, HEAD, OLD], "refs/pr/66": [BOTS, HEAD, OLD]}

    @staticmethod
    def pull(number: int, **other: object) -> SimpleNamespace:
        said = {"title": hub.CONVERSION_TITLE, "author": hub.CONVERSION_AUTHOR, "status": "open"}
        said |= {"is_pull_request": True, "git_reference": f"refs/pr/{number}"} | other
        return SimpleNamespace(**said)

    def lay_out(self, reference: str) -> Path:
        """What ``snapshot_download`` writes: blobs, a snapshot of links, and a file under ``refs``."""
        root = self.cache / "models--openai--clip-vit-base-patch32"
        commit = {"main": HEAD}.get(reference) or self.commits[reference][0]
        snapshot = root / "snapshots" / commit
        if not snapshot.exists():
            shutil.copytree(self.clip, root / "blobs" / commit)
            snapshot.mkdir(parents=True)
            for file in (root / "blobs" / commit).iterdir():
                if commit != HEAD or file.suffix != ".safetensors":
                    (snapshot / file.name).symlink_to(file)
        (root / "refs" / reference).parent.mkdir(parents=True, exist_ok=True)
        (root / "refs" / reference).write_text(commit)
        return snapshot

    def snapshot_download(self, model: str, *, revision: str | None, allow_patterns: list[str]) -> str:
        assert model == MODEL
        assert not any(pattern.endswith((".bin", "*")) for pattern in allow_patterns)
        self.asked.append(revision or "main")
        return str(self.lay_out(revision or "main"))

    def list_repo_files(self, _model: str, *, revision: str) -> list[str]:
        if self.offline:
            raise OfflineModeIsEnabled("offline")
        assert revision == HEAD
        return ["config.json", "pytorch_model.bin", "tf_model.h5"]

    def get_repo_discussions(self, _model: str, **_filters: str) -> list[SimpleNamespace]:
        return self.pulls

    def list_repo_commits(self, _model: str, *, revision: str) -> list[SimpleNamespace]:
        return [SimpleNamespace(commit_id=commit) for commit in self.commits[revision]]


@pytest.fixture
def fake_hub(tiny_clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeHub:
    fake = FakeHub(tmp_path / "hub", tiny_clip)
    hub._find_conversion.cache_clear()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(fake.cache))
    monkeypatch.setattr("huggingface_hub.snapshot_download", fake.snapshot_download)
    for name in ("list_repo_files", "get_repo_discussions", "list_repo_commits"):
        monkeypatch.setattr(
            f"huggingface_hub.HfApi.{name}", lambda _, *a, name=name, **k: getattr(fake, name)(*a, **k)
        )
    return fake


def test_the_bots_conversion_of_that_very_commit_is_taken(fake_hub: FakeHub, tiny_clip: Path) -> None:
    assert resolve_model(MODEL).name == BOTS
    assert fake_hub.asked == ["main", "refs/pr/66"]
    spec = read_teacher_spec(MODEL)
    assert (spec.model, spec.revision) == (MODEL, BOTS)
    assert spec.weights_hash == read_teacher_spec(tiny_clip).weights_hash


@pytest.mark.parametrize(
    ("change", "remedy"),
    [
        ({"author": "somebody"}, r"if you trust it, convert it once with `python -c"),
        ({"title": "Better weights"}, r"if you trust it, convert it once"),
        ({"status": "closed"}, r"if you trust it, convert it once"),
        ({"is_pull_request": False}, r"if you trust it, convert it once"),
        ({"parent": OLD}, r"made refs/pr/66 of another commit: pass --revision refs/pr/66"),
    ],
)
def test_no_other_pull_request_is_taken(fake_hub: FakeHub, change: dict[str, object], remedy: str) -> None:
    if "parent" in change:
        fake_hub.commits["refs/pr/66"] = [BOTS, OLD]
        change = {}
    fake_hub.pulls[1] = fake_hub.pull(66, **change)
    with pytest.raises(ModelError, match=rf"{MODEL} holds pytorch_model.bin, a pickle.*refused.*{remedy}"):
        resolve_model(MODEL)
    assert fake_hub.asked == ["main"]


def test_a_named_pull_request_is_taken_at_its_word(fake_hub: FakeHub) -> None:
    assert resolve_model(MODEL, revision="refs/pr/15").name == OTHERS
    assert fake_hub.asked == ["refs/pr/15"]


def test_offline_what_was_fetched_before_is_used(fake_hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import snapshot_download

    resolve_model(MODEL)
    hub._find_conversion.cache_clear()
    fake_hub.offline = True
    # The real function, on the cache that lies there.
    import huggingface_hub._snapshot_download as real

    assert snapshot_download == fake_hub.snapshot_download
    monkeypatch.setattr(
        "huggingface_hub.snapshot_download",
        lambda model, **options: real.snapshot_download(model, cache_dir=fake_hub.cache, **options),
    )
    assert resolve_model(MODEL).name == BOTS
    assert load_encoder(MODEL).spec.revision == BOTS
    assert resolve_model(MODEL, revision=BOTS).name == BOTS
    with pytest.raises(ModelError, match=rf"no safetensors at {HEAD}, and the Hub cannot be asked"):
        resolve_model(MODEL, revision=HEAD)


def test_offline_with_nothing_or_too_much_to_choose_from(fake_hub: FakeHub) -> None:
    fake_hub.offline = True
    with pytest.raises(ModelError, match=r"no safetensors in the local Hub cache.*again with a network"):
        resolve_model(MODEL)
    for reference in ("refs/pr/15", "refs/pr/66"):
        fake_hub.lay_out(reference)
    with pytest.raises(ModelError, match=r"holds refs/pr/15 and refs/pr/66; pass --revision refs/pr/15"):
        resolve_model(MODEL)
