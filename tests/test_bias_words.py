"""Word lists, their grammar, and lists of one's own."""

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from mmkd.encoders import load_encoder
from mmkd.errors import ConfigError, ModelError
from mmkd.evaluation.bias.gaps import term_cosines
from mmkd.evaluation.bias.model import measure_model
from mmkd.evaluation.bias.vectors import embed_words, take_vectors
from mmkd.evaluation.bias.word_lists import builtin_words, read_words
from mmkd.evaluation.bias.words import BiasWords, check_words, is_known, sentence, token_count, with_article


@pytest.fixture(scope="module")
def words() -> BiasWords:
    return builtin_words()


@pytest.mark.parametrize(
    ("noun", "expected"),
    [
        ("nurse", "a nurse"),
        ("actor", "an actor"),
        ("CEO", "a CEO"),
        ("MP", "an MP"),
        ("hourly worker", "an hourly worker"),
        ("university teacher", "a university teacher"),
        ("usher", "an usher"),
        ("umpire", "an umpire"),
        ("undersecretary", "an undersecretary"),
        ("understudy", "an understudy"),
        ("unimpressed judge", "an unimpressed judge"),
        ("aunt", "an aunt"),
        ("uncle", "an uncle"),
        ("electrician", "an electrician"),
        ("economics professor", "an economics professor"),
        ("human", "a human"),
        ("Ukrainian", "a Ukrainian"),
        ("Ugandan", "a Ugandan"),
        ("Uruguayan", "a Uruguayan"),
        ("urologist", "a urologist"),
        ("urchin", "an urchin"),
        ("X-ray technician", "an X-ray technician"),
        ("T-shirt", "a T-shirt"),
        ("onerous task", "an onerous task"),
        ("one-man band", "a one-man band"),
        ("8-year-old", "an 8-year-old"),
        ("18-year-old", "an 18-year-old"),
        ("11", "an 11"),
        ("110", "a 110"),
        ("80", "an 80"),
    ],
)
def test_articles(noun: str, expected: str) -> None:
    assert with_article(noun) == expected
    assert sentence("a photo of {}.", noun) == f"a photo of {expected}."


def test_builtin_words(words: BiasWords) -> None:
    assert words.attributes == ("female", "male")
    assert len(words.first) == len(words.second) == 12
    assert len(words.templates) == 12
    assert len(words.targets) == len(set(words.targets)) == 274
    assert {"nurse", "CEO", "sewer", "firefighter", "adjunct professor"} <= set(words.targets)
    assert [len(group) for group in words.groups.values()] == [20, 20]
    assert len(words.controls) >= 60
    assert len(words.knowledge) >= 30
    assert not {*words.neutral} & {*words.terms}
    assert not set(words.controls) & {thing for _, thing in words.knowledge}
    for noun, thing in words.knowledge:
        assert not set(noun.split()) & set(thing.split())
    for one in words.sources:
        assert set(one) == {"name", "source", "year", "licence"}
        assert one["source"]
        assert one["licence"]
    assert "CC BY 4.0" in words.references[2].licence


def test_all_320_of_bolukbasi_are_accounted_for(shared_data: Path) -> None:
    import yaml

    rows = json.loads((shared_data / "bias" / "professions_bolukbasi.json").read_text())
    ours = next(
        one
        for one in yaml.safe_load(Path("configs/bias/professions.yaml").read_text())["lists"]
        if one["name"] == "Bolukbasi"
    )
    taken, gendered, none = (ours[key] for key in ("professions", "gendered_by_definition", "no_professions"))
    assert len(rows) == len(taken) + len(gendered) + len(none) == 320
    plain = {
        name.replace("_", " ").replace("-", " ").replace("'s", "") for name in (*taken, *gendered, *none)
    }
    assert plain == {row[0].replace("_", " ") for row in rows}
    assert set(gendered) == {row[0].replace("_", " ") for row in rows if abs(row[1]) >= 0.4}


