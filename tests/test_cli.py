"""The command line as a whole: quick help, one-line errors, exit codes, where a value comes from."""

import errno
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Annotated, NoReturn

import pytest
import typer
from typer.testing import CliRunner

from mmkd.cli import app as cli
from mmkd.cli.console import duration
from mmkd.cli.options import DEFAULT_WORK, Config, Work
from mmkd.errors import DataError, MmkdError


def mmkd(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "mmkd", *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, **environment},
        check=False,
    )


def test_help_answers_without_loading_a_heavy_library() -> None:
    code = """
import sys
from mmkd.cli.app import run
try:
    run(["--help"])
except SystemExit as done:
    assert not done.code
heavy = {"torch", "transformers", "datasets", "accelerate", "h5py", "faiss", "matplotlib", "numpy"}
assert not heavy & set(sys.modules), heavy & set(sys.modules)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
    for command in ("cache-teacher", "train", "eval", "demo"):
        assert command in done.stdout


def test_help_is_quick() -> None:
    fastest = min(_seconds("--help") for _ in range(3))
    assert fastest < 1.5, f"mmkd --help took {fastest:.2f} s; on an idle machine it takes 0.2"


def _seconds(*arguments: str) -> float:
    started = time.perf_counter()
    assert mmkd(*arguments).returncode == 0
    return time.perf_counter() - started


@pytest.mark.parametrize(
    "command",
    ["cache-teacher", "train", "eval zero-shot", "eval bias", "demo", "runs", "report", "push", "doctor"],
)
def test_help_of_each_command_teaches_with_an_example(command: str) -> None:
    result = CliRunner().invoke(cli.app, [*command.split(), "--help"], prog_name="mmkd")
    assert result.exit_code == 0
    assert f"mmkd {command}" in result.output.partition("Options:")[0].replace("Usage: mmkd", "")


def test_version_is_the_installed_one() -> None:
    from importlib.metadata import version

    assert mmkd("--version").stdout == f"mmkd {version('mmkd')}\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["tran"], "No such command 'tran'. Did you mean 'train'? (mmkd --help)"),
        (["train", "--epochz", "3"], "--epochz"),
        (["train", "--epochs", "many"], "'--epochs'"),
        (["eval", "bais"], "Did you mean 'bias'?"),
    ],
)
def test_wrong_option_is_one_line_and_exit_2(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as done:
        cli.run(arguments)
    error = capsys.readouterr().err
    assert done.value.code == 2
    assert error.startswith("mmkd: ")
    assert error.count("\n") == 1
    assert message in error


def test_no_command_shows_the_help_and_nothing_else() -> None:
    done = mmkd()
    assert done.returncode == 2
    assert "Usage: mmkd" in done.stdout + done.stderr
    assert "mmkd: " not in done.stderr


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (MmkdError("found a,\n  expected b"), 1, "mmkd: found a, expected b"),
        (KeyboardInterrupt(), 130, ""),
        (
            OSError(errno.ENOSPC, "No space left on device", "work/cache"),
            1,
            "mmkd: the disk is full (writing work/cache)",
        ),
        (RuntimeError("Can't write data (No space left on device)"), 1, "mmkd: the disk is full"),
        (PermissionError(errno.EACCES, "Permission denied", "out"), 1, "mmkd: out: Permission denied"),
        (ValueError("boo"), 1, "mmkd: ValueError: boo · run again with --debug"),
        (
            DataError(
                "Caught DataError in worker 0.\nOriginal Traceback:\n  x\nmmkd.errors.DataError: row 3: empty"
            ),
            1,
            "mmkd: row 3: empty",
        ),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else None,
)
def test_an_error_is_one_line(
    error: BaseException, code: int, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def command() -> NoReturn:
        raise error

    assert cli._guarded(command, debug=False) == code
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith(line)
    assert printed.err.count("\n") == bool(line)
    assert "Traceback" not in printed.err.replace("Original Traceback", "")


def test_debug_shows_the_traceback_wherever_it_stands(tmp_path: Path) -> None:
    broken = tmp_path / "broken.yaml"
    broken.write_text("afinity: 1\n")
    arguments = ["train", "--config", str(broken)]
    plain = mmkd(*arguments)
    assert plain.returncode == 1
    assert plain.stderr.startswith("mmkd: unknown key 'afinity'")
    for noisy in (
        mmkd("--debug", *arguments),
        mmkd("train", "--debug", *arguments[1:]),
        mmkd(*arguments, MMKD_DEBUG="1"),
    ):
        assert noisy.returncode == 1
        assert "Traceback (most recent call last)" in noisy.stderr
        assert noisy.stderr.splitlines()[-1] == plain.stderr.strip()


def test_only_later_processes_name_their_rank(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RANK", "1")
    assert cli._fail("broken", 1) == 1
    assert capsys.readouterr().err == "mmkd (process 1): broken\n"


@pytest.fixture
def toy() -> typer.Typer:
    """A command line of two commands, one of them nested, that print what reached them."""
    app = typer.Typer(rich_markup_mode=None)
    group = typer.Typer()

    @app.command("train")
    def train(
        epochs: Annotated[int, typer.Option()] = 1,
        data: Annotated[list[str] | None, typer.Option()] = None,
        batch_size: Annotated[int, typer.Option()] = 2,
        kd: Annotated[str, typer.Option()] = "none",
        resume: Annotated[bool, typer.Option("--resume/--no-resume")] = False,
        config: Config = None,
        work: Work = DEFAULT_WORK,
    ) -> None:
        print(epochs, data, batch_size, kd, resume)

    @group.command("bias")
    def bias(top: Annotated[int, typer.Option()] = 5, work: Work = DEFAULT_WORK) -> None:
        print(top)

    app.add_typer(group, name="eval")
    return app


def invoke(app: typer.Typer, *arguments: str) -> str:
    """What the command printed; its own error where it raised one."""
    result = CliRunner().invoke(app, arguments)
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.output.strip()


def test_flag_beats_file_beats_workspace_beats_default(
    toy: typer.Typer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work, file = tmp_path / "work", tmp_path / "recipe.yaml"
    work.mkdir()
    (work / "mmkd.yaml").write_text(
        "train: {epochs: 3, batch-size: 4, data: [a, b], resume: true}\neval: {bias: {top: 7}}"
    )
    file.write_text("epochs: 5\nkd: 2000*mse\n")
    assert invoke(toy, "train", "--work", str(tmp_path)) == "1 None 2 none False"
    assert invoke(toy, "train", "--work", str(work)) == "3 ['a', 'b'] 4 none True"
    both = ["--work", str(work), "--config", str(file)]
    assert invoke(toy, "train", *both) == "5 ['a', 'b'] 4 2000*mse True"
    assert invoke(toy, "train", *both[2:], *both[:2]) == "5 ['a', 'b'] 4 2000*mse True"
    flags = ["--epochs", "6", "--data", "c", "--no-resume"]
    assert invoke(toy, "train", *both, *flags) == "6 ['c'] 4 2000*mse False"
    monkeypatch.setenv("MMKD_WORK", str(work))
    assert invoke(toy, "train") == "3 ['a', 'b'] 4 none True"
    assert invoke(toy, "eval", "bias") == "7"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "train: {afinity: 1, epochz: 2}",
            "unknown key 'train.afinity' in .*; expected one of: batch-size, data",
        ),
        ("train: {epoch: 2}", "unknown key 'train.epoch' in .*; did you mean 'epochs'?"),
        ("trian: {epochs: 2}", "unknown key 'trian' in .*; did you mean 'train'?"),
        ("eval: {bais: {top: 1}}", "unknown key 'eval.bais' in .*; did you mean 'bias'?"),
        ("train: {work: elsewhere}", "unknown key 'train.work'"),
        ("train: 3", "'train' in .* is 3; expected option names and values"),
        ("train: {kd: no}", "'train.kd' in .* is read as False; expected a number or a text"),
        ("train: {resume: 1}", "'train.resume' in .* is 1; expected true or false"),
        ("- train", "holds a list; expected option names and values"),
        ("train: {", "is not valid YAML"),
        ("train: !!python/object/apply:os.getcwd []", "is not valid YAML"),
    ],
)
def test_workspace_file_is_refused_with_a_hint(
    toy: typer.Typer, tmp_path: Path, text: str, message: str
) -> None:
    (tmp_path / "mmkd.yaml").write_text(text)
    with pytest.raises(MmkdError, match=message):
        invoke(toy, "train", "--work", str(tmp_path))


def test_missing_config_file_is_an_error_and_an_empty_one_is_not(toy: typer.Typer, tmp_path: Path) -> None:
    with pytest.raises(MmkdError, match=r"cannot read .*none\.yaml"):
        invoke(toy, "train", "--config", str(tmp_path / "none.yaml"))
    (tmp_path / "empty.yaml").write_text("# nothing yet\n")
    assert invoke(toy, "train", "--config", str(tmp_path / "empty.yaml")) == "1 None 2 none False"


def test_a_value_from_a_file_is_judged_like_a_typed_one(toy: typer.Typer, tmp_path: Path) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text("epochs: many\n")
    result = CliRunner().invoke(toy, ["train", "--config", str(file)])
    assert result.exit_code == 2
    assert "--epochs" in result.output


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0 s"), (99, "99 s"), (1200, "20 min"), (5940, "99 min"), (11100, "3 h 05 min")],
)
def test_duration_is_read_at_a_glance(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_deepspeed_is_kept_out_of_the_way_unless_asked_for() -> None:
    code = "import sys; from mmkd.cli.quiet import hush; hush(); from importlib.util import find_spec as f; "
    out_of_sight = [sys.executable, "-c", code + "assert f('deepspeed') is None"]
    in_sight = [sys.executable, "-c", code + "assert sys.modules.get('deepspeed', 0) == 0"]
    subprocess.run(out_of_sight, check=True, timeout=60)
    subprocess.run(in_sight, check=True, timeout=60, env={**os.environ, "ACCELERATE_USE_DEEPSPEED": "true"})
