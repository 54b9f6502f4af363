"""The evaluators as a script calls them."""

import io
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import COLOURS, draw_pair

import mmkd
from mmkd.evaluation.bias.word_lists import builtin_words


def png(number: int) -> bytes:
    stream = io.BytesIO()
    draw_pair(number)[0].save(stream, "PNG")
    return stream.getvalue()


@pytest.fixture(scope="module")
def encoder(tiny_clip: Path) -> mmkd.PairEncoder:
    return mmkd.load_encoder(tiny_clip)


def test_a_model_judged_beside_itself_scores_the_same(encoder: mmkd.PairEncoder) -> None:
    from mmkd.evaluation.zero_shot_task import ZeroShotTask

    images = [(png(number), number % len(COLOURS)) for number in range(18)]
    task = ZeroShotTask("colours", images, COLOURS, ("a {} thing",))
    report = mmkd.evaluate.zero_shot(encoder, task, teacher=encoder, batch_size=5).to_json()
    assert report["reference"] == "teacher"
    (colours,) = report["sets"]
    assert colours["models"]["teacher"]["scores"] == colours["models"]["student"]["scores"]
    assert list(mmkd.evaluate.zero_shot(encoder, task).to_json()["models"]) == ["student"]


def test_a_model_inherits_its_own_bias_in_full(encoder: mmkd.PairEncoder) -> None:
    words = builtin_words()
    few = replace(words, targets=words.targets[:20], templates=words.templates[:2], groups={})
    report = mmkd.evaluate.bias(encoder, encoder, words=few)
    assert report.comparisons["student"].spearman.value == pytest.approx(1)
    assert report.comparisons["student"].inheritance.ratio.value == pytest.approx(1)
    assert report.comparisons["student"].verdict == "withheld"  # random weights know nothing
