"""Starts trainings that are to be killed: imports once, then forks a process for each.

Reads a line of JSON a training from stdin and answers with its process id; a second line of any content asks for the
exit code. The process stays a zombie until then, so that its id can be killed without fear of hitting another.

A training appends each saved step to ``RUN.saved`` and counts what it does to files below its run's folder:
``RUN.events`` holds how many there were, unless it was told to kill itself just before a certain one.
"""

import atexit
import json
import os
import signal
import sys
import tempfile
import traceback
from pathlib import Path

FILE_EVENTS = {"open", "os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.scandir"}


def follow_files(run: Path, kill_at: int | str | None) -> None:
    """Count file events below ``run``, and kill this process just before one: by number, or the renaming to a name."""
    count = 0

    def hook(event: str, arguments: tuple) -> None:
        nonlocal count
        if event in FILE_EVENTS and str(run) in str(arguments[0]):
            count += 1
            named = event == "os.rename" and Path(arguments[1]).name == kill_at
            if named or count == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)
    atexit.register(lambda: run.with_suffix(".events").write_text(str(count)))


def record_saved_steps(run: Path) -> None:
    """Let each step that ``Checkpoints.save`` says is saved be known after a kill, too."""
    from mmkd.checkpoints import Checkpoints

    save = Checkpoints.save

    def recording(self, prepared, step, *arguments) -> None:
        save(self, prepared, step, *arguments)
        with run.with_suffix(".saved").open("a") as file:
            file.write(f"{step}\n")

    Checkpoints.save = recording


def train(job: dict) -> None:
    """Be ``mmkd`` with the job's arguments."""
    from mmkd.cli import app

    run = Path(job["run"])
    descriptor = os.open(run.with_suffix(".log"), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    record_saved_steps(run)
    follow_files(run, job["kill_at"])
    app.run(job["arguments"])


def import_everything() -> None:
    """Import and make, once for all, what each training would; nothing that starts a thread."""
    import faiss
    import h5py
    import torch
    from PIL import Image
    from transformers import CLIPConfig, CLIPModel
    from typer.main import get_command

    import mmkd.cache.neighbours
    import mmkd.cli.training_loop
    import mmkd.cli.training_validation
    from mmkd.cli.app import app

    _ = faiss, h5py, mmkd
    torch.set_num_threads(1)
    Image.init()
    get_command(app)
    size = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    with (
        tempfile.TemporaryDirectory() as folder
    ):  # transformers compiles a second's worth of patterns to save one
        CLIPModel(CLIPConfig(text_config={**size, "vocab_size": 8}, vision_config=size)).save_pretrained(
            folder
        )


def main() -> None:
    """Fork a training for each line of stdin."""
    from mmkd.cli.quiet import hush

    hush()
    import_everything()
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            code = 1
            try:
                train(json.loads(line))
            except SystemExit as end:
                code = int(end.code or 0)
            except BaseException:
                traceback.print_exc()
            sys.exit(code)
        print(child, flush=True)
        sys.stdin.readline()
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


if __name__ == "__main__":
    main()
