"""What the demo says at its end."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmkd.cli.console import console
from mmkd.cli.demo_workspace import DemoWorkspace
from mmkd.cli.tables import align
from mmkd.parse import read_json

SET_TITLES = {"seen": "classes seen", "never-seen": "never seen"}

REAL_COMMANDS = (
    "mmkd cache-teacher --teacher openai/clip-vit-base-patch32 --data pixparse/cc3m-wds",
    "accelerate launch -m mmkd train --kd mse+cos",
    "mmkd eval zero-shot",
    "mmkd eval bias",
)


@dataclass(frozen=True, slots=True)
class Line:
    """One metric on one test set, as the reports have it: {value, low, high, chance}, fractions of 1."""

    title: str
    metric: str
    teacher: dict[str, Any]
    student: dict[str, Any]
    scratch: dict[str, Any]
    kept: float | None

    @property
    def clear(self) -> bool:
        """Whether the intervals of student and scratch do not touch."""
        return bool(self.student["low"] > self.scratch["high"])


def read_lines(student_report: Path, scratch_report: Path) -> list[Line]:
    """Put two reports of ``mmkd eval zero-shot`` beside one another."""
    lines = []
    sets = zip(read_json(student_report)["sets"], read_json(scratch_report)["sets"], strict=True)
    for one, other in sets:
        models = one["models"]
        for metric in ("top-1", "top-5"):
            lines.append(
                Line(
                    title=SET_TITLES[one["name"]],
                    metric=metric,
                    teacher=models["teacher"]["scores"][metric],
                    student=models["student"]["scores"][metric],
                    scratch=other["models"]["student"]["scores"][metric],
                    kept=models["student"]["retention"].get(metric),
                )
            )
    return lines


def table(lines: list[Line]) -> list[str]:
    """Teacher, student and scratch against chance, percent with 95 % intervals; fits 80 columns."""
    rows = []
    for title in dict.fromkeys(line.title for line in lines):
        scores = [line for line in lines if line.title == title]
        rows.append([title, *(cell for line in scores for cell in (line.metric, ""))])
        rows.append(
            ["  chance", *(cell for line in scores for cell in (_percent(line.teacher["chance"]), ""))]
        )
        rows.append(["  teacher", *(cell for line in scores for cell in (_cell(line.teacher), ""))])
        rows.append(["  student", *(cell for line in scores for cell in (_cell(line.student), _kept(line)))])
        rows.append(["  from scratch", *(cell for line in scores for cell in (_cell(line.scratch), ""))])
    return ["zero-shot, 160 classes: percent right [95 % interval]", "", *align(rows, gap=2)]


def verdict(lines: list[Line]) -> str:
    """Whether distillation paid, in one sentence."""
    line = lines[0]
    student, scratch = (100 * score["value"] for score in (line.student, line.scratch))
    numbers = f"{student:.1f} % against {scratch:.1f} % top-1, same size, pairs, budget and seed"
    if line.clear:
        return f"The distilled student beats the one from scratch: {numbers}."
    return f"The distilled student does not clearly beat the one from scratch: {numbers}."


def show_result(demo: DemoWorkspace, student: Path, lines: list[Line], taken: str) -> None:
    """Print the table, what was written, and what to type next."""
    console.print()
    for line in [*table(lines), ""]:
        console.print(line, markup=False, soft_wrap=True)
    console.print(verdict(lines), markup=False, soft_wrap=True)
    console.print(f"\nwritten in {taken}:", markup=False)
    written = [
        (demo.pairs.parent, "scenes to train and to test on"),
        (demo.teacher, "the teacher"),
        (demo.space.cache, "its embeddings of the training scenes"),
        (student / "student", "the student, for CLIPModel.from_pretrained"),
        (student / "zero-shot.json", "scores of teacher and student"),
        (student / "bias.json", "bias of teacher and student, with its plot in bias.png"),
        (demo.scratch / "student", "the same student from scratch"),
        (
            demo.space.settings,
            "lets `mmkd train --kd mse+cos` and `mmkd eval zero-shot` run here as they are",
        ),
    ]
    width = max(len(str(path)) for path, _ in written)
    for path, what in written:
        console.print(f"  {path!s:<{width}}   {what}", markup=False, soft_wrap=True)
    console.print("\nthe same four commands with a real teacher, in a workspace of its own:", markup=False)
    for command in ("export MMKD_WORK=clip-work", *REAL_COMMANDS):
        console.print(f"  {command}", markup=False, soft_wrap=True)


def _percent(share: float) -> str:
    return f"{100 * share:5.1f}"


def _cell(score: dict[str, Any]) -> str:
    return f"{_percent(score['value'])} [{100 * score['low']:.1f}, {100 * score['high']:.1f}]"


def _kept(line: Line) -> str:
    return "" if line.kept is None else f"kept {100 * line.kept:.0f} %"
