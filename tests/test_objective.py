"""The expression that names an objective."""

from pathlib import Path

import pytest
import torch
from pairs import random_bank, random_pairs

from mmkd.embeddings import Embeddings
from mmkd.errors import ConfigError
from mmkd.losses import features, relations, task
from mmkd.losses.negatives import all_others, select_negatives
from mmkd.objective import KD_LOSSES, LOSSES, TASK_LOSSES, Objective, Term, parse_terms

SCALE, BIAS = torch.tensor(10.0), torch.tensor(-10.0)


def test_terms_have_weights_and_temperatures() -> None:
    assert parse_terms("2000*mse + cos+0.5 * affinity @ .1") == (
        Term("mse", 2000, None),
        Term("cos", 1, None),
        Term("affinity", 0.5, 0.1),
    )


def test_a_bare_name_takes_its_default_weight() -> None:
    assert parse_terms("mse")[0].weight == KD_LOSSES["mse"].weight == 2000


def test_total_is_the_weighted_sum_of_unweighted_terms() -> None:
    student = Embeddings(torch.randn(5, 8), torch.randn(5, 8))
    teacher = Embeddings(torch.randn(5, 8), torch.randn(5, 8))
    report = Objective("triplet + 3*mse + affinity@0.2")(student, teacher, all_others(5), SCALE, BIAS)
    parts = {
        "triplet": task.triplet(student, all_others(5)),
        "mse": features.mse(student, teacher),
        "affinity": relations.affinity(student, teacher, temperature=0.2),
    }
    for name, value in parts.items():
        torch.testing.assert_close(report.terms[name], value)
    torch.testing.assert_close(report.total, parts["triplet"] + 3 * parts["mse"] + parts["affinity"])


def test_a_weight_may_be_written_with_an_exponent() -> None:
    assert parse_terms("1e+3*mse+2e-1*cos") == (Term("mse", 1000, None), Term("cos", 0.2, None))


def test_it_knows_what_it_needs() -> None:
    def needing(what: str) -> set[str]:
        return {name for name in LOSSES if getattr(Objective(name), what)}

    assert needing("needs_teacher") == {*KD_LOSSES, "soft-clip"}
    assert needing("uses_logit_scale") == {"clip", "siglip", "soft-clip", "crd", "icl"}
    assert needing("uses_logit_bias") == {"siglip"}
    assert needing("uses_bank") == {"triplet", "clip", "icl"}
    assert needing("crosses") == {*TASK_LOSSES, "affinity", "crd", "icl", "gd"}
    assert not Objective("mse + rkd").crosses
    assert Objective("mse + gd").crosses


@pytest.mark.parametrize("name", [name for name in LOSSES if not LOSSES[name].crosses])
def test_a_loss_that_does_not_cross_takes_the_towers_apart(name: str) -> None:
    """What the texts are changes nothing of the images' gradient."""
    gradients = []
    for seed in (1, 2):
        text = random_pairs(5, 8, seed).text
        image = torch.randn(5, 8, generator=torch.Generator().manual_seed(0)).requires_grad_()
        student, teacher = Embeddings(image, text), Embeddings(random_pairs(5, 8, 3).image, -text)
        Objective(name)(student, teacher, all_others(5), SCALE, BIAS).total.backward()
        gradients.append(image.grad)
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("name", LOSSES)
def test_every_loss_works_as_a_bare_name_and_teaches_both_towers(name: str) -> None:
    image, text = (torch.randn(6, 8, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1))
    student = Embeddings(image.requires_grad_(), text.requires_grad_())
    report = Objective(name)(student, random_pairs(6, 8, 2), all_others(6), SCALE, BIAS)
    report.total.backward()
    assert report.total.item() == pytest.approx(report.terms[name].item() * LOSSES[name].weight)
    for side in (image, text):
        assert torch.isfinite(side.grad).all()
        assert side.grad.abs().sum() > 1e-3


