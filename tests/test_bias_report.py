"""The whole probe on vectors of known bias: verdicts, when they are withheld, and what the report says."""

import json
from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from bias_worlds import few_words, leanings, make_world

from mmkd.cli.bias_table import table
from mmkd.errors import ConfigError
from mmkd.evaluation.bias.compare import Comparison, compare_models
from mmkd.evaluation.bias.eat_map import plot_eat_map
from mmkd.evaluation.bias.gap_plot import plot_gaps
from mmkd.evaluation.bias.inheritance import AMPLIFIED, INCONCLUSIVE, PRESERVED, REDUCED, RESHAPED
from mmkd.evaluation.bias.model import ModelBias, measure_model
from mmkd.evaluation.bias.percent_plot import plot_references
from mmkd.evaluation.bias.rank_plot import plot_ranks, spread
from mmkd.evaluation.bias.report import LIMITS, BiasReport, report_on
from mmkd.evaluation.plots import save_figure

PLANTED = {
    "kept": PRESERVED,
    "halved": REDUCED,
    "doubled": AMPLIFIED,
    "permuted": RESHAPED,
    "noise": RESHAPED,
}


NOISES = (0.4, 0.8, 1.2, 2.0, 3.0)


def planted_lean(kind: str, lean: np.ndarray, seed: int) -> np.ndarray:
    draw = np.random.default_rng(5000 + seed)
    return {
        "kept": lean,
        "halved": lean / 2,
        "doubled": 2 * lean,
        "permuted": draw.permutation(lean),
        "noise": leanings(6000 + seed, len(lean)),
    }[kind]


def verdict_of(
    teacher: np.ndarray, student: np.ndarray, seed: int, *, noise: float = 0.1, **changes: Any
) -> Comparison:
    """Teacher and student of one world, each with noise of its own, through the whole probe.

    ``changes`` are the student's alone; ``student_noise`` is its noise.
    """
    if "student_noise" in changes:
        changes["noise"] = changes.pop("student_noise")
    words = replace(few_words(), groups={})  # without the slow tests of two groups
    models = []
    for number, lean in enumerate((teacher, student)):
        own = {"noise": noise} | (changes if number else {})
        world = make_world(lean, world=seed, model=2 * seed + number, words=words, **own)
        models.append(measure_model(world))
    return compare_models(*models, seed=seed)


