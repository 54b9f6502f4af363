"""The bias report as lines of text."""

import textwrap
from typing import TYPE_CHECKING

from mmkd.cli.console import harmless, printable
from mmkd.cli.tables import align
from mmkd.evaluation.bias.gaps import least_exchange_p
from mmkd.evaluation.bias.report import LIMITS

if TYPE_CHECKING:
    from collections.abc import Collection

    from mmkd.evaluation.bias.compare import Comparison
    from mmkd.evaluation.bias.correlations import Correlation
    from mmkd.evaluation.bias.images import ImageBias, Misclassification
    from mmkd.evaluation.bias.report import BiasReport
    from mmkd.evaluation.statistics import Interval

SHOWN = 5
NEAREST = 3  # terms of each attribute whose nearest targets are shown
WIDTH = 110


def table(report: "BiasReport") -> list[str]:
    """What a reader must know, the verdict last but for its limits."""
    parts = [
        _utility(report),
        _gaps(report),
        _nearest(report),
        _measures(report),
        _references(report),
        [] if report.images is None else _images(report.images, report.meaningless),
        *(_comparison(name, one) for name, one in report.comparisons.items()),
        _alone(report),
        [line for text in LIMITS for line in textwrap.wrap(text, WIDTH)],
    ]
    return [harmless(line.replace("\n", " ")) for part in parts if part for line in (*part, "")][:-1]


def _utility(report: "BiasReport") -> list[str]:
    """What each model knows, beside which its gaps must be read: one that knows nothing has small gaps."""
    rows = [["does it know its words?", "chance", *report.models]]
    known, told = ["right of two things for a word", "50.0"], ["attributes told apart", ""]
    for model in report.models.values():
        score = model.knowledge
        known.append(
            "not asked"
            if score is None
            else f"{100 * score.value:.1f} {_ends(score.interval, 100, 1)}{' at chance' if score.at_chance else ''}"
        )
        told.append(
            "same embeddings"
            if model.direction is None
            else f"{model.direction.value:.2f}, p {model.direction.p_value:.2g}"
        )
    rank = [
        "effective rank of the targets",
        "",
        *(f"{m.geometry.effective_rank:.1f}" for m in report.models.values()),
    ]
    return align([*rows, known, told, rank])


def _gaps(report: "BiasReport") -> list[str]:
    models, words = report.models, report.words
    first = next(iter(models.values()))
    order = first.gaps.value.argsort(kind="stable")
    unit = "neutral nouns' spread" if first.gaps.standardised else "cosine; neutral nouns too few, or alike"
    digits = 2 if first.gaps.standardised else 4
    head = f"gap: {words.attributes[0]} less {words.attributes[1]} ({unit})"
    rows = [[head, *models, *(f"{name} differs" for name in report.comparisons)]]
    shown = [*order[::-1][:SHOWN], *order[:SHOWN]] if len(order) > 2 * SHOWN else list(order[::-1])
    for row in shown:
        cells = [printable(words.targets[row])]
        for model in models.values():
            star = "*" if model.gaps.q_value[row] <= 0.05 else " "
            low, high = model.gaps.low[row], model.gaps.high[row]
            ends = f"[{low:+.{digits}f}, {high:+.{digits}f}]"
            cells.append(f"{model.gaps.value[row]:+6.{digits}f}{star} {ends}")
        cells += [f"q {one.q_value[row]:.2g}" for one in report.comparisons.values()]
        rows.append(cells)
    counts = ", ".join(f"{name} {int((model.gaps.q_value <= 0.05).sum())}" for name, model in models.items())
    stars = f"* not a neutral noun's gap, q <= 0.05 (Benjamini-Hochberg over {len(order)} targets): {counts}"
    least = least_exchange_p(len(words.first), len(words.second), paired=words.paired)
    return [
        *align(rows),
        stars if least <= 0.05 else _no_stars(least),
        *(f"the gaps of {name} mean nothing, see below" for name in report.meaningless),
    ]


