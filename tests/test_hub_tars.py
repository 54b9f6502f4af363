"""WebDatasets of the Hub: fetched once, read where they lie, found again without a network."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hub_data_server import hub_server
from tar_files import samples, save_tar

OPEN = """
import sys
from mmkd.data import DataSource, open_pairs
from mmkd.errors import MmkdError
try:
    pairs = open_pairs([DataSource(sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else None)])
except MmkdError as error:
    sys.exit(f"error: {error}")
print(len(pairs), *pairs.describe(), *(pairs[row].captions[0] for row in (0, len(pairs) - 1)), sep="\\n")
"""


def run(home: Path, *arguments: str, endpoint: str | None) -> subprocess.CompletedProcess[str]:
    """Open pairs in a process that may ask a Hub, or must not."""
    hub = {"HF_HUB_OFFLINE": "1"} if endpoint is None else {"HF_HUB_OFFLINE": "0", "HF_ENDPOINT": endpoint}
    return subprocess.run(
        [sys.executable, "-c", OPEN, *arguments],
        env={**os.environ, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1", **hub},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository of two tars to train on and one to test on."""
    folder = tmp_path_factory.mktemp("hub") / "pairs"
    for name, (first, last) in {"train-00": (0, 20), "train-01": (20, 50), "test-00": (50, 57)}.items():
        save_tar(folder / f"{name}.tar", samples(first, last))
    (folder / "README.md").write_text("---\nlicense: mit\n---\nPairs.\n")
    return folder


def test_tars_are_fetched_once_and_never_copied(published: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    with hub_server({"somebody/pairs": published}) as (endpoint, asked):
        done = run(home, "somebody/pairs", endpoint=endpoint)
        assert done.returncode == 0, done.stderr
        lines = done.stdout.splitlines()
        assert lines[0] == "50"
        assert "somebody/pairs · train · 50 pairs in 2 tars · image: jpg · caption: txt" in lines[1]
        assert lines[2:] == ["caption 0", "caption 49"]
        fetched = [one for one in asked if one.startswith("GET") and one.endswith(".tar")]
        assert sorted(one.rpartition("/")[2] for one in fetched) == ["train-00.tar", "train-01.tar"]
        asked.clear()
        assert run(home, "somebody/pairs", endpoint=endpoint).stdout == done.stdout
        assert not [one for one in asked if one.startswith("GET") and one.endswith(".tar")]
        assert run(home, "somebody/pairs", "test", endpoint=endpoint).stdout.startswith("7\n")
        absent = run(home, "somebody/pairs", "dev", endpoint=endpoint)
        several = run(home, "somebody/pairs", "train+test", endpoint=endpoint)
    assert "somebody/pairs has no split 'dev', only" in absent.stderr
    assert several.stderr.endswith(
        "error: found the split 'train+test' of tars; expected one, as train or train[:1000]\n"
    )
    assert not list(home.rglob("*.arrow"))
    again = run(home, "somebody/pairs", endpoint=None)
    assert again.stdout == done.stdout, again.stderr


def test_what_cannot_be_had_is_one_line(published: Path, tmp_path: Path) -> None:
    with hub_server({"somebody/pairs": published}) as (endpoint, _):
        absent = run(tmp_path, "somebody/else", endpoint=endpoint)
    assert absent.returncode == 1
    assert "error: no data set somebody/else on the Hugging Face Hub" in absent.stderr
    offline = run(tmp_path, "somebody/pairs", endpoint=None)
    assert "neither a file nor a folder here, and the Hugging Face Hub cannot be reached" in offline.stderr


def test_what_was_fetched_in_part_is_no_data_set(published: Path, tmp_path: Path) -> None:
    with hub_server({"somebody/pairs": published}) as (endpoint, _):
        assert run(tmp_path, "somebody/pairs", "test", endpoint=endpoint).returncode == 0
        assert run(tmp_path, "somebody/pairs", endpoint=endpoint).returncode == 0
    (lost,) = tmp_path.rglob("train-01.tar")
    lost.unlink()
    offline = run(tmp_path, "somebody/pairs", endpoint=None)
    assert offline.returncode == 1
    assert "1 of the 2 tars of somebody/pairs (train) are not here" in offline.stderr
    assert run(tmp_path, "somebody/pairs", "test", endpoint=None).stdout.startswith("7\n")
