"""What an evaluation's JSON says of how it was made."""

import sys
from typing import Any

from mmkd.runs import library_versions


def provenance() -> dict[str, Any]:
    """The command that was typed, and the versions of what it ran on: the same for the same evaluation."""
    return {"command": ["mmkd", *sys.argv[1:]], "versions": library_versions()}