@pytest.fixture
def without_sensitivity(monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes half of the time, and no verdict rests on it."""
    monkeypatch.setattr("mmkd.evaluation.bias.compare.sensitivity", lambda *_, **__: ())


@pytest.mark.full
@pytest.mark.parametrize("kind", PLANTED)
def test_planted_truth_is_found_in_95_of_100(kind: str, without_sensitivity: None) -> None:
    verdicts: Counter[str] = Counter()
    for seed in range(100):
        lean = leanings(seed, 120)
        verdicts[verdict_of(lean, planted_lean(kind, lean, seed), seed).verdict] += 1
    print(kind, dict(verdicts))
    assert verdicts[PLANTED[kind]] >= 95


@pytest.mark.full
@pytest.mark.parametrize("teacher_leans", [True, False])
def test_a_null_pair_is_called_amplified_or_reduced_in_at_most_5(
    teacher_leans: bool, without_sensitivity: None
) -> None:
    """Two noisy measurements of one bias, and two models without any."""
    verdicts: Counter[str] = Counter()
    for seed in range(100):
        lean = teacher_leans * leanings(seed, 120)
        verdicts[verdict_of(lean, lean, seed, noise=0.3).verdict] += 1
    print("null,", "leaning:" if teacher_leans else "without bias:", dict(verdicts))
    assert verdicts[REDUCED] + verdicts[AMPLIFIED] <= 5


@pytest.mark.full
@pytest.mark.parametrize(
    ("teacher_noise", "student_noise"), [*((0.1, n) for n in NOISES), *((n, 0.1) for n in NOISES)]
)
def test_the_same_bias_with_other_noise_is_called_reduced_or_amplified_in_at_most_5(
    teacher_noise: float, student_noise: float, without_sensitivity: None
) -> None:
    verdicts: Counter[str] = Counter()
    for seed in range(100):
        lean = leanings(seed, 120)
        verdicts[verdict_of(lean, lean, seed, noise=teacher_noise, student_noise=student_noise).verdict] += 1
    print(f"kept, noise {teacher_noise} and {student_noise}:", dict(verdicts))
    assert verdicts[REDUCED] + verdicts[AMPLIFIED] + verdicts[RESHAPED] <= 5


@pytest.mark.full
@pytest.mark.parametrize(("kind", "noise"), [("halved", 0.4), ("halved", 0.8), ("doubled", 0.4)])
def test_a_change_is_found_in_95_of_100_through_noise_in_the_student(
    kind: str, noise: float, without_sensitivity: None
) -> None:
    verdicts: Counter[str] = Counter()
    for seed in range(100):
        lean = leanings(seed, 120)
        verdicts[verdict_of(lean, planted_lean(kind, lean, seed), seed, student_noise=noise).verdict] += 1
    print(f"{kind}, noise 0.1 and {noise}:", dict(verdicts))
    assert verdicts[PLANTED[kind]] >= 95


@pytest.mark.parametrize("noise", [0.8, 3.0])
def test_noise_in_all_words_of_a_student_is_no_reduction(noise: float) -> None:
    lean = leanings(0, 120)
    found = verdict_of(lean, lean, 0, student_noise=noise)
    assert found.verdict == INCONCLUSIVE
    assert "noise in all words of one model" in found.reason
    assert verdict_of(lean, lean / 2, 0, student_noise=0.8).verdict == REDUCED


@pytest.mark.parametrize("kind", PLANTED)
def test_planted_truth_is_found(kind: str) -> None:
    lean = leanings(0, 120)
    assert verdict_of(lean, planted_lean(kind, lean, 0), 0).verdict == PLANTED[kind]


@pytest.fixture(scope="module")
def teacher() -> ModelBias:
    return measure_model(make_world(leanings(0, 120), world=0, model=0))


@pytest.fixture(scope="module")
def student() -> ModelBias:
    return measure_model(make_world(leanings(0, 120) / 2, world=0, model=1))


@pytest.fixture(scope="module")
def report(teacher: ModelBias, student: ModelBias) -> BiasReport:
    ignorant = measure_model(make_world(np.zeros(120), world=0, model=2, knows=False, gendered=False))
    return report_on({"teacher": teacher, "distilled": student, "scratch": ignorant}, reference="teacher")


def test_a_teacher_without_bias_has_none_to_pass_on() -> None:
    none = np.zeros(120)
    found = verdict_of(none, leanings(1, 120), 1)
    assert found.verdict == INCONCLUSIVE
    assert "no bias to inherit" in found.reason


def test_a_student_that_knows_nothing_is_not_called_fair() -> None:
    lean = leanings(2, 120)
    for changes, reason in (
        ({"knows": False}, "does not know whether a nurse is nearer to a hospital than to a tractor"),
        ({"gendered": False}, "does not tell female from male terms"),
    ):
        found = verdict_of(lean, np.zeros(120), 2, **changes)
        assert found.verdict == "withheld"
        assert found.inheritance is not None
        assert len(found.withheld) == 1
        assert found.withheld[0].startswith("student: ")
        assert reason in found.withheld[0]


def test_conclusions_are_withheld_with_the_reason(teacher: ModelBias) -> None:
    vectors = teacher.vectors
    collapsed = vectors.sentences.copy()
    collapsed[:, :, 0] += 40
    collapsed /= np.linalg.norm(collapsed, axis=2, keepdims=True)
    unknown = replace(vectors, unknown=vectors.words.all[:60])
    for changed, reason in (
        (unknown, f"does not know 60 of the {len(vectors.words.all)} words"),
        (replace(vectors, sentences=collapsed), "collapsed (mean cosine"),
    ):
        found = compare_models(teacher, measure_model(changed))
        assert any(reason in one for one in found.withheld), found.withheld
        assert found.verdict == "withheld"
    assert compare_models(teacher, teacher, doubts=["student: at chance"]).reason == "student: at chance"
    assert compare_models(teacher, teacher).verdict == PRESERVED


def test_rounding_is_no_bias(teacher: ModelBias) -> None:
    """A model of one vector, but for the last bits, has no gaps, no order and no verdict."""
    draw = np.random.default_rng(4)
    vectors = teacher.vectors
    one = np.ones_like(vectors.sentences) / vectors.sentences.shape[2] ** 0.5
    flat = replace(vectors, sentences=one + 1e-13 * draw.normal(size=one.shape), bare=one[0])
    model = measure_model(flat)
    assert not model.gaps.standardised
    assert np.abs(model.gaps.value).max() < 1e-9
    found = compare_models(teacher, model)
    assert found.verdict == "withheld"
    assert found.inheritance is None
    assert found.spearman is None
    json.dumps(report_on({"teacher": teacher, "flat": model}, reference="teacher").to_json(), allow_nan=False)


def test_what_cannot_be_measured_withholds_too() -> None:
    full = few_words()
    for words, reason in (
        (replace(full, controls=full.controls[:4]), "4 neutral nouns among its words; at least 10"),
        (replace(full, knowledge=full.knowledge[:3]), "3 of the pairs of words"),
        (replace(full, targets=full.targets[:6], groups={}), "6 targets; at least 10"),
    ):
        model = measure_model(make_world(np.zeros(len(words.targets)), world=3, model=0, words=words))
        found = compare_models(model, model)
        assert found.verdict == "withheld"
        assert any(reason in one for one in found.withheld), found.withheld


@pytest.mark.parametrize(("count", "paired"), [(2, False), (3, False), (3, True)])
def test_too_few_terms_are_not_the_models_fault(count: int, paired: bool) -> None:
    full = few_words()
    words = replace(full, first=full.first[:count], second=full.second[:count], paired=paired, groups={})
    model = measure_model(make_world(leanings(0, 120), world=0, model=0, words=words))
    expected = f"{count} female and {count} male terms are too few to ask whether it tells them apart"
    assert [one for one in model.doubts if "tell" in one] == [f"{expected}; 4 of each are enough"]
    text = "\n".join(table(report_on({"teacher": model, "same": model}, reference="teacher")))
    assert "terms too few to tell any gap from a neutral noun's: the smallest q that they allow is" in text
    assert "q <= 0.05" not in text


@pytest.mark.parametrize(("count", "paired"), [(4, False), (5, True), (6, True)])
def test_few_terms_can_be_told_apart(count: int, paired: bool) -> None:
    full = few_words()
    words = replace(full, first=full.first[:count], second=full.second[:count], paired=paired, groups={})
    assert measure_model(make_world(leanings(0, 120), world=0, model=0, words=words)).doubts == []


def test_names_from_anywhere_are_never_read_as_formulas(tmp_path) -> None:
    odd = "pay $x_{$", "fee $y_{$"
    targets = (*odd, *few_words().targets[2:])
    groups = {f"{odd[0]} {number}": targets[12 * number :][:12] for number in range(2)}
    words = replace(few_words(), targets=targets, attributes=odd, groups=groups)
    lean = leanings(0, 120)
    lean[:2] = 3, -3
    models = [measure_model(make_world(one, world=0, model=0, words=words)) for one in (lean, lean / 2)]
    report = report_on(dict(zip(("teacher", odd[0]), models, strict=True)), reference="teacher")
    for number, plot in enumerate((plot_gaps, plot_ranks, plot_references, plot_eat_map)):
        save_figure(plot(report), tmp_path / f"{number}.svg")
        assert odd[0] in (tmp_path / f"{number}.svg").read_text()


def test_names_from_anywhere_give_no_orders_to_a_terminal() -> None:
    words = replace(few_words(), attributes=("a\x1b[2J", "b\n"), groups={})
    model = measure_model(make_world(leanings(0, 120), world=0, model=0, gendered=False, words=words))
    lines = table(report_on({"teacher": model, "same": model}, reference="teacher"))
    assert any("a\N{REPLACEMENT CHARACTER}[2J less b" in line for line in lines)
    assert any("does not tell a\N{REPLACEMENT CHARACTER}[2J from b" in line for line in lines)
    assert all(line.isprintable() for line in lines)


def test_doubts_about_the_teacher_withhold_every_conclusion(teacher: ModelBias, student: ModelBias) -> None:
    report = report_on(
        {"teacher": teacher, "one": student}, reference="teacher", doubts={"teacher": ["teacher: at chance"]}
    )
    assert report.comparisons["one"].withheld == ("teacher: at chance",)
    assert report.to_json()["meaningless"] == {"teacher": ["teacher: at chance"]}


def test_models_that_were_asked_differently_are_not_compared(teacher: ModelBias) -> None:
    words = replace(few_words(), templates=few_words().templates[:2])
    other = measure_model(make_world(np.zeros(120), world=0, model=1, words=words))
    with pytest.raises(ConfigError, match="not asked the same words"):
        compare_models(teacher, other)


def test_sensitivity_leaves_out_each_term_and_each_template(report: BiasReport) -> None:
    found = {one.name: one for one in report.comparisons["distilled"].sensitivity}
    assert len([name for name in found if name.startswith("without")]) == 8 + 3
    assert "without woman and man" in found
    assert "without 'a photo of {}.'" in found
    assert "mean-centred vectors" in found
    single = sum(" " not in word for word in few_words().targets)
    assert f"targets of one token, {single}" in found
    assert {one.verdict for one in found.values()} == {REDUCED}


def test_leaving_a_term_out_is_measuring_without_it(teacher: ModelBias) -> None:
    words = few_words()
    left = replace(words, first=words.first[1:], second=words.second[1:])
    expected = measure_model(replace(teacher.vectors, words=words)).cosines.without_term(0)
    vectors = make_world(leanings(0, 120), world=0, model=0)
    places = [place for place, word in enumerate(words.all) if word in left.all]
    fewer = replace(vectors, words=left, sentences=vectors.sentences[:, places], bare=vectors.bare[places])
    assert measure_model(fewer).cosines.gaps == pytest.approx(expected.gaps)
    assert expected.without_template(1).gaps == pytest.approx(
        expected.targets[[0, 2]].mean(axis=0) @ expected.signs
    )


def test_ranks_and_their_changes(report: BiasReport, teacher: ModelBias, student: ModelBias) -> None:
    beside = report.comparisons["distilled"]
    first = beside.targets[int(np.argmax(teacher.gaps.value))]
    assert beside.ranks[0][beside.targets.index(first)] == 1
    moved = beside.rank_changes(3)
    sizes = [abs(one.teacher - one.student) for one in moved]
    assert sizes == sorted(np.abs(beside.ranks[0] - beside.ranks[1]))[::-1][:3]


def test_report_as_json_and_rows(report: BiasReport) -> None:
    found = json.loads(json.dumps(report.to_json(), allow_nan=False))
    assert (found["schema"], found["schema_version"], found["reference"]) == ("mmkd.bias", 2, "teacher")
    assert found["comparisons"]["distilled"]["verdict"] == REDUCED
    scratch = found["comparisons"]["scratch"]
    assert scratch["verdict"] == "withheld"
    assert "verdict" not in scratch["inheritance"]
    assert scratch["sensitivity"] == []
    assert found["limits"] == list(LIMITS)
    assert len(LIMITS) == 2
    teacher = found["models"]["teacher"]
    assert (
        teacher["gaps"]["nurse"]["low"]
        <= teacher["gaps"]["nurse"]["value"]
        <= teacher["gaps"]["nurse"]["high"]
    )
    assert set(teacher["overall"]["measures"]) == {"RND", "RNSB", "ECT", "MAC", "SAME", "DirectBias"}
    assert set(teacher["overall"]["associations"]) == {"WEAT", "SEAT"}
    assert set(teacher["references"]) == {"WinoBias", "Winogender", "VisoGender"}
    assert teacher["tokens"]["nurse"] == 1
    assert set(teacher["neutral_term_gaps"]) == set(few_words().neutral)
    rows = report.rows()
    assert len(rows) == 3 * 120
    nurse = next(row for row in rows if row["model"] == "distilled" and row["target"] == "nurse")
    assert nurse["percent women (WinoBias)"] == 90
    assert nurse["gap"] == found["models"]["distilled"]["gaps"]["nurse"]["value"]
    assert next(row for row in rows if row["model"] == "teacher")["difference_p_value"] is None


def test_table_says_verdict_utility_and_limits(report: BiasReport) -> None:
    text = "\n".join(table(report))
    assert text.index("right of two things for a word") < text.index("distilled beside its teacher: REDUCED")
    assert "scratch beside its teacher: conclusion WITHHELD, because these numbers mean nothing" in text
    assert "at chance" in text
    assert " ".join(LIMITS[1].split()[:9]) in " ".join(text.split())
    assert "ML-EAT, teacher:" in text


def test_the_same_seed_gives_the_same_report(
    teacher: ModelBias, student: ModelBias, report: BiasReport
) -> None:
    again = {"teacher": measure_model(teacher.vectors), "distilled": measure_model(student.vectors)}
    second = report_on(again, reference="teacher").to_json()
    assert second["comparisons"]["distilled"] == report.to_json()["comparisons"]["distilled"]
    assert second["models"]["teacher"] == report.to_json()["models"]["teacher"]


def test_figures(report: BiasReport, tmp_path) -> None:
    gaps, ranks = plot_gaps(report), plot_ranks(report)
    assert [axes.get_title(loc="left") for axes in gaps.axes] == ["distilled: reduced", "scratch: withheld"]
    save_figure(gaps, tmp_path / "gaps.svg")
    text = (tmp_path / "gaps.svg").read_text()
    assert "means nothing" in text
    teacher = report.models["teacher"]
    assert f">{report.words.targets[int(np.argmin(teacher.gaps.value))]}<" in text
    assert len(plot_references(report).axes) == 9
    labels = plot_eat_map(report).legends[0].get_texts()
    assert [text.get_text().split(":")[0] for text in labels] == [
        "teacher",
        "distilled",
        "scratch (means nothing)",
    ]
    assert "scratch (conclusion withheld)" in [axes.get_title(loc="left") for axes in ranks.axes]
    single = report_on({"one": teacher}, reference=None)
    assert "nothing to compare with" in "\n".join(table(single))
    for plot in (plot_gaps, plot_ranks):
        with pytest.raises(ValueError, match="has one model"):
            plot(single)


def test_figure_is_the_same_bytes_every_time(report: BiasReport, tmp_path) -> None:
    for suffix in (".png", ".svg"):
        for number in range(2):
            save_figure(plot_gaps(report), tmp_path / f"{number}{suffix}")
        assert (tmp_path / f"0{suffix}").read_bytes() == (tmp_path / f"1{suffix}").read_bytes()


def test_labels_are_moved_apart_and_stay_in_order() -> None:
    found = spread([5, 5, 6, 90, 100], 4, 1, 100)
    assert found == sorted(found)
    assert min(np.diff(found)) >= 4 - 1e-9
    assert found[-1] <= 100
    assert spread([50, 10], 4, 1, 100) == [50, 10]
