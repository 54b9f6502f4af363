"""``mmkd push`` by the Hub's own client, against a stand-in for the Hub."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from command_line import Done, mmkd
from hub_server import TOKEN, USER, serve_hub
from report_runs import evaluate, judge_bias, judge_bias_2, make_run

from mmkd.errors import ModelError
from mmkd.model_card import WRITTEN, refresh_model_card, write_model_card
from mmkd.runs import read_run


@pytest.fixture
def hub():
    with serve_hub() as served:
        yield served


@pytest.fixture
def run(tmp_path: Path, tiny_clip: Path):
    one = make_run(tmp_path / "runs" / "mine", tiny_clip)
    write_model_card(one.student, one)
    return one


@pytest.fixture
def push(hub, monkeypatch: pytest.MonkeyPatch):
    """``mmkd push`` in this process, where the Hub's client reads its address and its login at each call."""
    from huggingface_hub import constants

    def pushed(*arguments: object, token: str | None = TOKEN, url: str = "", offline: bool = False) -> Done:
        monkeypatch.setattr(constants, "ENDPOINT", url or hub.url)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", offline)
        monkeypatch.setenv("HF_TOKEN", token or "")
        return mmkd("push", *map(str, arguments))

    return pushed


def refused(done: Done) -> str:
    """The one line of an error."""
    assert done.returncode == 1, done.stderr
    line = done.stderr.strip().splitlines()[-1]
    assert line.startswith("mmkd: ")
    assert "Traceback" not in done.stderr
    return line


