"""``mmkd study`` as a user types it, on tiny models: a study of seconds."""

import csv
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from command_line import mmkd
from safetensors.torch import load_file
from test_cli_eval import COLOURS, make_labelled
from transformers import CLIPModel

from mmkd.cache.locks import Lock
from mmkd.cli.study_file import parse_assignment, read_study_file
from mmkd.cli.study_worker import Order, carry_out

STUDY = {
    "about": "Is it the loss?",
    "seeds": 2,
    "base": {"batch-size": 32, "epochs": 1, "lr": 1e-3},
    "arms": {"feature": {"kd": "mse"}, "one tower": {"kd": "cos", "towers": "image"}},
}


@pytest.fixture(scope="module")
def workspace(
    tiny_cache: Path, pairs_parquet: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, list[str]]:
    """A workspace with a cache, and the options of a study in it."""
    work = tmp_path_factory.mktemp("work")
    shutil.copytree(tiny_cache, work / "cache", ignore=shutil.ignore_patterns("*neighbours-*"))
    labelled = make_labelled(work / "colours.parquet", COLOURS)
    (work / "small.yaml").write_text(yaml.safe_dump(STUDY, sort_keys=False))
    judged = ["--eval-data", f"colours={labelled}", "--retrieval-data", f"pairs={pairs_parquet}"]
    return work, [str(work / "small.yaml"), "--work", str(work), "--workers", "0", *judged]


@pytest.fixture(scope="module")
def study(workspace: tuple[Path, list[str]]) -> Path:
    work, options = workspace
    done = mmkd("study", *options)
    assert done.returncode == 0, done.stderr
    assert "7 runs, 1 at a time" in done.stderr
    return work / "studies" / "small"


def test_every_arm_stands_with_every_seed_beside_the_baselines(study: Path) -> None:
    report = json.loads((study / "study.json").read_text())
    assert (report["schema"], report["schema_version"]) == ("mmkd.study", 2)
    assert report["versions"]["torch"] == torch.__version__
    assert report["evaluation"]["hashes"].keys() == {"colours", "pairs"}
    runs = {arm["name"]: [run["seed"] for run in arm["runs"]] for arm in report["arms"]}
    assert runs == {"feature": [0, 1], "one tower": [0, 1], "from scratch": [0, 1], "untrained": [0]}
    assert report["ranked_by"] == "colours/top-1"
    for arm in report["arms"]:
        for name, score in arm["scores"].items():
            values = [run["scores"][name]["value"] for run in arm["runs"]]
            assert score["mean"] == pytest.approx(sum(values) / len(values))
    pairs = report["comparisons"]["colours/top-1"]
    assert len(pairs) == 6
    assert all(one["p_holm"] >= one["p_value"] for one in pairs)
    rows = list(csv.DictReader((study / "study.csv").read_text().splitlines()))
    assert {row["metric"] for row in rows} >= {"colours/top-1", "colours/top-5", "pairs/image to text R@1"}
    text = (study / "study.md").read_text()
    assert "Is it the loss?" in text
    assert "Made by:" in text
    assert (study / "study.png").stat().st_size > 10_000
    assert (study / "study.svg").is_file()


def test_arms_share_rows_and_budget(study: Path) -> None:
    records = {path.parent.name: json.loads(path.read_text()) for path in study.glob("runs/*/run.json")}
    trained = {name: record for name, record in records.items() if name != "untrained"}
    assert len({record["cache"]["key"] for record in records.values()}) == 1
    assert {(record["pairs"], record["steps"]) for record in trained.values()} == {(96, 3)}
    assert {record["recipe"]["seed"] for record in trained.values()} == {0, 1}
    scratch = records["from-scratch-seed0"]["recipe"]
    assert (scratch["kd"], scratch["task"], scratch["init"]) == ("none", "clip", "random")
    assert trained["feature-seed1"]["command"][:2] == ["mmkd", "train"]
    assert not list(study.glob("runs/*/checkpoints"))


def test_a_run_is_judged_as_mmkd_eval_leaves_it(study: Path) -> None:
    for name in ("feature-seed0", "untrained"):
        run = study / "runs" / name
        for report in ("zero-shot", "retrieval"):
            made = json.loads((run / f"{report}.json").read_text())
            assert made["command"][0] == "mmkd"
            assert made["versions"]["torch"] == torch.__version__
            assert all((run / f"{report}{end}").is_file() for end in (".csv", ".png", "-examples.json"))
        card = (run / "student" / "README.md").read_text()
        assert "| `colours` | top-1 |" in card
        assert "| `pairs` | image to text R@1 |" in card
    assert "and never trained with mmkd" in card  # the untrained student's


