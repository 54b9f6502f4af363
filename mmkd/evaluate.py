"""The evaluators for a script or a notebook: models in, a report out, nothing printed.

``mmkd eval`` wires the same functions of :mod:`mmkd.evaluation` together, with progress and files.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mmkd.encoders import PairEncoder
    from mmkd.evaluation.bias.report import BiasReport
    from mmkd.evaluation.bias.words import BiasWords
    from mmkd.evaluation.zero_shot_report import ZeroShotReport
    from mmkd.evaluation.zero_shot_task import ZeroShotTask


def zero_shot(
    student: "PairEncoder",
    data: "str | ZeroShotTask",
    *,
    teacher: "PairEncoder | None" = None,
    batch_size: int = 256,
    limit: int | None = None,
) -> "ZeroShotReport":
    """Classify a set by the names of its classes alone.

    Args:
        student: the model to judge.
        data: what ``mmkd eval zero-shot --data`` takes (``cifar10``, ``cifar10=FILE``, labelled data of one's
            own), or a task made by hand.
        teacher: measured beside the student where given.
        batch_size: images, or sentences, a forward pass.
        limit: images to take, evenly spread; ``None``: all.

    Raises:
        ConfigError: no such built-in set.
        DataError: the data cannot be opened, or has no class names.
        ModelError: a model's embeddings are zero or not finite.
    """
    from mmkd.evaluation.tasks import open_task
    from mmkd.evaluation.zero_shot import evaluate
    from mmkd.evaluation.zero_shot_report import ZeroShotReport

    encoders = {"student": student} if teacher is None else {"teacher": teacher, "student": student}
    task = open_task(data) if isinstance(data, str) else data
    report = evaluate(encoders, task, batch_size=batch_size, limit=limit)
    specs = {name: encoder.spec for name, encoder in encoders.items()}
    return ZeroShotReport(specs, None if teacher is None else "teacher", (report,))


def bias(
    student: "PairEncoder",
    teacher: "PairEncoder",
    *,
    words: "BiasWords | None" = None,
    batch_size: int = 256,
) -> "BiasReport":
    """Did the student inherit which targets its teacher holds nearer to one attribute than to the other?

    Args:
        student: the model to judge.
        teacher: measured beside the student.
        words: default: gender and professions (``mmkd.evaluation.bias.word_lists``).
        batch_size: sentences a forward pass.

    Raises:
        ModelError: a model's embeddings are zero or not finite.
    """
    from mmkd.evaluation.bias.model import measure_model
    from mmkd.evaluation.bias.report import report_on
    from mmkd.evaluation.bias.vectors import embed_words
    from mmkd.evaluation.bias.word_lists import builtin_words

    asked = words or builtin_words()
    models = {
        name: measure_model(embed_words(encoder, asked, batch_size=batch_size))
        for name, encoder in (("teacher", teacher), ("student", student))
    }
    return report_on(models, reference="teacher")
