"""Metrics without a model, then the whole evaluation against two references that are not ours."""

import io
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.metrics import balanced_accuracy_score, top_k_accuracy_score

from mmkd.cli.zero_shot_table import _rows
from mmkd.embeddings import TeacherSpec
from mmkd.encoders import load_encoder
from mmkd.errors import ConfigError, DataError, ModelError
from mmkd.evaluation.statistics import Geometry, Interval, Score, unit_vectors
from mmkd.evaluation.tasks import open_task
from mmkd.evaluation.zero_shot import (
    Answers,
    choose_rows,
    class_weights,
    evaluate,
    scores_of,
    similarities,
    true_ranks,
)
from mmkd.evaluation.zero_shot_report import RECALL, TOP_1, TOP_5, ModelScores, SetReport, ZeroShotReport
from mmkd.evaluation.zero_shot_task import ZeroShotTask

SPEC = TeacherSpec("fake", None, "w", "p", "t", 2, 100.0, (1, 1))
COLOURS = ("red", "green", "blue", "yellow", "purple", "orange")


def png(colour: str, seed: int = 0, size: tuple[int, int] = (40, 36)) -> bytes:
    noise = np.random.default_rng(seed).integers(0, 60, (size[1], size[0], 3), dtype=np.uint8)
    image = Image.blend(Image.fromarray(noise), Image.new("RGB", size, colour), 0.7)
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return stream.getvalue()


@dataclass
class FakeEncoder:
    """An encoder whose embeddings are chosen: texts by their first letter's number, images by their mean."""

    text: np.ndarray
    image: np.ndarray
    preprocess_calls: int = 0
    spec: TeacherSpec = SPEC

    def encode_texts(self, texts):
        return torch.tensor(np.array([self.text[ord(text[0]) - ord("a")] for text in texts]))

    def preprocess(self, images):
        self.preprocess_calls += 1
        return torch.zeros(len(images), 1)

    def encode_pixels(self, pixels):
        start = getattr(self, "done", 0)
        self.done = start + len(pixels)
        return torch.tensor(self.image[start : self.done])


def task_of(count: int, class_names=COLOURS, templates=("{}",), **changes) -> ZeroShotTask:
    images = [(png(COLOURS[i % 6], i), i % len(class_names)) for i in range(count)]
    return ZeroShotTask("colours", images, tuple(class_names), tuple(templates), **changes)


def judge(similarity: np.ndarray, labels: np.ndarray) -> dict:
    return scores_of(Answers.of(similarity, labels), labels, similarity.shape[1])


def test_ranks_by_hand_and_ties_count_against_the_model() -> None:
    scores = np.array([[0.9, 0.1, 0.5], [0.2, 0.2, 0.1], [0.3, 0.3, 0.3], [0.1, 0.7, 0.7]])
    assert true_ranks(scores, np.array([0, 0, 1, 0])).tolist() == [0, 1, 2, 2]


def test_a_constant_encoder_scores_zero_on_everything() -> None:
    labels = np.arange(60) % 12
    unit = unit_vectors(np.ones((60, 7)))
    scores = judge(similarities(unit, unit_vectors(np.full((12, 7), 0.3))), labels)
    assert {name: score.value for name, score in scores.items()} == {TOP_1: 0, TOP_5: 0, RECALL: 0}
    assert all(score.at_chance for score in scores.values())


def test_metrics_equal_scikit_learn() -> None:
    generator = np.random.default_rng(0)
    labels = generator.choice(9, size=400, p=np.arange(1, 10) / 45)
    similarity = generator.normal(size=(400, 9)) + 1.5 * np.eye(9)[labels]
    scores = judge(similarity, labels)
    assert scores[TOP_1].value == pytest.approx(top_k_accuracy_score(labels, similarity, k=1))
    assert scores[TOP_5].value == pytest.approx(top_k_accuracy_score(labels, similarity, k=5))
    assert scores[RECALL].value == pytest.approx(balanced_accuracy_score(labels, similarity.argmax(axis=1)))
    assert scores[TOP_1].chance == pytest.approx(np.bincount(labels).max() / 400)
    assert scores[RECALL].chance == pytest.approx(1 / 9)


# Printed by clip_benchmark 1.6.2 (zeroshot_classification.accuracy, topk=(1, 5), and scikit-learn's
# balanced_accuracy_score as its evaluate calls it) on `known_scores()`: acc1, acc5, mean_per_class_recall.
RECORDED = (0.515, 0.935, 0.509118356)


