"""Planning: the best policy under a limit on risk, known before anything is trained."""

from collections.abc import Sequence

from tailguard.planning.bank import SampleBank
from tailguard.planning.constraint import RiskConstraint, RiskProfile
from tailguard.planning.planner import Planner
from tailguard.planning.solution import Solution


def solve(
    bank: SampleBank,
    constraint: RiskConstraint | Sequence[RiskConstraint],
    kl_coef: float | int,
) -> Solution:
    """max_π E r − β·KL(π‖π_ref) subject to ρ(C) ≤ d, over all policies on the bank.

    The optimum is a tilt π ∝ π_ref·exp((r − λφ_ν(c))/β). For fixed ν the dual in λ is convex; over ν
    the search is global (see ``pooled``, ``per_prompt``). A slack constraint gets λ = 0.

    Args:
        bank: scored samples of the reference policy.
        constraint: one, or a list that must all hold.
        kl_coef: β > 0.

    Returns:
        The tilt with its figures; ``feasible`` is False, and the smallest reachable risk given,
        where no policy on the bank meets the budget.

    Raises:
        InputError: kl_coef is not positive, or a cost passes the bound an entropic measure declares.
    """
    planner = Planner(bank, kl_coef)
    if isinstance(constraint, RiskConstraint):
        return planner.solve_one(constraint)
    return planner.solve_all(constraint)


def frontier(
    bank: SampleBank,
    constraints: Sequence[RiskConstraint | RiskProfile],
    kl_coef: float | int,
) -> list[Solution]:
    """``solve`` for each of many constraints or profiles, in their order, sharing what can be shared.

    Dual curves know neither budget nor, for CVaR, tail mass, so later profiles find most of theirs
    evaluated. Profiles of one measure are taken from the loosest budget to the strictest, each
    starting at the last one's threshold.

    Args:
        bank: scored samples of the reference policy.
        constraints: RiskConstraints, or anything with ``measure`` and ``budget`` (pooled).
        kl_coef: β > 0.
    """
    return Planner(bank, kl_coef).frontier(constraints)
