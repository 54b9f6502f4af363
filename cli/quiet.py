"""Keeps third-party noise off the terminal. Must run before transformers or accelerate is imported."""

import os
import sys

_SETTINGS = {
    "TRANSFORMERS_VERBOSITY": "error",
    "DATASETS_VERBOSITY": "error",
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    "TOKENIZERS_PARALLELISM": "false",
}


def hush() -> None:
    """Silence what the libraries say on their own account (not under ``MMKD_VERBOSE=1`` or ``--debug``)."""
    for name, value in _SETTINGS.items():
        os.environ.setdefault(name, value)
    if os.environ.get("ACCELERATE_USE_DEEPSPEED", "").lower() != "true":
        # transformers imports an installed deepspeed in save_pretrained and elsewhere; after this find_spec
        # reports it as missing.
        sys.modules.setdefault("deepspeed", None)  # type: ignore[arg-type]
