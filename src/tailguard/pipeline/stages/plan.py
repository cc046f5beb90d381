"""``plan``: SampleBank → Plan: the reward-tail frontier and the targets to train."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np

from tailguard.config import LimitSection, Recipe, Target
from tailguard.config.limits import EVERYBODY
from tailguard.errors import InfeasibleError
from tailguard.evaluation.record import to_number
from tailguard.evaluation.report.figures import draw_figures
from tailguard.pipeline.plan_artifact import (
    Plan,
    PlanFigures,
    PlannedTarget,
    RaterPart,
    read_plan,
    write_weights,
)
from tailguard.pipeline.stage import Stage, Work
from tailguard.pipeline.stages.bank import (
    BANK_NAME,
    read_bank_raters,
    read_sample_bank,
    sample_risk,
)
from tailguard.planning import RaterLimit, SampleBank, Solution, frontier, solve
from tailguard.portfolio import Profile, select
from tailguard.portfolio.rater_tails import rater_weights
from tailguard.risk import CVaR, Mean, RiskLimit, RiskMeasure, Scope, as_threshold
from tailguard.risk.spelling import describe_limit, limit_to_json

_UNREACHABLE = -1e12  # a budget below every cost: its refusal tells the smallest reachable risk
# The last step to the smallest reachable risk costs ever more reward and leaves few effective
# samples: the frontier stops here.
_STRICTEST_REDUCTION = 0.9


def _config(recipe: Recipe) -> dict[str, object]:
    return {"plan": recipe.plan.model_dump(mode="json"), "bound": recipe.scorers.cost_bound}


def _build(work: Work) -> dict[str, object]:
    bank = read_sample_bank(work.parents["bank"] / BANK_NAME)
    settings = work.recipe.plan
    profiles = frontier_profiles(bank, settings.tail_masses, settings.num_budgets)
    solutions = frontier(bank, [p.limit for p in profiles], kl_coef=settings.kl_coef)
    planned: list[tuple[PlannedTarget, Solution]] = []
    for number, target in enumerate(settings.targets):
        made = (
            plan_target(bank, target, work.recipe)
            if target.raters is None
            else plan_for_raters(work.parents["bank"], target, work.recipe)
        )
        planned.append(made)
        work.progress("plan: targets", number + 1, len(settings.targets))
    if settings.num_members:
        planned += _chosen_members(bank, profiles, settings.num_members, settings.kl_coef)
    plan = Plan(
        kl_coef=settings.kl_coef,
        targets=[target for target, _ in planned],
        frontier=[
            {**(limit_to_json(p.limit) or {}), **asdict(PlanFigures.of(s))}
            for p, s in zip(profiles, solutions, strict=True)
        ],
        reference={"reward": float(bank.reward.mean())}
        | {f"cvar_{a}": sample_risk(CVaR(a), bank.cost) for a in settings.tail_masses},
    )
    for drawn in draw_figures({"frontier": plan.frontier, "reference": plan.reference}):
        (work.directory / f"{drawn.name}.png").write_bytes(drawn.png)
    plan.write(work.directory)
    write_weights(work.directory, {target.name: s.weights for target, s in planned})
    return {target.name: target.to_json() for target, _ in planned}


STAGE = Stage("plan", "Plan", 6, ("bank",), _config, lambda recipe: {}, _build)


def frontier_rows(directory: Path) -> list[dict[str, str]]:
    """The planned frontier as lines of a table; each tail mass begins with the base policy's own."""
    headings = {
        "tail_mass": "tail mass α",
        "budget": "budget d",
        "reward": "reward",
        "risk": "CVaR",
        "kl": "KL, nats",
        "multiplier": "multiplier λ",
        "threshold": "threshold ν",
        "effective_sample_size": "effective samples",
    }
    plan = read_plan(directory)
    by_tail_mass: dict[float, list[dict[str, str]]] = {}
    for point in plan.frontier:
        row = {heading: f"{to_number(point[key]):.3g}" for key, heading in headings.items()}
        by_tail_mass.setdefault(to_number(point["tail_mass"]), []).append(row)
    reference = {key: to_number(value) for key, value in plan.reference.items()}
    rows: list[dict[str, str]] = []
    for tail_mass, planned in by_tail_mass.items():
        own = {
            "tail_mass": f"{tail_mass:.3g}",
            "budget": "none (base)",
            "reward": f"{reference['reward']:.3g}",
            "risk": f"{reference[f'cvar_{tail_mass}']:.3g}",
            # The base policy is what the others are tilted from: no divergence, no tilt, and every
            # sample carries it.
            "kl": "0",
            "multiplier": "0",
            "threshold": "–",
            "effective_sample_size": "all",
        }
        rows += [{heading: own[key] for key, heading in headings.items()}, *planned]
    return rows


