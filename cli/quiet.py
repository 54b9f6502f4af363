"""Keeps third-party noise off the terminal. Must run before transformers or accelerate is imported."""

import logging
import os
import sys
import warnings

_SETTINGS = {
    "TRANSFORMERS_VERBOSITY": "error",
    "DATASETS_VERBOSITY": "error",
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    # Weights being loaded and saved; downloads from the Hub keep their bars at a terminal.
    "TQDM_DISABLE": "1",
}


def deepspeed_asked_for() -> bool:
    """Whether ``accelerate launch`` was told to train under DeepSpeed."""
    return os.environ.get("ACCELERATE_USE_DEEPSPEED", "").lower() == "true"


def hush() -> None:
    """Silence what the libraries say on their own account (not under ``MMKD_VERBOSE=1`` or ``--debug``)."""
    for name, value in _SETTINGS.items():
        os.environ.setdefault(name, value)
    if deepspeed_asked_for():
        # "Setting accelerator to CPU" and the like, once a process.
        logging.getLogger("DeepSpeed").addFilter(lambda record: record.levelno >= logging.ERROR)
        warnings.filterwarnings("ignore", category=FutureWarning, module=r"torch\.distributed")
    else:
        # transformers imports an installed deepspeed in save_pretrained and elsewhere; after this find_spec
        # reports it as missing.
        sys.modules.setdefault("deepspeed", None)  # type: ignore[arg-type]
