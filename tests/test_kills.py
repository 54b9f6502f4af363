"""A training that is killed, at any moment and as often as one likes, ends as if nothing had happened.

``MMKD_KILLS`` is the number of kills; `make torture` asks for many.
"""

import collections
import contextlib
import itertools
import json
import os
import random
import select
import shutil
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

from mmkd.checkpoints import Checkpoints
from mmkd.errors import TrainingError

KILLS = int(os.environ.get("MMKD_KILLS", "6"))
WORKER = Path(__file__).parent / "kill_worker.py"
SMALL = ["--batch-size", "16", "--epochs", "2", "--workers", "0", "--keep", "2"]  # 12 steps
VARIANTS = {
    "every step saved": ["--save-every", "1"],
    "averaged and judged": [
        *(
            "--save-every",
            "2",
            "--ema",
            "0.9",
            "--eval-every",
            "4",
            "--keep-best",
            "val/loss",
            "--lr",
            "0.01",
        ),
        *("--task", "clip"),
    ],
    "accumulated, with a bank that is mined anew": [
        *("--save-every", "3", "--accumulate", "2", "--bank", "8", "--refresh-every", "1"),
    ],
}


class Trainings:
    """Trainings in processes that cost no imports."""

    def __init__(self) -> None:
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        self.server = subprocess.Popen(
            [sys.executable, str(WORKER)],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def _ask(self, line: str) -> int:
        self.server.stdin.write(line + "\n")
        self.server.stdin.flush()
        return int(self.server.stdout.readline())

    def run(self, run: Path, arguments: list[str], *, kill=None, kill_at: int | str | None = None) -> int:
        """Exit code of a training.

        Args:
            run: its folder.
            arguments: of ``mmkd train``.
            kill: is called with the training's ``pidfd``, which is readable once it has ended; the training is killed
                when it returns.
            kill_at: the file event that it kills itself before: its number, or the name that something is renamed to.
        """
        job = {
            "run": str(run),
            "kill_at": kill_at,
            "arguments": ["train", "--out", str(run), *map(str, arguments)],
        }
        child = self._ask(json.dumps(job))
        ended = os.pidfd_open(child)
        try:
            if kill is not None:
                kill(ended)
                os.kill(child, signal.SIGKILL)
            assert select.select([ended], [], [], 120)[0], "the training hangs"
        finally:
            os.close(ended)
        return self._ask("")

    def close(self) -> None:
        self.server.stdin.close()
        self.server.wait(60)
        self.server.stdout.close()


@pytest.fixture(scope="module")
def trainings():
    started = Trainings()
    yield started
    started.close()


@dataclass(frozen=True)
class Reference:
    """An undisturbed run."""

    run: Path
    options: list[str]
    seconds: float
    events: int


@pytest.fixture(scope="module")
def options(tiny_clip: Path, pairs_parquet: Path, tmp_path_factory: pytest.TempPathFactory):
    """The options of a variant, on a cache of the 96 pairs."""
    from mmkd.cache.build import build_cache
    from mmkd.data import DataSource, open_pairs
    from mmkd.encoders import load_encoder

    cache = tmp_path_factory.mktemp("kills") / "cache"
    encoder = load_encoder(tiny_clip, device=torch.device("cpu"))
    build_cache(encoder, open_pairs([DataSource(str(pairs_parquet))]), cache)

    def of(variant: str) -> list[str]:
        judged = ["--val-data", str(pairs_parquet)] if "judged" in variant else []
        return ["--cache", str(cache), *SMALL, *VARIANTS[variant], *judged]

    return of


@pytest.fixture(scope="module")
def references(trainings, options, tmp_path_factory) -> dict[str, Reference]:
    """Each variant, never killed."""
    found = {}
    for number, variant in enumerate(VARIANTS):
        run = tmp_path_factory.mktemp("undisturbed") / f"run{number}"
        started = time.perf_counter()
        code = trainings.run(run, options(variant))
        assert code == 0, run.with_suffix(".log").read_text()
        seconds, events = time.perf_counter() - started, int(run.with_suffix(".events").read_text())
        found[variant] = Reference(run, options(variant), seconds, events)
    return found


def names(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def saved_steps(run: Path) -> list[int]:
    file = run.with_suffix(".saved")
    return [int(line) for line in file.read_text().splitlines()] if file.exists() else []


def check_what_is_there(
    run: Path, reference: Path, states: tuple[str, ...] = ("training", "finished")
) -> None:
    """Everything that has a name of its own is whole, and what was reported as saved is there."""
    steps = Checkpoints(run / "checkpoints", "").steps()
    expected = reference / "checkpoints" / f"step-{Checkpoints(reference / 'checkpoints', '').steps()[-1]}"
    for step in steps:
        folder = run / "checkpoints" / f"step-{step}"
        assert names(folder) == names(expected)
        assert json.loads((folder / "checkpoint.json").read_text())["step"] == step
        weights = [load_file(place / "model.safetensors") for place in (folder, expected)]
        assert weights[0].keys() == weights[1].keys()
        torch.load(folder / "optimizer.bin", weights_only=True)
    reported = saved_steps(run)
    assert not reported or steps[-1] >= max(reported)
    if (run / "student").exists():
        assert names(run / "student") == names(reference / "student")
        load_file(run / "student" / "model.safetensors")
    if (run / "run.json").exists():
        record = json.loads((run / "run.json").read_text())
        assert record["state"] in states
        assert record["state"] != "finished" or (run / "student").exists()
    lines = (run / "metrics.jsonl").read_text().splitlines() if reported else []
    whole = lines[:-1] + [line for line in lines[-1:] if line.endswith("}")]
    assert {json.loads(line)["step"] for line in whole} >= set(reported)


def newest_checkpoint(run: Path) -> int:
    return max(Checkpoints(run / "checkpoints", "").steps(), default=0)


def metrics(run: Path) -> list[dict]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name != "pairs_per_second"} for line in lines]


