"""Expected calibration error: by hand, and its laws."""

import numpy as np
import pytest
import torch

from mmkd.evaluation.calibration import confidences, expected_calibration_error


def test_by_hand() -> None:
    # Bins of a fifteenth: 0.5 alone is right, 0.92 and 0.93 share one and are right once.
    sure, right = np.array([0.5, 0.92, 0.93]), np.array([True, True, False])
    assert expected_calibration_error(sure, right) == pytest.approx((0.5 + abs(1 - 1.85)) / 3)


def test_a_calibrated_model_comes_near_0_and_a_boastful_one_does_not() -> None:
    generator = np.random.default_rng(0)
    sure = generator.uniform(0.1, 1, 200_000)
    assert expected_calibration_error(sure, generator.random(200_000) < sure) < 0.01
    assert expected_calibration_error(np.ones(1_000), np.zeros(1_000, dtype=bool)) == 1


def test_the_ends_have_a_bin() -> None:
    assert expected_calibration_error(np.array([1.0, 1e-9]), np.array([True, False])) == pytest.approx(
        0, abs=1e-6
    )


def test_confidence_is_the_highest_of_the_softmax() -> None:
    cosines = np.random.default_rng(1).uniform(-1, 1, (50, 7))
    expected = torch.tensor(100 * cosines).softmax(dim=1).amax(dim=1)
    assert confidences(cosines, 100.0) == pytest.approx(expected.numpy())
