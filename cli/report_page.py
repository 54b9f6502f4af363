"""A report as one HTML page: every text escaped, every picture checked, nothing loaded from anywhere."""

from pathlib import Path
from typing import Any

from mmkd.cli.pages import write_page
from mmkd.cli.report_contents import BRIEF, OPEN, Contents, RunPart
from mmkd.report.plain import listing, mapping, number, text, whole
from mmkd.report.run import picture

_PICTURES, _ANSWERS = 12, 5


def write_report_page(file: Path, report: Contents, *, folder: str) -> None:
    """Write the page.

    Args:
        file: to write.
        report: what it says.
        folder: name of the folder with the plots.
    """
    from markupsafe import Markup

    parts = [
        {**vars(part), "examples": _examples(part), "retrieval": _retrieval(part)} for part in report.parts
    ]
    # matplotlib escapes what is written into a figure.
    svgs = {plot.name: Markup(plot.svg()) for plot in report.plots}
    write_page(
        file,
        "report.html",
        report={**vars(report), "parts": parts},
        svgs=svgs,
        ids={name: place for place, name in enumerate(svgs)},
        sections=_sections(report),
        folder=folder,
        open=OPEN,
        brief=BRIEF if len(report.parts) > BRIEF else 0,
        curves=any(part.curves for part in report.parts),
        confusions=any(part.confusions or part.examples for part in report.parts),
        retrieved=any(part.retrieval for part in report.parts),
        biased=any(part.bias for part in report.parts),
        limits=list(dict.fromkeys(limit for part in report.parts if part.bias for limit in part.bias.limits)),
    )


def _sections(report: Contents) -> list[tuple[str, str]]:
    parts = report.parts
    ranked = [(f"ranked-{at}", "Ranked over seeds", True) for at in range(len(report.studies))]
    wanted = [
        *ranked,
        ("settings", "What was trained", True),
        ("scores", "Scores", report.scores),
        ("size", "Size and speed", report.sizes),
        ("training", "Training", any(part.curves for part in parts)),
        ("confusions", "What is taken for what", any(part.confusions or part.examples for part in parts)),
        ("retrieved", "What is found", any(part.retrieval for part in parts)),
        ("bias", "Bias", any(part.bias for part in parts)),
        ("reproduce", "To do it again", True),
    ]
    return [(name, title) for name, title, there in wanted if there]


def _examples(part: RunPart) -> list[dict[str, Any]]:
    return [
        {
            "name": text(one.get("name"), limit=60),
            "groups": [_group(mapping(group)) for group in listing(one.get("groups"), limit=8)],
        }
        for one in part.examples
    ]


def _group(group: dict[str, Any]) -> dict[str, Any]:
    images, share = whole(group.get("images")), number(group.get("share"))
    examples = []
    for raw in listing(group.get("examples"), limit=_PICTURES):
        one = mapping(raw)
        true = text(one.get("true"), limit=60)
        answers = list(mapping(one.get("answers")).items())[:2]
        answers.sort(key=lambda item: item[0] != "teacher")
        examples.append(
            {
                "true": true,
                "picture": picture(one.get("picture")),
                "answers": [(text(name, limit=40), _answers(found, true)) for name, found in answers],
            }
        )
    return {
        "title": text(group.get("title"), limit=80),
        "images": "?" if images is None else f"{images:,}",
        "share": "" if share is None else f"{100 * share:.0f} %",
        "examples": examples,
    }


def _answers(found: Any, true: str) -> list[dict[str, Any]]:
    answers = []
    for raw in listing(found, limit=_ANSWERS):
        answer = mapping(raw)
        label = text(answer.get("class"), limit=60)
        share = min(1.0, max(0.0, number(answer.get("confidence")) or 0.0))
        answers.append(
            {
                "label": label,
                "own": label == true,
                "share": "<1 %" if share < 0.005 else f"{100 * share:.0f} %",
                "width": round(100 * share),
            }
        )
    return answers


def _retrieval(part: RunPart) -> list[dict[str, Any]]:
    return [
        {
            "name": text(one.get("name"), limit=60),
            "examples": [_found(mapping(found)) for found in listing(one.get("examples"), limit=_PICTURES)],
        }
        for one in part.retrieval
    ]


def _found(found: dict[str, Any]) -> dict[str, Any]:
    texts, images = mapping(found.get("texts")), mapping(found.get("images"))
    names = sorted(list(texts)[:2], key=lambda name: name != "teacher")
    return {
        "caption": text(found.get("caption")),
        "picture": picture(found.get("picture")),
        "models": [
            (
                text(name, limit=40),
                [_caption(one) for one in _five(texts[name])],
                [_image(one) for one in _five(images.get(name))],
            )
            for name in names
        ],
    }


def _five(value: Any) -> list[dict[str, Any]]:
    return [mapping(one) for one in listing(value, limit=_ANSWERS)]


def _caption(one: dict[str, Any]) -> dict[str, Any]:
    return {"caption": text(one.get("caption")), "own": one.get("own") is True}


def _image(one: dict[str, Any]) -> dict[str, Any]:
    return {
        "row": whole(one.get("row")),
        "own": one.get("own") is True,
        "picture": picture(one.get("picture")),
    }
