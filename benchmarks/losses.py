"""Every loss of the menu on the demo's scenes: its score over several seeds, and what a step of it costs.

    python benchmarks/losses.py --out build/losses                       (or: make losses)
    python benchmarks/losses.py --out build/losses --write docs/losses.md

Trains with ``mmkd train``, judges with ``mmkd eval zero-shot``, and prints the Markdown tables of docs/losses.md.
Stopped, the same command goes on where it was: finished runs are kept.
"""

import argparse
import contextlib
import multiprocessing
import os
import re
import shutil
import statistics
import sys
import time
import traceback
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

SCORES = {"seen": "classes seen", "never-seen": "never seen"}
METRIC = "top-1"
BASE = ("triplet", "mse")  # whose step is 1
ALONE = (1024, 512)  # rows and width for the loss without a student: CLIP's width


@dataclass(frozen=True)
class Entry:
    """A loss of the menu, as the document shows it: u and v are unit vectors, of student and teacher."""

    formula: str
    source: str


MENU = {
    "triplet": Entry("max(0, d(a, p) − d(a, n) + margin), d = 1 − cos", "FaceNet, arXiv 1503.03832"),
    "clip": Entry("cross-entropy of softmax(s · cos)", "CLIP, arXiv 2103.00020"),
    "siglip": Entry("−log σ(± (s · cos + b)), each pair by itself", "SigLIP, arXiv 2303.15343"),
    "soft-clip": Entry(
        "clip with targets 0.6 · own + 0.4 · softmax(cos_teacher / T)", "ALBEF, arXiv 2107.07651"
    ),
    "mse": Entry("mean (u − v)²", "CLIP-KD (FD), arXiv 2307.12732"),
    "cos": Entry("1 − u · v", "mse · D / 2"),
    "l1": Entry("mean abs(u − v)", ""),
    "huber": Entry("mean Huber(u − v), bend at 1 / √D", "Huber 1964"),
    "kl": Entry("KL(softmax(v / T) ‖ softmax(u / T)) over the D components", "Hinton, arXiv 1503.02531"),
    "nst": Entry("‖mean u uᵀ − mean v vᵀ‖²: MMD², kernel (x · y)²", "NST, arXiv 1707.01219"),
    "mse-raw": Entry("mean (u − v)², not normalised", "FitNets, arXiv 1412.6550"),
    "affinity": Entry("KL of softmax(cos / T) over the batch, both directions", "TinyCLIP, arXiv 2309.12314"),
    "crd": Entry("KL of softmax(cos_teacher / T) and softmax(s · cos)", "CLIP-KD, arXiv 2307.12732"),
    "icl": Entry(
        "clip between student images and teacher texts, and the reverse", "CLIP-KD, arXiv 2307.12732"
    ),
    "gd": Entry("‖∂clip/∂u − ∂clip/∂v‖²", "CLIP-KD, arXiv 2307.12732"),
    "rkd": Entry("Huber of distances / their mean + 2 · Huber of cos ∠", "RKD, arXiv 1904.05068"),
}


@dataclass(frozen=True)
class Row:
    """One way to train; all others of its settings are the demo's."""

    title: str
    task: str
    kd: str
    options: tuple[str, ...] = ()

    def weighted(self) -> tuple[str, str]:
        """Task and KD losses with every weight written out, so that a changed default is another run."""
        from mmkd.objective import Objective

        task, kd = (
            name if name == "none" else Objective(name).describe().replace(" ", "")
            for name in (self.task, self.kd)
        )
        return task, kd

    def folder(self, seed: int) -> str:
        """Of its run with one seed."""
        words = "_".join([*self.weighted(), *self.options, f"seed{seed}"])
        return re.sub(r"[^\w.+@=-]", "x", words)


