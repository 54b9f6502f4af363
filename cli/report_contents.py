"""What a report says: sentences, tables and plots, before they become a page or Markdown."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from mmkd.cli.console import duration
from mmkd.cli.report_scores import (
    Cell,
    Table,
    headlines,
    measured,
    missing,
    ranked_table,
    score_tables,
    size_table,
    sizes_of,
)
from mmkd.report.bias import BiasVerdict, bias_plot, read_bias
from mmkd.report.confusion import confusion_plots
from mmkd.report.curves import curve_plots
from mmkd.report.drawing import Plot, drawing, name_apart
from mmkd.report.plain import listing, mapping, text, texts, whole
from mmkd.report.ranked import Ranked, ranked_plots
from mmkd.report.run import ReportRun
from mmkd.report.scores import Shared, score_plots, shared_sets, speed_of, trade_plots
from mmkd.runs import now

KINDS = {"zero-shot": "Zero-shot classification", "retrieval": "Retrieval", "probe": "Probes"}
CARDS = 8  # beyond so many, the plots of the scores say it better
BRIEF = 8  # runs; of more, what each confuses is left to a report of its own
OPEN = 3  # runs whose curves and confusions are shown without being asked for


@dataclass(frozen=True)
class RunPart:
    """What the report shows of one run alone.

    Attributes:
        name: the run's.
        curves: of its training.
        confusions: by set, plots.
        examples: by set, groups of pictures with answers.
        retrieval: by set, pictures with what was found.
        bias: its verdict, and the plot.
        commands: that reproduce it.
        config: its settings, as ``mmkd train --config`` reads them.
        problems: what could not be read.
        todo: what is missing, and what to type.
    """

    name: str
    curves: list[Plot]
    confusions: list[tuple[str, list[Plot]]]
    examples: list[dict[str, Any]]
    retrieval: list[dict[str, Any]]
    bias: BiasVerdict | None
    bias_plot: Plot | None
    commands: list[str]
    config: str
    problems: list[str]
    todo: list[tuple[str, str]]

    @property
    def plots(self) -> list[Plot]:
        """All of it."""
        inner = [plot for _, plots in self.confusions for plot in plots]
        return [*self.curves, *inner, *([self.bias_plot] if self.bias_plot else [])]


@dataclass(frozen=True)
class Contents:
    """A whole report.

    Attributes:
        title: of the page.
        studies: rankings over seeds, with their tables and plots.
        lead: one sentence a run: what was trained on what.
        headlines: the scores that matter most, by run.
        facts: settings by run; of several runs, those in which they differ.
        alike: the settings that several runs share; ``None``: of one run all are facts.
        scores: by kind of evaluation: plots and tables.
        trade: plots of size and speed against score.
        sizes: the same as a table.
        parts: of each run alone.
        hashes: versions and hashes by run, as ``facts``.
        hashes_alike: those that several runs share, as ``alike``.
        written: when, and by which version.
    """

    title: str
    studies: list[tuple[Ranked, Table, list[Plot]]]
    lead: list[tuple[str, str]]
    headlines: list[dict[str, Any]]
    facts: Table
    alike: Table | None
    scores: list[tuple[str, list[Plot], list[Table]]]
    trade: list[Plot]
    sizes: Table | None
    parts: list[RunPart]
    hashes: Table
    hashes_alike: Table | None
    written: str = field(default_factory=lambda: f"{now()[:16].replace('T', ' ')} · mmkd {version('mmkd')}")

    @property
    def plots(self) -> list[Plot]:
        """Every plot, in order."""
        scores = [plot for _, plots, _ in self.scores for plot in plots]
        ranked = [plot for _, _, plots in self.studies for plot in plots]
        return [*ranked, *scores, *self.trade, *(plot for part in self.parts for plot in part.plots)]


def gather_contents(runs: Sequence[ReportRun], studies: Sequence[Ranked] = ()) -> Contents:
    """Put a report of ``runs`` together, and of the studies that they are of."""
    with drawing():
        sets = {kind: shared_sets(runs, kind) for kind in KINDS}
        scores = [
            (title, score_plots(sets[kind]), score_tables(sets[kind]))
            for kind, title in KINDS.items()
            if sets[kind]
        ]
        title = runs[0].name if len(runs) == 1 else f"{len(runs)} runs"
        contents = Contents(
            ", ".join(study.name for study in studies) or title,
            [(study, ranked_table(study), ranked_plots(study)) for study in studies],
            [(run.name, _lead(run)) for run in runs],
            found if len(found := [one for run in runs for one in headlines(run)]) <= CARDS else [],
            *_facts(runs),
            scores,
            _trade(runs, sets["zero-shot"]),
            size_table(runs, sets["zero-shot"]),
            [_part(run, brief=len(runs) > BRIEF) for run in runs],
            *_hashes(runs),
        )
    name_apart(contents.plots)
    return contents


def _trade(runs: Sequence[ReportRun], sets: Sequence[Shared]) -> list[Plot]:
    millions = {name: size / 1e6 for name, size in sizes_of(runs, sets).items()}
    speeds = measured(sets, speed_of)
    return [
        *trade_plots(sets, millions, "parameters, millions", name="size", unit="parameters"),
        *trade_plots(sets, speeds, "images a second", name="speed", unit="images_per_second"),
    ]


def _part(run: ReportRun, *, brief: bool) -> RunPart:
    """All of a run; in brief without the pictures and plots of what it confuses."""
    return RunPart(
        run.name,
        curve_plots(run),
        [] if brief else confusion_plots(run),
        [] if brief else list(run.examples.get("zero-shot", [])),
        [] if brief else list(run.examples.get("retrieval", [])),
        None if run.bias is None else read_bias(run.bias, run.weights_hash),
        bias_plot(run),
        _commands(run),
        run.config,
        run.problems,
        missing(run),
    )


def _lead(run: ReportRun) -> str:
    """``A CLIP of 6 + 6 layers and 1.39 M parameters, distilled from X on 4,000 pairs of Y.``"""
    record = run.run.record
    teacher = _short(text(run.teacher.get("model")))
    pairs = whole(record.get("pairs"))
    data = ", ".join(_short(text(mapping(one).get("spec"))) for one in listing(record.get("data"), limit=5))
    shape = f" of {run.layers} layers" if run.layers else ""
    shape += f"{' and' if shape else ' of'} {run.parameters / 1e6:.2f} M parameters" if run.parameters else ""
    if not teacher:
        how = "trained from its pairs alone, without a teacher"
    elif text(run.recipe.get("kd")) == "none":
        how = f"of {teacher}'s kind, trained without distillation"
    else:
        how = f"distilled from {teacher}"
    on = f" on {pairs:,} pairs of {data}" if pairs is not None and data else ""
    said = text(record.get("state"), limit=30) or "nothing"
    state = "" if run.run.finished else f" Its training is not finished: run.json says {said}."
    return f"A CLIP{shape}, {how}{on}.{state}"


def _short(name: str) -> str:
    return Path(name).name if name.startswith("/") else name


_SETTINGS = {
    "task loss": "task",
    "KD loss": "kd",
    "initialisation": "init",
    "towers": "towers",
    "depth": "depth",
    "width": "width",
    "epochs": "epochs",
    "batch": "batch_size",
    "accumulated": "accumulate",
    "learning rate": "lr",
    "warm-up steps": "warmup",
    "weight decay": "weight_decay",
    "clipping": "clip_grad",
    "average of weights": "ema",
    "bank": "bank",
    "negatives": "negatives",
    "views": "views",
    "precision": "precision",
    "seed": "seed",
}
_SILENT = {"", "both", "0", "0.0", "None"}  # not worth a line where it is so in every run


def _facts(runs: Sequence[ReportRun]) -> tuple[Table, Table | None]:
    rows: list[tuple[str, list[str]]] = []
    for label, key in _SETTINGS.items():
        values = [text(run.recipe.get(key), limit=80) for run in runs]
        if set(values) - _SILENT:
            rows.append((label, [value or "default" for value in values]))
    records = [run.run.record for run in runs]
    rows += [
        ("pairs", [_count(record.get("pairs")) for record in records]),
        ("steps", [_count(record.get("steps")) for record in records]),
        ("processes", [_count(record.get("processes")) for record in records]),
        ("started", [text(record.get("started"))[:16].replace("T", " ") or "?" for record in records]),
        ("took", [_took(record) for record in records]),
    ]
    if len(runs) > BRIEF:  # when each began tells nothing, and costs the table its width
        rows = [row for row in rows if row[0] != "started"]
    return _differing(rows, runs)


def _differing(
    rows: Sequence[tuple[str, list[str]]], runs: Sequence[ReportRun]
) -> tuple[Table, Table | None]:
    """The lines in which runs differ, and those that they share; of one run all are of the first kind."""
    rows = [(label, [value or "–" for value in values]) for label, values in rows]
    names = [run.name for run in runs]
    if len(runs) == 1:
        return _table(rows, names), None
    differ = [row for row in rows if len(set(row[1])) > 1]
    alike = [(label, values[:1]) for label, values in rows if len(set(values)) == 1]
    return _table(differ, names), _table(alike, ["all of them"])


def _table(rows: Sequence[tuple[str, list[str]]], columns: list[str]) -> Table:
    return Table("", "", columns, [(label, [Cell(value) for value in values]) for label, values in rows], [])


def _count(value: Any) -> str:
    found = whole(value)
    return "?" if found is None else f"{found:,}"


def _took(record: dict[str, Any]) -> str:
    try:
        ends = [datetime.fromisoformat(text(record.get(key))) for key in ("started", "finished")]
        return duration(max(0.0, (ends[1] - ends[0]).total_seconds()))
    except (ValueError, TypeError):
        return "not finished"


def _commands(run: ReportRun) -> list[str]:
    evaluations = [shlex.join(one.command) for one in run.evaluations.values() if one.command]
    bias = texts(mapping(run.bias).get("command"))
    command = shlex.join(texts(run.run.record.get("command")))
    return [line for line in (*_cache_commands(run), command, *evaluations, shlex.join(bias)) if line]


def _cache_commands(run: ReportRun) -> list[str]:
    """What made the cache, as far as the run knows that."""
    record = run.run.record
    path = text(mapping(record.get("cache")).get("path"))
    if not path or not text(run.teacher.get("model")):
        return []
    teachers = [mapping(one) for one in listing(record.get("teachers"), limit=20)] or [run.teacher]
    sources = [mapping(one) for one in listing(record.get("data"), limit=20)]
    first = sources[0] if sources else {}
    filters = mapping(first.get("filters"))
    named = [("teacher", text(one.get("model"))) for one in teachers]
    named += [("revision", text(one.get("revision"))) for one in teachers if len(teachers) == 1]
    named += [("data", text(one.get("spec"))) for one in sources]
    named += [(key, text(first.get(key))) for key in ("split", "image_column", "caption_column", "template")]
    named += [("synthetic_column", name) for name in texts(first.get("synthetic_columns"))]
    named += [(key, text(filters.get(key))) for key in ("min_words", "max_words")]
    named += [("caption_regex", text(filters.get("regex"))), ("out", path)]
    words = [word for key, value in named if value for word in (f"--{key.replace('_', '-')}", value)]
    clean = ["--clean-captions"] if filters.get("clean") is True else []
    return [
        f"# The cache's views, augmentation and limit: mmkd cache inspect {shlex.quote(path)}",
        shlex.join(["mmkd", "cache-teacher", *words, *clean]),
    ]


def _hashes(runs: Sequence[ReportRun]) -> tuple[Table, Table | None]:
    rows: dict[str, list[str]] = {}
    for place, run in enumerate(runs):
        cache = mapping(run.run.record.get("cache"))
        data = "; ".join(
            text(" · ".join(text(mapping(one).get(key)) for key in ("spec", "split")))
            for one in listing(run.run.record.get("data"), limit=10)
        )
        named = {
            "teacher": text(run.teacher.get("model")),
            "teacher's revision": text(run.teacher.get("revision")),
            "teacher's weights": text(run.teacher.get("weights_hash")),
            "teacher's preprocessing": text(run.teacher.get("preprocess_hash")),
            "teacher's tokenizer": text(run.teacher.get("tokenizer_hash")),
            "cache": text(cache.get("path")),
            "cache's content": text(cache.get("key")),
            "data": data,
            "student's weights": run.weights_hash,
            **{
                name: text(value)
                for name, value in list(mapping(run.run.record.get("versions")).items())[:20]
            },
        }
        for label, value in named.items():
            rows.setdefault(text(label, limit=40), [""] * len(runs))[place] = value
    return _differing([(label, values) for label, values in rows.items() if any(values)], runs)
