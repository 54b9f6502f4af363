"""What a training is judged by on its way: held-out pairs, and sets to classify zero-shot."""

import copy
from typing import TYPE_CHECKING, Any

from mmkd.cli.console import say
from mmkd.data import DataSource, open_pairs
from mmkd.embeddings import TeacherSpec
from mmkd.encoders import PairEncoder, tower_layers
from mmkd.errors import ConfigError
from mmkd.evaluation.tasks import open_task, read_templates
from mmkd.families import joint_dim
from mmkd.validation import Validator

if TYPE_CHECKING:
    import torch

    from mmkd.cli.training_inputs import Inputs
    from mmkd.students import Student

NAMES = ("val_data", "eval_data", "eval_templates", "eval_limit")


def open_validator(
    settings: dict[str, Any], inputs: "Inputs", student: "Student", device: "torch.device"
) -> Validator | None:
    """What ``--val-data``, ``--hold-out`` and ``--eval-data`` name, or ``None`` where they name nothing.

    Raises:
        ConfigError, DataError: something cannot be opened.
    """
    if not (settings["val_data"] or settings["eval_data"] or settings["hold_out"]):
        return None
    if settings["val_data"] and settings["hold_out"]:
        raise ConfigError("--val-data and --hold-out both name the pairs to judge by; leave one of them out")
    if student.untrained is not None:
        raise ConfigError(
            f"--val-data, --hold-out and --eval-data compare images with texts, and the student's {student.untrained} "
            "tower is not trained; leave them out"
        )
    pairs, rows = None, None
    if settings["hold_out"]:
        # With stored pixels the training itself reads no images.
        pairs = inputs.pairs if inputs.store is None else inputs.store.open_pairs(settings["data"])
        rows = inputs.held_out.tolist()
        say("judged by", f"{len(rows):,} pairs that are held out of training")
    if settings["val_data"]:
        pairs = open_pairs([DataSource(spec) for spec in settings["val_data"]])
        for line in pairs.describe():
            say("judged by", line)
    templates = read_templates(settings["eval_templates"]) if settings["eval_templates"] else None
    tasks = tuple(open_task(spec, templates) for spec in settings["eval_data"] or ())
    for task in tasks:
        say("judged by", f"{task.name} · {task.source} · {len(task.class_names)} classes")
    encoder = _second_copy(inputs, student, device)
    return Validator(encoder, pairs, tasks, settings["eval_limit"], rows)


def settings_to_save(settings: dict[str, Any]) -> dict[str, Any]:
    """The options that name them, as ``mmkd train --config`` reads them."""
    return {
        name.replace("_", "-"): value if isinstance(value, int | list) else str(value)
        for name in NAMES
        if (value := settings[name])
    }


def _second_copy(inputs: "Inputs", student: "Student", device: "torch.device") -> PairEncoder:
    model, head = copy.deepcopy(student.clip), copy.deepcopy(student.head)
    model.train(False)
    module: torch.nn.Module = model  # transformers' own annotation of `to` hides the argument
    module.to(device)
    config: Any = model.config
    dim = joint_dim(config) if head is None else head.dims[1]
    layers = tower_layers(config)
    spec = TeacherSpec("the student in training", None, "", "", "", dim, 1.0, layers)
    return PairEncoder(model, inputs.image_processor, inputs.tokenizer, spec, head)
