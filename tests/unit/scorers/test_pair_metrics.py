import itertools

import numpy as np
import pytest

from tailguard.errors import InputError
from tailguard.scorers.pair_metrics import area_under_roc, calibration_error, pair_metrics


def test_area_under_roc_counts_pairs_with_ties_half():
    rng = np.random.default_rng(0)
    values, positive = rng.integers(0, 5, 40).astype(float), rng.random(40) < 0.4
    pairs = list(itertools.product(values[positive], values[~positive]))
    expected = np.mean([1.0 if a > b else 0.5 if a == b else 0.0 for a, b in pairs])
    assert area_under_roc(values, positive) == pytest.approx(expected)
    assert np.isnan(area_under_roc(values, np.zeros(40, dtype=bool)))


def test_calibration_error_of_a_known_case():
    confidence = np.array([0.6] * 10 + [0.9] * 10)
    right = np.array([1.0] * 6 + [0.0] * 4 + [1.0] * 5 + [0.0] * 5)
    assert calibration_error(confidence, right, num_bins=2) == pytest.approx(0.5 * 0.4)


def test_a_calibrated_scorer_shows_its_sampling_noise_and_an_overconfident_one_more():
    rng = np.random.default_rng(1)
    margins = rng.standard_normal((3000, 1)) * 1.5
    swap = rng.random(3000) > 1 / (1 + np.exp(-margins[:, 0]))
    margins[swap] *= -1
    zero = np.zeros_like(margins)
    honest = pair_metrics(margins, zero, generator=rng)
    boastful = pair_metrics(4 * margins, zero, generator=rng)
    assert abs(honest["ece"] - honest["ece_noise"]) < 0.02
    assert boastful["ece"] > boastful["ece_noise"] + 0.1
    assert boastful["accuracy"] == honest["accuracy"]


def test_a_spread_that_marks_errors_is_found():
    rng = np.random.default_rng(2)
    noisy = rng.random(2000) < 0.5
    truth = np.ones((2000, 1))
    width = np.where(noisy, 2.0, 0.1)[:, None]
    members = truth + width * (
        rng.standard_normal((2000, 1)) + 0.3 * rng.standard_normal((2000, 6))
    )
    metrics = pair_metrics(members, np.zeros_like(members), generator=rng)
    assert metrics["spread_auroc"] > 0.7
    assert metrics["doubt_auroc"] > metrics["confidence_auroc"] + 0.05
    assert metrics["spread"] == pytest.approx(0.3 * width.mean(), rel=0.1)


def test_ties_count_half_and_shapes_must_match():
    rng = np.random.default_rng(0)
    tied = pair_metrics(np.zeros((4, 2)), np.zeros((4, 2)), generator=rng)
    assert tied["accuracy"] == 0.5
    with pytest.raises(InputError, match=r"\(4, 2\) and \(3, 2\)"):
        pair_metrics(np.zeros((4, 2)), np.zeros((3, 2)), generator=rng)