def all_rows() -> list[Row]:
    """Each loss, then combinations and baselines."""
    from mmkd.objective import KD_LOSSES, TASK_LOSSES

    rows = [Row(name, name, "none") for name in TASK_LOSSES]
    rows += [Row(name, "triplet", name) for name in KD_LOSSES]
    return [
        *rows,
        Row("triplet + mse + cos, the default", "triplet", "mse+cos"),
        Row("mse + cos without a task loss", "none", "mse+cos"),
        Row("clip + mse", "clip", "mse"),
        Row("clip + mse + icl + crd, as CLIP-KD", "clip", "mse+icl+crd"),
        Row("triplet, hard negatives", "triplet", "none", ("--negatives", "hard")),
        Row("triplet, random negatives", "triplet", "none", ("--negatives", "random")),
        Row("triplet, bank of 1,024", "triplet", "none", ("--bank", "1024")),
        Row("clip, bank of 1,024", "clip", "none", ("--bank", "1024")),
        Row("clip from scratch, no teacher", "clip", "none", ("--init", "random")),
    ]


def mmkd(*arguments: str, log: Path) -> None:
    """Run one command in this process, as the script does, with what it says in ``log``.

    Raises:
        RuntimeError: it failed.
    """
    from accelerate.state import AcceleratorState

    from mmkd.cli import app

    AcceleratorState._reset_state(reset_partial_state=True)
    with log.open("a") as file, contextlib.redirect_stdout(file), contextlib.redirect_stderr(file):
        try:
            app.run(list(arguments))
        except SystemExit as end:
            code = end.code
    if code:
        raise RuntimeError(f"mmkd {' '.join(arguments)} failed; see {log}")


def prepare(out: Path, settings: dict[str, Any]) -> Path:
    """The demo's scenes, teacher and cache, made once; their workspace."""
    from mmkd.cli.demo_workspace import (
        DemoSettings,
        DemoWorkspace,
        claim,
        copy_teacher,
        draw_scenes,
        write_settings,
    )
    from mmkd.configs import FOLDER

    place = DemoWorkspace(out / "work")
    demo = DemoSettings(batch_size=64, lr=1e-3, seen=10, unseen=40, seed=0, **settings)
    claim(place, demo)
    draw_scenes(place, demo)
    copy_teacher(place, FOLDER / "demo" / "teacher")
    write_settings(place, demo)
    if not (place.space.cache / "manifest.json").is_file():
        mmkd("cache-teacher", "--work", str(place.root), log=out / "cache.log")
    return place.root


def train_and_judge(job: tuple[Row, int, Path, Path]) -> str | None:
    """One run, unless it is there; what went wrong, if something did."""
    row, seed, out, work = job
    folder = out / "runs" / row.folder(seed)
    if (folder / "zero-shot.json").is_file():
        return None
    shutil.rmtree(folder, ignore_errors=True)  # cut off half-way by an earlier start
    log = out / "logs" / f"{folder.name}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    task, kd = row.weighted()
    place = ("--work", str(work))
    try:
        losses = ("--task", task, "--kd", kd, *row.options)
        mmkd("train", *place, *losses, "--seed", str(seed), "--workers", "0", "--out", str(folder), log=log)
        shutil.rmtree(folder / "checkpoints", ignore_errors=True)
        mmkd("eval", "zero-shot", *place, "--model", str(folder), log=log)
    except Exception:
        with log.open("a") as file:
            traceback.print_exc(file=file)
        return f"{row.title}, seed {seed}: failed; see {log}"
    return None


def train_all(jobs: list[tuple[Row, int, Path, Path]], *, processes: int) -> list[str]:
    """Every run, ``processes`` at a time; what went wrong."""
    failures, started = [], time.monotonic()
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        for done, failure in enumerate(pool.imap_unordered(train_and_judge, jobs), start=1):
            print(f"{done} of {len(jobs)} runs, {time.monotonic() - started:.0f} s", file=sys.stderr)
            failures += [failure] if failure else []
        pool.close()
        pool.join()
    return failures


