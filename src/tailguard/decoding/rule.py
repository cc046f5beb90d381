"""The rule of the decoder: draw on, serve, or abstain.

1. An answer is *admissible* if the upper bound u(y) on its cost is at most the acceptance level.
2. While none is, draw again from the prompt, up to ``max_draws``; never go on from a bad answer.
3. Once one is, draw on while it pays: P̂(admissible) · E[gain in the best utility] > price of a draw. Such a
   further answer is left off on its way where process heads foresee that going on does not pay (`outlook`).
4. Serve the admissible answer of the largest utility; where none came, abstain.

Serving and calibration both go through `simulate` or, step by step, through `wants_draw`: what was
calibrated is what is served. For utilities of a known law, step 3 is Weitzman's rule (1979): stop as
soon as the best reaches the reservation value z with E(U − z)₊ = price, which is optimal. The law of a
prompt's utilities is not known, so their mean gets a normal posterior from the prompts before (as in
BEACON, 2510.15945).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float
from scipy.special import ndtr

from tailguard.decoding.outlook import Prospects
from tailguard.decoding.pool import Pool
from tailguard.errors import InputError

PerDraw = Float[np.ndarray, "prompts draws"]
PerPrompt = Float[np.ndarray, " prompts"]
_LEAST_VARIANCE = 1e-12


@dataclass(frozen=True)
class DrawPrior:
    """What is known of a prompt's draws before the first, from other prompts.

    Attributes:
        mean: of the utilities of admissible draws, over prompts.
        between: variance of prompts' means.
        within: variance of one prompt's utilities around its mean.
        admissible: draws that count as seen and admissible (beta prior).
        inadmissible: draws that count as seen and not admissible.
        tokens: of a draw, on average.
    """

    mean: float
    between: float
    within: float
    admissible: float
    inadmissible: float
    tokens: float

    def __post_init__(self) -> None:
        """Refuse what can be no prior."""
        if not math.isfinite(self.mean):
            raise InputError(f"mean: {self.mean}; must be finite")
        for name in ("between", "within", "admissible", "inadmissible", "tokens"):
            value = getattr(self, name)
            if not (value >= 0.0 and math.isfinite(value)):
                raise InputError(f"{name}: {value}; must be finite and ≥ 0")


def fit_prior(
    utility: PerDraw, admissible: Bool[np.ndarray, "prompts draws"], num_tokens: PerDraw
) -> DrawPrior:
    """Moments of other prompts' draws: one-way analysis of variance, and a beta law of shares.

    Args:
        utility: of each draw.
        admissible: which draws are.
        num_tokens: of each draw.
    """
    count = admissible.sum(axis=1)
    some, several = count >= 1, count >= 2
    if not some.any():
        return DrawPrior(0.0, 0.0, 0.0, 0.0, 1.0, float(num_tokens.mean()))
    sums = np.where(admissible, utility, 0.0).sum(axis=1)
    means = sums[some] / count[some]
    centred = np.where(admissible, utility - (sums / np.maximum(count, 1))[:, None], 0.0)
    freedom = float((count[several] - 1).sum())
    within = float((centred[several] ** 2).sum() / freedom) if freedom else 0.0
    # A mean of n draws varies by the prompts' own variance and within/n.
    spread = float(means.var(ddof=1)) if some.sum() > 1 else 0.0
    between = max(0.0, spread - within * float((1.0 / count[some]).mean()))
    share, num_draws = admissible.mean(axis=1), admissible.shape[1]
    average, variance = float(share.mean()), float(share.var())
    # Shares of n draws vary by chance too, by E p(1 − p)/n; what is left is the prompts' own.
    chance = average * (1.0 - average) / num_draws
    own = max((variance - chance) / max(1.0 - 1.0 / num_draws, 1e-3), _LEAST_VARIANCE)
    weight = min(max(average * (1.0 - average) / own - 1.0, 0.1), 1e6)
    return DrawPrior(
        float(means.mean()),
        between,
        within,
        average * weight,
        (1.0 - average) * weight,
        float(num_tokens.mean()),
    )


@dataclass(frozen=True)
class Rule:
    """How many answers are drawn, and which is served.

    Attributes:
        level: the largest upper bound on cost that is served.
        token_price: what one more token may cost, in units of utility; 0 draws as long as anything
            may be gained, +inf serves the first admissible answer.
        max_draws: the most draws of one prompt.
        prior: of a prompt's draws.
    """

    level: float
    token_price: float
    max_draws: int
    prior: DrawPrior

    def __post_init__(self) -> None:
        """Refuse what can only be a mistake."""
        if math.isnan(self.level):
            raise InputError("level: NaN; give a number")
        if not self.token_price >= 0.0:
            raise InputError(f"token_price: {self.token_price}; must be ≥ 0")
        if self.max_draws < 1:
            raise InputError(f"max_draws: {self.max_draws}; must be at least 1")

    def admits(self, cost_bound: Float[np.ndarray, "*n"]) -> Bool[np.ndarray, "*n"]:
        """Which answers may be served: those with a finite bound within the level."""
        return np.isfinite(cost_bound) & (cost_bound <= self.level)

    def wants_draw(
        self,
        utility: PerDraw,
        admissible: Bool[np.ndarray, "prompts draws"],
        finished: Bool[np.ndarray, "prompts draws"] | None = None,
    ) -> Bool[np.ndarray, " prompts"]:
        """Whether a further draw is worth its price, after the draws that are given.

        Args:
            utility: of the draws so far; what inadmissible ones have does not matter.
            admissible: which of them keep the level.
            finished: which of them were not left off; of those that were, utility and admissibility
                are foreseen, and none can be served. By default all.
        """
        wants, _ = self.next_draw(utility, admissible, finished)
        return wants

    def next_draw(
        self,
        utility: PerDraw,
        admissible: Bool[np.ndarray, "prompts draws"],
        finished: Bool[np.ndarray, "prompts draws"] | None = None,
    ) -> tuple[Bool[np.ndarray, " prompts"], PerPrompt]:
        """Whether a further draw is worth its price, and what it gains per token; as `wants_draw`.

        Returns:
            The verdicts, and P̂(admissible) · E[gain] over the tokens of a draw, 0 where nothing can be
            served yet and there is nothing to gain over.
        """
        servable: np.ndarray = admissible if finished is None else admissible & finished
        num_prompts, num_draws = len(utility), utility.shape[1]
        count = admissible.sum(axis=1)
        none = np.asarray(~servable.any(axis=1))
        best = np.where(servable, utility, -np.inf).max(axis=1, initial=-np.inf)
        total = np.where(admissible, utility, 0.0).sum(axis=1)
        gain = self._gain(np.where(none, 0.0, best), total, count)
        prior = self.prior
        weight = prior.admissible + prior.inadmissible + num_draws
        share = (prior.admissible + count) / max(weight, _LEAST_VARIANCE)
        rate = np.where(none, 0.0, share * gain / max(prior.tokens, _LEAST_VARIANCE))
        if num_draws >= self.max_draws:
            return np.zeros(num_prompts, dtype=bool), rate
        # At price 0 whatever may be gained is drawn for, even where the posterior is a point.
        pays = rate > self.token_price if self.token_price else ~none
        return none | pays, rate

    def _gain(self, best: PerPrompt, total: PerPrompt, count: np.ndarray) -> PerPrompt:
        """E(U − best)₊ for the next admissible draw, by its predictive law."""
        prior = self.prior
        within, between = max(prior.within, _LEAST_VARIANCE), max(prior.between, _LEAST_VARIANCE)
        precision = 1.0 / between + count / within
        mean = (prior.mean / between + total / within) / precision
        deviation = np.sqrt(within + 1.0 / precision)
        z = (mean - best) / deviation
        density = np.exp(-0.5 * z * z) / math.sqrt(2.0 * math.pi)
        below: PerPrompt = np.asarray(ndtr(z))
        return deviation * (z * below + density)


@dataclass(frozen=True, eq=False)
class Outcome:
    """What a rule serves to each prompt of a pool, [prompts] each.

    Attributes:
        served: number of the draw; −1 where the fallback is served.
        num_draws: draws made.
        num_tokens: of all of them.
        reward: of what is served.
        cost_bound: upper bound on its cost.
        judged_reward: by the judge; None where there is none.
        judged_cost: the same.
        rater_bound: upper bound on its cost to each rater [prompts, raters]; None likewise.
        judged_by_rater: the judge's cost to each rater [prompts, raters]; None likewise.
    """

    served: np.ndarray
    num_draws: np.ndarray
    num_tokens: np.ndarray
    reward: np.ndarray
    cost_bound: np.ndarray
    judged_reward: np.ndarray | None
    judged_cost: np.ndarray | None
    rater_bound: np.ndarray | None = None
    judged_by_rater: np.ndarray | None = None


def simulate(
    pool: Pool,
    rule: Rule,
    utility: PerDraw | None = None,
    prospects: Prospects | None = None,
    bound: PerDraw | None = None,
) -> Outcome:
    """Run the rule on a pool's draws in their order.

    Args:
        pool: with at least as many draws as the rule may make.
        rule: what to do.
        utility: of each draw; by default its reward.
        prospects: what was foreseen of the draws; without, none is left off.
        bound: on each draw's cost, that is held against the level; by default the population's.

    Raises:
        InputError: fewer draws than the rule may make.
    """
    if rule.max_draws > pool.num_draws:
        raise InputError(f"max_draws: {rule.max_draws} of {pool.num_draws} in the pool; take fewer")
    utility = (pool.reward if utility is None else utility).copy()
    admissible = rule.admits(pool.cost_bound if bound is None else bound)
    num_tokens = pool.num_tokens.astype(np.float64)
    finished = np.ones_like(admissible)
    num_draws = np.ones(pool.num_prompts, dtype=int)
    going = np.arange(pool.num_prompts)
    top = np.where(admissible[:, 0], utility[:, 0], -np.inf)
    for made in range(1, rule.max_draws):
        wants, rate = rule.next_draw(
            utility[going, :made], admissible[going, :made], finished[going, :made]
        )
        going, rate = going[wants], rate[wants]
        if going.size == 0:
            break
        num_draws[going] += 1
        if prospects is not None:
            stage = prospects.left_off(
                going, made, top[going], level=rule.level, rate=rate if rule.token_price else None
            )
            rows, stage = going[stage >= 0], stage[stage >= 0]
            finished[rows, made] = False
            num_tokens[rows, made] = np.array([each.tokens for each in prospects.stages])[stage]
            utility[rows, made] = prospects.utility[rows, made, stage]
            admissible[rows, made] = prospects.bound[rows, made, stage] <= rule.level
        servable = admissible[going, made] & finished[going, made]
        top[going] = np.maximum(top[going], np.where(servable, utility[going, made], -np.inf))
    drawn = np.arange(pool.num_draws) < num_draws[:, None]
    best = np.where(admissible & finished & drawn, utility, -np.inf)
    served = np.where(np.isfinite(best).any(axis=1), best.argmax(axis=1), -1)

    def taken(draws: np.ndarray | None, fallback: np.ndarray | None) -> np.ndarray | None:
        if draws is None or fallback is None:
            return None
        chosen = draws[np.arange(len(served)), served]
        kept: np.ndarray = served >= 0
        return np.where(kept if chosen.ndim == 1 else kept[:, None], chosen, fallback)

    reward = taken(pool.reward, pool.fallback_reward)
    cost_bound = taken(pool.cost_bound, pool.fallback_cost_bound)
    assert reward is not None  # pools have both
    assert cost_bound is not None
    return Outcome(
        served=served,
        num_draws=num_draws,
        num_tokens=np.where(drawn, num_tokens, 0.0).sum(axis=1),
        reward=reward,
        cost_bound=cost_bound,
        judged_reward=taken(pool.judged_reward, pool.fallback_judged_reward),
        judged_cost=taken(pool.judged_cost, pool.fallback_judged_cost),
        rater_bound=taken(pool.rater_bound, pool.fallback_rater_bound),
        judged_by_rater=taken(pool.judged_by_rater, pool.fallback_judged_by_rater),
    )
