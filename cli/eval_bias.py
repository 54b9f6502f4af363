"""``mmkd eval bias``: did the student inherit its teacher's bias?"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mmkd.cli.completion import complete_runs
from mmkd.cli.console import console, progress, say
from mmkd.cli.models import TEACHER, find_students, find_teacher, refresh_card, report_file
from mmkd.cli.options import DEFAULT_WORK, Config, Work
from mmkd.cli.provenance import provenance
from mmkd.cli.workspace import Workspace
from mmkd.errors import ConfigError

if TYPE_CHECKING:
    from mmkd.cli.models import Subject
    from mmkd.evaluation.bias.image_sets import GroupedImages
    from mmkd.evaluation.bias.report import BiasReport
    from mmkd.evaluation.bias.words import BiasWords
    from mmkd.evaluation.embedded import KeptEmbeddings

REPORT = "bias.json"


def bias(
    *,
    model: Annotated[
        list[str] | None,
        typer.Option(
            autocompletion=complete_runs,
            help="Run, folder or hub id to probe; may be given several times. Default: the latest run.",
        ),
    ] = None,
    teacher: Annotated[
        str | None, typer.Option(help="Hub id or folder to compare with. Default: the run's own teacher.")
    ] = None,
    terms: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="YAML with two attributes and targets of your own. Default: gender and professions.",
        ),
    ] = None,
    embeddings: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FILE",
            help="Probe word vectors instead of models: .npz with 'words' and 'vectors'. The first of several is the "
            "teacher.",
        ),
    ] = None,
    images: Annotated[
        str | None,
        typer.Option(
            metavar="SPEC",
            help="Images of people with a group each, to be ranked and classified: hub id, file, folder.",
        ),
    ] = None,
    split: Annotated[str | None, typer.Option(help="Split of the images.")] = None,
    image_column: Annotated[str | None, typer.Option(help="Column of the images.")] = None,
    group_column: Annotated[
        str | None,
        typer.Option(help="Column of each image's group. Default: gender, sex, group or attribute."),
    ] = None,
    occupation_column: Annotated[
        str | None,
        typer.Option(help="Column of the occupations. Default: occupation, profession or job, if any."),
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=4, help="Images to take, evenly spread. Default: all.")
    ] = None,
    top: Annotated[
        int | None,
        typer.Option(min=1, help="Places of a ranking of images that are looked at. Default: 100."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="JSON to write, with the rest beside it. Default: bias.json in the run."
        ),
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Sentences, or images, a forward pass.")] = 256,
    seed: Annotated[int, typer.Option(min=0, help="Of everything that is drawn.")] = 0,
    keep: Annotated[
        bool, typer.Option(help="Keep the embeddings in --work, so that the next evaluation is quick.")
    ] = True,
    work: Work = DEFAULT_WORK,
    config: Config = None,  # noqa: ARG001 - read by its callback
) -> None:
    """Which professions lie nearer to the female than to the male terms, in teacher and student?

    The verdict is preserved, reduced, amplified, reshaped or inconclusive, by stated rules. It is withheld where a
    model does not know the words, has collapsed or is at chance: a student that knows nothing has small gaps. What
    each number means is in docs/bias.md.

    \b
      mmkd eval bias
      mmkd eval bias --model work/runs/distilled --model work/runs/from-scratch
      mmkd eval bias --terms age.yaml --images people.parquet
      mmkd eval bias --embeddings teacher.npz --embeddings student.npz --out bias.json
    """
    from mmkd.evaluation.bias.images import TOP
    from mmkd.evaluation.bias.word_lists import builtin_words, read_words
    from mmkd.evaluation.embedded import KeptEmbeddings

    words = builtin_words() if terms is None else read_words(terms)
    columns = {
        "image_column": image_column,
        "group_column": group_column,
        "occupation_column": occupation_column,
    }
    if embeddings and (model or teacher or images):
        raise ConfigError(
            "--embeddings probes vectors, not models; leave out --model, --teacher and --images"
        )
    if images is None:
        _refuse_without_images({**columns, "split": split, "limit": limit, "top": top})
    if embeddings:
        file = report_file(out, [], work, REPORT)
        write(_of_vectors(embeddings, words, seed), file)
        return
    students = find_students(model or [], Workspace(work).runs)
    reference = find_teacher(teacher, students)
    if reference is None:
        raise ConfigError(f"{students[0].source} names no teacher to compare with; pass one with --teacher")
    file = report_file(out, students, work, REPORT)
    kept = KeptEmbeddings(Workspace(work).embeddings) if keep else None
    opened = None
    if images is not None:
        from mmkd.evaluation.bias.image_sets import open_grouped

        opened = open_grouped(images, words, split=split, limit=limit, **columns)
        say("images", f"{opened.source} · {len(opened.rows):,} taken")
    write(_of_models([reference, *students], words, opened, batch_size, top or TOP, kept, seed), file)
    refresh_card(file, students)


def _refuse_without_images(given: dict[str, str | int | None]) -> None:
    if named := [f"--{name.replace('_', '-')}" for name, value in given.items() if value is not None]:
        raise ConfigError(f"{', '.join(named)} without --images says nothing; expected images that it is of")


def write(report: "BiasReport", file: Path) -> None:
    """Print the report, and write it as JSON, CSV and figures."""
    from mmkd.cli.bias_table import table
    from mmkd.files import write_csv, write_json

    for line in table(report):
        console.print(line, markup=False, soft_wrap=True)
    write_json(file, {**report.to_json(), **provenance()})
    write_csv(file.with_suffix(".csv"), report.rows())
    plots = save_plots(report, file)
    say("saved", " · ".join([str(file), f"{file.stem}.csv", *(path.name for path in plots)]))


def save_plots(report: "BiasReport", file: Path) -> list[Path]:
    """Draw what there is to draw: gaps and rank changes of teacher and students, tables' numbers, EAT map."""
    from mmkd.evaluation.bias.eat_map import plot_eat_map
    from mmkd.evaluation.bias.gap_plot import plot_gaps
    from mmkd.evaluation.bias.percent_plot import plot_references
    from mmkd.evaluation.bias.rank_plot import plot_ranks
    from mmkd.evaluation.plots import save_figure

    figures = {"-references": plot_references(report), "-eat-map": plot_eat_map(report)}
    if report.comparisons:
        figures = {"": plot_gaps(report), "-ranks": plot_ranks(report), **figures}
    paths = []
    for suffix, figure in figures.items():
        for kind in (".png", ".svg") if suffix == "" else (".png",):
            if figure is not None:
                paths.append(file.with_name(f"{file.stem}{suffix}{kind}"))
                save_figure(figure, paths[-1])
    return paths


