"""Starts commands whose disk fails or that are killed: imports once, then forks a process for each.

Reads lines of JSON from stdin. A job is answered with its process id; ``{"wait": id}`` with its exit code. A process
stays a zombie until it is waited for, so that its id can be killed without fear of hitting another.

What a job does to files below its folder is appended to its log's ``.done``, a line each, before it happens; so is
``embed N`` when shard N begins to be embedded. See ``disk_faults.c`` for ``at``, ``error`` and ``lasting``.
"""

import ctypes
import gc
import json
import os
import resource
import sys
import tempfile
import traceback
from pathlib import Path


def follow_files(job: dict, log: Path) -> None:
    """Count, log and break what this process does to files below the job's folder."""
    done = os.open(log.with_suffix(".done"), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    faults = ctypes.CDLL(None).faults_arm
    faults(job["folder"].encode(), done, job.get("at") or 0, job.get("error", 0), job.get("lasting", 0))

    from mmkd.cache import making

    embed = making.embed_shard

    def recording(encoder, batches, settings, index, on_batch):
        os.write(done, f"embed {index}\n".encode())
        return embed(encoder, batches, settings, index, on_batch)

    making.embed_shard = recording


def run(job: dict) -> None:
    """Be ``mmkd`` with the job's arguments."""
    from mmkd.cli import app

    log = Path(job["log"])
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.environ.update(job.get("environment", {}))
    if size := job.get("file_size"):
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
    follow_files(job, log)
    app.run(job["arguments"])


def import_everything() -> None:
    """Import and make, once for all, what each command would; nothing that starts a thread."""
    import datasets
    import h5py
    import pyarrow.parquet
    import rich.progress
    import scipy.io
    import torch
    from PIL import Image
    from transformers import CLIPConfig, CLIPModel
    from typer.main import get_command

    import mmkd.cache.importing
    import mmkd.cache.making
    import mmkd.cli.models
    from mmkd.cli.app import app

    _ = datasets, h5py, pyarrow, rich, scipy, mmkd
    torch.set_num_threads(1)
    Image.init()
    get_command(app)
    size = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    with tempfile.TemporaryDirectory() as folder:  # transformers compiles patterns to save one
        CLIPModel(CLIPConfig(text_config={**size, "vocab_size": 8}, vision_config=size)).save_pretrained(
            folder
        )


def main() -> None:
    """Fork a process for each job."""
    from mmkd.cli.quiet import hush

    hush()
    import_everything()
    gc.freeze()
    for line in sys.stdin:
        job = json.loads(line)
        if "wait" in job:
            print(os.waitstatus_to_exitcode(os.waitpid(job["wait"], 0)[1]), flush=True)
            continue
        child = os.fork()
        if child == 0:
            code = 1
            try:
                run(job)
            except SystemExit as end:
                code = int(end.code or 0)
            except BaseException:
                traceback.print_exc()
            sys.stderr.flush()
            os._exit(code)  # to take down what was imported takes seconds
        print(child, flush=True)


if __name__ == "__main__":
    main()
