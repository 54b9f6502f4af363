"""The order of a study's arms, and what is said of them."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mmkd.errors import ConfigError, MmkdError
from mmkd.evaluation.plots import FAINT
from mmkd.study.arms import Arm
from mmkd.study.design import Evaluation, Study
from mmkd.study.plot import BEST, _colour
from mmkd.study.ranking import ArmResult, rank
from mmkd.study.report import notes
from mmkd.study.results import RunResult, RunScore


def _run(
    seed: int, share: float, *, images: int = 400, flips: float = 0.03, at_chance: bool = False
) -> RunResult:
    right = np.zeros(images, bool)
    right[np.random.default_rng(7).permutation(images)[: round(share * images)]] = True
    right ^= np.random.default_rng(seed + round(1000 * share)).random(images) < flips
    score = RunScore(float(right.mean()), 0.1, 0.6, (float(right.mean()) - 0.1) / 0.5, at_chance)
    other = RunScore(share / 2, 0.05, 0.4, None, at_chance)
    return RunResult(seed, Path(f"seed{seed}"), {"a/top-1": score, "a/top-5": other}, {}, {"a": right})


def _arm(name: str, *runs: RunResult, role="arm", **more) -> ArmResult:
    return ArmResult(Arm(name, {"kd": "mse"}, role), runs, **more)


def test_the_order_and_its_words() -> None:
    ranking = rank(
        [
            _arm("poor", *(_run(seed, 0.2) for seed in range(3))),
            _arm("good", *(_run(seed, 0.5) for seed in range(3))),
            _arm("fine", *(_run(seed, 0.49) for seed in range(3))),
            _arm("untrained", _run(0, 0.3), role="untrained"),
            _arm("broken", failures={0: "the loss is not a number at step 3"}),
            _arm("half", _run(0, 0.4), failures={1: "no", 2: "no"}),
        ]
    )
    names = [one.arm.name for one in ranking.results]
    assert names == ["good", "fine", "half", "untrained", "poor", "broken"]
    words = {one.arm.name: ranking.verdict(one) for one in ranking.results}
    assert words["good"] == "best"
    assert words["fine"] == "not distinguishable from the best"
    assert words["poor"] == words["untrained"] == "below the best"
    assert words["broken"] == "no run came to an end"
    assert words["half"] == "not compared: fewer than 2 seeds in common, 2 runs failed"
    assert ranking.metrics == ("a/top-1",)
    backwards = ranking.compare("poor", "good")
    assert backwards is not None
    assert backwards.difference.value == pytest.approx(-0.3, abs=0.05)
    undecided = ranking.compare("good", "fine")
    assert undecided is not None
    assert ranking.undecided == pytest.approx(undecided.difference.interval.high)
    assert ranking.undecided > undecided.difference.value
    assert ranking.decided == pytest.approx(0.1, abs=0.05)
    assert rank(ranking.results, rank_by="a/top-5").metric == "a/top-5"
    with pytest.raises(ConfigError, match="rank-by 'b' is not measured; expected one of a/top-1, a/top-5"):
        rank(ranking.results, rank_by="b")


def test_arms_that_know_nothing_do_not_make_the_others_look_sure() -> None:
    arms = [
        _arm(name, *(_run(seed, share) for seed in range(3))) for name, share in (("x", 0.5), ("y", 0.46))
    ]
    ignorant = [
        _arm(f"{n}", *(_run(seed, 0.1, flips=0.0, at_chance=True) for seed in range(3))) for n in range(4)
    ]
    alone, among = rank(arms).compare("x", "y"), rank([*arms, *ignorant]).compare("x", "y")
    assert alone is not None
    assert among is not None
    assert among.difference == alone.difference


def test_where_all_are_at_chance_nothing_is_best() -> None:
    ranking = rank([_arm(name, *(_run(seed, 0.11, at_chance=True) for seed in range(3))) for name in "xy"])
    assert ranking.best is None
    assert {ranking.verdict(one) for one in ranking.results} == {"at chance"}


def test_two_guessers_are_not_told_apart_though_their_seeds_agree() -> None:
    def arm(name: str, value: float, *, at_chance: bool) -> ArmResult:
        score = RunScore(value, 0.001, 0.002, None, at_chance)
        return _arm(
            name, *(RunResult(s, Path(name), {"a/text to image R@1": score}, {}, {}) for s in range(3))
        )

    found = rank([arm("x", 0.002, at_chance=True), arm("y", 0.001, at_chance=True)]).compare("x", "y")
    assert found is not None
    assert not found.told_apart


def test_an_arm_at_chance_is_not_best_however_high_it_stands() -> None:
    lucky = _arm("lucky", *(_run(seed, 0.31, at_chance=True) for seed in range(3)))
    ranking = rank([lucky, _arm("sure", *(_run(seed, 0.3) for seed in range(3)))])
    assert ranking.results[0] is lucky
    assert ranking.best is not None
    assert ranking.best.arm.name == "sure"
    assert "at chance" in ranking.verdict(lucky)
    assert "below" not in ranking.verdict(lucky)


def test_the_figure_greys_what_is_at_chance_in_its_own_metric_alone() -> None:
    def run(seed: int) -> RunResult:
        known = RunScore(0.4, 0.1, 0.6, 0.6, at_chance=False)
        return replace(
            _run(seed, 0.11, at_chance=True),
            scores=_run(seed, 0.11, at_chance=True).scores | {"b/top-1": known},
        )

    ranking = rank([_arm(name, *(run(seed) for seed in range(3))) for name in "xy"])
    assert ranking.best is None
    result = ranking.results[0]
    assert (_colour(ranking, result, "a/top-1"), _colour(ranking, result, "b/top-1")) == (FAINT, BEST)


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"images": 300}, "seed1 was judged by 300 images of a, not 400 as seed0 was; delete judged.json"),
        ({"chance": 0.2}, "a chance of 0.2000 in a/top-1, not 0.1000"),
        ({"teacher": 0.7}, "a teacher of 0.7000 in a/top-1, not 0.6000"),
    ],
)
def test_runs_that_were_judged_by_something_else_are_not_ranked(change: dict, part: str) -> None:
    other = _run(1, 0.3, images=change.get("images", 400))
    score = replace(
        other.scores["a/top-1"], **{key: value for key, value in change.items() if key != "images"}
    )
    other = replace(other, scores={**other.scores, "a/top-1": score})
    with pytest.raises(MmkdError) as error:
        rank([_arm("x", _run(0, 0.3)), _arm("y", other)])
    assert part in str(error.value)


def test_the_note_on_budgets_says_in_what_they_differ() -> None:
    arms = (
        Arm("x", {"batch_size": 64}),
        Arm("y", {"batch_size": 128}),
        Arm("z", {"batch_size": 64, "accumulate": 2}),
    )
    ranking = rank([ArmResult(arm, (_run(0, 0.3),)) for arm in arms])
    study = Study("s", {}, arms, (0,), Path("cache"), Evaluation())
    (note,) = [one for one in notes(study, ranking) if "budget" in one]
    assert "x: all pairs x 10 epochs, 64 a step; y, z: all pairs x 10 epochs, 128 a step" in note
