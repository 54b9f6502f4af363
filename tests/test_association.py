"""Association tests: published oracles, SciPy, laws, and values by hand."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import permutation_test, spearmanr

from mmkd.evaluation.bias import (
    cosines,
    direct_bias,
    ect,
    gender_direction,
    mac,
    ml_eat,
    rnd,
    rnsb,
    same,
    seat,
    weat,
)
from mmkd.evaluation.bias.association import association
from mmkd.evaluation.bias.classifier import attribute_probability, divergence


@pytest.fixture(scope="module")
def oracle(shared_data: Path) -> Any:
    """Word2vec vectors of the word sets of two published tests, by the set's name."""
    arrays = np.load(shared_data / "oracles" / "weat_word2vec.npz")
    vectors = dict(zip(arrays["words"].tolist(), arrays["vectors"], strict=True))
    sets = json.loads((shared_data / "oracles" / "weat_sets.json").read_text())
    return {name: np.array([vectors[word] for word in words]) for name, words in sets.items()}


def test_weat_of_names_with_career_and_family(oracle: Any) -> None:
    found = weat(oracle["male_names"], oracle["female_names"], oracle["career"], oracle["family"])
    assert found.statistic == pytest.approx(1.2516100, abs=1e-6)
    assert found.effect_size_population == pytest.approx(1.9518473, abs=1e-6)
    assert found.effect_size == pytest.approx(1.8898680, abs=1e-6)
    assert found.p_value == pytest.approx(1 / 12_870)
    assert found.exact


def test_weat_of_math_and_arts_with_gender(oracle: Any) -> None:
    found = weat(oracle["math"], oracle["arts"], oracle["male_terms"], oracle["female_terms"])
    assert found.statistic == pytest.approx(0.2254614, abs=1e-6)
    assert found.effect_size_population == pytest.approx(0.9981079, abs=1e-6)
    assert found.effect_size == pytest.approx(0.9664139, abs=1e-6)
    assert found.p_value == pytest.approx(0.0226884, abs=1e-6)


def test_rnd_ect_and_mac_of_gender_with_career(oracle: Any) -> None:
    male, female, career = oracle["male_terms"], oracle["female_terms"], oracle["career"]
    assert rnd(male, female, career) == pytest.approx(-0.1653028, abs=1e-6)
    assert ect(male, female, career) == pytest.approx(0.7619048, abs=1e-6)
    assert mac(career, [male, female]) == pytest.approx(0.9313660, abs=1e-6)


def test_p_is_scipys_exact_permutation_test() -> None:
    generator = np.random.default_rng(0)
    x, y, a, b = (generator.normal(size=(n, 12)) for n in (5, 6, 4, 3))
    x += 0.6 * a.mean(axis=0)
    found = weat(x, y, a, b)
    groups = association(x, a, b), association(y, a, b)
    expected = permutation_test(
        groups,
        lambda one, two, axis: one.sum(axis) - two.sum(axis),
        alternative="greater",
        n_resamples=np.inf,
    )
    assert found.statistic == pytest.approx(expected.statistic)
    assert found.p_value == pytest.approx(expected.pvalue)


def test_drawn_divisions_agree_with_all_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = np.random.default_rng(1)
    sets = [generator.normal(size=(8, 20)) for _ in range(4)]
    exact = weat(*sets)
    monkeypatch.setattr("mmkd.evaluation.bias.association.MOST_EXACT", 0)
    drawn = weat(*sets)
    assert (exact.exact, drawn.exact) == (True, False)
    assert drawn.p_value == pytest.approx(exact.p_value, abs=0.01)
    assert drawn == weat(*sets)


def test_laws_of_weat() -> None:
    generator = np.random.default_rng(2)
    x, y, a, b = (generator.normal(size=(5, 9)) for _ in range(4))
    found, swapped, turned = weat(x, y, a, b), weat(y, x, a, b), weat(x, y, b, a)
    assert swapped.statistic == turned.statistic == pytest.approx(-found.statistic)
    assert turned.effect_size == pytest.approx(-found.effect_size)
    rotation = np.linalg.qr(generator.normal(size=(9, 9)))[0]
    rotated = weat(*(3 * one @ rotation for one in (x, y, a, b)))
    assert rotated.effect_size == pytest.approx(found.effect_size)
    assert rotated.p_value == found.p_value


