"""What a plan says: the tilt, its figures on the bank, and how far to believe them."""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64
from numpy.typing import ArrayLike

from tailguard.errors import InfeasibleError, InputError
from tailguard.planning.tilt import Threshold
from tailguard.risk.checks import to_array
from tailguard.risk.limit import RaterLimit, RiskLimit

FEW_SAMPLES = 10.0  # below about ten effective samples, an estimate on them is mostly noise


@dataclass(frozen=True, eq=False)
class Solution:
    """The tilt π ∝ π_ref·exp((r − λφ_ν(c))/β) that a plan found, or the answer that there is none.

    Figures are expectations over the bank. Asked for one constraint, ``multiplier``, ``threshold``,
    ``risk`` and ``smallest_reachable_risk`` are its own; asked for a list, tuples in its order. The
    plurals are tuples always. Where nothing is feasible, figures and weights are NaN, so that
    nothing downstream can use them by accident.

    Attributes:
        constraints: what was asked.
        listed: whether it was asked as a list.
        kl_coef: β.
        feasible: whether some policy on the bank meets every budget.
        multipliers: λ ≥ 0 of each constraint; 0 where it is slack.
        thresholds: ν of each; [prompts] for per-prompt scope, with a last axis of K for spectral
            measures.
        value: reward − kl_coef·kl.
        reward: E r.
        risks: ρ(C) of each, at most its budget.
        kl: KL(π‖π_ref) in nats, averaged over prompts.
        effective_sample_size: 1/Σw² of each prompt's samples, averaged over prompts.
        dual_bound: no policy on the bank that meets the budgets has a larger value.
        weights: π on the bank, [prompts, samples], rows sum to 1.
        smallest_reachable_risks: of each constraint alone; but where each budget can be met and all
            together cannot, budgets raised alike until they can.
        tail_sample_size: effective number of samples in the thinnest tail that was planned with.
        rater_weight: of the bank.
    """

    constraints: tuple[RiskLimit, ...]
    listed: bool
    kl_coef: float
    feasible: bool
    multipliers: tuple[float, ...]
    thresholds: tuple[Threshold, ...]
    value: float
    reward: float
    risks: tuple[float, ...]
    kl: float
    effective_sample_size: float
    dual_bound: float
    weights: Float64[np.ndarray, "prompts samples"]
    smallest_reachable_risks: tuple[float, ...]
    tail_sample_size: float = math.inf
    rater_weight: Float64[np.ndarray, "raters"] | None = None

    @property
    def multiplier(self) -> float | tuple[float, ...]:
        """The multiplier λ."""
        return self.multipliers if self.listed else self.multipliers[0]

    @property
    def threshold(self) -> Threshold | tuple[Threshold, ...]:
        """The threshold ν."""
        return self.thresholds if self.listed else self.thresholds[0]

    @property
    def risk(self) -> float | tuple[float, ...]:
        """The risk ρ(C)."""
        return self.risks if self.listed else self.risks[0]

    @property
    def smallest_reachable_risk(self) -> float | tuple[float, ...]:
        """The least ρ(C) of any policy on the bank."""
        smallest = self.smallest_reachable_risks
        return smallest if self.listed else smallest[0]

    @property
    def caution(self) -> str | None:
        """Why the figures may not carry over to fresh samples; None where nothing speaks against."""
        if not self.feasible:
            return None
        samples = self.weights.shape[1]
        if self.effective_sample_size < min(FEW_SAMPLES, 0.5 * samples):
            return (
                f"effective sample size {self.effective_sample_size:.1f} of {samples} per prompt: "
                "give more samples, or a larger kl_coef or budget"
            )
        if self.tail_sample_size < FEW_SAMPLES:
            return (
                f"{self.tail_sample_size:.1f} effective samples in the tail: the true risk is "
                "likely higher; give more samples or a larger tail_mass"
            )
        return None

    def require_feasible(self) -> "Solution":
        """This solution.

        Raises:
            InfeasibleError: nothing on the bank meets the budget; it carries what can be met.
        """
        if self.feasible:
            return self
        pairs = list(zip(self.constraints, self.smallest_reachable_risks, strict=True))
        # Where each can be met and no tilt that meets them was found, all are told.
        missed = [(asked, least) for asked, least in pairs if least > asked.budget] or pairs
        told = " and ".join(
            f"{asked.measure} ≤ {asked.budget:g} ({asked.scope}); the smallest reachable is {least:.6g}"
            for asked, least in missed
        )
        raise InfeasibleError(f"no policy on the bank meets {told}", missed[0][1])

    def shaped_reward(
        self,
        reward: ArrayLike | float | int,
        cost: ArrayLike | float | int,
        prompts: ArrayLike | None = None,
    ) -> Float64[np.ndarray, "..."]:
        """The reward less Σ λφ_ν(c), averaged over raters: what training and decoding maximise.

        Args:
            reward: any shape; NaN stays NaN.
            cost: reward's shape, or one more axis of raters.
            prompts: for per-prompt thresholds, the bank's prompt of each entry along the first axis;
                all of them in order when left out. Unseen prompts need a fitted ν(x).

        Raises:
            InfeasibleError: there is no tilt.
            InputError: shapes that do not fit.
        """
        self.require_feasible()
        gain, harm = to_array(reward), to_array(cost)
        raters = harm.ndim == gain.ndim + 1
        if harm.shape[: gain.ndim] != gain.shape or harm.ndim > gain.ndim + 1:
            raise InputError(f"cost of shape {harm.shape} does not fit reward {gain.shape}")
        if raters and (self.rater_weight is None or len(self.rater_weight) != harm.shape[-1]):
            raise InputError(f"cost has {harm.shape[-1]} raters; the plan was made with others")
        # Training and decoding maximise exactly what the plan's tilt does, on samples of their own.
        total = gain.copy()
        for asked, multiplier, threshold in zip(
            self.constraints, self.multipliers, self.thresholds, strict=True
        ):
            nu = _align(asked, threshold, harm, prompts)
            penalty = asked.measure.penalty(harm, nu)
            if raters:
                own = asked.rater if isinstance(asked, RaterLimit) else None
                penalty = penalty @ self.rater_weight if own is None else penalty[..., own]
            total -= multiplier * penalty
        return total


def _align(
    constraint: RiskLimit,
    threshold: Threshold,
    cost: Float64[np.ndarray, "..."],
    prompts: ArrayLike | None,
) -> Threshold:
    """The threshold, shaped to broadcast against the cost."""
    nu = np.asarray(threshold)
    if nu.ndim == len(constraint.measure.threshold_shape):
        return nu
    if prompts is not None:
        nu = nu[np.asarray(prompts)]
    if cost.ndim == 0 or len(nu) != len(cost):
        raise InputError(
            f"the thresholds belong to {len(nu)} prompts but the cost has shape {cost.shape}: give "
            "`prompts`, the index of each entry's prompt in the bank"
        )
    return nu.reshape(len(nu), *(1,) * (cost.ndim - 1), *nu.shape[1:])
