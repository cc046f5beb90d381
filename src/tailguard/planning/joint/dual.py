"""The inner problem with several penalties: a convex dual in a few multipliers."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64

from tailguard.planning.tilt import Matrix, Tilt

Vector = Float64[np.ndarray, "m"]
# Newton steps: ten do in 95% of cases, more near the edge, where multipliers diverge.
_MAX_STEPS = 120


@dataclass(frozen=True)
class JointPoint:
    """A tilt by several penalties.

    Attributes:
        multipliers: λ_j ≥ 0.
        value: E r − β·KL.
        dual: the dual function at λ, which no policy within the margins exceeds.
        means: E a_j.
    """

    multipliers: Vector
    value: float
    dual: float
    means: Vector


class JointDual:
    """D(λ) = β·E_x log E_ref exp((r − Σ λ_j a_j)/β) + λ·margins for fixed penalties a_j.

    Regularised Newton steps on λ ≥ 0 with backtracking: the regularisation shrinks with the
    gradient, so convergence stays quadratic, and bounds the step where the curvature vanishes.
    """

    def __init__(self, tilt: Tilt, penalties: list[Matrix], unit: float, inside: float) -> None:
        """Nothing is evaluated yet.

        Args:
            tilt: the tilt by the reward alone.
            penalties: a_j.
            unit: a multiplier of the right order.
            inside: how far within the margins the root is sought, so that what is found lies within
                them after rounding.
        """
        self._tilt, self._penalties = tilt, np.stack(penalties)
        self._unit, self._inside = unit, inside
        worth = tilt.bank.reward + tilt.kl_coef * tilt.bank.log_prob
        present = tilt.bank.present
        least = worth.min(axis=1, where=True if present is None else present, initial=np.inf)
        self._least_value = float(least.mean())  # no policy on the bank is worth less

    def solve(
        self, margins: Vector, gap: float, guess: Vector, stop_below: float = -np.inf
    ) -> tuple[JointPoint | None, float]:
        """The best tilt with E a_j ≤ margin_j, and the least dual bound seen.

        The tilt is None where the margins are out of reach together (the bound is −∞ then), or no
        value can exceed ``stop_below``.
        """
        aim = margins - self._inside
        point, slope = self._evaluate(np.maximum(guess, 0.0), margins)
        bound, found = point.dual, None
        for _ in range(_MAX_STEPS):
            within = bool(np.all(point.means <= margins))
            if within and (found is None or point.value > found.value):
                found = point
            rounding = 2.0 * self._inside * float(point.multipliers.sum())
            if within and point.multipliers @ (margins - point.means) <= gap + rounding:
                break
            if bound < self._least_value - 1e-9 * (1.0 + abs(self._least_value)):
                return None, -np.inf
            if bound <= stop_below:
                return None, bound
            moved = self._step(point, slope, aim, margins)
            if moved is None:
                break
            point, slope = moved
            bound = min(bound, point.dual)
        return found, bound

    def _step(
        self, point: JointPoint, curvature: Float64[np.ndarray, "m m"], aim: Vector, margins: Vector
    ) -> tuple[JointPoint, Float64[np.ndarray, "m m"]] | None:
        """One accepted Newton step; None where none lowers the dual."""
        lam, gradient = point.multipliers, aim - point.means
        free = (lam > 0) | (gradient < 0)
        if not free.any():
            return None
        size, noise = np.abs(gradient[free]).max(), 1e-13 * (1.0 + abs(point.dual))
        # Shrinks with the gradient, so convergence stays quadratic; bounds the step in flat directions.
        ridge = size / (20.0 * (lam.max() + self._unit))
        matrix = curvature[np.ix_(free, free)] + (ridge + 1e-300) * np.eye(int(free.sum()))
        move = np.zeros_like(lam)
        move[free] = -np.linalg.solve(matrix, gradient[free])
        level = point.dual + lam @ (aim - margins)
        for _ in range(40):
            target = np.maximum(lam + move, 0.0)
            if np.array_equal(target, lam):
                return None
            reached, slope = self._evaluate(target, margins)
            fall = level - (reached.dual + target @ (aim - margins))
            rest = np.abs(aim - reached.means)[free].max()
            if fall >= 1e-4 * gradient @ (lam - target) or (fall >= -noise and rest <= 0.5 * size):
                return reached, slope
            move *= 0.3
        return None

    def _evaluate(
        self, multipliers: Vector, margins: Vector
    ) -> tuple[JointPoint, Float64[np.ndarray, "m m"]]:
        total = np.tensordot(multipliers, self._penalties, axes=1)
        weights, log_mass = self._tilt.weights(total)
        partition = self._tilt.kl_coef * float(log_mass.mean())
        flat = self._penalties.reshape(len(multipliers), -1)
        weighted = weights * self._penalties
        by_prompt = weighted.sum(axis=2)
        count = by_prompt.shape[1]
        means = by_prompt.mean(axis=1)
        square = weighted.reshape(flat.shape) @ flat.T
        curvature = (square - by_prompt @ by_prompt.T) / (count * self._tilt.kl_coef)
        value = partition + float(multipliers @ means)
        dual = partition + float(multipliers @ margins)
        return JointPoint(multipliers, value, dual, means), curvature
