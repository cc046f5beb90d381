"""The units and the zero of a fitted scorer, from pairs and labels that it has not seen.

Bradley–Terry says what a score's differences mean: log-odds of preference. A fitted scorer keeps to
that only on average. It exaggerates where it was overfitted and flattens out where comparisons
saturate, which is just the tail; and comparisons leave each ensemble member its own zero, so that
the members' spread is mostly a matter of offsets. Nor do comparisons say anything of the zero,
above which a cost must mean unsafe; the sign loss of the fit places it where the two kinds of
mistakes balance, which is off where unsafe answers are rare.
"""

from __future__ import annotations

from typing import Any, cast

import numpy as np
from jaxtyping import Bool, Float
from scipy.optimize import minimize
from scipy.special import expit

from tailguard.errors import InputError
from tailguard.scorers.score_map import ScoreMap

# Few pieces in the middle and three in the upper tail, which is what the scores are for.
_LEVELS = (0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 0.97, 1.0)  # quantiles at which the slope may change
_SLOPE_CHANGE = 0.5  # prior deviation of log slope from one piece to the next
_SLOPE = 2.0  # and of the first one
# Below this the prior decides the slopes, and the map says more about us than about the scorer.
_FEWEST_PAIRS = 20
_ZERO_PRIOR = 1e-3  # keeps separable labels from asking for an infinite slope


def calibrate_scores(
    higher: Float[np.ndarray, "n members"], lower: Float[np.ndarray, "n members"]
) -> ScoreMap:
    """The increasing map g under which held-out pairs are Bradley–Terry: P(higher) = σ(g(h) − g(l)).

    Each member's mean is first brought to the ensemble's; then g, piecewise linear, maximises the
    pairs' likelihood, with a prior that lets the slope change slowly. Like isotonic calibration
    (Zadrozny & Elkan 2002), but of differences. Scores keep the mean that they had.

    Args:
        higher: scores of the answers that annotators put higher.
        lower: of the others; pairs that did not train the scorer.

    Raises:
        InputError: fewer than 20 pairs, or scores that are all alike.
    """
    if len(higher) < _FEWEST_PAIRS:
        raise InputError(f"pairs: {len(higher)}; calibration needs at least {_FEWEST_PAIRS}")
    both = np.concatenate([higher, lower])
    offsets = both.mean(axis=0) - both.mean()
    top, bottom = (part.mean(axis=1) - offsets.mean() for part in (higher, lower))
    pooled = np.concatenate([top, bottom])
    knots = np.unique(np.quantile(pooled, _LEVELS))
    if len(knots) < 2 or not knots[-1] - knots[0] > 1e-9:
        raise InputError("scores: all alike; the scorer has learned nothing")
    # Knots that almost coincide would give a slope from the rounding of their distance.
    knots = knots[np.concatenate([[True], np.diff(knots) > 1e-6 * (knots[-1] - knots[0])])]
    difference = _lengths(top, knots) - _lengths(bottom, knots)
    # Slopes as exponentials: the map increases by construction, whatever the pairs say.
    slopes = np.exp(_log_slopes(difference))
    values = np.concatenate([[0.0], np.cumsum(slopes * np.diff(knots))])
    found = ScoreMap(offsets, knots, values)
    # Only differences are identified, so the mean stays where it was, and with it cost budgets.
    return found.shifted(float(found(both).mean() - pooled.mean()))


def estimate_zero(scores: Float[np.ndarray, " n"], unsafe: Bool[np.ndarray, " n"]) -> float:
    """The score at which an answer is as likely unsafe as safe.

    Logistic regression log P(unsafe)/P(safe) = a·(score − z) with slope a > 0 by maximum
    likelihood (Platt 1999); z is returned, and score − z is a cost with its zero in place.

    Args:
        scores: of answers that did not train the scorer.
        unsafe: their labels.

    Raises:
        InputError: shapes differ, fewer than ten answers, or only one of the two labels.
    """
    if scores.shape != unsafe.shape or scores.size < 10:
        raise InputError(
            f"scores {scores.shape} and unsafe {unsafe.shape} must be as long as each other, ≥ 10"
        )
    if unsafe.all() or not unsafe.any():
        raise InputError("unsafe: all labels are alike; the zero needs safe and unsafe answers")
    # Nelder–Mead and the prior have no units, so the scores are standardised first.
    middle, unit = float(scores.mean()), float(scores.std()) or 1.0
    scaled = (scores - middle) / unit
    sign = np.where(unsafe, 1.0, -1.0)

    def loss(parameters: np.ndarray) -> float:
        # exp keeps the slope positive: a scorer that points the wrong way is refused elsewhere.
        slope, zero = np.exp(parameters[0]), parameters[1]
        margins = sign * slope * (scaled - zero)
        prior = _ZERO_PRIOR * float(np.square(parameters).sum())
        return float(np.logaddexp(0.0, -margins).mean()) + prior

    found = cast(Any, minimize)(loss, np.zeros(2), method="Nelder-Mead")
    return middle + unit * float(found.x[1])


def _lengths(scores: Float[np.ndarray, " n"], knots: np.ndarray) -> Float[np.ndarray, "n pieces"]:
    """How far each score reaches into each piece of the line; the last piece has no end."""
    ends = np.concatenate([knots[1:-1], [np.inf]])
    return np.clip(scores[:, None], knots[:-1], ends) - knots[:-1]


def _log_slopes(difference: Float[np.ndarray, "n pieces"]) -> Float[np.ndarray, " pieces"]:
    def loss(log_slopes: np.ndarray) -> tuple[float, np.ndarray]:
        slopes = np.exp(log_slopes)
        margins = difference @ slopes
        change = np.diff(log_slopes) / _SLOPE_CHANGE**2
        value = np.logaddexp(0.0, -margins).sum() + 0.5 * (np.diff(log_slopes) @ change)
        gradient = -(expit(-margins) @ difference) * slopes
        gradient[1:] += change
        gradient[:-1] -= change
        gradient[0] += log_slopes[0] / _SLOPE**2
        return float(value + 0.5 * (log_slopes[0] / _SLOPE) ** 2), gradient

    start = np.zeros(difference.shape[1])
    found = cast(Any, minimize)(loss, start, jac=True, method="L-BFGS-B")
    return np.asarray(found.x, dtype=np.float64)
