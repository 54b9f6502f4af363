"""``mmkd report``: what the page says, what it never does, and what it makes of folders that anybody wrote."""

import csv
import json
import re
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from browser import Browser, find_chromium
from command_line import mmkd
from report_page import Page, report
from report_runs import (
    evaluate,
    judge_bias,
    judge_bias_2,
    make_run,
    make_study,
)
from safetensors.numpy import load_file, save_file

from mmkd.cli.report import within_bounds
from mmkd.cli.report_contents import _commands
from mmkd.errors import ConfigError
from mmkd.files import write_json
from mmkd.report.bias import bias_plot, read_bias
from mmkd.report.drawing import Plot, drawing, mark, name_apart, new_figure, shorten, thin
from mmkd.report.evaluations import read_evaluation
from mmkd.report.ranked import ranked_plots, read_ranked
from mmkd.report.run import MAX_RUNS, find_runs, name_runs, read_report_run
from mmkd.report.scores import shared_sets


@pytest.fixture
def run(tmp_path: Path, tiny_clip: Path):
    one = make_run(tmp_path / "runs" / "2026-01-02-mse+cos", tiny_clip)
    evaluate(one)
    judge_bias(one)
    return one


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory, tiny_clip: Path) -> Path:
    """The page of one run, with its twin and its plots beside it; not to be changed."""
    folder = tmp_path_factory.mktemp("report")
    one = make_run(folder / "runs" / "2026-01-02-mse+cos", tiny_clip)
    evaluate(one)
    judge_bias(one)
    report(one.folder, out=folder / "page.html")
    return folder / "page.html"


def test_scores_in_other_words_or_on_other_images_stand_apart(tmp_path) -> None:
    keys = set()
    for content, templates in (("c", ["{}"]), ("c", ["a {}"]), ("d", ["{}"]), ("c", ["{}"])):
        score = {"value": 0.5, "low": 0.4, "high": 0.6, "chance": 0.1, "at_chance": False}
        one = {"name": "s", "source": "f", "images": 9, "images_xxh3_128": content, "templates": templates}
        one["models"] = {"student": {"scores": {"top-1": score}}}
        write_json(tmp_path / "z.json", {"schema": "mmkd.zero-shot", "sets": [one]})
        keys.add(read_evaluation(tmp_path / "z.json", "zero-shot").sets[0].key)
    assert len(keys) == 3


def test_the_page_holds_all_of_a_run_and_needs_nothing_else(written: Path) -> None:
    file, page = written, Page(written)
    assert "script" not in page.tags
    assert all(link.startswith(("#", "data:image/jpeg;base64,", "data:,")) for link in page.links), page.links
    for words in (
        "distilled from teacher on 96 pairs of pairs.parquet",
        "80.0 [75.0, 85.0]",
        "33.3",
        "keeps 82 %",
        "Loss by term",
        "Learning rate and gradient",
        "Judged while training",
        "Confusion on animals",
        "Most confused on animals",
        "Class by class on animals",
        "both right · 240 images, 80 %",
        "spearman 0.91 [0.80, 0.95]",
        "mmkd train --kd mse+cos",
        "mmkd eval retrieval --model",
        "c" * 32,
    ):
        assert words in page.text, words
    assert page.tags.count("svg") == 8
    text = file.read_text()
    assert "prefers-color-scheme: dark" in text
    assert "@media print" in text


def test_every_plot_is_there_as_svg_and_csv_with_what_is_drawn(written: Path) -> None:
    plots = written.with_name("page-plots")
    names = {file.stem for file in plots.iterdir()}
    assert names == {file.stem for file in plots.glob("*.svg")} == {file.stem for file in plots.glob("*.csv")}
    for file in plots.glob("*.svg"):
        ElementTree.parse(file)
    with (plots / "zero-shot.csv").open() as stream:
        rows = {row["model"]: row for row in csv.DictReader(stream)}
    assert float(rows["mse+cos"]["value"]) == 0.8
    assert float(rows["teacher"]["low"]) == pytest.approx(0.85)
    with (plots / "loss-mse+cos.csv").open() as stream:
        drawn = [(row["term"], float(row["step"]), float(row["value"])) for row in csv.DictReader(stream)]
    assert ("cos", 20.0, 0.025) in drawn
    markdown = written.with_suffix(".md").read_text()
    linked = re.findall(r"\]\(page-plots/([^)]+)\)", markdown)
    assert {name.replace("%2B", "+") for name in linked} == {f"{name}.svg" for name in names}
    assert "80.0 \\[75.0, 85.0\\]" in markdown


