"""The dual side of constrained training: shaped penalties, and a λ that follows the violation."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypedDict

import numpy as np
from jaxtyping import Float

from tailguard.errors import InputError
from tailguard.risk import CVaR, RiskLimit, RiskMeasure, Threshold
from tailguard.training.cost_window import CostWindow
from tailguard.training.pid import PID, PIDState, newton_scale

_SHOWN_TAIL = CVaR(0.1)  # shown of every cost, so that curves of different runs can be compared


@dataclass(frozen=True)
class PlannedConstraint:
    """A limit ρ(C) ≤ d with the plan's solution: trained as E φ_ν(C) ≤ d, which implies it.

    Attributes:
        limit: pooled, its budget finite.
        threshold: ν, held fixed. E φ_ν(C) ≥ ρ(C) for every ν, so a poor ν is only too strict. A
            tuple for a measure with several.
        multiplier: λ₀ ≥ 0, where the controller starts.
        cost_index: index of the cost function that it limits.
        shares: where the limit is on several raters together, a weight ≥ 0 for each cost function; they
            sum to 1, and C is then the cost to a rater drawn by them. Takes the place of `cost_index`.
    """

    limit: RiskLimit
    threshold: Threshold = 0.0
    multiplier: float = 0.0
    cost_index: int = 0
    shares: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if not math.isfinite(self.limit.budget):
            raise InputError(
                f"budget={self.limit.budget}: leave the constraint out, or give a number"
            )
        if self.limit.scope != "pooled":
            raise InputError('scope="per_prompt": training takes constraints of scope "pooled"')
        if not np.isfinite(self.threshold).all():
            raise InputError(f"threshold={self.threshold}: give the plan's, a finite number")
        if self.shares and not (min(self.shares) >= 0 and abs(sum(self.shares) - 1.0) < 1e-9):
            raise InputError(f"shares={self.shares}: must be ≥ 0 and sum to 1")

    def weights(self, num_costs: int) -> Float[np.ndarray, " costs"]:
        """Of each cost function in what is limited; they sum to 1."""
        if self.shares:
            return np.array(self.shares)
        return np.eye(num_costs)[self.cost_index]

    def penalties(self, costs: Float[np.ndarray, "n costs"]) -> Float[np.ndarray, "n costs"]:
        """w_g·φ_ν(c_g): their sum over the costs is what the constraint is about."""
        weights = self.weights(costs.shape[1])
        found = np.zeros_like(costs)
        counted = weights > 0.0
        measure, threshold = self.limit.measure, np.asarray(self.threshold)
        found[:, counted] = measure.penalty(costs[:, counted], threshold) * weights[counted]
        return found

    def risk(self, costs: Float[np.ndarray, "n costs"]) -> float:
        """ρ of the costs, of raters and answers together."""
        mass = np.broadcast_to(self.weights(costs.shape[1]) / len(costs), costs.shape)
        # `value_rows` and not `value`, which warns of a thin tail: `tail_size` shows that at each step.
        return float(self.limit.measure.value_rows(costs.ravel(), mass.ravel()))


@dataclass(frozen=True)
class DualState:
    """One controller per constraint, one window per cost function."""

    controls: tuple[PIDState, ...]
    windows: tuple[CostWindow, ...]


@dataclass(frozen=True)
class Dual:
    """Turns costs into −Σ λφ_ν(c), and updates λ once per batch from a window of recent costs.

    Attributes:
        constraints: what is limited; empty for unconstrained training, whose costs are only shown.
        num_costs: number of cost functions.
        kl_coef: β, which sets the size of a step (`newton_scale`).
        pid: the controller, in Newton steps.
        window_size: number of recent costs that estimate E φ_ν(C).
    """

    constraints: tuple[PlannedConstraint, ...]
    num_costs: int
    kl_coef: float
    window_size: int
    pid: PID = field(default_factory=PID)

    def __post_init__(self) -> None:
        for number, constraint in enumerate(self.constraints):
            if not 0 <= constraint.cost_index < self.num_costs:
                raise InputError(
                    f"constraints[{number}] limits cost {constraint.cost_index}, but there are "
                    f"{self.num_costs} cost functions: give cost_funcs"
                )
            if constraint.shares and len(constraint.shares) != self.num_costs:
                raise InputError(
                    f"constraints[{number}] has {len(constraint.shares)} shares for"
                    f" {self.num_costs} cost functions: give one for each"
                )

    def init(self) -> DualState:
        """Every λ at its λ₀, windows empty."""
        return DualState(
            tuple(self.pid.init(constraint.multiplier) for constraint in self.constraints),
            tuple(CostWindow(self.window_size) for _ in range(self.num_costs)),
        )

    def shape(
        self, state: DualState, costs: Float[np.ndarray, "n costs"]
    ) -> Float[np.ndarray, "n costs"]:
        """What each cost adds to the reward: −Σ λφ_ν(c) over the constraints on that cost."""
        shaped = np.zeros_like(costs)
        # Of this batch and by the current λ: the window only estimates, it does not train.
        for constraint, control in zip(self.constraints, state.controls, strict=True):
            shaped -= control.multiplier * constraint.penalties(costs)
        return shaped

    def update(self, state: DualState, costs: Float[np.ndarray, "n costs"]) -> DualState:
        """The state after this batch.

        Raises:
            ScoreError: a cost is not finite.
        """
        windows = tuple(w.push(costs[:, j]) for j, w in enumerate(state.windows))
        recent = _side_by_side(windows)
        controls: list[PIDState] = []
        for constraint, control in zip(self.constraints, state.controls, strict=True):
            # Of the window, not the batch: a batch may hold less than one answer of the tail, and
            # without one its violation says nothing.
            penalty = constraint.penalties(recent).sum(axis=1)
            cost = recent @ constraint.weights(self.num_costs)
            scale = newton_scale(float(penalty.var()), float(cost.var()), self.kl_coef)
            violation = float(penalty.mean()) - constraint.limit.budget
            controls.append(self.pid.update(control, violation, scale=scale))
        return DualState(tuple(controls), windows)

    def figures(self, state: DualState) -> dict[str, float]:
        """Figures for curves; a name ends in its number if there are several of its kind.

        Per constraint: multiplier, threshold, violation (E φ_ν − d over the window), risk (ρ of the
        window), tail_size (N·α of the window). Per cost: window_cost (mean), window_cvar (α = .1).
        """
        shown: dict[str, float] = {}
        for j, window in enumerate(state.windows):
            if len(window.costs):
                end = numbered("", j, len(state.windows))
                shown[f"window_cost{end}"] = float(window.costs.mean())
                shown[f"window_cvar{end}"] = _risk(_SHOWN_TAIL, window)
        pairs = zip(self.constraints, state.controls, strict=True)
        filled = _side_by_side(state.windows)
        for k, (constraint, control) in enumerate(pairs):
            # A spectral measure has a vector of ν; a curve has one value, the smallest.
            end = numbered("", k, len(self.constraints))
            shown[f"multiplier{end}"] = control.multiplier
            shown[f"threshold{end}"] = float(np.min(constraint.threshold))
            if len(filled):
                shown[f"violation{end}"] = control.violation
                shown[f"risk{end}"] = constraint.risk(filled)
                tail_mass = constraint.limit.measure.smallest_tail
                shown[f"tail_size{end}"] = len(filled) * tail_mass
        return shown


class SavedState(TypedDict, total=False):
    """A `DualState` in a checkpoint.

    Attributes:
        controls: multiplier, integral and violation of each controller; null for no violation yet,
            because JSON has no NaN.
        windows: costs of each window.
    """

    controls: list[tuple[float, float, float | None]]
    windows: list[list[float]]


def state_to_json(state: DualState) -> SavedState:
    """The state as JSON holds it: written into each checkpoint, so that a resumed run goes on alike."""
    return {
        "controls": [
            (c.multiplier, c.integral, None if math.isnan(c.violation) else c.violation)
            for c in state.controls
        ],
        "windows": [window.costs.tolist() for window in state.windows],
    }


def state_from_json(values: SavedState, like: DualState) -> DualState:
    """The state that `state_to_json` wrote.

    Args:
        values: as read from the checkpoint.
        like: a fresh state of this run, for the number of constraints and costs and the window size.

    Raises:
        InputError: it was written for other constraints.
    """
    controls, windows = values.get("controls", []), values.get("windows", [])
    if len(controls) != len(like.controls) or len(windows) != len(like.windows):
        raise InputError(
            f"the saved dual state has {len(controls)} multipliers and {len(windows)} costs; this "
            f"run has {len(like.controls)} and {len(like.windows)}: resume with the same constraints"
        )
    return DualState(
        tuple(PIDState(m, i, math.nan if v is None else v) for m, i, v in controls),
        tuple(
            CostWindow(window.capacity).push(np.asarray(costs, dtype=np.float64))
            for window, costs in zip(like.windows, windows, strict=True)
        ),
    )


def numbered(name: str, index: int, count: int) -> str:
    """The name of a figure; it ends in its number if there are several of its kind."""
    return name if count == 1 else f"{name}_{index}"


def _side_by_side(windows: Sequence[CostWindow]) -> Float[np.ndarray, "filled costs"]:
    """The windows' costs, a column each; they are filled together."""
    if not windows:
        return np.zeros((0, 0))
    return np.stack([window.costs for window in windows], axis=1)


def _risk(measure: RiskMeasure, window: CostWindow) -> float:
    size = len(window.costs)
    return float(measure.value_rows(window.costs, np.full(size, 1.0 / size)))
