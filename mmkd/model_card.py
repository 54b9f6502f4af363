"""The model card of a student, written from its run and from what it scored."""

import re
from pathlib import Path
from typing import Any

import yaml

from mmkd.card_scores import card_metrics, card_results, card_scores
from mmkd.errors import MmkdError, ModelError, first_line
from mmkd.families import CLIP, FAMILIES, Family
from mmkd.files import write_text
from mmkd.heads import HEAD_FILE
from mmkd.parse import read_json, read_text
from mmkd.runs import RUN_FILE, Run

CARD = "README.md"
# A card without it is somebody's own and left alone.
WRITTEN = (
    "<!-- Written by mmkd, and anew after each mmkd eval. To keep text of your own, delete this line. -->"
)
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def write_model_card(folder: Path, run: Run) -> None:
    """Write ``folder/README.md``: what was trained on what, how, and how to load it, with the head that is there."""
    write_text(folder / CARD, card_of(folder, run))


def refresh_model_card(run: Run) -> bool:
    """Write the card of a run's student again, with the scores that are there now; False where it was left alone."""
    file = run.student / CARD
    if not file.is_file() or WRITTEN not in read_text(file):
        return False
    write_model_card(run.student, run)
    return True


def card_of(folder: Path, run: Run, *, source: str | None = None, license_id: str | None = None) -> str:
    """The card of the student in ``folder``.

    Args:
        folder: of the student.
        run: that trained it.
        source: where it is loaded from, such as its id on the Hub; default: the run's own folder.
        license_id: as the Hub names it; default: the teacher's, where that can be read here.

    Raises:
        ModelError: ``run.json`` does not say what a card needs, or ``config.json`` is of another family.
    """
    config = folder / "config.json"
    try:
        family = FAMILIES[str(read_json(config).get("model_type"))] if config.is_file() else CLIP
        return model_card(
            run,
            head=(folder / HEAD_FILE).is_file(),
            family=family,
            source=source,
            license_id=license_id,
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ModelError(
            f"{run.folder} cannot have a model card: its {RUN_FILE} or its student's config.json is not as "
            f"`mmkd train` writes it ({type(error).__name__}: {first_line(error)}); restore them, or train it again"
        ) from error


def model_card(
    run: Run,
    *,
    head: bool = False,
    family: Family = CLIP,
    source: str | None = None,
    license_id: str | None = None,
) -> str:
    """Markdown with the metadata that the Hugging Face Hub reads.

    Args:
        run: that trained the student.
        head: whether a projection head lies beside it.
        family: the student's.
        source: where it is loaded from; default: the run's own folder.
        license_id: as the Hub names it; default: the teacher's, where that can be read here.
    """
    record, recipe = run.record, run.record["recipe"]
    data = [source["spec"] for source in record["data"]]
    rows = {
        "pairs": f"{record['pairs']:,}",
        "data": ", ".join(f"`{_shown(spec)}`" for spec in data),
        "task loss": f"`{recipe['task']}`",
        "KD loss": f"`{recipe['kd']}`",
        "initialisation": recipe["init"],
        "steps x batch": f"{record.get('steps', '?'):,} x {recipe['batch_size']:,}",
        "learning rate": f"{recipe['lr']:g}",
        "precision": recipe["precision"],
        "seed": recipe["seed"],
    }
    if recipe["towers"] != "both":
        rows["towers"] = recipe["towers"]
    table = "\n".join(f"| {name} | {value} |" for name, value in rows.items())
    metadata = _metadata(run, license_id)
    return f"""---
{yaml.safe_dump(metadata, sort_keys=False, allow_unicode=True).strip()}
---

{WRITTEN}

# {Path(source).name if source else run.folder.name}

A {family.name} {_origin(record)} with mmkd.
{_caution(record)}
{_loading(source or f"{run.folder.name}/student", family, head=head)}

| | |
|---|---|
{table}

{card_scores(run)}
"""


def _metadata(run: Run, license_id: str | None) -> dict[str, object]:
    record = run.record
    teacher = record.get("teacher") or {}
    distilled = bool(teacher) and record["recipe"]["kd"] != "none"
    metadata: dict[str, object] = {
        "library_name": "transformers",
        "pipeline_tag": "zero-shot-image-classification",
        "tags": ["clip", "mmkd", *(["knowledge-distillation"] if distilled else [])],
    }
    if known := license_id or _teachers_license(teacher):
        metadata["license"] = known
    inherits = bool(teacher) and record["recipe"]["init"] != "random"
    if (distilled or inherits) and not Path(teacher["model"]).exists():
        metadata["base_model"] = teacher["model"]
    specs = [source["spec"] for source in record["data"]]
    if hub := [spec for spec in specs if _HUB_ID.fullmatch(spec) and not Path(spec).exists()]:
        metadata["datasets"] = hub
    if metrics := card_metrics(run):
        metadata["metrics"] = metrics
    if results := card_results(run):
        metadata["model-index"] = [{"name": run.folder.name, "results": results}]
    return metadata


def _teachers_license(teacher: dict[str, Any] | None) -> str | None:
    """What the teacher's own card says, where it lies here: a student of its weights is bound by it."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    if not teacher:
        return None
    file: Any = Path(teacher["model"]) / CARD
    try:
        if not Path(teacher["model"]).is_dir():
            file = try_to_load_from_cache(teacher["model"], CARD, revision=teacher.get("revision"))
        head = re.match(r"---\n(.*?)\n---\n", read_text(Path(file)), flags=re.DOTALL)
        found = yaml.safe_load(head.group(1)).get("license") if head else None
    except (HFValidationError, MmkdError, yaml.YAMLError, AttributeError, TypeError, OSError):
        return None
    return found if isinstance(found, str) and re.fullmatch(r"[\w.-]{1,40}", found) else None


def _origin(record: dict[str, Any]) -> str:
    teacher = record.get("teacher")
    if not teacher:
        return (
            "distilled from embeddings of an unknown teacher"
            if record.get("cache")
            else "trained from scratch"
        )
    revision = f" at `{teacher['revision']}`" if teacher.get("revision") else ""
    name = f"`{_shown(teacher['model'])}`{revision}"
    if record.get("steps") == 0:
        return f"put together from layers of {name}, and never trained"
    if record["recipe"]["kd"] != "none":
        return f"distilled from {name}"
    if record["recipe"]["init"] == "random":
        return f"of the same kind as {name}, trained without distillation"
    return f"that starts from layers of {name}, trained without distillation"


def _caution(record: dict[str, Any]) -> str:
    """Where there is no teacher to take it from, a tower that is not trained has random weights."""
    untrained = {"image": "text", "text": "image"}.get(record["recipe"]["towers"])
    if record.get("teacher") or untrained is None:
        return ""
    return f"\n**Its {untrained} tower is not trained: its weights are random.**\n"


def _loading(folder: str, family: Family, *, head: bool) -> str:
    model, processor = family.model, family.image_processor.removesuffix("Pil")
    if not head:
        return f"""```python
from transformers import AutoTokenizer, {processor}, {model}

model = {model}.from_pretrained("{folder}")
```"""
    return f"""It was trained together with a projection head, which maps its embeddings into its teacher's space and
lies beside it in `{HEAD_FILE}`. `mmkd eval` and `mmkd.load_encoder` apply it by themselves;
elsewhere apply it before normalising, for what `{model}` gives alone is not what was trained:

```python
from safetensors.torch import load_file
from torch.nn.functional import normalize
from transformers import {model}

model = {model}.from_pretrained("{folder}")
head = load_file("{folder}/{HEAD_FILE}")


def embed_images(pixel_values):
    return normalize(model.get_image_features(pixel_values=pixel_values).pooler_output @ head["image.weight"].T)


def embed_texts(**tokens):
    return normalize(model.get_text_features(**tokens).pooler_output @ head["text.weight"].T)
```"""


def _shown(name: str) -> str:
    return Path(name).name if Path(name).is_absolute() else name