def _of_vectors(files: "list[Path]", words: "BiasWords", seed: int) -> "BiasReport":
    from mmkd.cli.bias_inputs import read_embeddings, say_words
    from mmkd.evaluation.bias.model import measure_model
    from mmkd.evaluation.bias.report import report_on

    vectors = read_embeddings(files, words)
    say_words(next(iter(vectors.values())).words)
    models = {name: measure_model(one, seed=seed) for name, one in vectors.items()}
    return report_on(models, reference=TEACHER if TEACHER in models and len(models) > 1 else None, seed=seed)


def _of_models(
    subjects: "list[Subject]",
    words: "BiasWords",
    images: "GroupedImages | None",
    batch_size: int,
    top: int,
    kept: "KeptEmbeddings | None",
    seed: int,
) -> "BiasReport":
    from mmkd.cli.bias_inputs import embed_subjects, load_subjects, say_words, zero_shot_doubts
    from mmkd.evaluation.bias.images import evaluate_images
    from mmkd.evaluation.bias.model import measure_model
    from mmkd.evaluation.bias.report import report_on

    encoders = load_subjects(subjects)
    say_words(words)
    vectors = embed_subjects(encoders, words, batch_size=batch_size, kept=kept)
    models = {name: measure_model(one, seed=seed) for name, one in vectors.items()}
    runs = [one.run for one in subjects if one.run is not None]
    doubts = {
        one.name: zero_shot_doubts(
            one,
            encoders[one.name].spec.weights_hash,
            runs if one.name == TEACHER else [run for run in runs if run is one.run],
        )
        for one in subjects
    }
    seen = None
    if images is not None:
        with progress("images") as bar:
            task = bar.add_task("images", total=len(images.rows))
            seen = evaluate_images(
                encoders,
                images,
                words,
                top=top,
                batch_size=batch_size,
                kept=kept,
                progress=lambda done: bar.advance(task, done),
                seed=seed,
            )
    return report_on(models, reference=TEACHER, doubts=doubts, images=seen, seed=seed)
