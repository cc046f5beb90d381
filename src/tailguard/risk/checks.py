"""What every measure asks of its input, and the warning for tails that are too thin."""

import warnings
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from tailguard.errors import InputError, TailguardWarning

# Static checkers let an int pass for a float; the run-time check of the tests needs to be told.
Number: TypeAlias = float | int
# What np.asarray reads: nested lists, tuples, scalars, NumPy arrays, torch tensors.
Values: TypeAlias = ArrayLike | Sequence[Any] | Number

# The mean of the worst few observations is too low on average: by 12% at 1.3 of them, where costs
# have a Pareto(2.5) tail. Ten is where we stop warning.
SMALL_TAIL = 10.0


class SmallTailWarning(TailguardWarning):
    """Fewer than about ten observations fall in the tail, so its estimate is too low on average."""


def to_array(values: Any) -> Float[np.ndarray, "..."]:
    """A float64 array from lists, NumPy arrays or torch tensors of any device and precision."""
    if hasattr(values, "detach"):
        values = values.detach().cpu().double().numpy()  # bfloat16 has no NumPy counterpart
    return np.asarray(values, dtype=np.float64)


def check_tail_mass(tail_mass: Number, name: str = "tail_mass") -> None:
    """Raise unless 0 < tail_mass ≤ 1."""
    if not 0.0 < tail_mass <= 1.0:
        raise InputError(f"{name} must lie in (0, 1], got {tail_mass!r}; 1 is the mean")


def check_costs(costs: Values, name: str = "costs") -> Float[np.ndarray, "n"]:
    """The costs as a finite, non-empty vector.

    Raises:
        InputError: they are empty, not one-dimensional, or hold a NaN or an infinity.
    """
    array = to_array(costs)
    if array.ndim != 1:
        raise InputError(f"{name} must be one-dimensional, got shape {array.shape}; flatten first")
    if array.size == 0:
        raise InputError(f"{name} is empty; give at least one value")
    if not np.all(np.isfinite(array)):
        at = int(np.flatnonzero(~np.isfinite(array))[0])
        raise InputError(f"{name}[{at}] is {array[at]}; every value must be finite")
    return array


def check_weights(weights: Values | None, size: int) -> Float[np.ndarray, "n"]:
    """The weights divided by their sum; uniform where none are given.

    Raises:
        InputError: a shape that differs from the costs', a NaN, a negative weight, or a sum of 0.
    """
    if weights is None:
        return np.full(size, 1.0 / size)
    array = to_array(weights)
    if array.shape != (size,):
        raise InputError(f"weights has shape {array.shape} but costs has shape {(size,)}")
    bad = ~(np.isfinite(array) & (array >= 0))
    if np.any(bad):
        at = int(np.flatnonzero(bad)[0])
        raise InputError(f"weights[{at}] is {array[at]}; weights must be finite and not negative")
    total = float(array.sum())
    if total <= 0:
        raise InputError(f"weights sum to {total}; at least one must be positive")
    return array / total


def warn_small_tail(weights: Float[np.ndarray, "n"], tail_mass: Number) -> None:
    """Warn where the effective number of observations in the tail, N·α, is below ten.

    N is Kish's effective sample size 1/Σw². The mean (α = 1) has no tail and never warns.
    """
    count = tail_mass / float(np.square(weights).sum())
    # The factor keeps exactly ten observations silent in spite of rounding in Σw².
    if tail_mass < 1.0 and count < SMALL_TAIL * (1 - 1e-9):
        warnings.warn(
            f"only {count:.3g} effective observations in the worst {tail_mass:g} of cost: "
            "the estimate is likely too low; give more samples or a larger tail_mass",
            SmallTailWarning,
            stacklevel=3,
        )