def scores(row: Row, seeds: int, out: Path) -> dict[str, Any]:
    """Mean, interval, chance and teacher of each test set, percent."""
    from mmkd.evaluation.statistics import mean_interval
    from mmkd.parse import read_json

    found: dict[str, Any] = {}
    for seed in range(seeds):
        file = out / "runs" / row.folder(seed) / "zero-shot.json"
        for one in read_json(file)["sets"] if file.is_file() else []:
            student, teacher = (one["models"][name]["scores"][METRIC] for name in ("student", "teacher"))
            place = found.setdefault(one["name"], {"values": []})
            place["values"].append(100 * student["value"])
            place |= {"chance": 100 * teacher["chance"], "teacher": 100 * teacher["value"]}
    for place in found.values():
        place["mean"] = statistics.mean(place["values"])
        if len(place["values"]) > 1:
            interval = mean_interval(place["values"])
            place |= {"low": interval.low, "high": interval.high}
    return found


def interleaved(steps: dict[str, Any], *, base: str, repeats: int) -> dict[str, dict[str, float]]:
    """Milliseconds of each, and the median over the repeats of its ratio to ``base`` in the same repeat."""
    taken: dict[str, list[float]] = {name: [] for name in steps}
    for repeat in range(repeats + 1):
        for name, step in steps.items():
            started = time.perf_counter()
            step()
            if repeat:  # the first is a warm-up
                taken[name].append(1000 * (time.perf_counter() - started))
    return {
        name: {
            "ms": statistics.median(times),
            "ratio": statistics.median(a / b for a, b in zip(times, taken[base], strict=True)),
        }
        for name, times in taken.items()
    }


def whole_steps(rows: list[Row], work: Path) -> Iterator[tuple[str, Any]]:
    """A training step of the demo's student on 64 pairs, for each way to train."""
    import torch

    from mmkd import halve
    from mmkd.batches import DistillBatch
    from mmkd.objective import Objective
    from mmkd.step import PairStudent, distill_step

    student = PairStudent(halve(work / "teacher"), learns_logit_scale=True, learns_logit_bias=True)
    optimizer = torch.optim.AdamW(student.parameters(), lr=1e-6)
    config: Any = student.clip.config
    batch, size, width = 64, config.vision_config.image_size, config.projection_dim
    end = config.text_config.eos_token_id
    tokens = torch.cat([torch.randint(4, 30, (batch, 9)), torch.full((batch, 1), end)], dim=1)
    ids = torch.arange(batch)
    inputs = DistillBatch(
        pixel_values=torch.randn(batch, 3, size, size),
        input_ids=tokens,
        attention_mask=torch.ones_like(tokens),
        caption_ids=ids,
        image_ids=ids,
        teacher_image=torch.randn(batch, width),
        teacher_text=torch.randn(batch, width),
        bank_image=torch.empty(0, width),
        bank_text=torch.empty(0, width),
        bank_ids=torch.empty(0, 2, dtype=torch.int64),
    )

    def make(objective: Objective) -> Any:
        def step() -> None:
            torch.autograd.backward(distill_step(student, objective, inputs).total)
            optimizer.step()
            optimizer.zero_grad()

        return step

    for row in rows:
        expression = " + ".join(part for part in (row.task, row.kd) if part != "none")
        yield row.title, make(Objective(expression))


def losses_alone() -> Iterator[tuple[str, Any]]:
    """Each loss and its gradient for the embeddings, on a batch of the size that a GPU takes."""
    import torch

    from mmkd.embeddings import Embeddings
    from mmkd.losses.negatives import select_negatives
    from mmkd.objective import LOSSES, Objective

    image, text = (torch.randn(*ALONE).requires_grad_() for _ in range(2))
    teacher = Embeddings(torch.randn(*ALONE), torch.randn(*ALONE))
    scale, bias = torch.tensor(50.0, requires_grad=True), torch.tensor(-10.0, requires_grad=True)
    ids = torch.arange(ALONE[0])
    negatives = select_negatives(ids, ids, teacher)

    def make(objective: Objective) -> Any:
        def step() -> None:
            torch.autograd.backward(objective(Embeddings(image, text), teacher, negatives, scale, bias).total)

        return step

    for name in LOSSES:
        yield name, make(Objective(name))