def check_same_end(run: Path, reference: Path, *, same_lines: bool = True) -> None:
    """Student, optimizer, averages, evaluations and metrics are bit-identical, and nothing else is left.

    The means of a run that was interrupted end where it was, so that its lines are others.
    """
    assert names(run) == names(reference)
    ends = [json.loads((folder / "run.json").read_text()) for folder in (run, reference)]
    assert ends[0]["state"] == ends[1]["state"] == "finished"
    assert ends[0]["steps"] == ends[1]["steps"]
    assert not same_lines or metrics(run) == metrics(reference)
    for file in sorted(reference.rglob("*.safetensors")):
        first, again = load_file(file), load_file(run / file.relative_to(reference))
        assert first.keys() == again.keys()
        assert all(torch.equal(first[name], again[name]) for name in first), file
    for file in sorted(reference.rglob("checkpoint.json")):
        first, again = (json.loads(path.read_text()) for path in (file, run / file.relative_to(reference)))
        assert first["evaluations"] == again["evaluations"]
    for file in sorted(reference.rglob("optimizer.bin")):
        first, again = (
            torch.load(path, weights_only=True)["state"] for path in (file, run / file.relative_to(reference))
        )
        assert first.keys() == again.keys()
        for number, state in first.items():
            assert all(torch.equal(state[name], again[number][name]) for name in state)


def how_to_go_on(run: Path, reference: Reference) -> list[str]:
    """A run is resumed; one that was killed before it had its settings is started again."""
    return ["--resume"] if (run / "config.yaml").exists() else reference.options


