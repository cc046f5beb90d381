"""The area that a reward–risk frontier dominates."""

import numpy as np

from tailguard.errors import InputError
from tailguard.risk.checks import Values, to_array


def hypervolume(points: Values, reference: Values) -> float:
    """Area dominated by (reward, risk) points, measured from a fixed reference.

    A point (r, ρ) dominates every (r′, ρ′) with r′ ≤ r and ρ′ ≥ ρ; the area counted lies above
    the reference's reward and below its risk. Larger is better; points beyond the reference and
    dominated ones add nothing.

    Args:
        points: [n, 2], reward then risk.
        reference: (reward, risk), worse than what is to count; the same in every comparison.

    Raises:
        InputError: other shapes, NaN.
    """
    array, origin = to_array(points), to_array(reference)
    if array.ndim != 2 or array.shape[1] != 2:
        raise InputError(f"points must have shape [n, 2], got {array.shape}")
    if origin.shape != (2,):
        raise InputError(f"reference must be (reward, risk), got shape {origin.shape}")
    if not (np.isfinite(array).all() and np.isfinite(origin).all()):
        raise InputError("points and reference must be finite")
    gains = np.maximum((array - origin) * np.array([1.0, -1.0]), 0.0)
    by_reward = gains[np.argsort(-gains[:, 0], kind="stable")]
    height = np.maximum.accumulate(by_reward[:, 1])
    width = by_reward[:, 0] - np.append(by_reward[1:, 0], 0.0)
    return float(width @ height)
