"""PID control of a constraint's multiplier, as a pure init/update pair."""

from __future__ import annotations

import math
from dataclasses import dataclass

from tailguard.errors import InputError


@dataclass(frozen=True)
class PIDState:
    """The controller's state between two steps.

    Attributes:
        multiplier: λ in [0, ceiling], for the next step.
        integral: I in [0, ceiling], in units of λ.
        violation: the last violation seen; NaN before the first.
    """

    multiplier: float
    integral: float
    violation: float = math.nan


@dataclass(frozen=True)
class PID:
    """λ ← clip(I + s(K_P e + K_D (e − e′)₊), 0, ceiling) with I ← I + s K_I e.

    Symbols:
        e is the violation E φ_ν(C) − d, e′ the one before, s the step scale of `newton_scale`.

    Anti-windup: the integral never moves past the point at which the output meets a bound. However
    long the output was saturated, the first violation of the other sign moves it again.

    Attributes:
        proportional: K_P ≥ 0.
        integral: K_I ≥ 0.
        derivative: K_D ≥ 0; only a rising violation counts.
        ceiling: largest λ; positive.

    Raises:
        InputError: a gain is negative or not finite, or the ceiling is not positive.

    Reference: Stooke, Achiam & Abbeel, Responsive Safety in Reinforcement Learning by PID
    Lagrangian Methods, arXiv:2007.03964.
    """

    proportional: float = 1.0
    integral: float = 0.5
    derivative: float = 0.0
    ceiling: float = math.inf

    def __post_init__(self) -> None:
        for name in ("proportional", "integral", "derivative"):
            gain = getattr(self, name)
            if not (math.isfinite(gain) and gain >= 0):
                raise InputError(f"{name}={gain}: give a finite gain of at least 0")
        if not self.ceiling > 0:
            raise InputError(f"ceiling={self.ceiling}: give a positive largest multiplier")

    def init(self, multiplier: float) -> PIDState:
        """Start at λ₀.

        Raises:
            InputError: λ₀ is not in [0, ceiling] or not finite.
        """
        if not (math.isfinite(multiplier) and 0 <= multiplier <= self.ceiling):
            raise InputError(f"multiplier={multiplier}: give a number between 0 and {self.ceiling}")
        return PIDState(multiplier=multiplier, integral=multiplier)

    def update(self, state: PIDState, violation: float, *, scale: float = 1.0) -> PIDState:
        """One control step.

        Args:
            state: from `init` or the update before.
            violation: E φ_ν(C) − d, positive when the constraint is broken.
            scale: reward units per cost unit squared; see `newton_scale`.

        Raises:
            InputError: violation or scale is not finite, or the scale is negative.
        """
        if not math.isfinite(violation):
            raise InputError(
                f"violation={violation}: the constraint cannot be measured; check its costs"
            )
        if not (math.isfinite(scale) and scale >= 0):
            raise InputError(f"scale={scale}: give a finite number of at least 0")
        # No derivative before there are two violations, and none for a falling one.
        rise = 0.0 if math.isnan(state.violation) else max(violation - state.violation, 0.0)
        swing = scale * (self.proportional * violation + self.derivative * rise)
        integral = state.integral + scale * self.integral * violation
        if violation > 0:
            # Up to where λ meets its ceiling, but never below where the integral already was.
            integral = min(integral, max(state.integral, self.ceiling - swing))
        else:
            # In the same way, down to where λ meets 0.
            integral = max(integral, min(state.integral, -swing))
        integral = min(max(integral, 0.0), self.ceiling)
        return PIDState(min(max(integral + swing, 0.0), self.ceiling), integral, violation)


def newton_scale(penalty_variance: float, cost_variance: float, kl_coef: float) -> float:
    """Size of one Newton step of the dual, per unit of violation: β / Var φ_ν(C).

    For the tilt π ∝ π_ref exp((r − λφ)/β), dE φ/dλ = −Var φ/β, so gains given in these units need
    no tuning when costs or rewards change their scale. A batch whose tail is empty has Var φ near 0;
    Var C is used instead. No variance at all means no evidence: the step is 0.

    Args:
        penalty_variance: Var φ_ν(C) over recent answers, in cost units squared.
        cost_variance: Var C over the same.
        kl_coef: β; at 0 there is no tilt and the scale is 1 / Var φ.
    """
    # The larger variance gives the shorter step: safe where the tail happens to be empty.
    variance = max(penalty_variance, cost_variance)
    return (kl_coef if kl_coef > 0 else 1.0) / variance if variance > 0 else 0.0
