"""Regret of serving each profile with a given policy, in units of the value span."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float64

from tailguard.errors import InputError
from tailguard.planning import Solution
from tailguard.portfolio.mixing import Figures
from tailguard.portfolio.profile import Profile

Objective = Literal["mean", "worst"]


@dataclass(frozen=True)
class RegretScale:
    """Best values of the profiles on one bank.

    A profile's regret is (V* − V)/span, where V* is the best value of any policy that meets it and
    span = V(unconstrained) − V*(strictest profile); but 1 where the policy does not meet it, and
    never more. Profiles that no policy on the bank can meet do not count.

    Attributes:
        profiles: what users ask for.
        best: V* of each; NaN where infeasible.
        span: the unit.
    """

    profiles: tuple[Profile, ...]
    best: Float64[np.ndarray, "profiles"]
    span: float

    def regrets(self, figures: Figures, margin: float = 0.0) -> Float64[np.ndarray, "profiles"]:
        """Regret of each profile served by one policy; NaN where the profile is infeasible."""
        loss = np.clip((self.best - figures.value) / self.span, 0.0, 1.0)
        met = np.array([figures.meets(profile, margin) for profile in self.profiles])
        return np.where(met | np.isnan(self.best), loss, 1.0)

    def summary(self, regrets: Float64[np.ndarray, "profiles"], objective: Objective) -> float:
        """Mean by the profiles' weights, or the worst; 0 where nothing is feasible."""
        weight = np.array([p.weight for p in self.profiles])
        counts = ~np.isnan(self.best) & (weight > 0)
        if not counts.any():
            return 0.0
        if objective == "worst":
            return float(regrets[counts].max())
        return float(np.average(regrets[counts], weights=weight[counts]))


def regret_scale(
    profiles: Sequence[Profile], solutions: Sequence[Solution], free_value: float
) -> RegretScale:
    """The scale from the solutions of the same profiles on the same bank.

    Args:
        profiles: what users ask for.
        solutions: the best policy for each.
        free_value: V without constraint.
    """
    best = np.array([s.value for s in solutions], dtype=np.float64)
    # The floor of the span keeps regret finite where every profile is slack.
    strictest = float(np.nanmin(best)) if np.isfinite(best).any() else free_value
    span = max(free_value - strictest, 1e-9 * (1.0 + abs(free_value)))
    return RegretScale(tuple(profiles), best, span)


def check_profiles(profiles: Sequence[Profile]) -> tuple[Profile, ...]:
    """The profiles, of which there must be one that counts.

    Raises:
        InputError: the list is empty, or every weight is 0.
    """
    if not any(profile.weight > 0 for profile in profiles):
        raise InputError(f"profiles needs at least one with a positive weight, got {len(profiles)}")
    return tuple(profiles)
