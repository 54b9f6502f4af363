"""The expression that names an objective."""

import pytest
import torch

from mmkd.embeddings import Embeddings
from mmkd.errors import ConfigError
from mmkd.losses import kd, task
from mmkd.losses.negatives import all_others
from mmkd.objective import KD_LOSSES, Objective, Term, parse_terms


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
    report = Objective("triplet + 3*mse + affinity@0.2")(student, teacher, all_others(5), torch.tensor(10.0))
    parts = {
        "triplet": task.triplet(student, all_others(5)),
        "mse": kd.mse(student, teacher),
        "affinity": kd.affinity(student, teacher, temperature=0.2),
    }
    for name, value in parts.items():
        torch.testing.assert_close(report.terms[name], value)
    torch.testing.assert_close(report.total, parts["triplet"] + 3 * parts["mse"] + parts["affinity"])


def test_it_knows_what_it_needs() -> None:
    assert Objective("triplet + cos").needs_teacher
    assert not Objective("clip").needs_teacher
    assert Objective("clip").uses_logit_scale
    assert not Objective("triplet + mse").uses_logit_scale


@pytest.mark.parametrize(
    ("expression", "part"),
    [
        ("mse+cso", "did you mean 'cos'?"),
        ("mse+mse", "stands twice"),
        ("mse+", "cannot read ''"),
        ("-1*mse", "cannot read '-1*mse'"),
        ("mse@0.1", "has no temperature"),
        ("affinity@0", "not above 0"),
        ("none", "nothing to learn"),
        ("zzzzzz", "The menu: mse, cos"),
    ],
)
def test_what_cannot_be_read_is_refused(expression: str, part: str) -> None:
    with pytest.raises(ConfigError) as error:
        Objective(expression)
    assert part in str(error.value)
    assert "\n" not in str(error.value)