def test_percent_women_are_the_published_tables(shared_data: Path, words: BiasWords) -> None:
    columns = {
        "winobias_percent_women.tsv": ("occupation", "percent_women"),
        "winogender_occupations_stats.tsv": ("occupation", "bls_pct_female"),
        "visogender_us_statistics.tsv": ("Visogender Occupations", "female_proportion"),
    }
    spelt = {"counselors": "counselor", "hairdressers": "hairdresser", "counsellor": "counselor"}
    for table, (file, (name, value)) in zip(words.references, columns.items(), strict=True):
        with (shared_data / "bias" / file).open() as stream:
            rows = list(csv.DictReader(stream, delimiter="\t"))
        assert table.values == {spelt.get(row[name], row[name]): float(row[value]) for row in rows}


def test_the_real_tokenizer_knows_every_word(shared_data: Path, words: BiasWords) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(shared_data / "clip-tokenizer")
    assert [word for word in words.all if not is_known(word, tokenizer)] == []
    assert token_count("nurse", tokenizer) == 1
    assert token_count("cab driver", tokenizer) == 2


def test_embedded_words_equal_a_plain_loop(tiny_clip: Path, words: BiasWords) -> None:
    encoder = load_encoder(tiny_clip, device=torch.device("cpu"))
    few = replace(
        words,
        first=words.first[:2],
        second=words.second[:2],
        targets=("nurse", "actor"),
        groups={},
        controls=words.controls[:2],
        knowledge=words.knowledge[:1],
        templates=("a photo of {}.", "this is {}."),
    )
    steps: list[int] = []
    found = embed_words(encoder, few, batch_size=5, progress=steps.append)
    assert sum(steps) == len(few.all) * 3

    def unit(text: str) -> np.ndarray:
        vector = encoder.encode_texts([text])[0].double().numpy()
        return vector / np.linalg.norm(vector)

    model = measure_model(found)
    for row, noun in enumerate(("a nurse", "an actor")):
        gaps = []
        for template in few.templates:
            target = unit(template.replace("{}", noun))
            cosine = [target @ unit(template.replace("{}", with_article(term))) for term in few.terms]
            gaps.append(np.mean(cosine[:2]) - np.mean(cosine[2:]))
        assert model.gaps.raw[row] == pytest.approx(np.mean(gaps), abs=1e-6)
    assert found.alone(["actor"])[0] == pytest.approx(unit("actor"), abs=1e-6)
    assert found.tokens["nurse"] == 5  # the tiny tokenizer has one token a byte
    near = term_cosines(found.of(few.targets), found.of(["woman"])).mean(axis=0)[:, 0]
    assert model.top(1)["woman"] == [few.targets[int(near.argmax())]]


def test_a_tokenizer_of_single_letters_knows_no_word(tiny_clip: Path, words: BiasWords) -> None:
    encoder = load_encoder(tiny_clip, device=torch.device("cpu"))
    few = replace(words, templates=words.templates[:1])
    model = measure_model(embed_words(encoder, few))
    assert set(model.vectors.unknown) == set(words.all)
    assert any("never saw them" in doubt for doubt in model.doubts)


def test_own_words_take_what_they_leave_out_from_the_builtin(tmp_path: Path, words: BiasWords) -> None:
    file = tmp_path / "age.yaml"
    file.write_text(
        "name: age\nattributes:\n  old: [pensioner, elder, retiree]\n  young: [child, teenager]\n"
        "targets: {frail: [wheelchair, cane], brisk: [skateboard, kite]}\ncontrols: [table, cane, chair]\n"
        "references: {made up: {cane: 3, kite: 1.5}}\nsource: me\nyear: 2026\nlicence: CC0\narticle: false\n"
    )
    found = read_words(file)
    assert (found.name, found.attributes, found.paired, found.neutral) == ("age", ("old", "young"), False, ())
    assert found.targets == ("wheelchair", "cane", "skateboard", "kite")
    assert list(found.groups) == ["frail", "brisk"]
    assert found.templates == words.templates
    assert found.controls == ("table", "chair")  # a target is no control
    assert found.references[0].values == {"cane": 3.0, "kite": 1.5}
    assert found.sources[0] == {"name": "age", "source": "me", "year": 2026, "licence": "CC0"}
    assert found.sentence("a photo of {}.", "cane") == "a photo of cane."


