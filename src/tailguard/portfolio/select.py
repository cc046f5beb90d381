"""Choosing few policies for many profiles."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from math import comb

import numpy as np
from jaxtyping import Float64, Int

from tailguard.errors import InputError
from tailguard.planning import Planner, SampleBank, Solution
from tailguard.portfolio.assign import Assigner, MixKey
from tailguard.portfolio.mixing import Mixer
from tailguard.portfolio.portfolio import Portfolio
from tailguard.portfolio.profile import Profile
from tailguard.portfolio.regret import Objective, RegretScale, check_profiles, regret_scale
from tailguard.risk import Mean
from tailguard.risk.limit import RiskLimit

Regrets = Float64[np.ndarray, "profiles"]
# Of two members, while sets are compared; the set that is chosen gets finer ones.
SHARES_COMPARED = (0.25, 0.5, 0.75)
_EXACT_UP_TO = 400  # sets of members to try one by one
_MAX_SWEEPS = 5  # a sweep without an exchange ends it earlier
_HELPS = 1e-6  # of the value span: less regret than this by a change is rounding
_ENOUGH_SAMPLES = 100_000  # larger banks are thinned by prompts while sets are compared


def select(
    bank: SampleBank,
    profiles: Sequence[Profile],
    kl_coef: float | int,
    *,
    num_policies: int | None = None,
    target_regret: float | None = None,
    objective: Objective = "mean",
    margin: float = 2.0,
) -> Portfolio:
    """Few tilts that, alone or two mixed, serve all profiles with little regret.

    Candidates are the unconstrained tilt and the solutions of the profiles (with a margin, also
    those of budgets tightened by it). Small problems are tried exhaustively; otherwise members are
    added greedily and then exchanged while that helps.

    Args:
        bank: the prompts to choose on; report regret on others.
        profiles: what users ask for.
        kl_coef: β > 0.
        num_policies: K; fewer where no further member helps.
        target_regret: instead of K: add members until this is reached, or nothing helps; 0 adds
            members as long as one helps.
        objective: "mean" regret by the profiles' weights, or the "worst".
        margin: standard errors of the risk by which a profile must be met on this bank, so that it
            is also met on others.

    Raises:
        InputError: no profiles, or not exactly one of num_policies and target_regret.
    """
    asked = check_profiles(profiles)
    _check(num_policies, target_regret, margin)
    scale, candidates = candidate_tilts(bank, asked, kl_coef, margin)
    small = bank.take(prompts_compared(bank))
    ratios = [s.shaped_reward(small.reward, small.cost) / kl_coef for s in candidates]
    mixer = Mixer(small, ratios, [p.measure for p in asked], kl_coef)
    search = Search(Assigner(mixer, len(candidates), SHARES_COMPARED, margin), scale, objective)
    if target_regret is None:
        chosen = search.best_set(num_policies or 1)
    else:
        chosen = search.enough(target_regret)
    members = tuple(candidates[i] for i in sorted(chosen))
    return Portfolio(bank, asked, members, float(kl_coef), objective, margin)


def prompts_compared(bank: SampleBank) -> Int[np.ndarray, "n"]:
    """Prompts on which sets of members are compared: of a large bank, enough of them."""
    return np.arange(0, bank.num_prompts, max(1, bank.reward.size // _ENOUGH_SAMPLES))


def candidate_tilts(
    bank: SampleBank, profiles: Sequence[Profile], kl_coef: float, margin: float
) -> tuple[RegretScale, list[Solution]]:
    """What members are chosen from, and the unit in which they are compared.

    Args:
        bank: the prompts to choose on.
        profiles: what users ask for.
        kl_coef: β > 0.
        margin: standard errors by which tightened budgets are below the profiles'; 0 for none.

    Returns:
        The scale of regret, and the feasible tilts: without constraint, for each profile and for
        each tightened budget.
    """
    planner = Planner(bank, kl_coef)
    free, *plain = planner.frontier([RiskLimit(Mean(), np.inf), *(p.limit for p in profiles)])
    scale = regret_scale(profiles, plain, free.value)
    return scale, _distinct([free, *plain, *_tightened(planner, profiles, plain, margin)])


@dataclass
class Search:
    """Searches for the set of candidates with the least regret.

    Attributes:
        assigner: of all candidates.
        scale: of their regret.
        objective: how regret over profiles is summed up.
    """

    assigner: Assigner
    scale: RegretScale
    objective: Objective

    def __post_init__(self) -> None:
        self._single = [self._regrets(((c, 1.0),)) for c in range(self.assigner.num_members)]
        self._pairs: dict[tuple[int, int], Regrets] = {}

    def best_set(self, num: int) -> list[int]:
        """At most ``num`` candidates with the least regret; fewer when no further one helps."""
        count = self.assigner.num_members
        # Greedy search is near-exact, but where all sets can be tried there is no need to trust it.
        if comb(count, min(num, count)) <= _EXACT_UP_TO:
            return min(map(list, combinations(range(count), min(num, count))), key=self.score)
        return self._grow(num, 0.0)

    def enough(self, target: float) -> list[int]:
        """Candidates that reach the target, or as near as any do, and no more than that needs."""
        chosen = self._grow(self.assigner.num_members, target)
        allowed = max(target, self.score(chosen) + _HELPS)
        # Early members may have become superfluous by what was added later.
        for member in list(chosen):
            rest = [c for c in chosen if c != member]
            if rest and self.score(rest) <= allowed:
                chosen = rest
        return chosen

    def _grow(self, num: int, target: float) -> list[int]:
        """Add the candidate that helps most, then exchange, until the target or the number is reached."""
        chosen: list[int] = []
        score = np.inf
        while len(chosen) < num and score > target:
            outside = [c for c in range(self.assigner.num_members) if c not in chosen]
            grown = [[*chosen, c] for c in outside]
            best = min(grown, key=self.score, default=chosen)
            if self.score(best) >= score - _HELPS:
                break
            chosen = self._exchange(best)
            score = self.score(chosen)
        return chosen

    def score(self, chosen: list[int]) -> float:
        """Regret over the profiles when each takes its best member or pair."""
        options = [self._single[c] for c in chosen]
        options += [self._pair(*sorted(pair)) for pair in combinations(chosen, 2)]
        return self.scale.summary(np.min(options, axis=0), self.objective)

    def _exchange(self, chosen: list[int]) -> list[int]:
        """Exchange one member at a time for any candidate, while that helps."""
        score = self.score(chosen)
        for _ in range(_MAX_SWEEPS):
            before = score
            for place in range(len(chosen)):
                rest = chosen[:place] + chosen[place + 1 :]
                outside = [c for c in range(self.assigner.num_members) if c not in rest]
                best = min(([*rest, c] for c in outside), key=self.score)
                if self.score(best) < score - _HELPS:
                    chosen, score = best, self.score(best)
            if score >= before:
                break
        return chosen

    def _pair(self, low: int, high: int) -> Regrets:
        if (low, high) not in self._pairs:
            mixes = [self._regrets(key) for key, _ in self.assigner.pairs(low, high)]
            self._pairs[low, high] = np.min(mixes, axis=0)
        return self._pairs[low, high]

    def _regrets(self, key: MixKey) -> Regrets:
        return self.scale.regrets(self.assigner.figures(key), self.assigner.margin)


def _check(num_policies: int | None, target_regret: float | None, margin: float) -> None:
    if (num_policies is None) == (target_regret is None):
        raise InputError("give either num_policies or target_regret")
    if num_policies is not None and num_policies < 1:
        raise InputError(f"num_policies must be at least 1, got {num_policies}")
    if target_regret is not None and not 0.0 <= target_regret < 1.0:
        raise InputError(f"target_regret must lie in [0, 1), got {target_regret}")
    if not margin >= 0.0:
        raise InputError(f"margin must be ≥ 0, got {margin}")


def _tightened(
    planner: Planner,
    profiles: Sequence[Profile],
    solutions: Sequence[Solution],
    margin: float,
) -> list[Solution]:
    """Solutions whose risk stays under each budget with the margin to spare."""
    if margin == 0.0:
        return []
    bank, kl_coef = planner.bench.bank, planner.bench.kl_coef
    stricter: list[RiskLimit] = []
    for profile, solution in zip(profiles, solutions, strict=True):
        if solution.feasible and profile.budget < np.inf:
            ratio = solution.shaped_reward(bank.reward, bank.cost) / kl_coef
            error = Mixer(bank, [ratio], [profile.measure], kl_coef).figures({0: 1.0}).error
            budget = profile.budget - margin * error[profile.measure]
            if np.isfinite(budget):
                stricter.append(RiskLimit(profile.measure, budget))
    return planner.frontier(stricter)


def _distinct(solutions: Sequence[Solution]) -> list[Solution]:
    """The feasible solutions, one of each tilt."""
    kept: dict[tuple[object, ...], Solution] = {}
    for solution in solutions:
        if solution.feasible:
            multiplier = solution.multipliers[0]
            threshold = solution.thresholds[0] if multiplier > 0 else None
            measure = solution.constraints[0].measure if multiplier > 0 else None
            # Slack profiles all have the unconstrained tilt, whatever their measure and threshold.
            kept.setdefault((measure, round(multiplier, 6), str(threshold)), solution)
    return list(kept.values())