def test_a_run_without_an_evaluation_says_what_to_type(tmp_path: Path, tiny_clip: Path) -> None:
    bare = make_run(tmp_path / "bare", tiny_clip)
    page = report(bare.folder, out=tmp_path / "page.html")
    assert f"mmkd eval zero-shot --model {bare.folder}" in page.text
    assert "Scores" not in page.text
    unfinished = make_run(tmp_path / "unfinished")
    page = report(unfinished.folder, out=tmp_path / "other.html")
    assert f"mmkd train --resume --out {unfinished.folder}" in page.text
    assert "not finished: run.json says training" in page.text


def test_a_score_at_chance_is_called_so_and_keeps_nothing(run, tmp_path: Path) -> None:
    evaluate(run, top_1=0.36)
    page = report(run.folder, out=tmp_path / "page.html")
    assert "at chance: no result" in page.text
    assert "keeps" not in page.text.replace("keeps is the share", "").replace("keeps its best step", "")
    assert "**at chance**" in (tmp_path / "page.md").read_text()


def test_at_chance_cannot_be_denied_by_the_file(run) -> None:
    value = evaluate(run, top_1=0.36)
    value["sets"][0]["models"]["student"]["scores"]["top-1"]["at_chance"] = False
    write_json(run.folder / "zero-shot.json", value)
    (one,) = read_evaluation(run.folder / "zero-shot.json", "zero-shot").sets
    assert one.models["student"].scores["top-1"].at_chance


def test_a_withheld_bias_verdict_gives_its_reasons_and_no_correlation(run, tmp_path: Path) -> None:
    judge_bias(run, withheld=["student: at chance on animals"])
    page = report(run.folder, out=tmp_path / "page.html")
    assert "Conclusion withheld" in page.text
    assert "student: at chance on animals" in page.text
    assert "means nothing" in page.text
    assert "0.91" not in page.text


def test_a_bias_report_of_version_2_is_read_too(run) -> None:
    judge_bias_2(run, "inherited")
    read = read_report_run(run.folder, "one")
    assert read.problems == []
    found = read_bias(read.bias, read.weights_hash)
    assert found.headline == "The teacher's bias in the student: inherited."
    assert found.correlations == [
        ("spearman", "0.77 [0.50, 0.90]"),
        ("kendall", "undefined (a column is constant)"),
    ]
    assert (found.reason, found.limits) == ("kept 0.9 of the gaps", ["They clear neither."])
    with drawing():
        plot = bias_plot(read)
    assert [row["student"] for row in plot.rows] == [0.02, 0.01, -0.01, -0.02]
    judge_bias_2(run, "withheld", withheld=["it knows nothing"])
    assert read_bias(read_report_run(run.folder, "one").bias).withheld == ["it knows nothing"]
    judge_bias_2(run, "withheld")
    assert read_bias(read_report_run(run.folder, "one").bias).withheld == ["kept 0.9 of the gaps"]


def test_several_runs_stand_beside_one_another_on_the_same_images_only(
    run, tmp_path: Path, tiny_clip: Path
) -> None:
    same = make_run(tmp_path / "runs" / "kl", tiny_clip, kd="kl", seed=1)
    evaluate(same, top_1=0.7)
    other = make_run(tmp_path / "runs" / "elsewhere", tiny_clip)
    evaluate(other, source="other-animals.parquet")
    page = report(tmp_path / "runs", out=tmp_path / "page.html")
    assert "3 runs" in page.text
    read = [read_report_run(one.folder, one.folder.name) for one in (run, same, other)]
    sets = shared_sets(read, "zero-shot")
    assert [list(one.models) for one in sets] == [
        ["teacher", run.folder.name, "kl"],
        ["teacher", "elsewhere"],
    ]
    differ, alike = page.text.split("The same in all of them")
    assert "kl" in differ.split("KD loss")[1][:40]
    assert "learning rate 0.001" in alike


