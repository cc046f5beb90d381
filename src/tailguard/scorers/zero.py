"""Where a cost scorer's zero should be: c > 0 must mean unsafe.

Comparisons say nothing of the zero, and the sign loss places it where the two kinds of mistakes
balance, which is off where unsafe answers are rare.
"""

from __future__ import annotations

from typing import Any, cast

import numpy as np
from jaxtyping import Bool, Float
from scipy.optimize import minimize

from tailguard.errors import InputError

_PRIOR = 1e-3  # keeps separable data from asking for an infinite slope


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
    middle, unit = float(scores.mean()), float(scores.std()) or 1.0
    scaled = (scores - middle) / unit
    sign = np.where(unsafe, 1.0, -1.0)

    def loss(parameters: np.ndarray) -> float:
        slope, zero = np.exp(parameters[0]), parameters[1]
        margins = sign * slope * (scaled - zero)
        prior = _PRIOR * float(np.square(parameters).sum())
        return float(np.logaddexp(0.0, -margins).mean()) + prior

    found = cast(Any, minimize)(loss, np.zeros(2), method="Nelder-Mead")
    return middle + unit * float(found.x[1])
