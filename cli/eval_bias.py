"""``mmkd eval bias``: did the student inherit which professions its teacher thinks female?"""

import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mmkd.cli.console import console, say, warn
from mmkd.cli.eval_zero_shot import REPORT as ZERO_SHOT_REPORT
from mmkd.cli.models import Subject, describe, find_students, find_teacher, report_file
from mmkd.cli.options import DEFAULT_WORK, Config, Work
from mmkd.cli.tables import align
from mmkd.cli.workspace import Workspace
from mmkd.errors import ConfigError, MmkdError

if TYPE_CHECKING:
    from mmkd.evaluation.bias import BiasReport, Correlation, ModelBias

REPORT = "bias.json"
SHOWN = 5


def bias(
    *,
    model: Annotated[
        str | None, typer.Option(help="Run, folder or hub id to probe. Default: the latest run.")
    ] = None,
    teacher: Annotated[
        str | None, typer.Option(help="Hub id or folder to compare with. Default: the run's own teacher.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="JSON to write, with the plot beside it. Default: bias.json in the run."
        ),
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Sentences a forward pass.")] = 256,
    work: Work = DEFAULT_WORK,
    config: Config = None,  # noqa: ARG001 - read by its callback
) -> None:
    """Compare which professions lie nearer to the female than to the male terms, in teacher and student.

    A high rank correlation means that the bias was passed on. Where a model does not know the words, has
    collapsed or is at chance, the conclusion is withheld, and the reason given.

    \b
      mmkd eval bias
      mmkd eval bias --model work/runs/mine --teacher openai/clip-vit-base-patch32 --out bias.json
    """
    from mmkd.files import write_json

    students = find_students([model] if model else [], Workspace(work).runs)
    reference = find_teacher(teacher, students)
    if reference is None:
        raise ConfigError(f"{students[0].source} names no teacher to compare with; pass one with --teacher")
    file = report_file(out, students, work, REPORT)
    report = run_bias(reference, students[0], batch_size=batch_size)
    for line in table(report):
        console.print(line, markup=False, soft_wrap=True)
    write_json(file, report.to_json())
    plots = save_plots(report, file)
    say("saved", " · ".join(str(path) for path in (file, *plots)))


def run_bias(teacher: Subject, student: Subject, *, batch_size: int) -> "BiasReport":
    """Probe both models with the built-in words, saying what is done."""
    from mmkd.evaluation.bias import compare, probe
    from mmkd.evaluation.words import builtin_words

    words = builtin_words()
    found: list[ModelBias] = []
    for name, subject in (("teacher", teacher), ("student", student)):
        encoder = subject.load()
        say(name, describe(encoder.spec))
        if not found:
            say(
                "words",
                f"{len(words.targets)} professions · {len(words.female)} female and {len(words.male)} male "
                f"terms · {len(words.templates)} templates",
            )
        found.append(probe(encoder, words, batch_size=batch_size))
    doubts = zero_shot_doubts(student, found[1].spec.weights_hash)
    return compare(found[0], found[1], words, doubts=doubts)


def zero_shot_doubts(student: Subject, weights_hash: str) -> list[str]:
    """What the run's zero-shot report says against the student: at chance, or collapsed, on every set."""
    from mmkd.evaluation.zero_shot_report import SCHEMA, SCHEMA_VERSION
    from mmkd.parse import read_json

    file = None if student.run is None else student.run.folder / ZERO_SHOT_REPORT
    if file is None or not file.is_file():
        say("note", "no zero-shot scores of this student yet, so it is not known whether it knows anything")
        return []
    try:
        report = read_json(file)
        if (report.get("schema"), report.get("schema_version")) != (SCHEMA, SCHEMA_VERSION):
            return []
        names = [name for name, spec in report["models"].items() if spec["weights_hash"] == weights_hash]
        results = [(one["name"], one["models"][name]) for one in report["sets"] for name in names[:1]]
        at_chance = [result["at_chance"] or result["collapsed"] for _, result in results]
    except (MmkdError, KeyError, TypeError, AttributeError) as error:
        warn(f"{file} cannot be read as a zero-shot report ({type(error).__name__}); it is left out")
        return []
    if not results or not all(at_chance):
        return []
    return [f"student: at chance on {', '.join(name for name, _ in results)} ({file})"]


def table(report: "BiasReport") -> list[str]:
    """The report as lines of text."""
    teacher, student = report.models["teacher"], report.models["student"]
    names, order = report.words.targets, teacher.gaps.argsort()
    gaps = [
        ["gap x 100", "teacher", "student", "  ", "gap x 100", "teacher", "student"],
        *(
            [
                *(names[low], f"{100 * teacher.gaps[low]:+7.2f}", f"{100 * student.gaps[low]:+7.2f}", "  "),
                *(names[high], f"{100 * teacher.gaps[high]:+7.2f}", f"{100 * student.gaps[high]:+7.2f}"),
            ]
            for low, high in zip(order[:SHOWN], order[::-1][:SHOWN], strict=True)
        ),
    ]
    top = [(model.top(report.words, 3)) for model in (teacher, student)]
    nearest = [
        ["nearest to", "teacher", "student"],
        *([term, ", ".join(top[0][term]), ", ".join(top[1][term])] for term in report.words.terms),
    ]
    lines = [*align(gaps), "", *align(nearest), ""]
    if report.withheld:
        return [
            *lines,
            "teacher and student: conclusion withheld, because these numbers mean nothing",
            *(f"  {reason}" for reason in report.withheld),
        ]
    spearman, kendall = (report.correlations[name] for name in ("spearman", "kendall"))
    lines.append(f"teacher and student: Spearman {_number(spearman)}, Kendall {_number(kendall)}")
    return [
        *lines,
        "1: the student ranks the professions as its teacher does, the bias was passed on; 0: without relation",
    ]


def save_plots(report: "BiasReport", file: Path) -> list[Path]:
    """Draw the gaps beside the report, as PNG and SVG."""
    from mmkd.evaluation.plots import plot_gaps, save_figure

    spearman = report.correlations["spearman"]
    reason = textwrap.shorten(report.withheld[0], 95, placeholder=" ...") if report.withheld else ""
    figure = plot_gaps(
        report.words.targets,
        report.models["teacher"].gaps,
        report.models["student"].gaps,
        title=f"Gender gap of {len(report.words.targets)} professions",
        subtitle=reason or f"Spearman's correlation {_number(spearman)}",
        withheld=bool(report.withheld),
    )
    paths = [file.with_suffix(suffix) for suffix in (".png", ".svg")]
    for path in paths:
        save_figure(figure, path)
    return paths


def _number(found: "Correlation | None") -> str:
    if found is None:
        return "undefined (a column is constant)"
    return f"{found.value:.2f} [{found.interval.low:.2f}, {found.interval.high:.2f}]"