def test_the_untrained_student_is_the_teachers_alternate_layers(study: Path, tiny_clip: Path) -> None:
    student = load_file(study / "runs" / "untrained" / "student" / "model.safetensors")
    teacher = CLIPModel.from_pretrained(tiny_clip).state_dict()
    for name in (
        "vision_model.encoder.layers.{}.mlp.fc1.weight",
        "text_model.encoder.layers.{}.mlp.fc1.weight",
    ):
        for own, its in ((0, 0), (1, 2)):
            assert torch.equal(student[name.format(own)], teacher[name.format(its)])
    assert json.loads((study / "runs" / "untrained" / "run.json").read_text())["steps"] == 0


@pytest.mark.usefixtures("in_this_process")
def test_what_is_finished_is_skipped_and_what_was_cut_off_is_made(
    study: Path, workspace: tuple[Path, list[str]]
) -> None:
    before = (study / "study.json").read_text()
    kept = study / "runs" / "feature-seed0" / "student" / "model.safetensors"
    stamp = kept.stat().st_mtime_ns
    lost = study / "runs" / "one-tower-seed1"
    first = load_file(lost / "student" / "model.safetensors")
    # As a kill leaves it: started, with its settings, and no checkpoint yet.
    record = json.loads((lost / "run.json").read_text())
    shutil.rmtree(lost / "student")
    (lost / "judged.json").unlink()
    (lost / "run.json").write_text(json.dumps({**record, "state": "training"}))
    shutil.rmtree(study / "runs" / "untrained" / "student")
    (study / "runs" / "untrained" / "judged.json").unlink()
    untrained = study / "runs" / "untrained" / "run.json"
    untrained.write_text(json.dumps({**json.loads(untrained.read_text()), "state": "training"}))
    done = mmkd("study", *workspace[1])
    assert done.returncode == 0, done.stderr
    assert kept.stat().st_mtime_ns == stamp
    again = load_file(lost / "student" / "model.safetensors")
    assert all(torch.equal(first[name], again[name]) for name in first)
    scores = [
        {arm["name"]: arm["scores"] for arm in json.loads(text)["arms"]}
        for text in (before, (study / "study.json").read_text())
    ]
    assert scores[0] == scores[1]
    cost = json.loads((lost / "cost.json").read_text())
    assert cost["seconds"] is None  # of an interrupted training nobody knows


def test_a_run_of_other_settings_is_not_counted(study: Path, workspace: tuple[Path, list[str]]) -> None:
    done = mmkd("study", *workspace[1], "--set", "lr=5e-4")
    assert done.returncode == 1
    assert (
        "was trained with lr 0.001, and arm 'feature' has 0.0005; give the study another --out" in done.stderr
    )


def test_two_studies_do_not_share_a_folder(study: Path, workspace: tuple[Path, list[str]]) -> None:
    lock = Lock.take(study / ".study.lock")
    assert lock is not None
    done = mmkd("study", *workspace[1])
    lock.release()
    assert done.returncode == 1
    assert f"another `mmkd study` is at work in {study}; wait for it" in done.stderr