def kill_once(trainings: Trainings, reference: Reference, run: Path, kind: str, chance: random.Random) -> int:
    """Start or resume a training and kill it; its exit code, 0 where it was faster."""
    arguments = how_to_go_on(run, reference)
    if kind == "event":
        return trainings.run(run, arguments, kill_at=chance.randint(1, reference.events))
    if kind == "moment":
        wait = chance.uniform(0, reference.seconds)
        return trainings.run(run, arguments, kill=lambda ended: select.select([ended], [], [], wait))
    writes, delay = chance.randint(1, 6), chance.uniform(0, 0.02)

    def within_a_write(ended: int) -> None:
        seen: set[str] = set()
        while len(seen) < writes and not select.select([ended], [], [], 0.0005)[0]:
            folders = ((run / "checkpoints", ".step-*.tmp"), (run, ".student*.tmp"))
            seen |= {path.name for folder, pattern in folders for path in folder.glob(pattern)}
        time.sleep(delay)

    return trainings.run(run, arguments, kill=within_a_write)


def finished(run: Path) -> bool:
    return (run / "run.json").exists() and json.loads((run / "run.json").read_text())["state"] == "finished"


@pytest.mark.slow
def test_killed_at_random_it_ends_as_if_nothing_had_happened(trainings, references, tmp_path) -> None:
    chance = random.Random(int(os.environ.get("MMKD_KILLS_SEED", "0")))
    kills = {"event": 0, "moment": 0, "write": 0}
    kinds = itertools.cycle(kills)
    resumed = collections.Counter()
    for number in itertools.count():
        if sum(kills.values()) >= KILLS:
            break
        reference = list(references.values())[number % len(references)]
        run = tmp_path / f"run{number}"
        for start in range(5):  # killed four times at most, then left alone
            kind = next(kinds) if start < 4 and sum(kills.values()) < KILLS else None
            if kind is None:
                code = trainings.run(run, how_to_go_on(run, reference))
            else:
                code = kill_once(trainings, reference, run, kind, chance)
                kills[kind] += code == -signal.SIGKILL
            assert code in ({0} if kind is None else {0, -signal.SIGKILL}), run.with_suffix(
                ".log"
            ).read_text()
            check_what_is_there(run, reference.run)
            if finished(run):
                break
            resumed[newest_checkpoint(run)] += 1
        check_same_end(run, reference.run)
        shutil.rmtree(run)
    print(
        f"\n{kills} kills, {number} runs, killed with the newest checkpoint at step: {sorted(resumed.items())}"
    )
    if KILLS >= 30:  # fewer may by chance all be alike
        assert min(kills.values()) > KILLS // 10
        assert len(resumed) > 4


def test_interrupted_it_saves_the_step_and_ends_the_same(trainings, references, tmp_path) -> None:
    """Ctrl-C, then SIGTERM as batch systems send it: each leaves a checkpoint of that step and says how to go on."""
    reference, run = references["averaged and judged"], tmp_path / "run"

    def send(number: signal.Signals, after: int):
        def at_a_step(ended: int) -> None:
            while newest_checkpoint(run) < after and not select.select([ended], [], [], 0.001)[0]:
                pass
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(ended, number)
            assert select.select([ended], [], [], 60)[0], "it did not leave"

        return at_a_step

    seen = []
    for number, after in ((signal.SIGINT, 2), (signal.SIGTERM, 6)):
        arguments = [*how_to_go_on(run, reference), *([] if seen else ["--save-every", "2"])]
        code = trainings.run(run, arguments, kill=send(number, after))
        log = run.with_suffix(".log").read_text()
        assert code == 130, log
        assert json.loads((run / "run.json").read_text())["state"] == "interrupted"
        seen.append(newest_checkpoint(run))
        assert f"saved at step {seen[-1]} of 12; go on with: mmkd train --resume --out {run}" in log
        check_what_is_there(run, reference.run, states=("interrupted",))
    assert 2 <= seen[0] < seen[1] < 12
    assert trainings.run(run, ["--resume"]) == 0, run.with_suffix(".log").read_text()
    check_same_end(run, reference.run, same_lines=False)


