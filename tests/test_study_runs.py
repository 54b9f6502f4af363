"""The runs of a study without training one: which are counted as an arm's."""

import multiprocessing
import os
import subprocess
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest
import torch

from mmkd.cli.study_runs import StudyFolder, refuse_other_runs, sharing_cores, write_configs
from mmkd.cli.study_worker import Order, carry_out, start_worker
from mmkd.errors import ConfigError
from mmkd.evaluation.captioned import RetrievalTask
from mmkd.evaluation.zero_shot_task import ZeroShotTask
from mmkd.pairs import Pair
from mmkd.runs import claim_run_folder
from mmkd.study.arms import Arm, with_baselines
from mmkd.study.design import Evaluation, Study
from mmkd.study.set_hashes import hash_sets


def study_of(tmp_path: Path, **settings) -> Study:
    base = {"kd": "mse", **settings}
    return Study("s", base, with_baselines([Arm("a", base)], base), (0,), tmp_path / "cache", Evaluation())


def make_runs(study: Study, place: StudyFolder) -> None:
    """Run folders as a start of the study leaves them, with what was left open filled in."""
    write_configs(study, place)
    for arm in study.arms:
        recipe = {"batch_size": 8, "precision": "fp32", "warmup": 3, "views": 1, "depth": None}
        named = {name: value for name, value in arm.recipe.to_dict().items() if value is not None}
        if "student_config" in named:
            named["student_config"] = str(Path(named["student_config"]).resolve())
        claim_run_folder(
            place.run(arm, 0), {"recipe": {**recipe, **named}, "cache": {"path": str(study.cache)}}
        )


@pytest.mark.parametrize(
    ("then", "now", "part"),
    [
        ({"lr": 5e-4}, {}, "was trained with lr 0.0005, and arm 'a' has 0.001"),
        ({"clip_grad": 0.0}, {}, "was trained with clip-grad 0.0, and arm 'a' has 1.0"),
        ({"batch_size": 32}, {}, "was trained with batch-size 32, and arm 'a' leaves it open"),
        ({"depth": 2}, {}, "was trained with depth 2, and arm 'a' leaves it open"),
        ({"student_config": "one.json"}, {"student_config": "two.json"}, "was trained with student-config"),
        ({"student_config": "one.json"}, {}, "with student-config one.json, and arm 'a' leaves it open"),
        ({}, {"batch_size": 16}, "was trained with batch-size 8, and arm 'a' has 16"),
    ],
)
def test_a_run_of_other_settings_is_not_counted(tmp_path: Path, then: dict, now: dict, part: str) -> None:
    place = StudyFolder(tmp_path / "study")
    make_runs(study_of(tmp_path, **then), place)
    refuse_other_runs(study_of(tmp_path, **then), place)
    for _ in range(2):  # being refused changes nothing
        with pytest.raises(ConfigError) as error:
            refuse_other_runs(study_of(tmp_path, **now), place)
        assert part in str(error.value)


def test_what_a_search_decides_is_held_against_it_only_afterwards(tmp_path: Path) -> None:
    place = StudyFolder(tmp_path / "study")
    make_runs(study_of(tmp_path, lr=5e-4), place)
    refuse_other_runs(study_of(tmp_path), place, but=("lr", "kd"))
    with pytest.raises(ConfigError, match="epochs"):
        refuse_other_runs(study_of(tmp_path, epochs=3), place, but=("lr", "kd"))


def test_a_run_of_a_version_without_a_setting_had_its_default(tmp_path: Path) -> None:
    place, study = StudyFolder(tmp_path / "study"), study_of(tmp_path)
    write_configs(study, place)
    recipe = {"kd": "mse", "batch_size": 8}
    claim_run_folder(place.run(study.arms[0], 0), {"recipe": recipe, "cache": {"path": str(study.cache)}})
    refuse_other_runs(study, place)


def test_processes_of_a_study_share_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    context = multiprocessing.get_context("spawn")
    devices = context.Queue()
    devices.put(None)
    with sharing_cores(2), ProcessPoolExecutor(1, context, start_worker, (devices,)) as pool:
        assert pool.submit(torch.get_num_threads).result() == 1
    devices.close()
    assert "OMP_NUM_THREADS" not in os.environ


def test_a_run_that_dies_silently_is_not_given_an_earlier_starts_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = ["mmkd: the loss is not a number at step 3\n", ""]

    def launch(command, *, stdout, stderr, check):
        stdout.write(said.pop(0))
        return subprocess.CompletedProcess(command, 1)

    monkeypatch.setattr("mmkd.cli.study_worker.subprocess.run", launch)
    log = tmp_path / "log"
    order = Order(
        "a, seed 0", 0, tmp_path / "a.yaml", tmp_path / "run", log, tmp_path, None, launch=Path("two.yaml")
    )
    assert [carry_out(order).failure for _ in range(2)] == [
        "the loss is not a number at step 3",
        f"failed without a word; see {log}",
    ]


def test_the_hash_of_a_set_is_of_all_that_scores_depend_on() -> None:
    def labelled(images=((b"x", 0), (b"y", 1)), names=("cat", "dog"), templates=("a {}",)) -> str:
        return hash_sets([ZeroShotTask("a", images, names, templates)], [], None)["a"]

    others = [
        labelled(images=((b"x", 0), (b"z", 1))),
        labelled(images=((b"x", 0), (b"y", 0))),
        labelled(names=("cat", "fox")),
        labelled(templates=("the {}",)),
    ]
    assert labelled() == labelled()
    assert len({labelled(), *others}) == 5
    pairs = [Pair(b"x", ("one", "two")), Pair(b"y", ("three",))]
    whole, first, part = (
        hash_sets([], [RetrievalTask("b", pairs, count)], limit)["b"]
        for count, limit in ((None, None), (1, None), (None, 1))
    )
    assert len({whole, first, part}) == 3