def _no_stars(least: float) -> str:
    return (
        f"terms too few to tell any gap from a neutral noun's: the smallest q that they allow is {least:.2g}"
    )


def _nearest(report: "BiasReport") -> list[str]:
    words = report.words
    rows = [["nearest to", *report.models]]
    tops = [model.top(3) for model in report.models.values()]
    for term in (*words.first[:NEAREST], *words.second[:NEAREST], *words.neutral[:1]):
        rows.append([printable(term), *(printable(", ".join(top[term])) for top in tops)])
    return align(rows)


def _measures(report: "BiasReport") -> list[str]:
    rows = [["measure", "no bias", *(cell for name in report.models for cell in (name, "neutral nouns"))]]
    names = dict.fromkeys(name for model in report.models.values() for name in model.overall.measures)
    for name in names:
        found = [model.overall.measures.get(name) for model in report.models.values()]
        cells = [name, next(f"{one.no_bias:g}" for one in found if one is not None)]
        for one in found:
            neutral = None if one is None else one.neutral
            cells += [
                "" if one is None else f"{one.value:.4f} {_ends(one.interval, 1, 4)}",
                "" if neutral is None else f"{neutral:.4f}",
            ]
        rows.append(cells)
    for name in ("WEAT", "SEAT"):
        tests = [model.overall.associations.get(name) for model in report.models.values()]
        if any(tests):
            cells = [f"{name} d", "0"]
            for test in tests:
                cells += ["" if test is None else f"{test.effect_size:.2f}, p {test.p_value:.2g}", ""]
            rows.append(cells)
    lines = align(rows)
    for name, model in report.models.items():
        if model.overall.levels is not None:
            lines.append(f"ML-EAT, {name}: {model.overall.levels.pattern}")
    left_out = dict.fromkeys(text for model in report.models.values() for text in model.overall.left_out)
    return [*lines, *(f"left out: {text}" for text in left_out)]


def _references(report: "BiasReport") -> list[str]:
    units = ", ".join(dict.fromkeys(table.unit for table in report.words.references))
    rows = [[f"gaps and {units}", "targets", "", *report.models]]
    names = dict.fromkeys(name for model in report.models.values() for name in model.references)
    for name in names:
        for place, method in enumerate(("pearson", "spearman", "kendall")):
            found = [model.references[name] for model in report.models.values() if name in model.references]
            rows.append(
                [
                    printable(name) if place == 0 else "",
                    str(found[0].targets) if place == 0 else "",
                    method,
                    *(_number(one.correlations[method]) for one in found),
                ]
            )
    return align(rows) if names else []


def _comparison(name: str, one: "Comparison") -> list[str]:
    if one.withheld or one.inheritance is None:
        head = f"{name} beside its teacher: conclusion WITHHELD, because these numbers mean nothing"
        return [head, *(f"  {line}" for text in one.withheld for line in textwrap.wrap(text, WIDTH))]
    lines = [f"{name} beside its teacher: {one.verdict.upper()}"]
    lines += [f"  {line}" for line in textwrap.wrap(one.reason, WIDTH)]
    found = one.inheritance
    lines += align(
        [
            ["  size, teacher", _estimate(found.teacher_size.value, found.teacher_size.interval)],
            ["  size, student", _estimate(found.student_size.value, found.student_size.interval)],
            ["  ratio", _estimate(found.ratio.value, found.ratio.interval)],
            ["  ratio, at most", _estimate(found.at_most.value, found.at_most.interval)],
            ["  ratio, at least", _estimate(found.at_least.value, found.at_least.interval)],
            ["  slope", _estimate(found.slope.value, found.slope.interval)],
            ["  Spearman", _number(one.spearman)],
            ["  Kendall", _number(one.kendall)],
        ]
    )
    moved = ", ".join(f"{move.target} {move.teacher} → {move.student}" for move in one.rank_changes(SHOWN))
    lines += [
        _differ(one),
        f"  largest changes of place: {printable(moved)}",
    ]
    return lines + _sensitivity(one)


