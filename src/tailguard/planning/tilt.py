"""Exponential tilts of the reference policy on a bank, and the moments every dual needs."""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64

from tailguard.planning.bank import SampleBank
from tailguard.risk import RiskMeasure

Matrix = Float64[np.ndarray, "prompts samples"]
Threshold = float | Float64[np.ndarray, "..."]


@dataclass(frozen=True)
class Moments:
    """What one tilt π ∝ π_ref·exp((r − λa)/β) says about the dual at λ.

    With F(λ) = β·E_x log E_ref exp((r − λa)/β), which is convex: F′ = −E_π a, F″ = E_x Var_π(a)/β.

    Attributes:
        multiplier: λ.
        log_partition: F(λ).
        mean: E_π a.
        curvature: F″(λ).
    """

    multiplier: float
    log_partition: float
    mean: float
    curvature: float

    def dual(self, margin: float) -> float:
        """F(λ) + λ·margin: no policy with E a ≤ margin has a larger value."""
        return self.log_partition + self.multiplier * margin

    def primal(self) -> float:
        """E r − β·KL of the tilt itself."""
        return self.log_partition + self.multiplier * self.mean


class Tilt:
    """π_ref·exp(r/β) on a bank, to be tilted further by penalties. Reuses one buffer.

    Attributes:
        bank: the samples.
        kl_coef: β.
        base: log π_ref + r/β.
        free_weights: the tilt by the reward alone.
        free_value: its value.
    """

    def __init__(self, bank: SampleBank, kl_coef: float) -> None:
        self.bank = bank
        self.kl_coef = kl_coef
        self.base: Matrix = bank.log_prob + bank.reward / kl_coef
        self._buffer = np.empty_like(self.base)
        self.free_weights, log_mass = self.weights(np.zeros_like(self.base))
        self.free_value = kl_coef * float(log_mass.mean())

    def moments(self, penalty: Matrix, multiplier: float) -> Moments:
        """Moments of a = penalty under the tilt at λ = multiplier."""
        with np.errstate(over="ignore", invalid="ignore"):  # entropic penalties reach 1e304
            weights = np.multiply(penalty, -multiplier / self.kl_coef, out=self._buffer)
            log_mass = self._normalise(weights)
            mean = np.einsum("xi,xi->x", weights, penalty)
            weights *= penalty
            square = np.einsum("xi,xi->x", weights, penalty)
            # Rounding may leave a small negative number, and inf − inf a NaN: max() takes 0 for both.
            variance = max(0.0, float((square - mean * mean).mean()))
        return Moments(
            multiplier,
            self.kl_coef * float(log_mass.mean()),
            float(mean.mean()),
            variance / self.kl_coef,
        )

    def weights(self, total_penalty: Matrix) -> tuple[Matrix, Float64[np.ndarray, "prompts"]]:
        """The tilt by r − total_penalty: its weights, each row summing to 1, and log of its mass."""
        with np.errstate(over="ignore", invalid="ignore"):
            weights = total_penalty * (-1.0 / self.kl_coef)
            log_mass = self._normalise(weights)
        return weights, log_mass

    def partitions(
        self, penalty: Matrix, multipliers: Float64[np.ndarray, "grid"]
    ) -> Float64[np.ndarray, "prompts grid"]:
        """β·log E_ref exp((r − λa)/β) of each prompt, at many λ."""
        found = np.empty((len(penalty), len(multipliers)))
        for number, multiplier in enumerate(multipliers):
            with np.errstate(over="ignore"):
                np.multiply(penalty, -multiplier / self.kl_coef, out=self._buffer)
            self._buffer += self.base
            peak = self._buffer.max(axis=1)
            self._buffer -= peak[:, None]
            np.exp(self._buffer, out=self._buffer)
            found[:, number] = self.kl_coef * (np.log(self._buffer.sum(axis=1)) + peak)
        return found

    def _normalise(self, exponent: Matrix) -> Float64[np.ndarray, "prompts"]:
        """Turns base + exponent into weights in place; returns log of each row's mass."""
        exponent += self.base
        # Shifted by the row's largest exponent, so that exp neither overflows nor loses the best sample.
        peak = exponent.max(axis=1)
        exponent -= peak[:, None]
        np.exp(exponent, out=exponent)
        mass = exponent.sum(axis=1)
        exponent /= mass[:, None]
        return np.log(mass) + peak


def num_thresholds(measure: RiskMeasure) -> int:
    """How many ν the measure has: one, or the length of its vector."""
    return math.prod(measure.threshold_shape)


def same_threshold(measure: RiskMeasure, level: float) -> Threshold:
    """One level as the measure's threshold: repeated where thresholds form a vector."""
    return np.full(measure.threshold_shape, level) if measure.threshold_shape else level


def sample_penalty(bank: SampleBank, measure: RiskMeasure, threshold: Threshold) -> Matrix:
    """φ_ν(c) of every sample, averaged over raters.

    Args:
        bank: the samples.
        measure: ρ.
        threshold: ν of the measure's own shape, or one per prompt with the prompts' axis in front.
    """
    nu = np.asarray(threshold)
    if nu.ndim == 1 + len(measure.threshold_shape):
        # One per prompt: the prompts' axis stays in front, then samples and raters.
        extra = (1,) * (bank.cost.ndim - 1)
        nu = nu.reshape(nu.shape[0], *extra, *nu.shape[1:])
    return bank.average_raters(measure.penalty(bank.cost, nu))
