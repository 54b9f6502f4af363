"""``mmkd``, ``python -m mmkd`` and ``accelerate launch mmkd`` (which runs the folder) all start here."""

import sys
from pathlib import Path


def _import_from_root() -> None:
    # `python mmkd` puts the folder itself first on the path, where mmkd/data.py would shadow other people's
    # `data`; the folder's parent belongs there instead.
    here = Path(__file__).resolve().parent
    if sys.path and Path(sys.path[0]).resolve() == here:
        sys.path[0] = str(here.parent)


def main() -> None:
    """Run the command line."""
    from mmkd.cli.app import run

    run()


if __name__ == "__main__":
    _import_from_root()
    main()
