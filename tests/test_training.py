"""The training loop, in process, on a tiny CLIP."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from stores import random_store

from mmkd.batches import BatchReader, BatchStream
from mmkd.data import DataSource, open_pairs, row_hash
from mmkd.distributed import start_accelerator
from mmkd.encoders import load_encoder, load_processors, max_text_length, tokenize
from mmkd.errors import ConfigError, DataError, StaleCacheError, TrainingError
from mmkd.objective import Objective
from mmkd.optimizer import Schedule, make_optimizer
from mmkd.recipe import Recipe
from mmkd.row_set import RowSet
from mmkd.sampling import BatchPlan, StepRows
from mmkd.step import MAX_LOG_SCALE, PairStudent
from mmkd.students import halve
from mmkd.training import Hooks, _Window, fit, prepare, trained_weights


def test_schedule_warms_up_and_falls_to_zero() -> None:
    schedule = Schedule(steps=100, warmup=10, peak=1.0)
    rates = [schedule.lr(step) for step in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[10] == pytest.approx(1.0)
    assert rates[55] == pytest.approx(0.5)
    assert rates[99] < 1e-3
    assert rates[:11] == sorted(rates[:11])
    assert rates[10:] == sorted(rates[10:], reverse=True)


def test_norms_biases_and_the_scale_do_not_decay(tiny_clip: Path) -> None:
    student = PairStudent(halve(tiny_clip), learns_logit_scale=True)
    groups = make_optimizer(student, lr=1e-3, weight_decay=0.1).param_groups
    decay = {id(p): group["weight_decay"] for group in groups for p in group["params"]}
    for name, parameter in student.named_parameters():
        if not parameter.requires_grad:
            continue
        plain = (
            name.endswith("bias")
            or "norm" in name
            or "layrnorm" in name
            or name.endswith(("scale", "class_embedding", "logit_bias"))
        )
        assert decay[id(parameter)] == (0.0 if plain else 0.1), name


def test_the_logit_scale_is_bounded_and_can_come_down(tiny_clip: Path) -> None:
    student = PairStudent(halve(tiny_clip), learns_logit_scale=True)
    with torch.no_grad():
        student.clip.logit_scale.fill_(9.0)
    tokens = torch.tensor([[256, 5, 257]])
    _, _, scale, _ = student(torch.zeros(1, 3, 32, 32), tokens, torch.ones_like(tokens))
    assert scale.item() == pytest.approx(100)
    scale.backward()
    assert student.clip.logit_scale.grad.item() == pytest.approx(100)


def test_trimmed_captions_have_the_embeddings_of_padded_ones(tiny_clip: Path) -> None:
    encoder = load_encoder(tiny_clip)
    texts = ["a red circle", "a much longer caption about a blue square"]
    padded = encoder.tokenizer(texts, padding="max_length", max_length=77, return_tensors="pt")
    expected = encoder.model.get_text_features(**padded).pooler_output
    assert encoder.tokenize(texts)["input_ids"].shape[1] < 50
    torch.testing.assert_close(encoder.encode_texts(texts), expected, rtol=1e-4, atol=1e-5)


class Bench:
    """All that ``fit`` needs, on the 96 pairs of the fixture."""

    def __init__(
        self, tiny_clip: Path, pairs_parquet: Path, expression: str = "cos", lr: float = 1e-3
    ) -> None:
        self.accelerator = start_accelerator(precision="fp32")
        pairs = open_pairs([DataSource(str(pairs_parquet))])
        store = random_store(len(pairs), 32)
        self.hashes = hashes = np.array([row_hash(pairs[row]) for row in range(len(pairs))], dtype=np.uint64)
        store.hashes = lambda rows: hashes[rows]
        image_processor, tokenizer = load_processors(tiny_clip, name="tiny")
        clip = halve(tiny_clip)
        self.reader = BatchReader(pairs, image_processor, tokenizer, max_text_length(clip), store)
        plan = BatchPlan(RowSet.all_of(len(pairs)), 24, seed=0)
        self.stream = BatchStream(self.reader, plan, rank=0, world=1, workers=0)
        self.objective = Objective(expression)
        student = PairStudent(clip, learns_logit_scale=self.objective.uses_logit_scale)
        self.prepared = prepare(
            self.accelerator,
            student,
            make_optimizer(student, lr=lr, weight_decay=0.1),
            batch=24,
            clip_grad=1.0,
        )
        self.schedule = Schedule(steps=16, warmup=2, peak=lr)
        self.logged: dict[int, dict[str, float]] = {}
        self.saved: list[int] = []

    def fit(self, *, log_every: int = 4) -> None:
        hooks = Hooks(self.logged.__setitem__, log_every, self.saved.append, save_every=4)
        fit(self.prepared, self.objective, self.stream, self.schedule, hooks, clip_grad=1.0)


@pytest.fixture
def bench(tiny_clip: Path, pairs_parquet: Path) -> Bench:
    return Bench(tiny_clip, pairs_parquet)


def test_the_loss_falls_and_everything_is_reported(bench: Bench) -> None:
    bench.fit()
    assert list(bench.logged) == [4, 8, 12, 16]
    assert bench.saved == [4, 8, 12, 16]
    assert bench.logged[16]["cos"] < bench.logged[4]["cos"] - 0.05
    assert {"loss", "cos", "grad_norm", "lr", "pairs_per_second"} <= bench.logged[4].keys()
    weights, head = trained_weights(bench.prepared)
    assert not head
    assert weights.keys() == bench.prepared.clip.state_dict().keys()
    assert all(tensor.dtype == torch.float32 for tensor in weights.values())
    assert weights["logit_scale"] <= MAX_LOG_SCALE


def test_the_logit_scale_stays_where_no_loss_learns_it(bench: Bench) -> None:
    before = bench.prepared.clip.logit_scale.item()
    bench.fit()
    assert bench.prepared.clip.logit_scale.item() == before


@pytest.mark.parametrize("log_every", [4, 100])
def test_a_nan_stops_the_run_and_names_the_step(bench: Bench, log_every: int) -> None:
    calls = 0
    whole = bench.objective.__call__

    def broken(*arguments, **options):
        nonlocal calls
        calls += 1
        report = whole(*arguments, **options)
        return type(report)(report.total * (math.nan if calls == 6 else 1.0), report.terms)

    bench.objective = type("Broken", (), {"needs_teacher": True, "__call__": staticmethod(broken)})()
    with pytest.raises(TrainingError, match="not a number at step 6"):
        bench.fit(log_every=log_every)
    assert bench.saved == [4]


def test_a_row_that_changed_since_it_was_cached_is_refused(bench: Bench) -> None:
    bench.hashes[:, 1] += 1
    with pytest.raises(StaleCacheError, match="holds another caption"):
        bench.fit()


def test_the_stream_goes_on_where_it_was_left(bench: Bench) -> None:
    whole = bench.stream.from_step(0)
    expected = [next(whole).image_ids.tolist() for _ in range(9)]
    later = bench.stream.from_step(3)
    assert [next(later).image_ids.tolist() for _ in range(6)] == expected[3:]


def test_two_processes_see_the_halves_of_one_batch(bench: Bench) -> None:
    whole = next(bench.stream.from_step(5)).image_ids.tolist()
    halves = [
        next(
            BatchStream(bench.reader, bench.stream.plan, rank=rank, world=2, workers=0).from_step(5)
        ).image_ids.tolist()
        for rank in (0, 1)
    ]
    assert halves[0] + halves[1] == whole


def one_row(draw: float) -> StepRows:
    zero, nothing = np.zeros(1, np.int64), np.zeros(0, np.int64)
    return StepRows(zero, np.array([draw]), nothing, zero)


def test_a_row_without_a_caption_is_refused_by_number(bench: Bench) -> None:
    bench.reader.pairs = [type("Pair", (), {"captions": (), "image": b""})()]
    with pytest.raises(DataError, match="row 0 of the data has no caption"):
        bench.reader.__getitems__(one_row(0.5))


def test_an_epoch_may_draw_any_caption_of_a_row(bench: Bench) -> None:
    pair = bench.reader.pairs[0]
    several = type(pair)(pair.image, ("one", "two", "three"))
    bench.reader.pairs, bench.reader.store = [several], None
    lengths = tokenize(bench.reader.tokenizer, ["one", "three"], 77)["attention_mask"].sum(dim=1).tolist()
    got = [bench.reader.__getitems__(one_row(draw)).attention_mask.sum().item() for draw in (0.0, 0.99)]
    assert got == lengths


@pytest.mark.parametrize(
    ("settings", "part"),
    [
        ({"task": "triplett"}, "unknown loss 'triplett' in --task"),
        ({"negatives": "easy"}, "--negatives easy is unknown"),
        ({"margin": -0.1}, "--margin -0.1 is below 0"),
        ({"init": "best"}, "--init best is unknown"),
        ({"epochs": 0}, "--epochs 0 is not above 0"),
        ({"seed": -1}, "--seed -1 is no seed"),
        ({"batch_size": 1}, "leaves no negatives"),
    ],
)
def test_a_recipe_that_cannot_be_is_refused(settings: dict, part: str) -> None:
    with pytest.raises(ConfigError) as error:
        Recipe(**settings)
    assert part in str(error.value)


def test_the_default_batch_leaves_enough_steps() -> None:
    small = Recipe().resolve(pairs=500, processes=1, accelerated=False, precision="fp32")
    large = Recipe().resolve(pairs=100_000, processes=8, accelerated=True, precision="bf16")
    assert (small.batch_size, small.warmup) == (16, 31)
    assert (large.batch_size, large.precision) == (1024, "bf16")
    with pytest.raises(ConfigError, match="larger than the 10 usable pairs"):
        Recipe(batch_size=11).resolve(pairs=10, processes=1, accelerated=False, precision="fp32")
    with pytest.raises(ConfigError, match="cannot be divided among 3 processes"):
        Recipe(batch_size=16).resolve(pairs=500, processes=3, accelerated=False, precision="fp32")


@pytest.mark.parametrize("bad", [{"loss": math.nan}, {"grad_norm": math.inf}])
def test_a_loss_or_a_gradient_that_is_not_finite_is_refused_before_it_is_saved(bad: dict) -> None:
    values = {"loss": torch.tensor(1.0), "grad_norm": torch.tensor(1.0)}
    window = _Window()
    window.add(4, values)
    window.add(5, values | {name: torch.tensor(value) for name, value in bad.items()})
    window.add(6, values)
    with pytest.raises(TrainingError, match="at step 5"):
        window.read(8)


def test_a_step_that_the_scaler_of_fp16_skips_is_none_to_refuse() -> None:
    window = _Window(skips=True)
    window.add(1, {"loss": torch.tensor(1.0), "grad_norm": torch.tensor(math.inf)})
    assert window.read(8)["loss"] == 1.0
