"""What an evaluation's JSON says of how it was made."""

import sys
from typing import Any

from mmkd.runs import library_versions, now


def provenance() -> dict[str, Any]:
    """The command that was typed, when, and the versions of what it ran on."""
    return {"command": ["mmkd", *sys.argv[1:]], "written": now(), "versions": library_versions()}