@pytest.fixture
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs of a study without the processes that they have, whose start takes longer than such runs."""

    def carry_out_here(orders, *, jobs, quiet=False):
        return [carry_out(order) for order in orders]

    for module in ("study_start", "study_halving", "study_search"):
        monkeypatch.setattr(f"mmkd.cli.{module}.carry_out_all", carry_out_here)


@pytest.mark.usefixtures("in_this_process")
def test_a_failed_arm_does_not_stop_the_others(workspace: tuple[Path, list[str]], tmp_path: Path) -> None:
    work, options = workspace
    file = tmp_path / "failing.yaml"
    arms = {"fine": {"kd": "mse"}, "hot": {"kd": "mse", "lr": 1e30, "clip-grad": 0.0}}
    file.write_text(yaml.safe_dump({**STUDY, "arms": arms, "seeds": 1}))
    done = mmkd("study", file, *options[1:])
    assert done.returncode == 1
    assert "1 of 4 runs failed, the first (hot, seed 0): the loss is not a number" in done.stderr
    report = json.loads((work / "studies" / "failing" / "study.json").read_text())
    hot = report["arms"][-1]
    assert (hot["name"], hot["verdict"]) == ("hot", "no run came to an end")
    assert "not a number" in hot["failures"]["0"]


def test_a_launch_file_starts_each_run_by_accelerate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started = []

    def launch(command, *, stdout, stderr, check):
        started.append([str(word) for word in command])
        stdout.write("mmkd: the loss is not a number at step 3\n")
        return subprocess.CompletedProcess(command, 1)

    monkeypatch.setattr("mmkd.cli.study_worker.subprocess.run", launch)
    order = Order(
        "a, seed 3",
        3,
        tmp_path / "a.yaml",
        tmp_path / "run",
        tmp_path / "log",
        tmp_path,
        None,
        launch=Path("two.yaml"),
    )
    assert carry_out(order).failure == "the loss is not a number at step 3"
    (command,) = started
    at = command.index("accelerate.commands.launch")
    assert command[at + 1 : at + 6] == ["--config_file", "two.yaml", "-m", "mmkd", "train"]
    assert command[command.index("--seed") + 1] == "3"


@pytest.mark.usefixtures("in_this_process")
def test_hopeless_arms_are_dropped_only_where_that_is_asked_for(
    workspace: tuple[Path, list[str]], tmp_path: Path
) -> None:
    work, options = workspace
    file = tmp_path / "halving.yaml"
    arms = {"a": {"kd": "mse"}, "b": {"kd": "cos"}, "hot": {"kd": "mse", "lr": 1e30, "clip-grad": 0.0}}
    base = {**STUDY["base"], "epochs": 4}
    file.write_text(yaml.safe_dump({**STUDY, "base": base, "arms": arms, "seeds": 1}))
    done = mmkd("study", file, *options[1:], "--halving")
    assert done.returncode == 0, done.stderr
    folder = work / "studies" / "halving"
    verdicts = {arm["name"]: arm for arm in json.loads((folder / "study.json").read_text())["arms"]}
    assert verdicts["hot"]["verdict"].startswith("dropped after 1 of 4 epochs: the loss is not a number")
    assert verdicts["hot"]["runs"] == []
    assert {"from scratch", "untrained"} <= verdicts.keys()
    first = json.loads((folder / "halving" / "rung-1" / "a" / "run.json").read_text())
    assert (first["recipe"]["epochs"], first["recipe"]["hold_out"], first["pairs"]) == (1, 9, 87)
    whole = json.loads((folder / "runs" / "from-scratch-seed0" / "run.json").read_text())
    assert (whole["recipe"]["epochs"], whole["recipe"]["hold_out"], whole["pairs"]) == (4, 0, 96)


@pytest.mark.usefixtures("in_this_process")
def test_a_search_tunes_every_trained_arm_on_held_out_pairs(
    workspace: tuple[Path, list[str]], tmp_path: Path
) -> None:
    pytest.importorskip("optuna")
    work, options = workspace
    file = tmp_path / "searching.yaml"
    file.write_text(yaml.safe_dump({**STUDY, "arms": ["mse+kl"], "seeds": 1}))
    command = ("study", file, *options[1:], "--search", "2")
    done = mmkd(*command)
    assert done.returncode == 0, done.stderr
    folder = work / "studies" / "searching"
    found = json.loads((folder / "search.json").read_text())["arms"]
    assert found.keys() == {"mse+kl", "from scratch"}
    start, other = found["mse+kl"]["trials"]
    assert start["settings"] == {"lr": 1e-3, "kd": "2000*mse + 1*kl@0.05"}
    assert other["settings"] != start["settings"]
    best = max((start, other), key=lambda trial: trial["val/recall@1"])
    assert found["mse+kl"]["settings"] == best["settings"]
    trial = json.loads((folder / "search" / "mse+kl" / "trial-001" / "run.json").read_text())
    assert trial["recipe"]["hold_out"] == 9
    final = json.loads((folder / "runs" / "mse+kl-seed0" / "run.json").read_text())["recipe"]
    assert {name: final[name] for name in best["settings"]} == best["settings"]
    assert final["hold_out"] == 0
    again = mmkd(*command)  # the same questions, whose answers are there
    assert again.returncode == 0, again.stderr
    assert json.loads((folder / "search.json").read_text())["arms"] == found


def test_a_search_without_optuna_says_how_to_get_it(
    workspace: tuple[Path, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    done = mmkd("study", "--kd", "mse", "--search", "3", *workspace[1][1:])
    assert done.returncode == 1
    assert "--search needs Optuna, which is not installed; pip install 'mmkd[search]'" in done.stderr


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"arms": {}}, "the study has no arms; name some under 'arms'"),
        ({"arm": {}}, "did you mean 'arms'?"),
        ({"base": {"epoch": 3}}, "unknown key 'epoch' in base of"),
        ({"arms": {"a": {"kd": "mso"}}}, "arm 'a': unknown loss 'mso'"),
        (
            {"arms": {"a": {"kd": "mse", "batch-size": 4096}}},
            "arm 'a': --batch-size 4,096 is larger than the 96",
        ),
        ({"arms": {"a": {"kd": "mse", "views": 3}}}, "arm 'a': --views 3 is more than the cache holds"),
        ({"seeds": [1, 1]}, "a seed stands twice"),
        ({"seeds": "many"}, "'seeds' is 'many'; expected how many"),
        ({"seeds": 0}, "found 0 seeds"),
        ({"evaluate": {"zero-shots": "x"}}, "did you mean 'zero-shot'?"),
        ({"base": 3}, "'base' in"),
        ({"arms": {"a": {"kd": "mse"}, "b": {"kd": "mse"}}}, "arms 'a' and 'b' are trained alike"),
        ({"evaluate": {"zero-shot": "nowhere.parquet"}}, "nowhere.parquet"),
    ],
)
def test_what_cannot_be_run_is_refused_before_anything_is(
    workspace: tuple[Path, list[str]], tmp_path: Path, change: dict, part: str
) -> None:
    work, options = workspace
    file = tmp_path / "refused.yaml"
    file.write_text(yaml.safe_dump({**STUDY, **change}))
    judged = [] if "evaluate" in change else options[5:]
    done = mmkd("study", file, "--work", work, *judged)
    assert done.returncode == 1
    assert part in done.stderr
    assert done.stderr.strip().splitlines()[-1].startswith("mmkd: ")
    assert not (work / "studies" / "refused").exists()


@pytest.mark.parametrize(
    ("options", "part"),
    [
        ([], "the study has no arms"),
        (["--kd", "mse", "--kd", "mse"], "--kd 'mse' is an arm already"),
        (["--kd", "mse", "--set", "lr"], "--set 'lr' sets nothing"),
        (["--kd", "mse", "--set", "lrr=3"], "unknown key 'lrr' in --set; did you mean 'lr'?"),
        (["--kd", "mse", "--launch", "no.yaml"], "--launch no.yaml is no file"),
        (["--kd", "mse", "--rank-by", "colours/top1"], "did you mean 'colours/top-1'?"),
        (["nowhere.yaml"], "cannot read nowhere.yaml"),
    ],
)
def test_options_that_cannot_be_used(
    workspace: tuple[Path, list[str]], options: list[str], part: str
) -> None:
    work, given = workspace
    done = mmkd("study", *options, "--work", work, *given[5:])
    assert done.returncode == 1
    assert part in done.stderr


def test_without_a_cache_it_says_what_to_do(workspace: tuple[Path, list[str]], tmp_path: Path) -> None:
    done = mmkd("study", "--kd", "mse", "--work", tmp_path, *workspace[1][5:])
    assert done.returncode == 1
    assert f"there is no cache in {tmp_path / 'cache'}; make one with `mmkd cache-teacher" in done.stderr


def test_the_studies_that_come_along_can_be_read() -> None:
    from mmkd.configs import FOLDER
    from mmkd.study.arms import Arm, with_baselines

    files = sorted((FOLDER / "studies").glob("*.yaml"))
    assert files
    for file in files:
        said = read_study_file(file)
        arms = [Arm(name, {**said.base, **varied}) for name, varied in said.arms.items()]
        assert len(with_baselines(arms, said.base)) == len(arms) + 2


def test_assignments_are_read_as_in_a_file() -> None:
    read = dict(map(parse_assignment, ["lr=5e-4", "batch-size=64", "kd=none", "gradient-checkpointing=true"]))
    assert read == {"lr": 5e-4, "batch_size": 64, "kd": "none", "gradient_checkpointing": True}
