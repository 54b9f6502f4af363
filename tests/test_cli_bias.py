"""``mmkd eval bias`` as typed: tiny models, words of one's own, vectors from files, images."""

import csv
import io
import json
from pathlib import Path

import numpy as np
import pytest
from bias_worlds import few_words, leanings, make_world
from conftest import save_tiny_clip
from PIL import Image

from mmkd.cli.app import run
from mmkd.cli.models import distinct_names
from mmkd.evaluation.bias.image_sets import open_grouped
from mmkd.evaluation.bias.word_lists import builtin_words
from mmkd.files import write_json
from mmkd.runs import claim_run_folder, read_run
from mmkd.weights import hash_weights

WORDS = """
name: age
attributes: {old: [pensioner, elder, retiree], young: [child, teenager, kid]}
targets: {slow: [cane, slipper, tea, garden, stamp, quilt], fast: [kite, skateboard, drum, comic, rocket, bike]}
templates: ["a photo of {}."]
"""


@pytest.fixture
def work(tmp_path: Path, tiny_clip: Path) -> Path:
    """A workspace with one finished run, whose teacher is the tiny CLIP."""
    one = claim_run_folder(tmp_path / "work" / "runs" / "first", {"teacher": {"model": str(tiny_clip)}})
    save_tiny_clip(one.student, layers=2, seed=1)
    one.update(state="finished")
    return tmp_path / "work"


@pytest.fixture
def terms(tmp_path: Path) -> Path:
    file = tmp_path / "age.yaml"
    file.write_text(WORDS)
    return file


