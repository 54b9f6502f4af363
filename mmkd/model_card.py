"""The model card of a student, written from its run."""

from pathlib import Path
from typing import Any

import yaml

from mmkd.families import CLIP, FAMILIES, Family
from mmkd.files import write_text
from mmkd.heads import HEAD_FILE
from mmkd.parse import read_json
from mmkd.runs import Run


def write_model_card(folder: Path, run: Run) -> None:
    """Write ``folder/README.md``: what was trained on what, how, and how to load it, with the head that is there."""
    config = folder / "config.json"
    family = FAMILIES[str(read_json(config).get("model_type"))] if config.is_file() else CLIP
    card = model_card(run, head=(folder / HEAD_FILE).is_file(), family=family)
    write_text(folder / "README.md", card)


def model_card(run: Run, *, head: bool = False, family: Family = CLIP) -> str:
    """Markdown with the metadata that the Hugging Face Hub reads.

    Args:
        run: that trained the student.
        head: whether a projection head lies beside it.
        family: the student's.
    """
    record, recipe = run.record, run.record["recipe"]
    data = [source["spec"] for source in record["data"]]
    teacher = record.get("teacher")
    metadata: dict[str, object] = {
        "library_name": "transformers",
        "pipeline_tag": "zero-shot-image-classification",
        "tags": ["clip", "mmkd", *(["knowledge-distillation"] if teacher else [])],
    }
    if teacher and not Path(teacher["model"]).exists():
        metadata["base_model"] = teacher["model"]
    origin, caution = _origin(record), _caution(record)
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
    return f"""---
{yaml.safe_dump(metadata, sort_keys=False).strip()}
---

# {run.folder.name}

A {family.name} {origin} with mmkd.
{caution}
{_loading(f"{run.folder.name}/student", family, head=head)}

| | |
|---|---|
{table}

Not evaluated here: run `mmkd eval zero-shot --model {run.folder.name}` for its scores beside its teacher's and beside
chance, and `mmkd eval bias` before anyone draws conclusions about people from it.
"""


def _origin(record: dict[str, Any]) -> str:
    teacher = record.get("teacher")
    if teacher:
        revision = f" at `{teacher['revision']}`" if teacher["revision"] else ""
        return f"distilled from `{_shown(teacher['model'])}`{revision}"
    return (
        "distilled from embeddings of an unknown teacher" if record.get("cache") else "trained from scratch"
    )


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