def test_the_triplets_negative_and_margin_reach_it() -> None:
    student, ids = random_pairs(8, 4, 0), torch.arange(8)
    for choice in task.NEGATIVES:
        report = Objective("triplet", negatives=choice, margin=0.7)(student, None, all_others(8), SCALE, BIAS)
        expected = task.triplet(student, select_negatives(ids, ids), choice=choice, margin=0.7)
        torch.testing.assert_close(report.terms["triplet"], expected)


def test_the_bank_reaches_the_losses_that_use_it() -> None:
    student, teacher, bank = random_pairs(6, 8, 0), random_pairs(6, 8, 1), random_bank(20, 8, 2)
    ids = torch.arange(6)
    objective = Objective("clip + triplet + icl + mse", negatives="hard", margin=1.0)
    alone = objective(student, teacher, select_negatives(ids, ids), SCALE, BIAS)
    report = objective(student, teacher, select_negatives(ids, ids, bank=bank), SCALE, BIAS, bank)
    assert all(report.terms[name] > alone.terms[name] for name in ("clip", "triplet", "icl"))
    assert report.terms["mse"] == alone.terms["mse"]


def test_negatives_of_another_bank_are_refused() -> None:
    student, bank = random_pairs(6, 8, 0), random_bank(20, 8, 2)
    with pytest.raises(ValueError, match="another bank"):
        Objective("clip")(student, None, all_others(6), SCALE, BIAS, bank)


@pytest.mark.parametrize(
    ("expression", "option", "part"),
    [
        ("clip", "--kd", "'clip' in --kd 'clip' is a task loss; give it to --task"),
        ("triplet+mse", "--task", "'mse' in --task 'triplet+mse' is a KD loss; give it to --kd"),
        ("affinty", "--task", "unknown loss 'affinty' in --task"),
        ("soft-clop", "--task", "did you mean 'soft-clip'?"),
    ],
)
def test_a_loss_under_the_wrong_option_is_sent_to_the_right_one(
    expression: str, option: str, part: str
) -> None:
    with pytest.raises(ConfigError) as error:
        parse_terms(expression, option=option)
    assert part in str(error.value)


def test_the_document_has_every_loss_with_its_defaults() -> None:
    rows = [
        [cell.strip() for cell in line.split("|")[1:-1]]
        for line in (Path(__file__).parents[1] / "docs" / "losses.md").read_text().splitlines()
        if line.startswith("| `")
    ]
    expected = [
        (f"`{name}`", f"{loss.weight:g}", "" if loss.temperature is None else f"{loss.temperature:g}")
        for name, loss in LOSSES.items()
    ]
    assert [(row[0], row[3], row[4]) for row in rows] == expected


def test_an_unknown_choice_or_margin_is_refused() -> None:
    with pytest.raises(ConfigError, match="expected one of semi-hard, hard, random"):
        Objective("triplet", negatives="easy")
    with pytest.raises(ConfigError, match="--margin -1 is below 0"):
        Objective("triplet", margin=-1)


@pytest.mark.parametrize(
    ("expression", "part"),
    [
        ("mse+cso", "did you mean 'cos'?"),
        ("mse+mse", "stands twice"),
        ("mse+", "cannot read ''"),
        ("-1*mse", "weight -1 of 'mse' in '-1*mse' is negative"),
        ("- mse", "cannot read '- mse'"),
        ("kl@-1", "cannot read 'kl@-1'"),
        ("mse@0.1", "has no temperature"),
        ("affinity@0", "not above 0"),
        ("1e999*mse", "weight 1e999 of 'mse' in '1e999*mse' is not finite"),
        (f"kl@{'9' * 400}", "is not finite"),
        ("mse+" * 300, "of 1,200 characters; expected at most 1000"),
        ("none", "nothing to learn"),
        ("zzzzzz", "The menu: triplet, clip"),
    ],
)
def test_what_cannot_be_read_is_refused(expression: str, part: str) -> None:
    with pytest.raises(ConfigError) as error:
        Objective(expression)
    assert part in str(error.value)
    assert "\n" not in str(error.value)
