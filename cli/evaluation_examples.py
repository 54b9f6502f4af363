"""Pictures beside an evaluation: what each model answered to a few images, for `mmkd report`."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmkd.cli.console import printable
from mmkd.cli.pages import thumbnail
from mmkd.evaluation.examples import SCHEMA, SCHEMA_VERSION, set_examples
from mmkd.files import write_json

if TYPE_CHECKING:
    from mmkd.evaluation.captioned import RetrievalTask
    from mmkd.evaluation.retrieval_report import Found, RetrievalReport
    from mmkd.evaluation.zero_shot_report import ZeroShotReport

SUFFIX = "-examples.json"
SIDE, SMALL = 160, 112  # pixels of a picture, and of one among five
_CAPTION = 160


def examples_file(report: Path) -> Path:
    """Where the examples of the evaluation in ``report`` lie."""
    return report.with_name(report.stem + SUFFIX)


def write_zero_shot_examples(file: Path, report: "ZeroShotReport") -> None:
    """Write the drawn images of each set with each model's first five answers."""
    sets = []
    for one in report.sets:
        groups = set_examples(one, report.reference)
        for group in groups:
            for example in group["examples"]:
                example["picture"] = thumbnail(one.task.images[example["row"]][0], side=SIDE)
        sets.append({"name": one.task.name, "source": one.task.source, "groups": groups})
    _write(file, sets)


def write_retrieval_examples(file: Path, report: "RetrievalReport", tasks: "Sequence[RetrievalTask]") -> None:
    """Write the drawn images of each set with what each model found nearest to them."""
    sets = [
        {
            "name": one.name,
            "source": one.source,
            "examples": [_found(example, task) for example in one.examples],
        }
        for one, task in zip(report.sets, tasks, strict=True)
    ]
    _write(file, sets)


def _found(example: "Found", task: "RetrievalTask") -> dict[str, Any]:
    def picture(row: int, side: int) -> str:
        return thumbnail(task.pairs[row].image, side=side)

    return {
        "row": example.row,
        "caption": printable(example.caption, limit=_CAPTION),
        "picture": picture(example.row, SIDE),
        "texts": {
            name: [{"caption": printable(text, limit=_CAPTION), "own": own} for text, own in texts]
            for name, texts in example.texts.items()
        },
        "images": {
            name: [{"row": row, "own": row == example.row, "picture": picture(row, SMALL)} for row in rows]
            for name, rows in example.images.items()
        },
    }


def _write(file: Path, sets: list[dict[str, Any]]) -> None:
    write_json(file, {"schema": SCHEMA, "schema_version": SCHEMA_VERSION, "sets": sets})