def measured(row: Row, result: dict[str, Any]) -> list[str]:
    """The cells that were measured; a dash where it has not been."""
    step, alone = result["steps"].get(row.title), result["alone"].get(row.title)
    cells = [f"{step['ratio']:.2f}" if step else "–", f"{alone['ms']:.0f} ms" if alone else "–"]
    for name in SCORES:
        score = result["scores"].get(row.title, {}).get(name)
        if score is None:
            cells.append("–")
        elif "low" in score:
            cells.append(
                f"{score['mean']:.1f} [{max(0.0, score['low']):.1f}, {min(100.0, score['high']):.1f}]"
            )
        else:
            cells.append(f"{score['mean']:.1f}")
    return cells


def tables(rows: list[Row], result: dict[str, Any]) -> str:
    """Markdown: every loss of the menu, and then the combinations."""
    from mmkd.objective import LOSSES

    head = ["step", "alone", *SCORES.values()]
    menu = [["loss", "formula", "source", "weight", "T", *head]]
    rest = [["losses", *head]]
    for row in rows:
        if row.title not in LOSSES:
            rest.append([row.title, *measured(row, result)])
            continue
        loss, entry = LOSSES[row.title], MENU[row.title]
        temperature = "" if loss.temperature is None else f"{loss.temperature:g}"
        cells = [f"`{row.title}`", entry.formula, entry.source, f"{loss.weight:g}", temperature]
        menu.append([*cells, *measured(row, result)])
    for title in ("chance", "teacher"):
        found: dict[str, Any] = next(iter(result["scores"].values()), {})
        cells = [f"{found[name][title]:.1f}" if name in found else "–" for name in SCORES]
        rest.append([title, "", "", *cells])
    return "\n\n".join(markdown(table) for table in (menu, rest))


def markdown(table: list[list[str]]) -> str:
    """A Markdown table; the first row is the head."""
    lines = [f"| {' | '.join(cells)} |" for cells in table]
    return "\n".join([lines[0], "|" + "---|" * len(table[0]), *lines[1:]])


def write_between_marks(document: Path, text: str) -> None:
    """Replace what stands between the marks of the measured tables."""
    marks = ("<!-- made by benchmarks/losses.py -->", "<!-- end -->")
    before, _, rest = document.read_text().partition(marks[0])
    _, _, after = rest.partition(marks[1])
    document.write_text(f"{before}{marks[0]}\n\n{text}\n\n{marks[1]}{after}")


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("build/losses"), help="runs, logs and the result")
    parser.add_argument("--pairs", type=int, default=2000, help="training scenes")
    parser.add_argument("--epochs", type=int, default=3, help="passes over them")
    parser.add_argument("--seeds", type=int, default=3, help="runs of each row")
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time, each on one thread")
    parser.add_argument("--repeats", type=int, default=20, help="of each timed step")
    parser.add_argument("--only", nargs="*", help="titles of the rows to train; default: all")
    parser.add_argument("--write", type=Path, help="also put the tables into this document")
    return parser.parse_args()


def main() -> int:
    """Train, judge, time, write."""
    options = arguments()
    os.environ |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    import torch

    from mmkd.files import write_json

    torch.set_num_threads(1)
    torch.manual_seed(0)
    out: Path = options.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    work = prepare(out, {"pairs": options.pairs, "epochs": options.epochs})
    rows = all_rows()
    chosen = [row for row in rows if not options.only or row.title in options.only]
    jobs = [(row, seed, out, work) for seed in range(options.seeds) for row in chosen]
    failures = train_all(jobs, processes=options.jobs)
    base = next(row.title for row in rows if (row.task, row.kd) == BASE)
    plain = [row for row in rows if not row.options]
    result = {
        "settings": {name: str(value) for name, value in vars(options).items()},
        "rows": [asdict(row) for row in rows],
        "scores": {row.title: found for row in rows if (found := scores(row, options.seeds, out))},
        "steps": interleaved(dict(whole_steps(plain, work)), base=base, repeats=options.repeats),
        "alone": interleaved(dict(losses_alone()), base="mse", repeats=max(3, options.repeats // 4)),
        "failures": failures,
    }
    write_json(out / "losses.json", result)
    text = tables(rows, result)
    print(text)
    if options.write:
        write_between_marks(options.write, text)
    for failure in failures:
        print(failure, file=sys.stderr)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
