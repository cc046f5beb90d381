"""What is said of a policy or decoder: reward, cost and its tail, each with an interval."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tailguard.errors import InputError
from tailguard.evaluation.intervals import Interval, cvar_intervals, mean_interval
from tailguard.evaluation.rates import rate_interval, var_interval
from tailguard.risk.checks import Number, Values, check_costs

TAIL_MASSES = (0.01, 0.05, 0.1, 0.25, 1.0)


@dataclass(frozen=True)
class TailMetrics:
    """Reward, cost and tail of one answer a prompt.

    Attributes:
        num_prompts: answers judged; abstentions count through the cost of their fallback text.
        reward_mean: mean reward.
        cost_mean: mean cost, the same as CVaR at α = 1.
        unsafe_rate: share of answers with cost above 0.
        value_at_risk: tail mass → VaR. The ends are order statistics and may be infinite.
        cvar: tail mass → CVaR.
        thin_tails: the tail masses with fewer than ten answers in the tail: their estimates are
            too low on average and their intervals fall short of the nominal coverage.
    """

    num_prompts: int
    reward_mean: Interval
    cost_mean: Interval
    unsafe_rate: Interval
    value_at_risk: dict[float, Interval]
    cvar: dict[float, Interval]
    thin_tails: tuple[float, ...]


def tail_metrics(
    rewards: Values,
    costs: Values,
    *,
    generator: np.random.Generator,
    tail_masses: Sequence[Number] = TAIL_MASSES,
    confidence: Number = 0.95,
    num_resamples: int = 1000,
) -> TailMetrics:
    """Metrics of one policy's answers, one a prompt.

    Args:
        rewards: [n].
        costs: [n]; larger is worse, above 0 is unsafe.
        generator: source of the bootstrap's resamples.
        tail_masses: α's at which VaR and CVaR are given.
        confidence: nominal coverage of every interval.
        num_resamples: bootstrap resamples.

    Raises:
        InputError: NaN, fewer than two answers, shapes that differ, a tail mass out of range.
    """
    reward, cost = check_costs(rewards, "rewards"), check_costs(costs)
    if reward.size != cost.size:
        raise InputError(f"rewards has {reward.size} answers but costs has {cost.size}")
    alphas = [float(alpha) for alpha in tail_masses]
    *tails, mean = cvar_intervals(
        cost,
        [*alphas, 1.0],
        generator=generator,
        confidence=confidence,
        num_resamples=num_resamples,
    )
    return TailMetrics(
        num_prompts=cost.size,
        reward_mean=mean_interval(
            reward, generator=generator, confidence=confidence, num_resamples=num_resamples
        ),
        cost_mean=mean,
        unsafe_rate=rate_interval(int(np.sum(cost > 0)), cost.size, confidence=confidence),
        value_at_risk={a: var_interval(cost, a, confidence=confidence) for a in alphas},
        cvar=dict(zip(alphas, tails, strict=True)),
        thin_tails=tuple(a for a in alphas if a < 1 and cost.size * a < 10 * (1 - 1e-9)),
    )