def smallest_reachable_risk(
    bank: SampleBank, measure: RiskMeasure, kl_coef: float, scope: Scope = "pooled"
) -> float:
    """The smallest risk that any policy on the bank can have."""
    constraint = RiskLimit(measure, _UNREACHABLE, scope=scope)
    found = solve(bank, constraint, kl_coef=kl_coef)
    return found.smallest_reachable_risks[0]


def frontier_profiles(
    bank: SampleBank, tail_masses: Sequence[float], num_budgets: int
) -> list[Profile]:
    """Profiles from the reference policy's own risk almost down to the smallest reachable one."""
    profiles: list[Profile] = []
    for tail_mass in tail_masses:
        measure = CVaR(tail_mass)
        here = sample_risk(measure, bank.cost)
        least = smallest_reachable_risk(bank, measure, 1.0)  # the same for every β
        shares = np.linspace(0.0, _STRICTEST_REDUCTION, num_budgets)
        profiles += [Profile(measure, float(here + share * (least - here))) for share in shares]
    return profiles


def plan_target(bank: SampleBank, target: Target, recipe: Recipe) -> tuple[PlannedTarget, Solution]:
    """A target's limit, its budget in numbers, and the solution on the bank.

    Raises:
        InfeasibleError: the budget is below the smallest risk that the bank can reach.
    """
    kl_coef = recipe.plan.kl_coef
    if target.is_unconstrained:  # an infinite budget: the plain tilt by the reward
        solution = solve(bank, RiskLimit(Mean(), np.inf), kl_coef=kl_coef)
        return PlannedTarget(target.name, None, PlanFigures.of(solution)), solution
    limit = limit_on(bank, target, recipe)
    solution = solve(bank, limit, kl_coef=kl_coef)
    if not solution.feasible:
        least = solution.smallest_reachable_risks[0]
        raise InfeasibleError(
            f"plan.targets: '{target.name}' asks for {describe_limit(limit)}, but the smallest risk"
            f" that this bank can reach is {least:.4g}; raise the budget or sample more answers"
            " (bank.num_samples)",
            least,
        )
    return PlannedTarget(target.name, limit, PlanFigures.of(solution)), solution