def known_scores(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    labels = generator.choice(9, size=400, p=np.arange(1, 10) / 45)
    return generator.normal(size=(400, 9)) + 1.5 * np.eye(9)[labels], labels


def test_metrics_equal_what_clip_benchmark_printed() -> None:
    scores = judge(*known_scores())
    assert (scores[TOP_1].value, scores[TOP_5].value, scores[RECALL].value) == pytest.approx(RECORDED)


@pytest.mark.filterwarnings("ignore:Conversion of an array:DeprecationWarning")
@pytest.mark.parametrize("seed", range(3))
def test_metrics_equal_clip_benchmark(seed: int) -> None:
    reference = pytest.importorskip(
        "clip_benchmark.metrics.zeroshot_classification", reason="clip_benchmark is absent"
    )
    similarity, labels = known_scores(seed)
    output, target = torch.tensor(similarity), torch.tensor(labels)
    try:
        first, fifth = reference.accuracy(output, target, topk=(1, 5))
    except TypeError:  # it makes a number of an array, which newer numpys refuse
        pytest.skip("clip_benchmark's accuracy does not run with this numpy")
    scores = judge(similarity, labels)
    assert (scores[TOP_1].value, scores[TOP_5].value) == pytest.approx((first, fifth))
    recall = reference.balanced_accuracy_score(target, output.argmax(dim=1))
    assert scores[RECALL].value == pytest.approx(recall)


def test_scores_do_not_depend_on_the_order_of_images_or_classes() -> None:
    generator = np.random.default_rng(1)
    labels, similarity = generator.integers(0, 8, 100), generator.normal(size=(100, 8))
    images, classes = generator.permutation(100), generator.permutation(8)
    shuffled = similarity[images][:, np.argsort(classes)]
    expected, found = judge(similarity, labels), judge(shuffled, classes[labels][images])
    assert {name: score.value for name, score in found.items()} == pytest.approx(
        {name: score.value for name, score in expected.items()}
    )


def test_a_random_encoder_is_called_chance_in_at_least_95_of_100_draws() -> None:
    generator = np.random.default_rng(2)
    labels = np.arange(500) % 10
    draws = [judge(generator.normal(size=(500, 10)), labels) for _ in range(100)]
    assert sum(scores[TOP_1].at_chance for scores in draws) >= 95


@pytest.mark.parametrize(("classes", "has_top_5"), [(2, False), (5, False), (6, True)])
def test_top_5_is_left_out_where_it_is_always_right(classes: int, has_top_5: bool) -> None:
    labels = np.arange(30) % classes
    assert (TOP_5 in judge(np.eye(classes)[labels], labels)) is has_top_5


def test_class_weights_by_hand() -> None:
    # Normalised first, then averaged: (1, 0) and (0, 1) whatever their lengths, so the class lies between them.
    encoder = FakeEncoder(np.array([[10.0, 0.0], [0.0, 2.0], [0.0, -5.0]]), np.empty(0))
    weights = class_weights(encoder, ["x"], ["a {}", "b {}"], batch_size=1)
    assert weights == pytest.approx(np.array([[np.sqrt(0.5), np.sqrt(0.5)]]))
    assert class_weights(encoder, ["a", "c"], ["{}"]) == pytest.approx(np.array([[1.0, 0.0], [0.0, -1.0]]))


def test_choose_rows_spreads_over_a_set_sorted_by_class() -> None:
    assert choose_rows(10, 5).tolist() == [0, 2, 4, 6, 8]
    assert choose_rows(3, 10).tolist() == choose_rows(3, None).tolist() == [0, 1, 2]
    assert len(set(choose_rows(10_007, 10_000).tolist())) == 10_000


def test_evaluate_equals_transformers_pipeline_and_a_plain_loop(tiny_clip: Path) -> None:
    from transformers import CLIPModel, ZeroShotImageClassificationPipeline

    encoder = load_encoder(tiny_clip, device=torch.device("cpu"))
    task = task_of(18, templates=("a photo of a {}.", "a {} thing"))
    report = evaluate({"model": encoder}, task, batch_size=7)

    model = CLIPModel.from_pretrained(tiny_clip).eval()
    images = [Image.open(io.BytesIO(data)).convert("RGB") for data, _ in task.images]
    right = 0
    with torch.no_grad():
        for image, (_, label) in zip(images, task.images, strict=True):
            pixels = encoder.image_processor(images=image, return_tensors="pt")["pixel_values"]
            feature = model.get_image_features(pixel_values=pixels).pooler_output[0]
            logits = []
            for name in task.class_names:
                total = torch.zeros(32)
                for template in task.templates:
                    tokens = encoder.tokenizer(template.replace("{}", name), return_tensors="pt")
                    tokens = {key: tokens[key] for key in ("input_ids", "attention_mask")}
                    text = model.get_text_features(**tokens).pooler_output[0]
                    total += text / text.norm()
                logits.append(float(feature @ (total / total.norm()) / feature.norm()))
            right += int(np.argmax(logits) == label)
    assert report.models["model"].scores[TOP_1].value == pytest.approx(right / 18)

    pipeline = ZeroShotImageClassificationPipeline(
        model=model, tokenizer=encoder.tokenizer, image_processor=encoder.image_processor, framework="pt"
    )
    answers = pipeline(images, candidate_labels=list(COLOURS), hypothesis_template="a photo of a {}.")
    weights = class_weights(encoder, COLOURS, ["a photo of a {}."])
    cosines = similarities(unit_vectors(encoder.encode_images(images).numpy()), weights)
    logits = torch.tensor(cosines) * encoder.spec.logit_scale
    for answer, expected in zip(answers, logits.softmax(dim=-1).tolist(), strict=True):
        found = {one["label"]: one["score"] for one in answer}
        assert [found[name] for name in COLOURS] == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("name", ["cifar10/test", "tiny-imagenet-32/validation"])
def test_real_photos_equal_transformers_pipeline_and_a_plain_loop(name: str, shared_data: Path) -> None:
    """Logits of real photos: the pipeline's, CLIPModel's own, and ours, of every class; then the answers."""
    from transformers import CLIPModel, ZeroShotImageClassificationPipeline

    folder = shared_data / "teachers" / "photos-32"
    encoder = load_encoder(folder, device=torch.device("cpu"))
    task, rows = open_task(str(shared_data / f"{name}.parquet")), range(0, 10_000, 500)
    task = replace(task, images=[task.images[row] for row in rows], class_names=task.class_names[:60])
    task = replace(task, images=[(data, label) for data, label in task.images if label < 60])
    images = [Image.open(io.BytesIO(data)).convert("RGB") for data, _ in task.images]
    sentences = [task.templates[0].replace("{}", one) for one in task.class_names]

    weights = class_weights(encoder, task.class_names, task.templates)
    cosines = similarities(unit_vectors(encoder.encode_images(images).numpy()), weights)
    model = CLIPModel.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.no_grad():
        pixels = encoder.image_processor(images=images, return_tensors="pt")["pixel_values"]
        tokens = encoder.tokenizer(sentences, padding=True, return_tensors="pt")
        own = model(
            input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"], pixel_values=pixels
        ).logits_per_image
    logits = torch.tensor(cosines) * encoder.spec.logit_scale
    torch.testing.assert_close(logits, own, atol=1e-4, rtol=0)

    pipeline = ZeroShotImageClassificationPipeline(
        model=model, tokenizer=encoder.tokenizer, image_processor=encoder.image_processor, framework="pt"
    )
    answers = pipeline(images, candidate_labels=list(task.class_names), hypothesis_template=task.templates[0])
    report = evaluate({"model": encoder}, task)
    for answer, expected, predicted in zip(
        answers, logits.softmax(dim=-1).tolist(), report.models["model"].predicted.tolist(), strict=True
    ):
        found = {one["label"]: one["score"] for one in answer}
        assert [found[one] for one in task.class_names] == pytest.approx(expected, abs=1e-5)
        assert answer[0]["label"] == task.class_names[predicted]


def test_batch_size_changes_nothing_and_progress_counts_every_image(tiny_clip: Path) -> None:
    encoder = load_encoder(tiny_clip, device=torch.device("cpu"))
    task, done = task_of(20), []
    one = evaluate({"model": encoder}, task, batch_size=3, progress=done.append)
    other = evaluate({"model": encoder}, task, batch_size=64)
    assert sum(done) == 20
    assert len(done) == 7
    assert one.models["model"].scores == other.models["model"].scores


def test_teacher_and_student_share_the_preprocessing_and_stand_side_by_side() -> None:
    generator = np.random.default_rng(3)
    truth = np.arange(60) % 6
    text = np.eye(6)
    knows = FakeEncoder(text, np.eye(6)[truth] + 0.01 * generator.normal(size=(60, 6)))
    half = np.where(np.arange(60) < 30, truth, (truth + 1) % 6)
    partly = FakeEncoder(text, np.eye(6)[half] + 0.01 * generator.normal(size=(60, 6)))
    names = ("a", "b", "c", "d", "e", "f")
    report = evaluate({"teacher": knows, "student": partly}, task_of(60, names), batch_size=30)
    assert (knows.preprocess_calls, partly.preprocess_calls) == (2, 0)
    assert report.models["teacher"].scores[TOP_1].value == 1
    assert report.models["student"].scores[TOP_1].value == 0.5
    # (1/2 - 1/6) / (1 - 1/6)
    assert report.retention("student", "teacher")[TOP_1] == pytest.approx(0.4)
    whole = ZeroShotReport({"teacher": knows.spec, "student": partly.spec}, "teacher", (report,)).to_json()
    assert whole["schema_version"] == 1
    assert whole["sets"][0]["models"]["student"]["retention"][TOP_1] == pytest.approx(0.4)
    assert whole["sets"][0]["models"]["teacher"]["retention"] == {}


def test_no_row_of_a_collapsed_model_says_what_it_kept() -> None:
    good = Score(0.9, Interval(0.8, 0.95), 0.1)
    flat, full = Geometry(1.0, 8, 0.995, 0.0), Geometry(6.0, 8, 0.1, -2.0)
    zeros = np.zeros(4, dtype=np.int64)
    broken = ModelScores(
        dict.fromkeys((TOP_1, TOP_5), good), flat, flat, 0.0, 0.0, zeros, zeros == 0, zeros, zeros
    )
    whole = replace(broken, image_geometry=full, text_geometry=full)
    report = SetReport(task_of(4), zeros, zeros, {}, {"teacher": whole, "student": broken})
    rows = _rows(report, "teacher")
    assert rows[0][-1].startswith("collapsed")
    assert rows[1][-1] == "collapsed"


def test_a_collapsed_encoder_is_called_so() -> None:
    text = np.eye(6) + 0.2
    images = np.ones((60, 6)) + 1e-3 * np.random.default_rng(4).normal(size=(60, 6))
    broken = evaluate({"model": FakeEncoder(text, images)}, task_of(60, "abcdef")).models["model"]
    assert broken.at_chance
    assert broken.collapsed.startswith("collapsed (effective rank 1.0 of 6")
    deaf = FakeEncoder(np.ones((6, 6)), np.random.default_rng(5).normal(size=(60, 6)))
    scores = evaluate({"model": deaf}, task_of(60, "abcdef")).models["model"]
    assert scores.collapsed.startswith("collapsed text")
    assert scores.scores[TOP_5].value == 0


def test_images_that_cannot_be_decoded_are_left_out_and_counted() -> None:
    task = task_of(12, "abcdef")
    task.images[3] = (b"no image", 3)
    encoder = FakeEncoder(np.eye(6), np.eye(6)[[i % 6 for i in range(12) if i != 3]])
    report = evaluate({"model": encoder}, task, batch_size=4)
    assert len(report.labels) == 11
    assert report.models["model"].scores[TOP_1].value == 1
    assert report.notes == ["1 images left out: not an image of a known format"]


@pytest.mark.parametrize("label", [-1, 6])
def test_labels_out_of_range_are_refused(label: int) -> None:
    task = task_of(8)
    task.images[5] = (task.images[5][0], label)
    encoder = FakeEncoder(np.eye(26), np.eye(26)[:8])
    with pytest.raises(DataError, match=f"row 5 of colours has label {label}; expected 0 to 5"):
        evaluate({"model": encoder}, task)


def test_tasks_that_make_no_sense_are_refused() -> None:
    with pytest.raises(DataError, match="has 1 class names; expected at least 2"):
        task_of(4, ("red",))
    with pytest.raises(DataError, match="'red' more than once"):
        task_of(4, ("red", "blue", "red"))
    with pytest.raises(ConfigError, match=r"no single \{\}"):
        task_of(4, templates=("a photo",))
    with pytest.raises(ConfigError, match="no templates"):
        task_of(4, templates=())
    with pytest.raises(DataError, match="has 0 images"):
        evaluate({"model": FakeEncoder(np.eye(26), np.empty((0, 26)))}, task_of(0))
    with pytest.raises(ModelError, match="zero or not finite"):
        evaluate({"model": FakeEncoder(np.full((26, 3), np.nan), np.empty(0))}, task_of(4))


def test_classes_without_an_image_are_noted_and_do_not_count() -> None:
    task = replace(task_of(9, "abc"), class_names=("a", "b", "c", "d"))
    report = evaluate({"model": FakeEncoder(np.eye(4), np.eye(4)[np.arange(9) % 3])}, task)
    assert report.models["model"].scores[RECALL].value == 1
    assert report.notes[0] == "1 of 4 classes have no image"
    assert "no top-5" in report.notes[1]


def test_the_photo_teacher_s_published_scores(shared_data: Path, tmp_path: Path) -> None:
    """500 of the 10,000 photos; `docs/evaluation.md` gives the command for all."""
    templates = ("a photo of a {}.", "a blurry photo of a {}.", "a low resolution photo of a {}.")
    templates += ("a bad photo of a {}.", "a cropped photo of a {}.", "a photo of the {}.")
    encoder = load_encoder(shared_data / "teachers" / "photos-32", device=torch.device("cpu"))
    task = open_task(f"cifar10={shared_data / 'cifar10' / 'test.parquet'}", templates)
    scores = evaluate({"model": encoder}, task, limit=500).models["model"].scores
    assert scores[TOP_1].interval.low < 0.5060 < scores[TOP_1].interval.high
    assert scores[TOP_5].interval.low < 0.9363 < scores[TOP_5].interval.high
