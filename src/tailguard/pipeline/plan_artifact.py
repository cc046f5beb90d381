"""The Plan artifact: targets to train with their solutions, and the frontier around them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch

from tailguard.artifacts import Json, read_json, write_json
from tailguard.evaluation.record import FrontierPoint, JsonNumber
from tailguard.models.tensor_file import read_tensors, write_tensors
from tailguard.planning import Solution
from tailguard.portfolio.rater_tails import WORST, RatersAsked
from tailguard.risk import RiskLimit, Threshold, as_threshold
from tailguard.risk.spelling import limit_from_json, limit_to_json

PLAN_NAME = "plan.json"
WEIGHTS_NAME = "weights.safetensors"


@dataclass(frozen=True)
class PlanFigures:
    """A solution for one limit, and what it is worth on its bank.

    Attributes:
        multiplier: λ.
        threshold: ν; one per CVaR of a spectral measure. With scope ``per_prompt``, the mean over
            the prompts.
        reward: mean reward.
        risk: risk under the limit's measure.
        value: reward − β·KL.
        kl: divergence from the reference, in nats.
        effective_sample_size: effective number of samples per prompt, averaged over prompts.
    """

    multiplier: float
    threshold: Threshold
    reward: float
    risk: float
    value: float
    kl: float
    effective_sample_size: float

    @classmethod
    def of(cls, solution: Solution) -> PlanFigures:
        """Figures of a feasible solution."""
        if len(solution.constraints) > 1:
            nus = [np.max(nu) for nu in solution.thresholds]
            return cls(
                multiplier=float(sum(solution.multipliers)),
                threshold=float(max(nus)),
                reward=solution.reward,
                risk=max(solution.risks),
                value=solution.value,
                kl=solution.kl,
                effective_sample_size=solution.effective_sample_size,
            )
        nu = np.asarray(solution.thresholds[0], dtype=np.float64)
        # A summary: policies with such a limit are only distilled, by weights that hold every ν.
        if any(limit.scope == "per_prompt" for limit in solution.constraints):
            nu = nu.mean(axis=0)
        return cls(
            multiplier=solution.multipliers[0],
            threshold=as_threshold(nu),
            reward=solution.reward,
            risk=solution.risks[0],
            value=solution.value,
            kl=solution.kl,
            effective_sample_size=solution.effective_sample_size,
        )


@dataclass(frozen=True)
class RaterPart:
    """One rater's part in a solution with a limit for each.

    Attributes:
        rater: whose.
        multiplier: λ of its own limit.
        threshold: ν of it.
        risk: to this rater.
    """

    rater: str
    multiplier: float
    threshold: Threshold
    risk: float


@dataclass(frozen=True)
class PlannedTarget:
    """A policy to train: its limit and the solution on the bank.

    Attributes:
        name: name of the policy.
        limit: None if the policy is unconstrained.
        figures: of the solution; with a limit for each rater λ is the sum of theirs, and ν and the
            risk are the largest.
        shares: weights of the raters whose risk is limited together; none for the population's.
        each: where the limit is for each rater, their parts.
    """

    name: str
    limit: RiskLimit | None
    figures: PlanFigures
    shares: Mapping[str, float] = field(default_factory=lambda: {})
    each: tuple[RaterPart, ...] = ()

    @property
    def raters(self) -> RatersAsked:
        """Whose risk is limited."""
        return WORST if self.each else dict(self.shares) or None

    def to_json(self) -> dict[str, Json]:
        """As JSON holds it; `from_json` reads it back."""
        return {
            "name": self.name,
            "limit": limit_to_json(self.limit),
            "figures": asdict(self.figures),
            "shares": dict(self.shares),
            "each": [asdict(part) for part in self.each],
        }

    @classmethod
    def from_json(cls, content: dict[str, Json]) -> PlannedTarget:
        """What `to_json` gave."""
        # JSON has neither tuples, which the threshold of a spectral measure is, nor infinities.
        figures: dict[str, Json] = {
            name: as_threshold(value) if name == "threshold" else float(value)
            for name, value in content["figures"].items()
        }
        each = [
            RaterPart(
                part["rater"],
                float(part["multiplier"]),
                as_threshold(part["threshold"]),
                float(part["risk"]),
            )
            for part in content["each"]
        ]
        limit = limit_from_json(content["limit"])
        shares = {name: float(share) for name, share in content["shares"].items()}
        return cls(content["name"], limit, PlanFigures(**figures), shares, tuple(each))


@dataclass(frozen=True)
class Plan:
    """What ``plan.json`` holds.

    Attributes:
        kl_coef: β of every solution.
        targets: the policies to train.
        frontier: limit and figures of each solution of the frontier.
        reference: the reference policy on the bank: ``reward``, and ``cvar_α`` for each tail mass.
    """

    kl_coef: float
    targets: Sequence[PlannedTarget]
    frontier: Sequence[FrontierPoint]
    reference: Mapping[str, JsonNumber]

    def write(self, directory: Path) -> None:
        """Write as JSON; `read_plan` reads it back."""
        content = {
            "kl_coef": self.kl_coef,
            "targets": [target.to_json() for target in self.targets],
            "frontier": self.frontier,
            "reference": self.reference,
        }
        write_json(directory / PLAN_NAME, content)


def read_plan(directory: Path) -> Plan:
    """The plan in an artifact."""
    content: dict[str, Json] = read_json(directory / PLAN_NAME)
    return Plan(
        kl_coef=content["kl_coef"],
        targets=[PlannedTarget.from_json(target) for target in content["targets"]],
        frontier=content["frontier"],
        reference=content["reference"],
    )


def write_weights(directory: Path, weights: Mapping[str, np.ndarray]) -> None:
    """Write the tilt of each target on the bank, [prompts, samples]; `read_weights` reads one."""
    # float32 halves the file. Rows then sum to 1 only up to rounding, which `train` mends.
    tensors = {name: torch.as_tensor(w, dtype=torch.float32) for name, w in weights.items()}
    write_tensors(directory / WEIGHTS_NAME, tensors)


def read_weights(directory: Path, name: str) -> np.ndarray:
    """The tilt of one target on the bank, [prompts, samples], rows summing to 1 in float32."""
    return read_tensors(directory / WEIGHTS_NAME)[0][name].numpy()