GOOD = {"attributes": {"old": ["elder", "retiree"], "young": ["child", "kid"]}, "targets": ["cane", "kite"]}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"attributes": {"old": [], "young": ["child", "kid"]}}, "'old' has 0 terms"),
        ({"attributes": {"old": ["elder"], "young": ["child", "kid"]}}, r"'old' has 1 terms \(elder\)"),
        ({"attributes": {"old": ["a", "b"], "young": ["b", "a"]}}, "two attributes are the same"),
        ({"attributes": {"old": ["a", "b"], "young": ["b", "c"]}}, "'b' belong to both"),
        ({"attributes": {"old": ["a", "b"]}}, "1 attributes; expected two"),
        ({"attributes": {"old": ["a", "b", "b"], "young": ["c", "d"]}}, "'b' twice"),
        (
            {"attributes": {"old": ["a", "b", "e"], "young": ["c", "d"]}, "paired": True},
            "3 terms of 'old' and 2",
        ),
        ({"attributes": {"old": ["a", True], "young": ["c", "d"]}}, "no list of words"),
        ({"targets": []}, "no target is left"),
        ({"targets": ["elder", "cane"]}, "'elder' are targets and terms"),
        ({"targets": {"one": ["cane"]}}, "targets in 1 groups"),
        ({"targets": {"one": ["cane"], "two": ["cane"]}}, "in both groups"),
        ({"targets": [" "]}, "a blank word"),
        ({"templates": ["a photo"]}, "expected one {} where the noun goes"),
        ({"templates": []}, "no templates"),
        ({"target": ["x"]}, "unknown key 'target'; did you mean 'targets'"),
        ({"references": {"x": ["cane"]}}, "'x' is no table"),
        ({"neutral": "person"}, "'neutral' is of type str"),
    ],
)
def test_own_words_that_make_no_test_are_refused(change: dict, message: str, tmp_path: Path) -> None:
    import yaml

    file = tmp_path / "words.yaml"
    file.write_text(yaml.safe_dump({**GOOD, **change}))
    with pytest.raises(ConfigError, match=message):
        read_words(file)


def test_own_words_must_have_attributes_and_targets(tmp_path: Path) -> None:
    file = tmp_path / "words.yaml"
    file.write_text("targets: [a]\n")
    with pytest.raises(ConfigError, match="has no 'attributes'"):
        read_words(file)
    file.write_text("- a\n")
    with pytest.raises(ConfigError, match="holds no mapping"):
        read_words(file)


def test_vectors_of_others_are_found_and_what_is_missing_is_listed(words: BiasWords) -> None:
    names = ["nurse", "adjunct_professor", "ceo", *words.first[:3], *words.second[:2]]
    vectors = np.random.default_rng(0).normal(size=(len(names), 5))
    found = take_vectors(names, vectors, words, source="x.npz")
    assert set(found.words.targets) == {"nurse", "adjunct professor", "CEO"}
    # A pair goes when one of its words does.
    assert found.words.terms == (*words.first[:2], *words.second[:2])
    assert found.alone(["CEO"])[0].tolist() == vectors[2].tolist()
    assert "lawyer" in found.missing
    with pytest.raises(ConfigError, match=r"'female' has 1 terms \(woman\); expected at least 2"):
        take_vectors(["nurse", "woman", "man"], vectors[:3], words, source="x")
    with pytest.raises(ConfigError, match="no target is left"):
        take_vectors(names[3:], vectors[3:], words, source="x")
    vectors[0] = 0
    with pytest.raises(ModelError, match="the vector of 'nurse' is zero"):
        take_vectors(names, vectors, words, source="x")
    with pytest.raises(ModelError, match=r"expected \(words, width\)"):
        take_vectors(names, vectors[:2], words, source="x")


def test_checks_hold_for_the_builtin_words(words: BiasWords) -> None:
    with pytest.raises(ConfigError, match=r"here: .*expected one \{\}"):
        check_words(replace(words, templates=("{} {}",)), "here")


def test_own_lists_are_not_credited_to_the_built_in_sources(tmp_path: Path) -> None:
    file = tmp_path / "own.yaml"
    text = "attributes: {a: [x, y], b: [z, w]}\ntargets: [t]\nname: mine\n"
    built_in = [one["name"] for one in builtin_words().sources[-2:]]
    for more, expected in (
        ("", built_in),
        ("controls: [stone, river]\n", built_in[1:]),
        ("knowledge: {nurse: hospital}\n", built_in[:1]),
    ):
        file.write_text(text + more)
        assert [one["name"] for one in read_words(file).sources] == ["mine", *expected]