def test_the_students_files_arrive_as_they_are_with_a_card_for_the_place(hub, run) -> None:
    evaluate(run)
    (run.student / "notes.bin").write_bytes(b"x")
    (run.student / ".hidden.json").write_text("{}")
    (run.student / "link.json").symlink_to("/etc/hostname")
    inherited = {name: value for name, value in os.environ.items() if name != "HF_HUB_OFFLINE"}
    done = subprocess.run(  # in a process of its own, told by the environment alone
        [sys.executable, "-m", "mmkd", "push", str(run.folder), "clip-small", "--license", "mit"],
        env={**inherited, "HF_ENDPOINT": hub.url, "HF_TOKEN": TOKEN},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    name = f"{USER}/clip-small"
    sent = hub.files[name]
    here = {file.name: file.read_bytes() for file in run.student.iterdir() if file.is_file()}
    assert set(sent) == set(here) - {"notes.bin", ".hidden.json", "link.json"}
    assert all(sent[file] == here[file] for file in sent if file != "README.md")
    assert hub.visibility[name] == "private"
    assert hub.commits == ["mine, by mmkd push"]
    card = sent["README.md"].decode()
    metadata = yaml.safe_load(card.split("---")[1])
    assert metadata["license"] == "mit"
    assert f'from_pretrained("{name}")' in card
    assert "80.0 [75.0, 85.0]" in card
    assert "a new private repository" in done.stderr


def test_a_second_push_is_a_new_commit_and_public_is_asked_for(hub, push, run) -> None:
    assert push(run.folder, f"{USER}/open", "--public").returncode == 0
    assert hub.visibility == {f"{USER}/open": "public"}
    done = push(run.folder, f"{USER}/open")
    assert "a new commit" in done.stderr
    assert len(hub.commits) == 2
    assert sum("repos/create" in line for line in hub.asked) == 1
    assert "not evaluated" in done.stderr


def test_what_can_go_wrong_is_said_in_one_line(hub, push, run, tmp_path: Path) -> None:
    assert "not logged in" in refused(push(run.folder, "x", token=None))
    assert "does not know this token" in refused(push(run.folder, "x", token="hf_wrong"))
    hub.files["others/theirs"] = {}
    assert "somebody else's" in refused(push(run.folder, "others/theirs"))
    assert "somebody else's" in refused(push(run.folder, "others/new"))
    assert "cannot be a name on the Hub" in refused(push(run.folder, "a/b/c"))
    assert "HF_HUB_OFFLINE" in refused(push(run.folder, "x", offline=True))
    assert "cannot be reached" in refused(push(run.folder, "x", url="http://127.0.0.1:9"))
    bare = make_run(tmp_path / "bare")
    assert "has no student yet" in refused(push(bare.folder, "x"))
    assert "run.json" in refused(push(tmp_path, "x"))
    assert hub.commits == []


def test_a_card_of_ones_own_is_sent_and_left_as_it_is(hub, push, run) -> None:
    card = (run.student / "README.md").read_text().replace(WRITTEN, "My own words.")
    (run.student / "README.md").write_text(card)
    evaluate(run)
    assert not refresh_model_card(run)
    done = push(run.folder, "own", "--license", "mit")
    assert done.returncode == 0
    assert "--license is left out: the student's README.md is one of your own" in done.stderr
    assert hub.files[f"{USER}/own"]["README.md"].decode() == card


def test_the_card_says_what_was_scored_and_nothing_at_chance_is_indexed(run) -> None:
    def metadata() -> dict:
        return yaml.safe_load((run.student / "README.md").read_text().split("---")[1])

    assert "Not evaluated here" in (run.student / "README.md").read_text()
    assert "model-index" not in metadata()
    evaluate(run)
    judge_bias(run, withheld=["student: knows <nothing>"])
    assert refresh_model_card(run)
    card = (run.student / "README.md").read_text()
    assert "| `animals` | top-1 | 33.3 | 90.0 [85.0, 95.0] | 80.0 [75.0, 85.0] | 82 % |" in card
    assert "Conclusion withheld" in card
    assert "&lt;nothing>" in card
    assert metadata()["metrics"] == ["accuracy"]
    assert metadata()["model-index"][0]["results"][0]["metrics"][0]["value"] == 0.8
    evaluate(run, top_1=0.35)
    assert refresh_model_card(run)
    assert "**at chance**" in (run.student / "README.md").read_text()
    assert "model-index" not in metadata()


def test_scores_of_other_weights_are_not_on_the_card(run) -> None:
    value = (run.folder, evaluate(run))[1]
    text = (run.folder / "zero-shot.json").read_text()
    own = value["models"]["student"]["weights_hash"]
    (run.folder / "zero-shot.json").write_text(text.replace(own, "0" * 32))
    assert refresh_model_card(run)
    assert "Not evaluated here" in (run.student / "README.md").read_text()


def test_a_bias_verdict_on_the_card_is_of_the_students_own_weights(run) -> None:
    judge_bias_2(run, "not found")
    file = run.folder / "bias.json"
    value = json.loads(file.read_text())
    own = value["models"]["mine"]["model"]["weights_hash"]
    other = {**value["models"]["mine"], "model": {"weights_hash": "0" * 32}}
    value["models"] = {
        "teacher": value["models"]["teacher"],
        "student": other,
        "mine": value["models"]["mine"],
    }
    value["comparisons"]["student"] = {"verdict": "inherited", "withheld": []}
    file.write_text(json.dumps(value))
    assert refresh_model_card(run)
    card = (run.student / "README.md").read_text()
    assert "The teacher's bias in the student: not found." in card
    assert "inherited" not in card
    file.write_text(file.read_text().replace(own, "1" * 32))
    assert refresh_model_card(run)
    assert "## Bias" not in (run.student / "README.md").read_text()


def test_what_the_hub_reads_is_there_only_where_it_is_known(tmp_path: Path, tiny_clip: Path) -> None:
    one = make_run(tmp_path / "one", tiny_clip, teacher=Path("openai/clip-vit-base-patch32"))
    record = {**one.record, "data": [{"spec": "pixparse/cc3m-wds"}, {"spec": "photos.parquet"}]}
    one = one.update(**record)
    write_model_card(one.student, one)
    card = (one.student / "README.md").read_text()
    metadata = yaml.safe_load(card.split("---")[1])
    assert metadata["base_model"] == "openai/clip-vit-base-patch32"
    assert metadata["datasets"] == ["pixparse/cc3m-wds"]
    assert metadata["library_name"] == "transformers"
    assert "knowledge-distillation" in metadata["tags"]
    assert "license" not in metadata
    scratch = make_run(tmp_path / "two", tiny_clip, kd="none", init="random", teacher=Path("openai/x"))
    write_model_card(scratch.student, scratch)
    card = (scratch.student / "README.md").read_text()
    assert "trained without distillation" in card
    assert "base_model" not in card
    assert "knowledge-distillation" not in card
    licensed = tmp_path / "teacher"
    licensed.mkdir()
    (licensed / "README.md").write_text("---\nlicense: apache-2.0\n---\n")
    three = make_run(tmp_path / "three", tiny_clip, teacher=licensed)
    write_model_card(three.student, three)
    assert "license: apache-2.0" in (three.student / "README.md").read_text()


@pytest.mark.parametrize(
    "change", [{"recipe": None}, {"data": "x"}, {"pairs": "many"}, {"teacher": {"revision": 1}}]
)
def test_a_run_that_says_too_little_for_a_card_is_refused_in_one_line(run, change: dict) -> None:
    (run.folder / "run.json").write_text(json.dumps({**run.record, **change}))
    with pytest.raises(ModelError, match=r"cannot have a model card: its run\.json"):
        refresh_model_card(read_run(run.folder))


@pytest.mark.parametrize("name", ["recipe", "teacher", "cache"])
def test_a_run_of_another_shape_is_none(run, name: str) -> None:
    (run.folder / "run.json").write_text(json.dumps({**run.record, name: "x"}))
    with pytest.raises(ModelError, match=f"holds a str as '{name}'; expected an object"):
        read_run(run.folder)