def plan_for_raters(
    directory: Path, target: Target, recipe: Recipe
) -> tuple[PlannedTarget, Solution]:
    """A target whose limit is on raters: of all by their weights together, or of each of them.

    Raises:
        InputError: a rater that the scorer does not know.
        InfeasibleError: as `plan_target`; with a limit for each it names who cannot be kept within it.
    """
    raters = read_bank_raters(directory)
    asked = target.raters
    assert asked is not None  # the caller looked
    if asked == EVERYBODY:
        asked = dict.fromkeys(raters, 1.0)
    weights = rater_weights(asked, raters)
    shares = np.full(len(raters), 1.0 / len(raters)) if weights is None else weights
    bank = read_sample_bank(directory / BANK_NAME, shares)
    limits = _rater_limits(bank, target, recipe, each=weights is None)
    plain = RiskLimit(limits[0].measure, limits[0].budget)
    asked_for = limits if weights is None else plain
    solution = solve(bank, asked_for, kl_coef=recipe.plan.kl_coef)
    if not solution.feasible:
        least = solution.smallest_reachable_risks
        told = f"; the smallest risk that this bank can reach is {least[0]:.4g}"
        if weights is None:
            named = zip(raters, least, strict=True)
            told = "; the least that can be reached is " + ", ".join(
                f"{name} {risk:.4g}" for name, risk in named
            )
        raise InfeasibleError(
            f"plan.targets: '{target.name}' asks for {describe_limit(plain)} for raters"
            f" {target.raters}{told}: raise the budget or sample more answers (bank.num_samples)",
            max(least),
        )
    figures = PlanFigures.of(solution)
    if weights is not None:
        shared = dict(zip(raters, weights.tolist(), strict=True))
        return PlannedTarget(target.name, plain, figures, shared), solution
    found = zip(raters, solution.multipliers, solution.thresholds, solution.risks, strict=True)
    parts = tuple(RaterPart(name, lam, as_threshold(nu), risk) for name, lam, nu, risk in found)
    return PlannedTarget(target.name, plain, figures, each=parts), solution


def _rater_limits(
    bank: SampleBank, section: LimitSection, recipe: Recipe, *, each: bool
) -> list[RaterLimit]:
    """One limit for each rater, or one for all together; with the same budget in numbers."""
    measure = section.risk_measure(recipe.scorers.cost_bound)
    assert bank.rater_weight is not None
    places = list(range(len(bank.rater_weight))) if each else [None]

    def risk(place: int | None) -> float:
        seen = bank.seen_by(place)
        mass = seen.row_weights(np.full(seen.reward.shape, 1.0 / seen.num_samples))
        return float(measure.value_rows(seen.row_costs().ravel(), mass.ravel() / seen.num_prompts))

    budget = section.budget
    if not isinstance(budget, float | int):
        here = max(map(risk, places))
        least, share = here, 0.0
        if section.reduction is not None:
            share = section.reduction
            least = max(
                smallest_reachable_risk(bank.seen_by(place), measure, recipe.plan.kl_coef)
                for place in places
            )
        budget = here + share * (least - here)
    return [RaterLimit(measure, budget, rater=place) for place in places]


def limit_on(bank: SampleBank, section: LimitSection, recipe: Recipe) -> RiskLimit:
    """The limit of a recipe's section with its budget in numbers, which may depend on the bank."""
    measure = section.risk_measure(recipe.scorers.cost_bound)
    if isinstance(section.budget, float | int):
        return RiskLimit(measure, section.budget, section.scope)
    # Both ends are measured in the limit's own scope; the pooled risk is the larger one.
    here = sample_risk(measure, bank.cost)
    if section.scope == "per_prompt":
        here = float(np.mean([sample_risk(measure, costs) for costs in bank.cost]))
    least, share = here, 0.0
    if section.reduction is not None:
        least = smallest_reachable_risk(bank, measure, recipe.plan.kl_coef, section.scope)
        share = section.reduction
    return RiskLimit(measure, here + share * (least - here), section.scope)


def _chosen_members(
    bank: SampleBank, profiles: Sequence[Profile], num: int, kl_coef: float
) -> list[tuple[PlannedTarget, Solution]]:
    """The solutions of the frontier, at most ``num``, that together serve all its profiles best."""
    chosen = select(bank, list(profiles), kl_coef=kl_coef, num_policies=num)
    return [
        (PlannedTarget(f"member-{k + 1}", _own_limit(s), PlanFigures.of(s)), s)
        for k, s in enumerate(chosen.members)
    ]


def _own_limit(solution: Solution) -> RiskLimit | None:
    """The limit that a solution was found for; None for the unconstrained solution."""
    (limit,) = solution.constraints
    return limit if np.isfinite(limit.budget) else None