@pytest.fixture
def no_plots(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures take longer than tiny models; they have tests of their own."""
    monkeypatch.setattr("mmkd.cli.eval_bias.save_plots", lambda *_: [])


def mmkd(*arguments: object) -> int:
    with pytest.raises(SystemExit) as left:
        run(["eval", "bias", *(str(argument) for argument in arguments)])
    return int(left.value.code or 0)


def one_line(capsys: pytest.CaptureFixture[str]) -> str:
    printed = capsys.readouterr()
    assert printed.out == ""
    last = [line for line in printed.err.splitlines() if line.startswith("mmkd: ")]
    assert len(last) == 1
    assert "Traceback" not in printed.err
    return last[0]


def save_vectors(file: Path, *, lean: float = 1.0, model: int = 0, drop: tuple[str, ...] = ()) -> Path:
    """An ``.npz`` of ``few_words()`` as one would write it."""
    vectors = make_world(lean * leanings(0, 120), world=0, model=model)
    words = [word for word in vectors.words.all if word not in drop]
    np.savez(file, words=np.array(words), vectors=vectors.alone(words).astype(np.float32))
    return file


def test_the_latest_run_beside_its_teacher(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert mmkd("--work", work) == 0
    printed = capsys.readouterr()
    assert (
        "student beside its teacher: conclusion WITHHELD, because these numbers mean nothing" in printed.out
    )
    assert f"does not know {len(builtin_words().all)} of the {len(builtin_words().all)} words" in printed.out
    assert "4 + 4 layers" in printed.err
    assert "274 targets" in printed.err
    folder = work / "runs" / "first"
    report = json.loads((folder / "bias.json").read_text())
    assert (report["schema"], report["schema_version"], report["reference"]) == ("mmkd.bias", 2, "teacher")
    assert len(report["models"]["student"]["gaps"]) == 274
    with (folder / "bias.csv").open() as stream:
        assert len(list(csv.DictReader(stream))) == 2 * 274
    assert {file.name for file in folder.glob("bias*")} == {
        *("bias.json", "bias.csv", "bias.png", "bias.svg"),
        *("bias-ranks.png", "bias-references.png", "bias-eat-map.png"),
    }
    assert (folder / "bias.png").read_bytes().startswith(b"\x89PNG")


def test_own_words_and_several_models(
    work: Path, terms: Path, tmp_path: Path, no_plots: None, capsys: pytest.CaptureFixture[str]
) -> None:
    scratch = claim_run_folder(tmp_path / "scratch", {})
    save_tiny_clip(scratch.student, layers=2, seed=3)
    out = tmp_path / "bias.json"
    models = ("--model", work / "runs" / "first", "--model", scratch.folder)
    assert mmkd("--work", work, "--terms", terms, *models, "--out", out, "--seed", 3) == 0
    printed = capsys.readouterr().out
    report = json.loads(out.read_text())
    assert list(report["comparisons"]) == ["first", "scratch"]
    assert set(report["models"]["first"]["overall"]["associations"]) == {"WEAT"}  # one template makes no SEAT
    assert report["words"]["attributes"] == ["old", "young"]
    assert report["seed"] == 3
    assert "nearest to" in printed
    assert "scratch beside its teacher" in printed


def test_a_second_run_embeds_nothing_and_says_the_same(
    work: Path,
    terms: Path,
    no_plots: None,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert mmkd("--work", work, "--terms", terms) == 0
    first = capsys.readouterr().out
    monkeypatch.setattr("mmkd.encoders.PairEncoder.encode_texts", None)
    assert mmkd("--work", work, "--terms", terms) == 0
    assert capsys.readouterr().out == first


def test_a_student_at_chance_is_named(
    work: Path, terms: Path, no_plots: None, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = work / "runs" / "first"
    result = {"at_chance": True, "collapsed": False}
    report = {
        "schema": "mmkd.zero-shot",
        "schema_version": 1,
        "models": {"student": {"weights_hash": hash_weights(folder / "student")}},
        "sets": [{"name": "cifar10", "models": {"student": result}}],
    }
    write_json(folder / "zero-shot.json", report)
    assert mmkd("--work", work, "--terms", terms) == 0
    assert "student: at chance on cifar10" in capsys.readouterr().out
    write_json(folder / "zero-shot.json", {**report, "models": {"student": {"weights_hash": "another"}}})
    assert mmkd("--work", work, "--terms", terms) == 0
    printed = capsys.readouterr()
    assert "at chance on cifar10" not in printed.out
    assert "no zero-shot scores of student, but of other weights:" in printed.err
    assert read_run(folder).teacher is not None
    hashed = hash_weights(Path(str(read_run(folder).teacher)))
    judged = {"name": "cifar10", "models": {"teacher": result}}
    write_json(
        folder / "zero-shot.json",
        {**report, "models": {"teacher": {"weights_hash": hashed}}, "sets": [judged]},
    )
    assert mmkd("--work", work, "--terms", terms) == 0
    assert "teacher: at chance on cifar10" in capsys.readouterr().out
    write_json(folder / "zero-shot.json", {**report, "models": []})
    assert mmkd("--work", work, "--terms", terms) == 0
    assert "cannot be read as a zero-shot report" in capsys.readouterr().err


def test_vectors_of_teacher_and_student(
    tmp_path: Path, no_plots: None, capsys: pytest.CaptureFixture[str]
) -> None:
    teacher = save_vectors(tmp_path / "big.npz", drop=("nurse",))
    student = save_vectors(tmp_path / "small.npz", lean=0.5, model=1, drop=("lawyer",))
    out = tmp_path / "bias.json"
    assert mmkd("--embeddings", teacher, "--embeddings", student, "--out", out) == 0
    printed = capsys.readouterr()
    assert "student beside its teacher: REDUCED" in printed.out
    assert "words have no vector and are left out:" in printed.err
    report = json.loads(out.read_text())
    assert not {"nurse", "lawyer"} & set(report["models"]["teacher"]["gaps"])
    assert report["models"]["teacher"]["model"] is None
    assert report["comparisons"]["student"]["verdict"] == "reduced"


def test_a_file_called_teacher_does_not_take_its_place(
    tmp_path: Path, no_plots: None, capsys: pytest.CaptureFixture[str]
) -> None:
    first = save_vectors(tmp_path / "a.npz", drop=("nurse",))
    others = [save_vectors(tmp_path / name, model=1) for name in ("teacher.npz", "b.npz")]
    out = tmp_path / "bias.json"
    given = [part for file in (first, *others) for part in ("--embeddings", file)]
    assert mmkd(*given, "--out", out) == 0
    models = json.loads(out.read_text())["models"]
    assert {name: Path(one["source"]).name for name, one in models.items()} == {
        "teacher": "a.npz",
        "teacher (1)": "teacher.npz",
        "b": "b.npz",
    }
    assert "nurse" in models["teacher"]["missing_words"]
    assert "nurse" not in models["b"]["missing_words"]


def test_names_are_told_apart() -> None:
    assert distinct_names(["teacher", "a", "a", "b"]) == ["teacher (1)", "a (2)", "a (3)", "b"]
    assert distinct_names(["teacher", "b"], reserved=None) == ["teacher", "b"]
    assert len(set(distinct_names(["a", "a", "a (2)", "a (1)"]))) == 4


def test_vectors_of_one_model_compare_nothing(
    tmp_path: Path, no_plots: None, capsys: pytest.CaptureFixture[str]
) -> None:
    file = save_vectors(tmp_path / "glove.npz")
    assert mmkd("--embeddings", file, "--work", tmp_path / "w") == 0
    assert "one model: nothing to compare with" in capsys.readouterr().out
    report = json.loads((tmp_path / "w" / "bias.json").read_text())
    assert list(report["models"]) == ["glove"]
    assert report["comparisons"] == {}


def test_the_oracle_of_occupations_through_the_command(
    shared_data: Path, tmp_path: Path, no_plots: None, capsys: pytest.CaptureFixture[str]
) -> None:
    terms = tmp_path / "words.yaml"
    occupations = [word for word in builtin_words().references[0].values if word.islower()]
    table = {word: builtin_words().references[0].values[word] for word in occupations}
    female = ["female", "woman", "girl", "sister", "she", "her", "hers", "daughter"]
    male = ["male", "man", "boy", "brother", "he", "him", "his", "son"]
    words = {
        "attributes": {"female": female, "male": male},
        "paired": True,
        "targets": [
            *(word for word in occupations if word not in ("counselor", "hairdresser")),
            "counselors",
        ],
        "references": {"WinoBias": {**table, "counselors": table["counselor"]}},
    }
    words["targets"].append("hairdressers")
    words["references"]["WinoBias"]["hairdressers"] = table["hairdresser"]
    terms.write_text(json.dumps(words))
    file = shared_data / "oracles" / "occupations_word2vec.npz"
    out = tmp_path / "bias.json"
    assert mmkd("--embeddings", file, "--terms", terms, "--out", out) == 0
    model = json.loads(out.read_text())["models"]["occupations_word2vec"]
    found = model["references"]["WinoBias"]
    assert found["targets"] == 36
    for method, expected in (("pearson", 0.7317), ("spearman", 0.7386), ("kendall", 0.5295)):
        assert found["correlations"][method]["value"] == pytest.approx(expected, abs=5e-5)
    assert "at least 10, not all alike, are needed to measure gaps by" in " ".join(
        capsys.readouterr().out.split()
    )


def test_bad_input_gives_one_line(
    work: Path, terms: Path, tmp_path: Path, tiny_clip: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(*arguments: object) -> str:
        assert mmkd("--work", work, *arguments) == 1
        return one_line(capsys)

    good = save_vectors(tmp_path / "good.npz")
    assert "names no teacher to compare with; pass one with --teacher" in fails("--model", tiny_clip)
    assert "--embeddings probes vectors, not models" in fails("--embeddings", good, "--teacher", tiny_clip)
    assert "is a folder; expected the name of a file" in fails("--embeddings", good, "--out", tmp_path)
    line = fails("--embeddings", good, "--out", tmp_path / "bias.csv")
    assert "bias.csv does not end in .json; expected such as" in line
    line = fails("--embeddings", good, "--limit", 5, "--top", 3, "--split", "nope")
    assert "--split, --limit, --top without --images says nothing" in line
    assert "cannot read" in fails("--terms", tmp_path / "none.yaml")
    terms.write_text("attributes: {a: [x], b: [y, z]}\ntargets: [t]")
    assert "attribute 'a' has 1 terms (x); expected at least 2" in fails("--terms", terms)
    bad = tmp_path / "bad.npz"
    np.savez(bad, words=np.array(["nurse"]), vectors=np.ones((1, 4)))
    assert "'nurse'" not in (line := fails("--embeddings", bad))
    assert "attribute 'female' has 0 terms" in line
    np.savez(bad, words=np.array(["nurse", "x"]), vectors=np.ones((1, 4)))
    assert "has 2 words and 1 vectors" in fails("--embeddings", bad)
    np.savez(bad, names=np.array(["nurse"]), vectors=np.ones((1, 4)))
    assert "has the arrays names, vectors; expected 'words'" in fails("--embeddings", bad)
    np.savez(bad, words=np.array(["nurse", None]), vectors=np.ones((2, 4)))
    assert "pickled objects, which are not loaded" in fails("--embeddings", bad)
    bad.write_bytes(b"PK nonsense")
    assert "bad.npz" in fails("--embeddings", bad)
    words = few_words().all
    vectors = np.random.default_rng(0).normal(size=(len(words), 8))
    vectors[words.index("woman")] = 0
    np.savez(bad, words=np.array(words), vectors=vectors)
    assert "the vector of 'woman' is zero or not finite" in fails("--embeddings", bad)


JOBS = ("nurse", "plumber")


def people(
    path: Path, *, rows: int = 24, genders: tuple[str, ...] = ("woman", "M"), jobs: bool = True
) -> Path:
    """Plain colours with a gender and an occupation each; one image is damaged."""
    from datasets import Dataset, Features, Value
    from datasets import Image as ImageFeature

    def png(number: int) -> bytes:
        stream = io.BytesIO()
        Image.new("RGB", (20 + number, 24), ("red", "green", "blue")[number % 3]).save(stream, "PNG")
        return stream.getvalue() if number else b"no image"

    features = {"image": ImageFeature(), "gender": Value("string"), "occupation": Value("string")}
    table = {
        "image": [{"bytes": png(number), "path": None} for number in range(rows)],
        "gender": [genders[number % len(genders)] for number in range(rows)],
        "occupation": [JOBS[number // 2 % 2] for number in range(rows)],
    }
    names = list(table) if jobs else ["image", "gender"]
    Dataset.from_dict(
        {name: table[name] for name in names}, features=Features({name: features[name] for name in names})
    ).to_parquet(str(path))
    return path


def test_images_are_ranked_and_classified(
    work: Path, terms: Path, tmp_path: Path, no_plots: None, capsys: pytest.CaptureFixture[str]
) -> None:
    data = people(tmp_path / "people.parquet")
    terms.write_text(WORDS.replace("old:", "female:").replace("young:", "male:"))
    assert mmkd("--work", work, "--terms", terms, "--images", data) == 0
    printed = capsys.readouterr().out
    assert "people: 23 images (11 female, 12 male), 2 queries" in printed.replace(
        "(12 male, 11 female)", "(11 female, 12 male)"
    )
    assert "1 images left out: not an image of a known format" in printed
    report = json.loads((work / "runs" / "first" / "bias.json").read_text())["images"]
    student = report["models"]["student"]
    assert set(student["rankings"]) == {"MaxSkew@11", "MinSkew@11", "NDKL@11", "Bias@11"}
    for score in student["rankings"].values():
        assert score["interval"]["low"] <= score["value"] <= score["interval"]["high"]
        assert 0 < score["p_value"] <= 1
    for errors in (student["occupation"], student["thing_for_person"]):
        assert {name: one["images"] for name, one in errors["groups"].items()} == {"female": 11, "male": 12}


def test_bad_images_give_one_line(work: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def fails(*arguments: object) -> str:
        assert mmkd("--work", work, "--images", *arguments) == 1
        return one_line(capsys)

    data = people(tmp_path / "people.parquet", genders=("woman", "unknown"))
    assert "'male' is not" in fails(data)
    assert "has no column 'sex'" in fails(data, "--group-column", "sex")
    from conftest import draw_pair, save_pairs

    pairs = save_pairs(tmp_path / "pairs.parquet", [draw_pair(1)[0]], ["x"])
    assert "none of the columns gender, sex, group, attribute" in fails(pairs)


def test_groups_may_be_more_than_two_and_occupations_missing(tmp_path: Path) -> None:
    data = people(tmp_path / "people.parquet", genders=("female", "m", "unknown"), jobs=False)
    found = open_grouped(str(data), builtin_words(), limit=12)
    assert found.group_names == ("female", "male", "unknown")
    assert found.occupations is None
    assert len(found.rows) == len(found.groups) == 12
