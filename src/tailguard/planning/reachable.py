"""The smallest risk that any policy on the bank can reach."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int

from tailguard.planning.bank import SampleBank
from tailguard.planning.tilt import Threshold, same_threshold, sample_penalty
from tailguard.risk import RiskMeasure
from tailguard.risk.limit import Scope

# Starts of the descent over ν: it ends in the nearest local minimum, and there may be several.
_STARTS = 128
_FEWEST_STARTS = 24
_WORK = 30_000_000  # costs to look at before descending

Row = Float64[np.ndarray, " n"]


@dataclass(frozen=True)
class Reachable:
    """The smallest reachable risk and the threshold (one per prompt where so scoped) that shows it."""

    risk: float
    threshold: Threshold


def smallest_reachable(bank: SampleBank, measure: RiskMeasure, scope: Scope) -> Reachable:
    """min_π ρ(C) over all policies on the bank.

    Measures are monotone, so without raters (or where a single one has all the weight) the policy
    that always takes the cheapest sample is best, exactly. Per prompt with raters it is the sample
    whose raters' costs have the least risk, exactly. Pooled with raters the risk is concave in the
    policy, so that its minimum is at one of the deterministic policies and has many local ones: it
    is descended from many starts, and what is found may lie slightly above the least.
    """
    if bank.rater_weight is None:
        return _cheapest_samples(measure, scope, _present_cost(bank, bank.cost).min(axis=1))
    counted = np.flatnonzero(bank.rater_weight)
    if counted.size == 1:
        cost = bank.cost[:, :, counted[0]]
        return _cheapest_samples(measure, scope, _present_cost(bank, cost).min(axis=1))
    if scope == "per_prompt":
        return _cheapest_by_raters(bank, measure, bank.rater_weight)
    return _pooled_with_raters(bank, measure)


def _cheapest_samples(
    measure: RiskMeasure, scope: Scope, cheapest: Float64[np.ndarray, "prompts"]
) -> Reachable:
    if scope == "pooled":
        uniform = np.full_like(cheapest, 1.0 / cheapest.size)
        return Reachable(
            float(measure.value_rows(cheapest, uniform)), measure.minimiser(cheapest, uniform)
        )
    rows = cheapest[:, None]
    return Reachable(float(cheapest.mean()), measure.threshold_rows(rows, np.ones_like(rows)))


def _cheapest_by_raters(
    bank: SampleBank, measure: RiskMeasure, rater_weight: Float64[np.ndarray, "raters"]
) -> Reachable:
    risk = measure.value_rows(bank.cost, np.broadcast_to(rater_weight, bank.cost.shape))
    chosen = _present_cost(bank, risk).argmin(axis=1)
    index = np.arange(bank.num_prompts)
    costs = bank.cost[index, chosen]
    weights = np.broadcast_to(rater_weight, costs.shape)
    return Reachable(float(risk[index, chosen].mean()), measure.threshold_rows(costs, weights))


def _pooled_with_raters(bank: SampleBank, measure: RiskMeasure) -> Reachable:
    count = int(np.clip(_WORK // bank.cost.size, _FEWEST_STARTS, _STARTS))
    levels = np.quantile(bank.cost, np.linspace(0.0, 1.0, count))
    level_starts = [same_threshold(measure, float(level)) for level in levels]
    risks = [_cheapest_at(bank, measure, start)[0] for start in level_starts]
    order = sorted(range(count), key=risks.__getitem__)
    few = 4 if count == _STARTS else 2
    starts = [level_starts[i] for i in order[:few]]
    starts += [_minimiser_of(bank, measure, choice) for choice in _plausible_choices(bank, measure)]
    if measure.threshold_shape:
        # Equal thresholds are a poor start where each tail has its own: the thinner, the higher.
        generator = np.random.default_rng(0)
        shares = generator.random((4 * few, *measure.threshold_shape))
        starts += list(np.quantile(bank.cost, shares))
    return min((_descend(bank, measure, start) for start in starts), key=lambda found: found.risk)


def _plausible_choices(bank: SampleBank, measure: RiskMeasure) -> list[Int[np.ndarray, "prompts"]]:
    """Deterministic policies near which the least risk may lie.

    The cheapest sample of each prompt by the raters' mean, by their worst, and by the measure over
    raters alone.
    """
    assert bank.rater_weight is not None
    counted = bank.cost[:, :, bank.rater_weight > 0]
    shares = np.broadcast_to(bank.rater_weight, bank.cost.shape)
    scores = (
        bank.average_raters(bank.cost),
        counted.max(axis=2),
        measure.value_rows(bank.cost, shares),
    )
    return [_present_cost(bank, np.asarray(score)).argmin(axis=1) for score in scores]


def _minimiser_of(
    bank: SampleBank, measure: RiskMeasure, chosen: Int[np.ndarray, "prompts"]
) -> Threshold:
    """The threshold that suits the policy that takes one sample per prompt."""
    return measure.minimiser(*_law_of(bank, chosen))


def _law_of(bank: SampleBank, chosen: Int[np.ndarray, "prompts"]) -> tuple[Row, Row]:
    """The costs of that policy over samples and raters, and their probabilities."""
    weights = np.zeros_like(bank.reward)
    weights[np.arange(bank.num_prompts), chosen] = 1.0 / bank.num_prompts
    return bank.row_costs().ravel(), bank.row_weights(weights).ravel()


def _descend(bank: SampleBank, measure: RiskMeasure, threshold: Threshold) -> Reachable:
    """Alternate the best samples for ν with the best ν for the samples: the risk never rises."""
    risk, better = np.inf, True
    while better:
        _, chosen = _cheapest_at(bank, measure, threshold)
        costs, mass = _law_of(bank, chosen)
        now = float(measure.value_rows(costs, mass))
        better = now < risk - 1e-12  # less is rounding, and the descent would never end
        if better:
            risk, threshold = now, measure.minimiser(costs, mass)
    return Reachable(risk, threshold)


def _cheapest_at(
    bank: SampleBank, measure: RiskMeasure, threshold: Threshold
) -> tuple[float, Int[np.ndarray, "prompts"]]:
    """E_x min_y φ_ν and the samples that attain it."""
    penalty = _present_cost(bank, sample_penalty(bank, measure, threshold))
    chosen = penalty.argmin(axis=1)
    return float(penalty[np.arange(bank.num_prompts), chosen].mean()), chosen


def _present_cost(
    bank: SampleBank, values: Float64[np.ndarray, "..."]
) -> Float64[np.ndarray, "..."]:
    """The values with +∞ where a sample is left out."""
    return values if bank.present is None else np.where(bank.present, values, np.inf)