def _differ(one: "Comparison") -> str:
    if one.least_p_value > 0.05:
        return f"  targets whose gap differs: terms too few, the smallest q that they allow is {one.least_p_value:.2g}"
    return f"  targets whose gap differs, q <= 0.05: {int((one.q_value <= 0.05).sum())} of {len(one.targets)}"


def _sensitivity(one: "Comparison") -> list[str]:
    if not one.sensitivity:
        return []
    verdict = one.verdict
    same = [variant for variant in one.sensitivity if variant.verdict == verdict]
    ratios = [variant.ratio for variant in one.sensitivity]
    lines = [
        f"  sensitivity: the verdict is the same in {len(same)} of {len(one.sensitivity)} variants; "
        f"ratio {min(ratios):.2f} to {max(ratios):.2f}"
    ]
    lines += [
        f"    {printable(variant.name)}: {variant.verdict}, ratio {variant.ratio:.2f}, Spearman {variant.order:.2f}"
        for variant in one.sensitivity
        if variant.verdict != verdict
    ]
    return lines


def _alone(report: "BiasReport") -> list[str]:
    """What is to be said where nothing is compared."""
    if report.comparisons:
        return []
    doubts = [f"{name}: {doubt}" for name, reasons in report.meaningless.items() for doubt in reasons]
    head = "one model: nothing to compare with, so nothing is said of inheritance"
    return [head, *(f"  {doubt}" for doubt in doubts)]


def _images(images: "ImageBias", meaningless: "Collection[str]") -> list[str]:
    groups = ", ".join(f"{count:,} {name}" for name, count in images.groups.items())
    title = (
        f"{printable(images.name)}: {images.images:,} images ({printable(groups)}), {images.queries} queries"
    )
    rows = [[title, "chance", *images.models]]
    for metric in next(iter(images.models.values())).rankings:
        found = [model.rankings[metric] for model in images.models.values()]
        rows.append(
            [
                metric,
                f"{found[0].chance:.3f}",
                *(f"{one.value:.3f} {_ends(one.interval, 1, 3)} p {one.p_value:.2g}" for one in found),
            ]
        )
    for what, attribute in (("taken for a thing", "thing_for_person"), ("wrong occupation", "occupation")):
        errors = [getattr(model, attribute) for model in images.models.values()]
        if all(one is not None for one in errors):
            rows += _errors(what, errors)
    composition = (
        "more women among its nurses, say, shows in every p of a ranking as if the model had done it"
    )
    return [
        *align(rows),
        *([] if images.within_occupations else [f"the set's occupations are not known: {composition}"]),
        *(
            f"{name} knows too little: that its images are ranked or mistaken alike is no fairness, see below"
            for name in images.models
            if name in meaningless
        ),
        *(f"{count:,} images left out: {reason}" for reason, count in sorted(images.skipped.items())),
    ]


def _errors(what: str, found: "list[Misclassification]") -> list[list[str]]:
    rows = []
    for name in found[0].groups:
        cells = [one.groups[name] for one in found]
        rows.append(
            [
                f"{what}, {printable(name)}",
                "",
                *(f"{100 * c.share:.1f} % {_ends(c.interval, 100, 1)}" for c in cells),
            ]
        )
    if found[0].difference is not None:
        rows.append(
            [
                f"{what}, difference",
                "0",
                *(f"{100 * (o.difference or 0):+.1f} points, p {o.p_value:.2g}" for o in found),
            ]
        )
    return rows


def _ends(interval: "Interval", scale: float, digits: int) -> str:
    return f"[{scale * interval.low:.{digits}f}, {scale * interval.high:.{digits}f}]"


def _estimate(value: float, interval: "Interval") -> str:
    return f"{value:.2f} {_ends(interval, 1, 2)}"


def _number(found: "Correlation | None") -> str:
    return "undefined (a column is constant)" if found is None else _estimate(found.value, found.interval)