def test_by_hand() -> None:
    east, north = np.array([[2.0, 0.0]]), np.array([[0.0, 5.0]])
    targets = np.array([[1.0, 0.0], [3.0, 4.0]])
    assert cosines(targets, east).tolist() == [[1.0], [0.6]]
    assert association(targets, east, north) == pytest.approx([1.0, -0.2])
    # Distances from (2, 0): 1 and sqrt(17); from (0, 5): sqrt(26) and sqrt(10).
    assert rnd(east, north, targets) == pytest.approx((1 - 26**0.5 + 17**0.5 - 10**0.5) / 2)
    assert ect(east, north, targets) == pytest.approx(-1)
    assert mac(targets, [east, north]) == pytest.approx(((0 + 0.4) / 2 + (1 + 0.2) / 2) / 2)
    # The direction is (1, -1) / sqrt(2).
    assert same(targets, east, north) == pytest.approx((0.5**0.5 + 0.2 * 0.5**0.5) / 2)
    assert direct_bias(targets, np.array([1.0, 0.0]), strictness=2) == pytest.approx((1 + 0.36) / 2)


def test_the_direction_that_pairs_share_is_found_with_its_sign() -> None:
    generator = np.random.default_rng(3)
    common = np.eye(20)[4]
    middle = generator.normal(size=(9, 20))
    first, second = middle + 3 * common, middle - 3 * common
    found = gender_direction(first, second)
    assert found @ common > 0.9
    assert gender_direction(second, first) == pytest.approx(-found)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda v: weat(v, v, v[:2], v[2:]), "the two target sets hold the same"),
        (lambda v: weat(v[:2], v[2:], v[:2], v[:2]), "the two attribute sets hold the same"),
        (lambda v: weat(v[:1], v[1:], v[:2], v[2:]), "found 1 and 3 targets; expected at least 2"),
        (lambda v: cosines(v, v[:0]), "expected at least one vector"),
        (lambda v: cosines(v, np.ones((2, 7))), "widths 4 and 7"),
        (lambda v: rnd(v, v, 0 * v), "zero or not finite"),
        (lambda v: mac(v, []), "no attribute sets"),
        (lambda v: ect(v, v, v[:1]), "found 1 targets; expected at least 2"),
        (lambda v: gender_direction(v, v[:2]), "expected pairs"),
        (lambda v: gender_direction(v, v), "share no direction"),
        (lambda v: rnd(v[:0], v, v), "expected at least one vector"),
        (lambda v: rnd(v, np.ones((2, 7)), v), "widths 4 and 7"),
        (lambda v: same(v, v, v[::-1]), "means of the two attribute sets coincide"),
        (lambda v: ect(v[:1], v[1:], np.ones((3, 4))), "nothing to rank"),
        (lambda v: rnsb(v, 0 * v, v), "zero or not finite"),
        (lambda v: weat(v[[0, 0]], v[[0, 0, 0]], v[1:3], v[2:]), "lean alike"),
    ],
)
def test_sets_that_make_no_sense_are_refused(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call(np.eye(4) + 0.1)


@pytest.mark.parametrize(
    "names",
    [
        ("math", "arts", "male_terms", "female_terms"),
        ("career", "family", "male_terms", "female_terms"),
        ("career", "family", "male_names", "female_names"),
        ("arts", "math", "career", "family"),
    ],
)
def test_further_word_sets_equal_the_formulas_written_out(oracle: Any, names: tuple[str, ...]) -> None:
    """Everything again from its definition, one word at a time."""
    x, y, a, b = (oracle[name].astype(np.float64) for name in names)

    def cos(u: np.ndarray, v: np.ndarray) -> float:
        return float(u @ v / np.linalg.norm(u) / np.linalg.norm(v))

    def s(w: np.ndarray) -> float:
        return np.mean([cos(w, one) for one in a]) - np.mean([cos(w, one) for one in b])

    leans = [[s(w) for w in side] for side in (x, y)]
    together = [*leans[0], *leans[1]]
    found = weat(x, y, a, b)
    assert found.statistic == pytest.approx(sum(leans[0]) - sum(leans[1]), abs=1e-6)
    between = np.mean(leans[0]) - np.mean(leans[1])
    assert found.effect_size == pytest.approx(between / np.std(together, ddof=1), abs=1e-6)
    assert found.effect_size_population == pytest.approx(between / np.std(together), abs=1e-6)
    expected = permutation_test(
        leans, lambda p, q, axis: p.sum(axis) - q.sum(axis), alternative="greater", n_resamples=np.inf
    )
    assert found.p_value == pytest.approx(expected.pvalue, abs=1e-6)
    near, far = a.mean(axis=0), b.mean(axis=0)
    distances = [np.linalg.norm(w - near) - np.linalg.norm(w - far) for w in x]
    assert rnd(a, b, x) == pytest.approx(np.mean(distances), abs=1e-6)
    ranks = spearmanr([cos(w, near) for w in x], [cos(w, far) for w in x]).statistic
    assert ect(a, b, x) == pytest.approx(ranks, abs=1e-6)
    sets = [np.mean([np.mean([1 - cos(w, one) for one in side]) for w in x]) for side in (a, b)]
    assert mac(x, [a, b]) == pytest.approx(np.mean(sets), abs=1e-6)


def test_rnsb_is_scikit_learns_logistic_regression(oracle: Any) -> None:
    from sklearn.linear_model import LogisticRegression

    male, female, career = oracle["male_terms"], oracle["female_terms"], oracle["career"]
    words = np.concatenate([male, female]).astype(np.float64)
    words /= np.linalg.norm(words, axis=1, keepdims=True)
    model = LogisticRegression(tol=1e-10, max_iter=10_000).fit(words, [0] * len(male) + [1] * len(female))
    targets = career / np.linalg.norm(career, axis=1, keepdims=True)
    expected = model.predict_proba(targets)[:, 1]
    assert attribute_probability(male, female, career) == pytest.approx(expected, abs=1e-5)
    shares = expected / expected.sum()
    assert rnsb(male, female, career) == pytest.approx(
        (shares * np.log(shares * len(shares))).sum(), abs=1e-6
    )


def test_divergence_by_hand() -> None:
    assert divergence([0.2, 0.2, 0.2]) == pytest.approx(0)
    # Shares 3/4 and 1/4 against 1/2 each.
    assert divergence([0.9, 0.3]) == pytest.approx(0.75 * np.log(1.5) + 0.25 * np.log(0.5))


def test_seat_moves_words_with_all_their_sentences() -> None:
    generator = np.random.default_rng(4)
    x, y, a, b = (generator.normal(size=(5, 12)) for _ in range(4))
    alike = [np.repeat(one[None], 6, axis=0) for one in (x, y, a, b)]
    words, sentences = weat(x, y, a, b), seat(*alike)
    # Six equal sentences a word: the same p, not that of thirty targets, and six times the sum.
    assert sentences.p_value == words.p_value
    assert sentences.statistic == pytest.approx(6 * words.statistic)
    assert sentences.effect_size_population == pytest.approx(words.effect_size_population)
    noisy = [one + 0.3 * generator.normal(size=one.shape) for one in alike]
    flat = [one.reshape(-1, 12) for one in noisy]
    assert seat(*noisy).effect_size == pytest.approx(weat(*flat).effect_size)


def test_ml_eat_shows_what_one_effect_size_hides() -> None:
    generator = np.random.default_rng(5)
    axis = np.eye(30)[0]
    a, b = (generator.normal(size=(8, 30)) + sign * 4 * axis for sign in (1, -1))
    x, y = (generator.normal(size=(8, 30)) + push * axis for push in (4, 1.5))
    found = ml_eat({"x": x, "y": y}, {"a": a, "b": b})
    assert found.differential == weat(x, y, a, b)
    assert found.differential.effect_size > 1
    # Both lean to a; only x does so more. The level-1 effect size alone would pass for opposite leanings.
    assert found.pattern == "x: a; y: a"
    assert found.cosines["x"]["a"].mean == pytest.approx(cosines(x, a).mean())
    assert found.cosines["y"]["b"].deviation == pytest.approx(cosines(y, b).std(ddof=1))
    near, far = cosines(y, a).mean(axis=0), cosines(y, b).mean(axis=0)
    spread = np.concatenate([near, far]).std(ddof=1)
    assert found.single["y"].effect_size == pytest.approx((near.mean() - far.mean()) / spread)
    # Of 12,870 divisions of the terms the own one and its mirror image are the most extreme.
    assert found.single["x"].p_value == pytest.approx(2 / 12_870)
    neither = ml_eat({"x": generator.normal(size=(8, 30)), "y": y}, {"a": a, "b": b})
    assert neither.pattern.startswith("x: ")
    with pytest.raises(ValueError, match="two of each"):
        ml_eat({"x": x}, {"a": a, "b": b})
