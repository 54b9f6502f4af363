"""Scores that are there already are read; what they depend on decides whether they are."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from test_zero_shot import FakeEncoder, task_of

from mmkd.embeddings import TeacherSpec
from mmkd.evaluation import kept_results
from mmkd.evaluation.embedded import KeptEmbeddings
from mmkd.evaluation.zero_shot import evaluate

NAMES = ("a", "b", "c", "d", "e", "f")


def encoder(weights: str = "w") -> FakeEncoder:
    seen = np.eye(26)[np.arange(24) % 6] + 0.1 * np.random.default_rng(0).normal(size=(24, 26))
    return FakeEncoder(np.eye(26), seen, spec=TeacherSpec("fake", None, weights, "p", "t", 26, 100.0, (1, 1)))


def test_the_second_time_nothing_is_computed_and_everything_is_the_same(tmp_path: Path) -> None:
    kept, task = KeptEmbeddings(tmp_path), task_of(24, NAMES, ("{}", "{} again"))
    task.images[5] = (b"no image", 5)
    first = evaluate({"m": encoder()}, task, kept=kept, by_template=True)
    deaf = replace(encoder(), text=None, image=None)
    again = evaluate({"m": deaf}, task, kept=kept, by_template=True)
    assert (first.kept, again.kept) == ((), ("m",))
    assert again.to_json(None) == first.to_json(None)
    assert again.notes == ["1 images left out: not an image of a known format"]
    assert np.array_equal(again.confusion("m"), first.confusion("m"))
    assert again.rows.tolist() == first.rows.tolist()
    assert evaluate({"m": encoder()}, task, by_template=True).kept == ()  # where nothing is to be kept


@pytest.mark.parametrize(
    "changed",
    ["weights", "images", "labels", "names", "templates", "synonyms", "limit", "by_template", "version"],
)
def test_whatever_a_score_depends_on_makes_it_anew(
    tmp_path: Path, changed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept, task = KeptEmbeddings(tmp_path), task_of(24, NAMES)
    evaluate({"m": encoder()}, task, kept=kept)
    model, limit, by_template = encoder(), None, False
    if changed == "weights":
        model = encoder("others")
    elif changed == "images":
        task.images[0] = (task_of(24, NAMES).images[6][0], 0)
    elif changed == "labels":
        task.images[0] = (task.images[0][0], 1)
    elif changed == "names":
        task = replace(task, class_names=("a", "b", "c", "d", "e", "g"))
    elif changed == "templates":
        task = replace(task, templates=("{}.",))
    elif changed == "synonyms":
        task = replace(task, synonyms={"a": ("z",)})
    elif changed == "limit":
        limit = 12
    elif changed == "by_template":
        by_template = True
    else:
        monkeypatch.setattr(kept_results, "VERSION", kept_results.VERSION + 1)
    report = evaluate({"m": model}, task, kept=kept, limit=limit, by_template=by_template)
    assert report.kept == ()
    assert evaluate({"m": model}, task, kept=kept, limit=limit, by_template=by_template).kept == ("m",)


def test_only_the_new_model_is_judged(tmp_path: Path) -> None:
    kept, task = KeptEmbeddings(tmp_path), task_of(24, NAMES)
    alone = evaluate({"old": encoder()}, task, kept=kept)
    both = evaluate({"new": encoder("others"), "old": encoder()}, task, kept=kept)
    assert both.kept == ("old",)
    assert list(both.models) == ["new", "old"]
    assert both.models["old"].scores == alone.models["old"].scores
    assert both.paired("new", "old") is not None


@pytest.mark.parametrize("damage", [b"{}", b"not json", b'{"scores": {"top-1": {}}}'])
def test_what_cannot_be_read_is_made_again(
    tmp_path: Path, damage: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept, task = KeptEmbeddings(tmp_path), task_of(24, NAMES)
    whole = evaluate({"m": encoder()}, task, kept=kept).to_json(None)
    read = KeptEmbeddings.read

    def damaged(self: KeptEmbeddings, key: str):
        arrays = read(self, key)
        if arrays and "numbers" in arrays:
            arrays["numbers"] = np.frombuffer(damage, dtype=np.uint8)
        return arrays

    monkeypatch.setattr(KeptEmbeddings, "read", damaged)
    again = evaluate({"m": encoder()}, task, kept=kept)
    assert again.kept == ()
    assert again.to_json(None) == whole