def test_a_studys_ranking_comes_first_in_its_own_words(tmp_path: Path, tiny_clip: Path) -> None:
    for name in ("mse-seed0", "mse-seed1"):
        evaluate(make_run(tmp_path / "runs" / name, tiny_clip))
    study = make_study(tmp_path, at_chance=3)
    page = report(study, out=tmp_path / "page.html")
    assert page.text.index("Ranked over seeds: which loss") < page.text.index("KD loss")
    for words in (
        "45.0 [43.0, 47.0]",
        "keeps 90 %",
        "at chance",
        "not distinguishable from the best",
        "of 3 seeds",
    ):
        assert words in page.text, words
    with (tmp_path / "page-plots" / "ranked-animals-top-1.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert [float(row["value"]) for row in rows[:3]] == pytest.approx([0.44, 0.45, 0.46])
    write_json(
        tmp_path / "study.json", {"schema": "mmkd.study", "arms": [{"name": "one", "scores": {"a": {}}}]}
    )
    assert mmkd("report", study, "--out", tmp_path / "page.html").returncode == 1


def test_many_runs_are_told_apart_by_what_differs(tmp_path: Path, tiny_clip: Path) -> None:
    for seed in range(10):
        evaluate(make_run(tmp_path / "runs" / f"seed{seed}", tiny_clip, seed=seed))
    page = report(tmp_path, out=tmp_path / "page.html")
    assert "shown for up to 8 runs" in page.text
    assert "Confusion on" not in page.text
    markdown = (tmp_path / "page.md").read_text()
    assert "| | seed |" in markdown, "a line a run, a column a setting"
    assert "| | chance | top-1 |" not in markdown
    assert "| seed9 | 80.0" in markdown


def test_what_an_evaluation_says_of_cost_is_shown(run, tmp_path: Path) -> None:
    value = evaluate(run)
    cost = {
        "parameters": 2_000_000,
        "image_macs": 3_000_000,
        "images_per_second": {"value": 120.0, "low": 110.0},
    }
    value["cost"] = {
        "teacher": cost,
        "student": {**cost, "images_per_second": {"value": 240.0}, "image_macs": "x"},
    }
    write_json(run.folder / "zero-shot.json", value)
    page = report(run.folder, out=tmp_path / "page.html")
    for words in ("2.00 M", "images a second", "240", "200 % of the teacher's", "Images a second and score"):
        assert words in page.text, words


def test_scores_of_other_weights_are_named(run) -> None:
    file = run.student / "model.safetensors"
    weights = load_file(file)
    weights["logit_scale"] = np.asarray(weights["logit_scale"] + 1)
    save_file(weights, file)
    read = read_report_run(run.folder, "one")
    assert any("zero-shot.json was made of other weights" in problem for problem in read.problems)
    assert any("bias.json was made of other weights" in problem for problem in read.problems)


def test_which_runs_are_shown_and_what_they_are_called(tmp_path: Path) -> None:
    for name in ("a/2026-01-01-kl", "a/2026-01-02-mse", "b/2026-01-02-mse", "a/teacher"):
        make_run(tmp_path / name)
    folders = find_runs([tmp_path / "a", tmp_path / "b" / "2026-01-02-mse", tmp_path / "a" / "2026-01-01-kl"])
    names = name_runs(folders)
    assert len(folders) == 4
    assert names[0] == "kl"
    assert len(set(names)) == 4
    assert not {"teacher"} & set(names), "that name is the teacher's"
    with pytest.raises(ConfigError, match="expected a run, or a folder of runs"):
        find_runs([tmp_path])


def test_more_runs_than_a_page_shows_are_refused_but_for_a_study_whose_ranking_has_them(
    tmp_path: Path,
) -> None:
    folders = [tmp_path / str(number) for number in range(MAX_RUNS + 1)]
    with pytest.raises(ConfigError, match="at most 64"):
        within_bounds(folders, [])
    shown, (ranked,) = within_bounds(folders, [read_ranked(make_study(tmp_path) / "study.json")])
    assert shown == folders[:MAX_RUNS]
    assert ranked.notes[-1].startswith("Of 65 runs the first 64 are shown one by one")


def test_a_ranking_names_its_seeds_and_says_once_what_failed(tmp_path: Path) -> None:
    file = make_study(tmp_path) / "study.json"
    value = json.loads(file.read_text())
    arm = value["arms"][0]
    arm |= {
        "runs": [{"seed": seed} for seed in (7, 8, 11)],
        "verdict": "best, 1 run failed",
        "failures": {"9": "no"},
    }
    file.write_text(json.dumps(value))
    ranked = read_ranked(file)
    assert ranked.arms[0].scores["animals/top-1"].seeds == (7, 8, 11)
    assert ranked.arms[0].verdict == "best, 1 run failed"
    with drawing():
        rows = ranked_plots(ranked)[0].rows
    assert [row["seed"] for row in rows] == [7, 8, 11, None, None, None]


def test_the_command_of_the_cache_names_all_that_the_run_knows_of_it(tmp_path: Path) -> None:
    run = make_run(tmp_path / "one")
    source = {"spec": "photos.parquet", "split": "train", "image_column": "photo", "caption_column": "label"}
    source |= {"template": "a photo of a {}.", "filters": {"min_words": 3, "clean": True}}
    run = run.update(teacher={"model": "openai/clip", "revision": "abc"}, data=[source])
    commands = _commands(read_report_run(run.folder, "one"))
    assert commands[0].startswith("# The cache's views, augmentation and limit: mmkd cache inspect")
    assert commands[1] == (
        "mmkd cache-teacher --teacher openai/clip --revision abc --data photos.parquet --split train "
        "--image-column photo --caption-column label --template 'a photo of a {}.' --min-words 3 "
        "--out /nowhere/cache --clean-captions"
    )


def test_bad_targets_are_refused_in_one_line(run, tmp_path: Path) -> None:
    for arguments in (["--out", tmp_path / "page.txt"], ["--out", tmp_path]):
        done = mmkd("report", run.folder, *arguments)
        assert done.returncode == 1
        assert len(done.stderr.strip().splitlines()) == 1
    assert mmkd("report", "--work", tmp_path / "empty").returncode == 1


def test_names_of_plots_are_safe_and_differ() -> None:
    figure = new_figure(1.0)
    plots = [Plot(name, "", "", figure, []) for name in ("../../etc", "a/b", "a-b", "A-b", "", "..")]
    name_apart(plots)
    assert len({plot.name.lower() for plot in plots}) == len(plots)
    assert all(re.fullmatch(r"[A-Za-z0-9+@_-][A-Za-z0-9+@._-]*", plot.name) for plot in plots)


def test_the_teachers_mark_is_nobody_elses() -> None:
    teacher = mark(0)
    assert all(mark(place)["color"] != teacher["color"] for place in range(1, 40))
    assert mark(1, known=False)["markerfacecolor"] != mark(1)["markerfacecolor"]


def test_a_long_curve_is_thinned_by_means() -> None:
    steps, values = thin(list(range(10_000)), [float(step % 2) for step in range(10_000)])
    assert len(values) <= 400
    assert set(values[:-1]) <= {0.48, 0.52, 0.5}
    assert steps[-1] == 9_999
    assert thin([1.0], [2.0]) == ([1.0], [2.0])
    assert shorten("a-name-that-is-far-too-long-to-fit", 12) == "a-nam…to-fit"


@pytest.mark.skipif(find_chromium() is None, reason="no chromium here")
def test_a_real_browser_finds_nothing_wrong(run, tmp_path: Path, tiny_clip: Path) -> None:
    long = make_run(tmp_path / "runs" / ("a-name-without-any-place-to-break-it" * 3), tiny_clip)
    evaluate(long, top_1=0.36, name="asetwhosenameisverylong" * 5, source="/a/path" * 30)
    judge_bias(long, withheld=["student: " + "unbreakable" * 20])
    page = tmp_path / "page.html"
    report(run.folder, long.folder, out=page)
    with Browser(str(find_chromium())) as browser:
        for width in (390, 1440):
            for dark in (False, True):
                seen = browser.show(page, width=width, dark=dark)
                assert (seen.errors, seen.requests, seen.overflowing) == ([], [], []), (width, dark)
                assert seen.svgs == 15
                assert "keeps 82 %" in seen.text
        assert browser.show(page, width=800, paper=True).overflowing == []
