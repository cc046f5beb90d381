"""Logit mixes of policies on a bank, and what each profile makes of them.

With s_k = β·log π_k/π_ref over whole responses, Π π_k^{w_k} ∝ π_ref·exp(Σ w_k s_k/β) for Σ w = 1: the
geometric mixture of tilts is the tilt of the weighted sum, so a mix needs no new samples.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int

from tailguard.errors import InputError
from tailguard.planning import SampleBank
from tailguard.portfolio.profile import Profile
from tailguard.risk import RiskMeasure

MixWeights = Mapping[int, float]  # member → weight; members left out have none


@dataclass(frozen=True)
class Figures:
    """What one policy is worth on the bank.

    Attributes:
        value: E r − β·KL.
        risk: ρ(C) under each measure asked for.
        error: standard error of each risk over prompts, at the policy's own threshold.
    """

    value: float
    risk: dict[RiskMeasure, float]
    error: dict[RiskMeasure, float]

    def meets(self, profile: Profile, margin: float = 0.0) -> bool:
        """Whether the risk, and ``margin`` standard errors on top, stay within the budget."""
        if profile.budget == math.inf:
            return True
        slack = 1e-6 * (1.0 + abs(profile.budget))
        above = margin * self.error[profile.measure] if margin > 0 else 0.0
        return self.risk[profile.measure] + above <= profile.budget + slack


class Mixer:
    """Mixes of given policies on one bank."""

    def __init__(
        self,
        bank: SampleBank,
        log_ratios: Sequence[Float64[np.ndarray, "prompts samples"]],
        measures: Sequence[RiskMeasure],
        kl_coef: float,
    ) -> None:
        """Sort the costs once.

        Args:
            bank: scored samples of the reference.
            log_ratios: log π_k/π_ref of each policy, up to a constant per prompt.
            measures: the risks that will be asked for.
            kl_coef: β.

        Raises:
            InputError: log_ratios of another shape, NaN or infinite.
        """
        for number, ratio in enumerate(log_ratios):
            if ratio.shape != bank.reward.shape or not np.isfinite(ratio).all():
                raise InputError(
                    f"log_ratios[{number}] must be finite with shape {bank.reward.shape}, got "
                    f"shape {ratio.shape}"
                )
        self._bank = bank
        self._log_ratios = list(log_ratios)
        self._measures = list(dict.fromkeys(measures))
        self._kl_coef = kl_coef
        costs = bank.row_costs()
        # Sorted once: a search evaluates thousands of mixes, and only their weights differ.
        self._order = np.argsort(-costs, axis=None, kind="stable")
        self._prompt = self._order // costs.shape[1]
        self._sorted = costs.ravel()[self._order]

    def weights(self, mix: MixWeights) -> Float64[np.ndarray, "prompts samples"]:
        """The mixed policy on the bank, each row summing to 1."""
        exponent = self._bank.log_prob.copy()
        for member, share in mix.items():
            exponent += share * self._log_ratios[member]
        exponent -= exponent.max(axis=1, keepdims=True)
        np.exp(exponent, out=exponent)
        exponent /= exponent.sum(axis=1, keepdims=True)
        return exponent

    def figures(self, mix: MixWeights) -> Figures:
        """Value and risks of a mix."""
        bank, weights = self._bank, self.weights(mix)
        with np.errstate(divide="ignore", invalid="ignore"):
            surprise = np.where(weights > 0, np.log(weights) - bank.log_prob, 0.0)
        prompts = bank.num_prompts
        reward = float(np.einsum("xi,xi->", weights, bank.reward)) / prompts
        # KL is never negative, but its sum may be by rounding where the mix is the reference.
        kl = max(0.0, float(np.einsum("xi,xi->", weights, surprise)) / prompts)
        mass = bank.row_weights(weights).ravel()[self._order] / prompts
        law = _SortedLaw(self._sorted, mass, self._prompt, prompts)
        both = {measure: law.risk(measure) for measure in self._measures}
        return Figures(
            reward - self._kl_coef * kl,
            {measure: risk for measure, (risk, _) in both.items()},
            {measure: error for measure, (_, error) in both.items()},
        )


class _SortedLaw:
    """A law of cost, worst first, asked for many risks: all CVaRs share one running sum."""

    def __init__(
        self,
        costs: Float64[np.ndarray, "n"],
        mass: Float64[np.ndarray, "n"],
        prompt: Int[np.ndarray, "n"],
        num_prompts: int,
    ) -> None:
        self._costs, self._mass, self._prompt, self._num_prompts = costs, mass, prompt, num_prompts
        self._reached = np.cumsum(mass)

    def risk(self, measure: RiskMeasure) -> tuple[float, float]:
        """The risk, and the standard error over prompts of E φ_ν at its own ν."""
        # Every pure CVaR is read off the one running sum; other laws are evaluated on their own.
        weight, tail_mass = measure.hinge or (0.0, 1.0)
        if weight != 1.0:
            threshold = measure.minimiser(self._costs, self._mass)
            penalty = measure.penalty(self._costs, threshold) * self._mass
            risk = float(measure.value_rows(self._costs, self._mass))
            return risk, self._error(self._prompt, penalty)
        edge = min(int(np.searchsorted(self._reached, tail_mass)), len(self._costs) - 1)
        threshold = float(self._costs[edge])
        excess = (self._costs[:edge] - threshold) * (self._mass[:edge] / tail_mass)
        return threshold + float(excess.sum()), self._error(self._prompt[:edge], excess)

    def _error(self, prompt: Int[np.ndarray, "k"], parts: Float64[np.ndarray, "k"]) -> float:
        count = self._num_prompts
        if count == 1:
            return math.inf  # the spread over prompts is unknown: no margin can be met
        means = np.bincount(prompt, parts, minlength=count) * count
        return float(means.std(ddof=1)) / math.sqrt(count)
