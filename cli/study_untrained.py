"""The student before its first step, as a run that was never trained."""

import sys
from pathlib import Path

from mmkd.cli.options import read_settings
from mmkd.cli.training_inputs import open_inputs
from mmkd.files import atomic_folder, write_text
from mmkd.heads import save_head
from mmkd.model_card import write_model_card
from mmkd.recipe import Recipe
from mmkd.runs import FINISHED, claim_run_folder, library_versions, now


def save_untrained(config: Path, seed: int, folder: Path) -> None:
    """Put the student together and save it as a finished run of no steps.

    Args:
        config: YAML of ``mmkd train``.
        seed: of weights that the teacher does not give.
        folder: the run's.

    Raises:
        MmkdError: cache, teacher or shape do not fit together.
    """
    settings = {name.replace("-", "_"): value for name, value in read_settings(config).items()}
    recipe = Recipe(
        **{name: settings[name] for name in Recipe.__dataclass_fields__ if name in settings}, seed=seed
    )
    inputs = open_inputs(
        recipe,
        cache=Path(settings["cache"]),
        data=settings.get("data"),
        teacher=settings.get("teacher"),
        model_config=None,
    )
    recipe = recipe.resolve(
        pairs=len(inputs.rows), processes=1, accelerated=False, precision="fp32", views=inputs.views
    )
    student = inputs.build_student(recipe)
    record = inputs.record() | {
        "recipe": recipe.to_dict(),
        "command": list(sys.argv),
        "processes": 1,
        "versions": library_versions(),
    }
    run = claim_run_folder(folder, record)
    write_text(run.config, config.read_text(encoding="utf-8"))
    run = run.update(finished=now(), steps=0)
    with atomic_folder(run.student) as temporary:
        student.clip.save_pretrained(temporary)
        if student.head is not None:
            save_head(student.head.state_dict(), temporary)
        inputs.image_processor.save_pretrained(temporary)
        inputs.tokenizer.save_pretrained(temporary)
        write_model_card(temporary, run)
    run.update(state=FINISHED)
