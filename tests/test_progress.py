"""What a person sees of trainings: the list of runs, their state, the panel, completion, and the doctor."""

import fcntl
import io
import json
import os
import signal
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from command_line import mmkd
from report_runs import evaluate, make_run

from mmkd.cli import doctor as doctors
from mmkd.cli.completion import complete_data, complete_kd, complete_runs, complete_task, loss_names
from mmkd.cli.interruption import Interruption
from mmkd.cli.list_runs import list_folder, table
from mmkd.cli.run_state import run_state, state_of
from mmkd.cli.training_panel import TrainingPanel, memory_used
from mmkd.errors import TrainingError
from mmkd.runs import read_run

ALONE = SimpleNamespace(num_processes=1, is_main_process=True, device="cpu")


def test_runs_are_listed_with_state_step_and_scores(
    tmp_path: Path, tiny_clip: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    done = make_run(tmp_path / "runs" / "1-done", tiny_clip)
    evaluate(done, top_1=0.35)
    stopped = make_run(tmp_path / "runs" / "2-stopped", seed=3).update(planned_steps=100)
    broken = make_run(tmp_path / "runs" / "3-broken").update(state="failed", error="the loss is not a number")
    (tmp_path / "runs" / "4-unreadable").mkdir()
    (tmp_path / "runs" / "4-unreadable" / "run.json").write_text("{")
    found = {one.name: one for one in list_folder(tmp_path / "runs")}
    assert [one.state for one in found.values()] == ["unreadable", "finished", "interrupted", "failed"]
    assert (found["2-stopped"].step, found["2-stopped"].steps) == (40, 100)
    assert mmkd("runs", "--work", tmp_path).returncode == 0
    printed = capsys.readouterr().out
    assert "animals 35.0 at chance" in printed
    assert "failed: the loss is not a number" in printed
    assert "40 of 100" in printed
    assert "mse+cos, clip, seed 3" in printed
    assert mmkd("runs", "--json", "--work", tmp_path).returncode == 0
    value = json.loads(capsys.readouterr().out)
    assert (value["schema"], value["schema_version"]) == ("mmkd.runs", 1)
    assert value["runs"][1]["scores"]["animals"]["at_chance"] is True
    assert stopped.folder.name in mmkd("runs", "--work", tmp_path).stderr
    assert broken.folder.name in mmkd("runs", broken.folder).stderr
    empty = mmkd("runs", "--work", tmp_path / "empty")
    assert empty.returncode == 0
    assert "none in" in empty.stderr
    assert table([]) == []


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_training_is_told_from_one_that_was_killed_by_its_lock(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    assert state_of(run) == "interrupted"
    with run_state(run, ALONE, steps=50):
        now = read_run(run.folder)
        assert now.record["planned_steps"] == 50
        # A lock of this very process counts as another's, since each opening has its own.
        assert state_of(now) == "training"
        there, here = os.pipe()
        child = os.fork()
        if child == 0:  # as a loader's process, which outlives a killed training
            os.write(here, b"x")
            time.sleep(20)
            os._exit(0)
        os.read(there, 1)
        with (
            pytest.raises(TrainingError, match="being trained by another process"),
            run_state(run, ALONE, steps=50),
        ):
            pass
    assert state_of(read_run(run.folder)) == "interrupted", "the child has the lock"
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    held = os.open(run.folder, os.O_RDONLY)
    fcntl.flock(held, fcntl.LOCK_EX)
    assert state_of(read_run(run.folder)) == "training"
    os.close(held)
    assert sorted(path.name for path in run.folder.iterdir()) == ["config.yaml", "metrics.jsonl", "run.json"]


@pytest.mark.parametrize(
    ("error", "state"),
    [(KeyboardInterrupt(), "interrupted"), (TrainingError("not a number\nat all"), "failed")],
)
def test_how_a_training_ended_is_written_down(tmp_path: Path, error: BaseException, state: str) -> None:
    run = make_run(tmp_path / "run")
    with pytest.raises(type(error)), run_state(run, ALONE, steps=50):
        raise error
    record = read_run(run.folder).record
    assert record["state"] == state
    assert record.get("error") == ("not a number" if state == "failed" else None)
    finished = read_run(run.folder).update(state="finished")
    with pytest.raises(TrainingError), run_state(finished, ALONE, steps=50):
        _finish_and_fail(run.folder)
    assert read_run(run.folder).finished


def _finish_and_fail(folder: Path) -> None:
    read_run(folder).update(state="finished")
    raise TrainingError("after the student was saved")


def test_the_first_signal_asks_and_a_second_one_forces(monkeypatch: pytest.MonkeyPatch) -> None:
    before = signal.getsignal(signal.SIGINT)
    with Interruption(ALONE, every=10) as interruption:
        assert not interruption(3)
        os.kill(os.getpid(), signal.SIGINT)
        assert interruption(4)
        os.kill(os.getpid(), signal.SIGINT)  # what a launcher passes on at once is no second time
        os.kill(os.getpid(), signal.SIGTERM)
        monkeypatch.setattr("mmkd.cli.interruption._AGAIN", -1.0)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


def test_several_processes_leave_after_the_same_step() -> None:
    def reduce(flag, *, reduction: str):
        assert reduction == "sum"
        return flag + 1

    pair = SimpleNamespace(num_processes=2, device="cpu", reduce=reduce)
    with Interruption(pair, every=10) as interruption:
        assert not interruption(9), "asked only where the processes wait for the device anyway"
        assert interruption(10), "another process was asked to stop"
        assert interruption.wanted


def test_in_another_thread_there_are_no_handlers() -> None:
    def use() -> None:
        with Interruption(ALONE, every=10) as interruption:
            found.append(interruption(1))

    found: list[bool] = []
    thread = threading.Thread(target=use)
    thread.start()
    thread.join()
    assert found == [False]


def test_the_panel_shows_what_a_person_waits_for() -> None:
    from rich.console import Console

    panel = TrainingPanel("mse+cos", steps=1_000, batch=64, first_step=100)
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(panel)
    assert panel.seconds_left() is None
    panel.step, panel.rate, panel.note = 200, 1_234.0, ""
    panel.started -= 50.0
    panel.losses, panel.facts = {"total": 2.0, "mse": 0.001}, {"lr": "1.0e-03", "memory": memory_used()}
    assert panel.seconds_left() == pytest.approx(400.0, rel=0.01)
    console.print(panel)
    text = console.export_text()
    for words in (
        "waiting for the first batch",
        "step 200 of 1,000",
        "1,234 pairs/s",
        "min left",
        "mse 0.001",
        "GB",
    ):
        assert words in text, words


def test_tab_completes_what_there_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mmkd.objective import KD_LOSSES, TASK_LOSSES

    assert set(loss_names("KD losses for --kd:")) == set(KD_LOSSES)
    assert set(loss_names("Task losses for --task")) == set(TASK_LOSSES)
    assert complete_kd("mse+c") == ["mse+cos", "mse+crd"]
    assert "mse" not in complete_kd("mse+")
    assert complete_kd("2000*m") == ["2000*mse", "2000*mse-raw"]
    assert complete_kd("no") == ["none"]
    assert complete_task("sig") == ["siglip"]
    make_run(tmp_path / "runs" / "one")
    monkeypatch.setenv("MMKD_WORK", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert str(tmp_path / "runs" / "one") in complete_runs("")
    assert complete_runs("ru") == ["runs"]
    assert complete_data("cifar100") == ["cifar100"]
    assert complete_data("no/such/folder/x") == []


def test_the_shell_is_answered(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("_MMKD_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", "mmkd train --kd mse+c")
    monkeypatch.setenv("COMP_CWORD", "3")
    mmkd()
    assert capsys.readouterr().out.split() == ["mse+cos", "mse+crd"]


def test_the_doctor_finds_what_works(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctors, "_deepspeed", lambda: "left out of this test: it takes many seconds")
    assert mmkd("doctor", "--work", tmp_path).returncode == 0
    printed = capsys.readouterr().out
    for words in (
        "faiss searches",
        "HDF5 writes and maps",
        "not asked: HF_HUB_OFFLINE",
        "GB free",
        "all that mmkd needs works",
    ):
        assert words in printed, words


def test_the_doctor_says_what_is_broken_and_fails(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken() -> str:
        raise ImportError("libfaiss.so: cannot open shared object file\nand more")

    monkeypatch.setattr(doctors, "_search", broken)
    monkeypatch.setattr(doctors, "CHECKS", (doctors._stack, doctors._disk))
    monkeypatch.setattr(doctors, "_deepspeed", broken)
    assert mmkd("doctor", "--work", tmp_path).returncode == 1
    printed = capsys.readouterr().out
    assert "ImportError: libfaiss.so: cannot open shared object file\n" in printed
    assert "1 of what mmkd needs does not work: faiss searches" in printed
    assert mmkd("doctor", "--json", "--work", tmp_path).returncode == 1
    value = json.loads(capsys.readouterr().out)
    states = {one["what"]: (one["state"], one["needed"]) for one in value["findings"]}
    assert states["faiss searches"] == ("broken", True)
    assert states["deepspeed imports"] == ("broken", False)
