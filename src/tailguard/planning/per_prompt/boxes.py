"""Per prompt, the best thresholds for given multipliers: branch and bound, all prompts at once."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int

from tailguard.planning.tilt import Tilt, num_thresholds
from tailguard.risk import RiskMeasure

_CHUNK = 2_000_000  # sample costs held at once
_MAX_ROUNDS = 40


@dataclass(frozen=True)
class PromptBest:
    """For each prompt the best thresholds found, their value, and a bound on every threshold's.

    Attributes:
        thresholds: [prompts, K], the measures' thresholds beside each other.
        value: [prompts], β·log E_ref exp((r − Σ_j λ_j φ_j)/β) there.
        bound: [prompts], at least the maximum over all thresholds.
    """

    thresholds: Float64[np.ndarray, "prompts k"]
    value: Float64[np.ndarray, "prompts"]
    bound: Float64[np.ndarray, "prompts"]


class BoxSearch:
    """max over ν ∈ R^K of β·log E_ref exp((r − Σ_j λ_j φ_{ν_j}(c))/β), prompt by prompt.

    Any measures, raters or not. φ rises by at most κ as ν rises by one, so within a box it is at
    least its value at the upper corner less κ times the width, and the log-partition at most its
    value there plus λκ times the width. Boxes that cannot beat the
    best are dropped, the others halved, until the bound is within the tolerance or the allowance of
    boxes is used up; the bound holds either way.
    """

    def __init__(self, tilt: Tilt, measures: tuple[RiskMeasure, ...]) -> None:
        """Nothing is evaluated yet."""
        self._tilt = tilt
        self._measures = measures
        self._sizes = [num_thresholds(measure) for measure in measures]
        costs = tilt.bank.row_costs()
        corners = [costs.min(axis=1), costs.max(axis=1)]
        self._low, self._high = (np.repeat(c[:, None], sum(self._sizes), axis=1) for c in corners)

    def best(
        self,
        multipliers: Float64[np.ndarray, "m"],
        tolerance: float,
        start: Float64[np.ndarray, "prompts k"] | None = None,
        boxes_a_prompt: int = 400,
    ) -> PromptBest:
        """Search.

        Args:
            multipliers: λ_j of each measure.
            tolerance: how far a prompt's bound may lie above its value.
            start: thresholds to try first.
            boxes_a_prompt: mean number of evaluations per prompt.
        """
        # Thresholds of different measures lie beside each other, each with its own λκ.
        slopes = np.concatenate(
            [lam * m.slopes for lam, m in zip(multipliers, self._measures, strict=True)]
        )
        prompts = np.arange(self._tilt.bank.num_prompts)
        found = self._high.copy() if start is None else start.copy()
        value = self._evaluate(prompts, found, multipliers)
        low, high, at_high = self._low, self._high, self._evaluate(prompts, self._high, multipliers)
        bound = np.full_like(value, -np.inf)
        left = boxes_a_prompt * len(prompts)
        for _ in range(_MAX_ROUNDS):
            _raise(value, found, prompts, high, at_high)
            top = at_high + (high - low) @ slopes
            keep = top > value[prompts] + tolerance
            np.maximum.at(bound, prompts[~keep], top[~keep])
            prompts, low, high, at_high = prompts[keep], low[keep], high[keep], at_high[keep]
            if len(prompts) == 0 or left < len(prompts):
                break
            left -= len(prompts)  # an allowance for all prompts together: hard ones take more
            middle, raised = _halve(low, high, slopes)
            at_middle = self._evaluate(prompts, middle, multipliers)
            low, high = np.concatenate([low, raised]), np.concatenate([middle, high])
            prompts, at_high = np.tile(prompts, 2), np.concatenate([at_middle, at_high])
        if len(prompts):
            np.maximum.at(bound, prompts, at_high + (high - low) @ slopes)
        return PromptBest(found, value, np.maximum(bound, value))

    def _evaluate(
        self,
        prompts: Int[np.ndarray, "n"],
        thresholds: Float64[np.ndarray, "n k"],
        multipliers: Float64[np.ndarray, "m"],
    ) -> Float64[np.ndarray, "n"]:
        bank, step = self._tilt.bank, max(1, _CHUNK // (self._tilt.bank.cost[0].size))
        parts: list[np.ndarray] = []
        for begin in range(0, len(prompts), step):
            rows, nu = prompts[begin : begin + step], thresholds[begin : begin + step]
            with np.errstate(over="ignore"):  # entropic penalties reach 1e304
                exponent = self._penalty(bank.cost[rows], nu, multipliers)
                exponent *= -1.0 / self._tilt.kl_coef
            exponent += self._tilt.base[rows]
            peak = exponent.max(axis=1)
            exponent -= peak[:, None]
            np.exp(exponent, out=exponent)
            parts.append(self._tilt.kl_coef * (np.log(exponent.sum(axis=1)) + peak))
        return np.concatenate(parts)

    def _penalty(
        self,
        cost: Float64[np.ndarray, "n samples *raters"],
        thresholds: Float64[np.ndarray, "n k"],
        multipliers: Float64[np.ndarray, "m"],
    ) -> Float64[np.ndarray, "n samples"]:
        """Σ_j λ_j φ_j, averaged over raters."""
        total = np.zeros(cost.shape)
        extra = (1,) * (cost.ndim - 1)
        begin = 0
        for measure, size, multiplier in zip(self._measures, self._sizes, multipliers, strict=True):
            nu = thresholds[:, begin : begin + size]
            shape = (*nu.shape[:1], *extra, *measure.threshold_shape)
            total += multiplier * measure.penalty(cost, nu.reshape(shape))
            begin += size
        return self._tilt.bank.average_raters(total)


def _raise(
    value: Float64[np.ndarray, "prompts"],
    found: Float64[np.ndarray, "prompts k"],
    prompts: Int[np.ndarray, "n"],
    corner: Float64[np.ndarray, "n k"],
    at_corner: Float64[np.ndarray, "n"],
) -> None:
    """Keep the best corner of each prompt, in place."""
    better = at_corner > value[prompts]
    np.maximum.at(value, prompts[better], at_corner[better])
    attains = better & (at_corner == value[prompts])
    found[prompts[attains]] = corner[attains]


def _halve(
    low: Float64[np.ndarray, "n k"],
    high: Float64[np.ndarray, "n k"],
    slopes: Float64[np.ndarray, "k"],
) -> tuple[Float64[np.ndarray, "n k"], Float64[np.ndarray, "n k"]]:
    """Cut each box across its costliest side: the lower half's top and the upper half's bottom."""
    rows, side = np.arange(len(low)), ((high - low) * slopes).argmax(axis=1)
    cut = 0.5 * (low[rows, side] + high[rows, side])
    top, bottom = high.copy(), low.copy()
    top[rows, side], bottom[rows, side] = cut, cut
    return top, bottom
