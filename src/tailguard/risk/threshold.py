"""Thresholds as plain values: what files, settings and training hold in place of arrays."""

from typing import Any

import numpy as np

Threshold = float | tuple[float, ...]
"""ν: a number, or one per CVaR of a spectral measure."""


def as_threshold(values: Any) -> Threshold:
    """ν from what JSON, NumPy or a measure's minimiser gives for it."""
    array = np.asarray(values, dtype=np.float64)
    return float(array) if array.ndim == 0 else tuple(float(each) for each in array.ravel())
