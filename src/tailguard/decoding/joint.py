"""The joint choice: soup, acceptance level, token price and penalty come from one table.

At a fixed level the true tail grows with the number of draws, because selection finds the scorer's
errors; and a looser soup with a filter beats a stricter one without. So they are not chosen one after
the other: every combination is run on the calibration prompts' draws (`simulate`), and what it
served is what the table holds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np

from tailguard.decoding.admission import POPULATION, admission_bound
from tailguard.decoding.dial import DialEntry
from tailguard.decoding.outlook import Outlook
from tailguard.decoding.pool import Pool
from tailguard.decoding.rule import Outcome, Rule, fit_prior, simulate
from tailguard.decoding.worth import AnswerScores, AnswerWorth
from tailguard.errors import InputError
from tailguard.portfolio.dial import DialTable
from tailguard.portfolio.rater_tails import WORST, RaterTails, common_knots, mass_on
from tailguard.portfolio.wanted import wanted


@dataclass(frozen=True, eq=False)
class MeasuredPoint:
    """Draws at one point.

    Attributes:
        point: weights of the members' updates.
        pool: scored draws of the calibration prompts.
        kl: from the reference policy, in nats per prompt.
    """

    point: tuple[float, ...]
    pool: Pool
    kl: float


@dataclass(frozen=True)
class RuleGrid:
    """Rules that are tried at every point: each level with each price and penalty.

    Attributes:
        num_levels: acceptance levels per point, spread over the bounds that its draws have; the
            loosest serves everything that has a score.
        token_prices: of the rules.
        penalties: λ′ of the utility.
        max_draws: of the rules.
        admissions: whose bound an answer must keep, each with all of these.
    """

    num_levels: int
    token_prices: Sequence[float]
    penalties: Sequence[float]
    max_draws: int
    admissions: Sequence[str] = (POPULATION,)


@dataclass(frozen=True)
class KnownRaters:
    """Whom the draws' scores tell apart.

    Attributes:
        judged: by the judge, whose word on them then counts.
        scored: by the scorers, whose bounds admit answers, and measure where no judge knows any.
    """

    judged: tuple[str, ...] = ()
    scored: tuple[str, ...] = ()

    @property
    def measured(self) -> tuple[str, ...]:
        """Whose tails the table holds."""
        return self.judged or self.scored

    @property
    def measured_by(self) -> str:
        """By whom."""
        return "judge" if self.judged else "scorer"

    def admissions(self) -> tuple[str, ...]:
        """Whose bounds are worth trying: each rater's own only where there are few."""
        if not (self.measured and self.scored):
            return (POPULATION,)
        own = self.scored if len(self.scored) <= _MOST_OWN else ()
        return (POPULATION, WORST, *own)


_MOST_OWN = 6


