"""How good a pairwise scorer is, and whether its spread finds its errors."""

from __future__ import annotations

import numpy as np
from scipy import special, stats

from tailguard.errors import InputError
from tailguard.scorers.pessimism import spread


def pair_metrics(
    higher: np.ndarray, lower: np.ndarray, *, generator: np.random.Generator
) -> dict[str, float]:
    """Figures on pairs that took no part in the fit.

    Args:
        higher: scores of the answers that should be higher [n, members].
        lower: scores of the others [n, members].
        generator: of the simulation behind ``ece_noise``.

    Returns:
        ``accuracy`` (ties half), ``ece`` of the confidence in the predicted order,
        ``ece_noise`` (what a perfectly calibrated scorer would show on as many pairs), ``spread``
        (mean standard deviation of the margin over members), and three areas under the ROC curve,
        errors against right answers: ``spread_auroc`` (of the spread alone; it grows with the
        distance between two answers, as the margin does, so it may well lie below ½),
        ``doubt_auroc`` (of the spread in units of the mean margin) and ``confidence_auroc`` (of
        plain uncertainty, minus the absolute mean margin). ``num_pairs`` counts. Figures of the spread
        are NaN for a single member.

    Raises:
        InputError: shapes that do not match.
    """
    if higher.shape != lower.shape or higher.ndim != 2 or len(higher) == 0:
        raise InputError(f"scores: {higher.shape} and {lower.shape}; both must be [n, members]")
    margins = higher - lower
    mean = margins.mean(axis=1)
    deviation = spread(margins)
    probability = special.expit(margins).mean(axis=1)
    confidence = np.maximum(probability, 1.0 - probability)
    # Half a point for a tie, as a coin would get.
    right = np.where(probability == 0.5, 0.5, probability > 0.5)
    # Binned errors are positive even for a perfect scorer; the simulation says by how much.
    simulated = [
        calibration_error(confidence, generator.random(len(confidence)) < confidence)
        for _ in range(200)
    ]
    return {
        "accuracy": float(np.where(mean == 0.0, 0.5, mean > 0.0).mean()),
        "ece": calibration_error(confidence, right),
        "ece_noise": float(np.mean(simulated)),
        "spread": float(deviation.mean()),
        "spread_auroc": area_under_roc(deviation, mean < 0.0),
        "doubt_auroc": area_under_roc(deviation / np.maximum(np.abs(mean), 1e-12), mean < 0.0),
        "confidence_auroc": area_under_roc(-np.abs(mean), mean < 0.0),
        "num_pairs": float(len(mean)),
    }


def calibration_error(confidence: np.ndarray, right: np.ndarray, num_bins: int = 10) -> float:
    """Expected calibration error with bins of equal mass: Σ_b n_b/n |mean confidence − accuracy|."""
    order = np.argsort(confidence, kind="stable")
    gap = (confidence - right)[order]
    bins = np.array_split(gap, min(num_bins, len(gap)))
    return float(sum(abs(part.sum()) for part in bins) / len(gap))


def area_under_roc(values: np.ndarray, positive: np.ndarray) -> float:
    """P(value of a positive > value of a negative), ties half; NaN where one class is empty."""
    num_positive = int(positive.sum())
    num_negative = len(positive) - num_positive
    if num_positive == 0 or num_negative == 0:
        return float("nan")
    # Mann–Whitney: average ranks count ties half.
    ranks = stats.rankdata(values)
    excess = float(ranks[positive].sum()) - num_positive * (num_positive + 1) / 2
    return excess / (num_positive * num_negative)
