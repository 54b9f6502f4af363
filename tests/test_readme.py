"""Every command in the documentation exists, with every option it is shown with."""

import ast
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer

from mmkd.cli.app import app

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
PROGRAM = re.compile(
    r"^(?:\$ )?(?P<env>(?:[A-Z_]+=\S+ )*)(?P<launch>accelerate launch .*?)?(?:-m )?mmkd (?P<rest>.*)$"
)
LAUNCHER_OPTIONS = {
    "--config_file", "--num_processes", "--num_machines", "--machine_rank", "--main_process_ip",
    "--main_process_port", "--cpu", "--multi_gpu",
}  # fmt: skip

# A command may be named in a sentence without all that it needs.
UNFINISHED = {"MissingParameter", "NoArgsIsHelpError", "BadOptionUsage"}


def code_lines(page: Path) -> list[str]:
    """Lines of fenced blocks that are not Python, continuations joined, and commands quoted in the text."""
    text = page.read_text(encoding="utf-8")
    blocks = re.findall(r"^```(?!python)\w*\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    lines = [line.strip() for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    prose = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    return lines + [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", prose)]


def commands() -> list[str]:
    lines = [line for page in PAGES for line in code_lines(page)]
    return [line for line in dict.fromkeys(lines) if PROGRAM.match(line) and "COMMAND" not in line]


def find_command(words: list[str]) -> tuple[Any, list[str]]:
    """The command that the words name, and what is left of them."""
    command: Any = typer.main.get_command(app)
    while hasattr(command, "commands") and words and not words[0].startswith("-"):
        assert words[0] in command.commands, f"there is no command {words[0]!r}"
        command, words = command.commands[words[0]], words[1:]
    return command, words


def test_the_readme_shows_the_four_commands() -> None:
    lines = code_lines(ROOT / "README.md")
    start = lines.index("mmkd cache-teacher")
    assert lines[start : start + 4] == [
        "mmkd cache-teacher",
        "accelerate launch mmkd train --kd mse+cos",
        "mmkd eval zero-shot",
        "mmkd eval bias",
    ]


@pytest.mark.parametrize("line", commands())
def test_command_parses(line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # no workspace here, so no settings of somebody's own
    monkeypatch.delenv("MMKD_WORK", raising=False)
    match = PROGRAM.match(line)
    assert match is not None
    launcher = shlex.split(match["launch"] or "")[2:]
    assert {word for word in launcher if word.startswith("--")} <= LAUNCHER_OPTIONS
    words = [
        word for word in shlex.split(match["rest"].split(" #")[0].split(" > ")[0]) if word not in {"…", "..."}
    ]
    command, words = find_command(words)
    if {"--help", "--debug"}.isdisjoint(words):
        try:
            command.make_context(line, words)  # an unknown option or a value of the wrong type raises
        except Exception as error:
            if type(error).__name__ not in UNFINISHED:
                raise


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_and_launch_files_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    targets = [target for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", text) if "://" not in target]
    missing = [target for target in targets if not (page.parent / target).exists()]
    missing += [path for path in re.findall(r"configs/[\w./-]+\.\w+", text) if not (ROOT / path).exists()]
    assert not missing


def test_make_targets_in_the_documentation_exist() -> None:
    targets = set(re.findall(r"^([a-z.-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    for page in PAGES:
        for line in code_lines(page):
            if match := re.match(r"make ([a-z.-]+)", line):
                assert match[1] in targets, f"{page.name}: {line}"


def test_python_snippets_name_what_exists() -> None:
    import mmkd

    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for snippet in re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        for node in ast.walk(ast.parse(snippet)):
            if isinstance(node, ast.Attribute) and ast.unparse(node).startswith("mmkd."):
                found: Any = mmkd
                for name in ast.unparse(node).split(".")[1:]:
                    found = getattr(found, name)
