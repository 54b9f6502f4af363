"""How time grows with the rows: caching, reading, approximate mining and training, as slopes in log-log.

    python benchmarks/growth.py [--rows 10000 100000 1000000] [--what caching reading mining training]

Caching: a tiny teacher and pictures of 32 x 32, so that what is not the teacher shows. Reading: as many rows as there
are, in random batches of 1,024, of 512-d vectors. Mining: inverted lists of 64-d vectors in clusters, building and
searching, at a fixed number of probes. Training: an epoch's plan and reading, and as many steps of a tiny student.
A slope of 1 is proportional. The largest size is timed once, the others ``--repeats`` times. Without ``--rows`` each
has sizes of its own that two cores get through in some minutes.
"""

import io
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from anonymous_memory import OnePair
from clip_models import config_of, random_encoder
from PIL import Image
from side_by_side import Bench, Side, arguments
from stored_caches import write_cache

from mmkd.batches import BatchReader, BatchStream
from mmkd.cache.build import build_cache
from mmkd.cache.probe import RepeatedPairs
from mmkd.cache.store import open_cache
from mmkd.data import DataSource, open_pairs
from mmkd.mining import ArraySpace, NegativeRules, SearchOptions, mine_embeddings
from mmkd.objective import Objective
from mmkd.optimizer import make_optimizer
from mmkd.sampling import BatchPlan
from mmkd.step import PairStudent, distill_step

BATCH = 1024
ROWS = {
    "caching": [1_000, 5_000, 25_000],
    "reading": [10_000, 100_000, 1_000_000],
    "mining": [10_000, 30_000, 100_000],
    "training": [1_000, 5_000, 25_000],
}


def main() -> None:
    """Measure, print and write the result."""
    parser = arguments(__doc__, clock="cpu")
    parser.add_argument("--rows", type=int, nargs="+")
    parser.add_argument("--what", nargs="+", default=list(ROWS))
    parser.add_argument("--folder", type=Path, default=Path("build"))
    options = parser.parse_args()
    bench = Bench(__file__, options)
    ways: dict[str, Callable[[Path, int], Callable[[], Any]]] = {
        "caching": caching,
        "reading": reading,
        "mining": mining,
        "training": training,
    }
    options.folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        for what in options.what:
            sizes = [1_100, 2_200] if options.small else sorted(options.rows or ROWS[what])
            bench.settings[what], seconds = sizes, []
            for rows in sizes:
                turns = 1 if rows == sizes[-1] else options.repeats
                side = timed(ways[what](Path(name), rows), turns)
                seconds.append(side.median(options.clock))
                bench.sides[f"{what}, {rows:,} rows"] = side
                print(f"  {what}, {rows:,} rows: {seconds[-1]:.3f} s", flush=True)
            slope = float(np.polyfit(np.log(sizes), np.log(seconds), 1)[0])
            bench.figure(f"{what}: slope over {sizes[0]:,} to {sizes[-1]:,} rows", slope, at_most=1.05)
            if what == "caching":
                bench.figure(
                    "caching beside the teacher, ms of the processor a pair", 1e3 * seconds[-1] / sizes[-1]
                )
    bench.close()


def timed(run: Callable[[], Any], turns: int) -> Side:
    """Seconds of ``turns`` calls, after one that does not count where there are several."""
    side = Side()
    for turn in range(turns + (turns > 1)):
        wall, cpu = time.perf_counter(), time.process_time()
        run()
        if turn or turns == 1:
            side.cpu.append(time.process_time() - cpu)
            side.wall.append(time.perf_counter() - wall)
    return side


def caching(folder: Path, rows: int) -> Callable[[], Any]:
    """Build a cache of ``rows`` pairs: 256 pictures, again and again."""
    from datasets import Dataset, Features, Value
    from datasets import Image as ImageFeature

    path = folder / "pictures.parquet"
    if not path.is_file():
        draw = np.random.default_rng(0)
        made: dict[str, list[Any]] = {"image": [], "caption": [f"picture {number}" for number in range(256)]}
        for _ in range(256):
            stream = io.BytesIO()
            Image.fromarray(draw.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(stream, "JPEG")
            made["image"].append({"bytes": stream.getvalue(), "path": None})
        features = Features({"image": ImageFeature(), "caption": Value("string")})
        Dataset.from_dict(made, features=features).to_parquet(str(path))
    encoder = random_encoder("tiny")
    pairs = RepeatedPairs(open_pairs([DataSource(str(path))]), np.arange(256), rows)
    counted = iter(range(1000))
    return lambda: build_cache(encoder, pairs, folder / f"cache-{rows}-{next(counted)}", batch_size=256)


def reading(folder: Path, rows: int) -> Callable[[], Any]:
    """Read as many random rows as there are."""
    write_cache(folder / f"vectors-{rows}", rows, 512)
    store, draw = open_cache(folder / f"vectors-{rows}", verify=False), np.random.default_rng(0)
    store.read(draw.integers(0, rows, 50_000))  # opens every shard

    def read() -> None:
        for _ in range(max(1, rows // BATCH)):
            store.read(draw.integers(0, rows, BATCH))

    return read


def mining(folder: Path, rows: int) -> Callable[[], Any]:  # noqa: ARG001
    """Mine negatives of ``rows`` vectors in clusters, by inverted lists."""
    draw = np.random.default_rng(0)
    centres = draw.standard_normal((max(1, rows // 100), 64), dtype=np.float32)
    texts = centres[draw.integers(0, len(centres), rows)] + 0.5 * draw.standard_normal(
        (rows, 64), dtype=np.float32
    )
    space = ArraySpace(texts, texts)
    options = SearchOptions("ivf")
    return lambda: mine_embeddings(space, np.arange(rows), rules=NegativeRules(32), seed=0, search=options)


def training(folder: Path, rows: int) -> Callable[[], Any]:
    """An epoch of a tiny student."""
    from transformers import CLIPModel

    write_cache(folder / f"vectors-{rows}", rows, 512)
    store, encoder = open_cache(folder / f"vectors-{rows}", verify=False), random_encoder("tiny")
    student = PairStudent(CLIPModel(config_of("tiny", half=True)))
    optimizer, objective = make_optimizer(student, lr=1e-4, weight_decay=0.1), Objective("mse + cos")
    pairs: Any = OnePair()
    reader = BatchReader(pairs, encoder.image_processor, encoder.tokenizer, 77, store)

    def epoch() -> None:
        plan = BatchPlan(store.usable, min(rows, 64), seed=0)
        batches = BatchStream(reader, plan, rank=0, world=1, workers=0).from_step(0)
        for _ in range(plan.steps_per_epoch):
            distill_step(student, objective, next(batches)).total.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            optimizer.zero_grad()

    return epoch


if __name__ == "__main__":
    main()