def joint_table(  # noqa: PLR0913
    points: Sequence[MeasuredPoint],
    worth: AnswerWorth,
    grid: RuleGrid,
    *,
    largest_cost: float,
    kl_coef: float = 0.0,
    largest_withheld: float = 1.0,
    outlook: Outlook | None = None,
    raters: KnownRaters | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> tuple[tuple[DialEntry, ...], DialTable]:
    """Every point with every level, price, penalty and admission, less what no request could want.

    Args:
        points: with the same prompts.
        worth: of answers, by their scores.
        grid: the rules that are tried at each point.
        largest_cost: declared; what is served without a score counts as this.
        kl_coef: β of the table.
        largest_withheld: entries that withhold more are left out; where all do, the one that withholds
            least stays.
        outlook: of the pools' draws; without, none is left off on its way.
        raters: whose costs the pools hold; without, the table knows none.
        on_progress: called with (points done, points).

    Returns:
        The entries, and their figures: by the judge where the pools have one, else by the scorers.

    Raises:
        InputError: no points, or points of unlike prompts.
    """
    if len({measured.pool.num_prompts for measured in points}) != 1:
        raise InputError("points: none, or measured on unlike prompts")
    raters = raters or KnownRaters()
    knots = (
        common_knots(_rater_costs(points, largest_cost), len(raters.measured))
        if raters.measured
        else None
    )
    entries: list[DialEntry] = []
    costs: list[np.ndarray] = []
    masses: list[np.ndarray] = []
    rows: list[tuple[float, float, float]] = []
    for number, measured in enumerate(points):
        pool = measured.pool
        reward, excess = worth.expected(AnswerScores.of_pool(pool))
        utilities = {
            penalty: reward - penalty * excess if penalty else reward for penalty in grid.penalties
        }
        prospects = {
            penalty: None if outlook is None else outlook.of_pool(pool, penalty)
            for penalty in grid.penalties
        }
        bounds = {
            admission: admission_bound(admission, pool.cost_bound, pool.rater_bound, raters.scored)
            for admission in grid.admissions
        }
        tried = [
            (admission, level)
            for admission, bound in bounds.items()
            for level in _levels(bound, grid.num_levels)
        ]
        for (admission, level), penalty in product(tried, grid.penalties):
            bound = bounds[admission]
            admissible = np.isfinite(bound) & (bound <= level)
            utility = utilities[penalty]
            prior = fit_prior(utility, admissible, pool.num_tokens)
            for price in grid.token_prices:
                rule = Rule(level, price, grid.max_draws, prior)
                outcome = simulate(pool, rule, utility, prospects[penalty], bound)
                withheld = float((outcome.served < 0).mean())
                entries.append(DialEntry(measured.point, rule, withheld, penalty, admission))
                costs.append(risk_costs(outcome, largest_cost))
                if knots is not None:
                    masses.append(mass_on(knots, rater_costs(outcome, largest_cost)))
                judged = outcome.judged_reward
                served = outcome.reward if judged is None else judged
                rows.append((float(served.mean()), measured.kl, float(outcome.num_tokens.mean())))
        if on_progress is not None:
            on_progress(number + 1, len(points))
    reward, kl, tokens = np.array(rows).T
    tails = None
    if knots is not None:
        tails = RaterTails(raters.measured, knots, np.stack(masses), points[0].pool.num_prompts)
    table = DialTable(np.stack(costs)[:, :, None], reward, kl, tokens, kl_coef, tails)
    shares = np.array([entry.withheld for entry in entries])
    offered = np.flatnonzero(shares <= max(largest_withheld, float(shares.min())))
    entries, table = [entries[i] for i in offered], table.take(offered)
    # Other admissions serve what is asked for raters: of them only what some request gets.
    plain = np.array([entry.admission == POPULATION for entry in entries])
    if not plain.all():
        kept = plain | wanted(table, grid.token_prices)
        entries, table = (
            [e for e, some in zip(entries, kept, strict=True) if some],
            table.take(kept),
        )
    keep = table.useful()
    kept = tuple(entry for entry, wanted in zip(entries, keep, strict=True) if wanted)
    return kept, table.take(keep)


def risk_costs(outcome: Outcome, largest_cost: float) -> np.ndarray:
    """The cost of what was served that risk is taken of [prompts]: the judge's, or the scorer's."""
    cost = outcome.cost_bound if outcome.judged_cost is None else outcome.judged_cost
    return _clipped(cost, largest_cost)


def rater_costs(outcome: Outcome, largest_cost: float) -> np.ndarray:
    """The same to each rater [prompts, raters].

    Raises:
        InputError: draws whose costs to raters are unknown.
    """
    judged = outcome.judged_by_rater
    return _clipped(_known(outcome.rater_bound if judged is None else judged), largest_cost)


def _rater_costs(points: Sequence[MeasuredPoint], largest_cost: float) -> np.ndarray:
    """All costs to raters that may be served, of draws and fallbacks."""
    parts: list[np.ndarray] = []
    for pool in (measured.pool for measured in points):
        judged = pool.judged_by_rater is not None
        draws = pool.judged_by_rater if judged else pool.rater_bound
        fallback = pool.fallback_judged_by_rater if judged else pool.fallback_rater_bound
        parts += [_known(draws).ravel(), _known(fallback).ravel()]
    return _clipped(np.concatenate(parts), largest_cost)


def _known(costs: np.ndarray | None) -> np.ndarray:
    if costs is None:
        raise InputError("raters: the draws hold no costs to them; measure the points again")
    return costs


def _clipped(cost: np.ndarray, largest_cost: float) -> np.ndarray:
    return np.where(np.isfinite(cost), np.minimum(cost, largest_cost), largest_cost)


def _levels(bound: np.ndarray, num_levels: int) -> list[float]:
    finite = bound[np.isfinite(bound)]
    if finite.size == 0:
        return [-np.inf]
    # From the best tenth of draws on: with a stricter level most prompts would be withheld.
    shares = np.linspace(0.1, 1.0, num_levels)
    return np.unique(np.quantile(finite, shares, method="higher")).tolist()
