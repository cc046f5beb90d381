"""``plan``: SampleBank → Plan: the reward-tail frontier and the targets to train."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from tailguard.artifacts import read_json, write_json
from tailguard.config import Recipe, Target
from tailguard.errors import InfeasibleError
from tailguard.evaluation.report.figures import draw_figures
from tailguard.models.tensor_file import read_tensors, write_tensors
from tailguard.pipeline.stage import Stage, Work
from tailguard.pipeline.stages.bank import BANK_NAME, read_bank, sample_risk
from tailguard.planning import SampleBank, Scope, Solution, frontier, solve
from tailguard.portfolio import Profile, select
from tailguard.risk import CVaR, Entropic, Mean, MeanCVaR, RiskMeasure
from tailguard.risk.limit import RiskLimit

PLAN_NAME = "plan.json"
WEIGHTS_NAME = "weights.safetensors"
_UNREACHABLE = -1e12  # a budget below every cost: asks for the smallest reachable risk


@dataclass(frozen=True)
class PlannedTarget:
    """A policy to train: its constraint and the solution on the bank.

    Attributes:
        name: of the policy.
        measure: ``none``, ``mean``, ``cvar``, ``mean-cvar`` or ``entropic``.
        tail_mass: α.
        budget: d; None where unconstrained.
        multiplier: λ.
        threshold: ν.
        reward: planned mean reward.
        risk: planned risk under the measure.
        value: reward − β·KL.
        kl: planned divergence from the reference, in nats.
        effective_sample_size: samples of a prompt that carry the plan, on average over prompts.
        weight: κ of mean–CVaR.
        theta: θ of the entropic measure.
    """

    name: str
    measure: str
    tail_mass: float
    budget: float | None
    multiplier: float
    threshold: float
    reward: float
    risk: float
    value: float
    kl: float
    effective_sample_size: float
    weight: float = 0.5
    theta: float = 1.0

    def risk_measure(self, cost_bound: float) -> RiskMeasure:
        """The measure that it is planned and trained under; of ``none``, the mean."""
        return build_measure(
            self.measure,
            tail_mass=self.tail_mass,
            weight=self.weight,
            theta=self.theta,
            cost_bound=cost_bound,
        )


def _config(recipe: Recipe) -> dict[str, Any]:
    return {"plan": recipe.plan.model_dump(mode="json"), "bound": recipe.scorers.cost_bound}


def _build(work: Work) -> dict[str, Any]:
    bank, _ = read_bank(work.parents["bank"] / BANK_NAME)
    settings = work.recipe.plan
    profiles = frontier_profiles(bank, settings.tail_masses, settings.num_budgets)
    solutions = frontier(bank, [p.limit for p in profiles], kl_coef=settings.kl_coef)
    planned: list[tuple[PlannedTarget, Solution]] = []
    for number, target in enumerate(settings.targets):
        planned.append(plan_target(bank, target, work.recipe))
        work.progress("plan: targets", number + 1, len(settings.targets))
    if settings.num_members:
        planned += _chosen_members(bank, profiles, settings.num_members, settings.kl_coef)
    points = [
        {"tail_mass": p.measure.tail_mass, "budget": p.budget, **_figures(s)}
        for p, s in zip(profiles, solutions, strict=True)
        if isinstance(p.measure, CVaR)
    ]
    reference = {"reward": float(bank.reward.mean())} | {
        f"cvar_{a}": sample_risk(CVaR(a), bank.cost) for a in settings.tail_masses
    }
    for drawn in draw_figures({"frontier": points, "reference": reference}):
        (work.directory / f"{drawn.name}.png").write_bytes(drawn.png)
    write_json(
        work.directory / PLAN_NAME,
        {
            "kl_coef": settings.kl_coef,
            "targets": [asdict(target) for target, _ in planned],
            "frontier": points,
            "reference": reference,
        },
    )
    write_tensors(
        work.directory / WEIGHTS_NAME, {target.name: _tensor(s.weights) for target, s in planned}
    )
    return {target.name: asdict(target) for target, _ in planned}


STAGE = Stage("plan", "Plan", 4, ("bank",), _config, lambda recipe: {}, _build)


def read_plan(directory: Path) -> tuple[dict[str, Any], list[PlannedTarget]]:
    """The plan, and its targets."""
    plan = read_json(directory / PLAN_NAME)
    return plan, [PlannedTarget(**fields) for fields in plan["targets"]]


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
    plan, _ = read_plan(directory)
    by_tail_mass: dict[float, list[dict[str, str]]] = {}
    for point in plan["frontier"]:
        row = {heading: f"{point[key]:.3g}" for key, heading in headings.items()}
        by_tail_mass.setdefault(point["tail_mass"], []).append(row)
    reference = plan["reference"]
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


def read_weights(directory: Path, name: str) -> np.ndarray:
    """The tilt of one target on the bank, [prompts, samples], rows summing to 1."""
    return read_tensors(directory / WEIGHTS_NAME)[0][name].numpy()


def smallest_reachable_risk(
    bank: SampleBank, measure: RiskMeasure, kl_coef: float, scope: Scope = "pooled"
) -> float:
    """The smallest risk that any policy on the bank has."""
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
        least = smallest_reachable_risk(bank, measure, 1.0)
        shares = np.linspace(0.0, 0.9, num_budgets)
        profiles += [Profile(measure, float(here + share * (least - here))) for share in shares]
    return profiles


def build_measure(
    name: str, *, tail_mass: float, weight: float = 0.5, theta: float = 1.0, cost_bound: float
) -> RiskMeasure:
    """The risk measure of that name; ``none`` is measured by the mean."""
    measures: dict[str, RiskMeasure] = {
        "none": Mean(),
        "mean": Mean(),
        "cvar": CVaR(tail_mass),
        "mean-cvar": MeanCVaR(tail_mass, weight),
        "entropic": Entropic(theta, cost_bound),
    }
    return measures[name]


def plan_target(bank: SampleBank, target: Target, recipe: Recipe) -> tuple[PlannedTarget, Solution]:
    """A target's constraint, its budget in numbers, and the solution on the bank.

    Raises:
        InfeasibleError: the budget is below everything that the bank can reach.
    """
    kl_coef = recipe.plan.kl_coef
    measure = build_measure(
        target.measure,
        tail_mass=target.tail_mass,
        weight=target.weight,
        theta=target.theta,
        cost_bound=recipe.scorers.cost_bound,
    )
    budget = _budget(bank, target, measure, kl_coef)
    constraint = RiskLimit(measure, np.inf if budget is None else budget, scope=target.scope)
    solution = solve(bank, constraint, kl_coef=kl_coef)
    if not solution.feasible:
        least = solution.smallest_reachable_risks[0]
        raise InfeasibleError(
            f"plan.targets: '{target.name}' asks for {target.measure} ≤ {budget:.4g}, but the"
            f" smallest risk that this bank can reach is {least:.4g}; raise the budget or sample"
            " more answers (bank.num_samples)",
            least,
        )
    planned = _planned(target.name, target.measure, target.tail_mass, budget, solution)
    return replace(planned, weight=target.weight, theta=target.theta), solution


def _budget(bank: SampleBank, target: Target, measure: RiskMeasure, kl_coef: float) -> float | None:
    here = sample_risk(measure, bank.cost)
    if target.scope == "per_prompt":
        here = float(np.mean([sample_risk(measure, costs) for costs in bank.cost]))
    if target.budget == "reference":
        return here
    if target.reduction is not None:
        least = smallest_reachable_risk(bank, measure, kl_coef, target.scope)
        return here + target.reduction * (least - here)
    return target.budget


def _chosen_members(
    bank: SampleBank, profiles: Sequence[Profile], num: int, kl_coef: float
) -> list[tuple[PlannedTarget, Solution]]:
    """The few solutions of the frontier that together serve all its profiles best."""
    chosen = select(bank, list(profiles), kl_coef=kl_coef, num_policies=num)
    return [(_member(f"member-{k + 1}", s), s) for k, s in enumerate(chosen.members)]


def _member(name: str, solution: Solution) -> PlannedTarget:
    constraint = solution.constraints[0]
    if isinstance(constraint.measure, CVaR) and np.isfinite(constraint.budget):
        tail_mass, budget = float(constraint.measure.tail_mass), float(constraint.budget)
        return _planned(name, "cvar", tail_mass, budget, solution)
    return _planned(name, "none", 1.0, None, solution)


def _planned(
    name: str, measure: str, tail_mass: float, budget: float | None, solution: Solution
) -> PlannedTarget:
    return PlannedTarget(name, measure, tail_mass, budget, **_figures(solution))


def _figures(solution: Solution) -> dict[str, float]:
    """Figures of a solution of one constraint; a threshold a prompt is shown by its mean."""
    return {
        "multiplier": solution.multipliers[0],
        "threshold": float(np.mean(solution.thresholds[0])),
        "reward": solution.reward,
        "risk": solution.risks[0],
        "value": solution.value,
        "kl": solution.kl,
        "effective_sample_size": solution.effective_sample_size,
    }


def _tensor(array: np.ndarray) -> Any:
    import torch

    return torch.as_tensor(array, dtype=torch.float32)
