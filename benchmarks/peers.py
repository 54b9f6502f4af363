"""Other people's packages, each in an environment of its own below build/, and processes there that time themselves."""

import hashlib
import json
import subprocess
import sys
import venv
from pathlib import Path
from typing import Any

from side_by_side import Timed

FOLDER = Path("build/peers")
TORCH = "torch>=2.10,<2.14"  # as mmkd's own bound: without it pip fetches gigabytes of CUDA on a machine that has none


def peer_python(name: str, *requirements: str) -> Path:
    """The interpreter of an environment with ``requirements`` and our torch, which is made at the first time.

    Raises:
        RuntimeError: they cannot be installed.
    """
    digest = hashlib.sha256("\n".join(requirements).encode()).hexdigest()[:8]
    folder = FOLDER / f"{name}-{digest}"
    done, python = folder / ".installed", (folder / "bin" / "python").absolute()
    if not done.is_file():
        print(f"  installing {', '.join(requirements)} into {folder}", flush=True)
        venv.create(folder, with_pip=True, clear=True)
        command = [str(python), "-m", "pip", "install", "--quiet", TORCH, *requirements]
        said = subprocess.run(command, capture_output=True, text=True, check=False)
        if said.returncode:
            raise RuntimeError(f"cannot install {', '.join(requirements)}: {said.stderr.strip()[-300:]}")
        done.touch()
    return python


class Peer:
    """A process in a peer's environment that reads a JSON line, does what it says, and answers with another.

    Args:
        python: of the environment.
        script: what to run.
    """

    def __init__(self, python: Path, script: Path) -> None:
        self._process = subprocess.Popen(
            [python, script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def ask(self, **request: Any) -> dict[str, Any]:
        """Its answer.

        Raises:
            RuntimeError: it ended instead.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        for line in self._process.stdout:  # packages may print, too
            if line.startswith("{"):
                answer: dict[str, Any] = json.loads(line)
                return answer
        assert self._process.stderr is not None
        raise RuntimeError(f"the peer ended: {self._process.stderr.read().strip()[-600:]}")

    def time(self, **request: Any) -> Timed:
        """What it says it took."""
        answer = self.ask(**request)
        return Timed(answer["wall"], answer["cpu"])

    def close(self) -> None:
        """End it."""
        self._process.terminate()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._process.stderr):
            assert stream is not None
            stream.close()


def this_python() -> Path:
    """Our own interpreter, for peers that are among the development dependencies."""
    return Path(sys.executable)