@pytest.mark.slow
def test_killed_just_before_anything_gets_its_name(trainings, references, tmp_path) -> None:
    reference, run = references["every step saved"], tmp_path / "run"
    names_in_order = ["run.json", "config.yaml", "step-1", "step-4", ".step-4.old.tmp", "metrics.jsonl"]
    for name in [*names_in_order, "student", "run.json"]:
        code = trainings.run(run, how_to_go_on(run, reference), kill_at=name)
        assert code == -signal.SIGKILL, run.with_suffix(".log").read_text()
        check_what_is_there(run, reference.run)
    assert trainings.run(run, how_to_go_on(run, reference)) == 0, run.with_suffix(".log").read_text()
    check_same_end(run, reference.run)


def train_as_a_pair_until(step: int, run: Path) -> None:
    """Resume under two processes, and kill both once a checkpoint of ``step`` or later is there."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        places = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1]), "WORLD_SIZE": "2"}
    environment = {**os.environ, **places, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    command = [sys.executable, "-m", "mmkd", "train", "--out", str(run), "--resume"]
    with run.with_suffix(".pair.log").open("w") as log:
        # Not by torchrun, which gives its processes sessions of their own: they would survive it.
        pair = [
            subprocess.Popen(
                command, env={**environment, "RANK": str(rank), "LOCAL_RANK": str(rank)}, stderr=log
            )
            for rank in range(2)
        ]
    while newest_checkpoint(run) < step and all(process.poll() is None for process in pair):
        time.sleep(0.01)
    for process in pair:
        process.kill()
        process.wait()
    assert newest_checkpoint(run) >= step, run.with_suffix(".pair.log").read_text()


@pytest.mark.slow
def test_another_number_of_processes_sees_the_same_rows(trainings, references, tmp_path) -> None:
    """Started by one process, gone on with by two, ended by one."""
    reference, run = references["every step saved"], tmp_path / "run"
    trainings.run(run, reference.options, kill_at="step-4")
    train_as_a_pair_until(8, run)
    newest = newest_checkpoint(run)
    assert newest < 12, "killed too late to show anything"
    record = json.loads((run / "checkpoints" / f"step-{newest}" / "checkpoint.json").read_text())
    assert record["processes"] == 2
    assert trainings.run(run, ["--resume", "--keep", "3"]) == 0, run.with_suffix(".log").read_text()
    assert Checkpoints(run / "checkpoints", "").steps() == [10, 11, 12], "--keep may change on the way"
    assert [line["step"] for line in metrics(run)] == list(range(1, 13))
    for found, expected in zip(metrics(run), metrics(reference.run), strict=True):
        assert found == pytest.approx(expected, rel=1e-4)  # other rows differ by far more
    weights = [load_file(folder / "student" / "model.safetensors") for folder in (run, reference.run)]
    for name, tensor in weights[1].items():
        torch.testing.assert_close(weights[0][name], tensor, rtol=1e-3, atol=1e-3)


def test_a_checkpoint_of_another_engine_is_refused(trainings, references, tmp_path) -> None:
    run = tmp_path / "run"
    trainings.run(run, references["every step saved"].options, kill_at="step-2")
    record = run / "checkpoints" / "step-1" / "checkpoint.json"
    record.write_text(record.read_text().replace("no DeepSpeed", "ZeRO 3"))
    assert trainings.run(run, ["--resume"]) == 1
    line = run.with_suffix(".log").read_text().splitlines()[-1]
    assert (
        "was written under ZeRO 3, and this is no DeepSpeed; resume with the launch file of its start" in line
    )


def test_zero_is_not_resumed_on_another_number_of_processes(tmp_path) -> None:
    zero = SimpleNamespace(deepspeed_plugin=SimpleNamespace(zero_stage=2))
    accelerator = SimpleNamespace(
        state=zero, num_processes=3, is_main_process=True, wait_for_everyone=lambda: None
    )
    folder = tmp_path / "step-5"
    folder.mkdir()
    record = {"run": "one", "step": 5, "evaluations": [], "engine": "ZeRO 2", "processes": 2}
    (folder / "checkpoint.json").write_text(json.dumps(record))
    with pytest.raises(TrainingError, match="among 2 processes by ZeRO 2, and 3 were launched; resume with"):
        Checkpoints(tmp_path, "one").load(SimpleNamespace(accelerator=accelerator))
