"""What the shell offers when Tab is pressed: only names that are found without a heavy import."""

import os
from pathlib import Path


def complete_runs(incomplete: str) -> list[str]:
    """Runs of the workspace, and folders as they are typed."""
    runs = Path(os.environ.get("MMKD_WORK", "work")) / "runs"
    known = sorted(str(file.parent) for file in runs.glob("*/run.json"))
    here = Path(incomplete).parent if not incomplete.endswith("/") else Path(incomplete)
    folders = sorted(str(path) for path in here.glob("*/") if not path.name.startswith("."))
    return [name for name in dict.fromkeys([*known, *folders]) if name.startswith(incomplete)]
