"""Banks with awkward tails, and oracles that share no code with the planner."""

from dataclasses import dataclass
from itertools import product
from typing import Any

import cvxpy as cp
import numpy as np
import pytest
from scipy.special import logsumexp


def draw_bank(family, prompts, samples, seed):
    """Reward and cost [prompts, samples] with a tail of that family."""
    rng = np.random.default_rng(seed)
    shape = (prompts, samples)
    if family == "normal":
        cost = rng.normal(size=shape)
    elif family == "pareto":
        cost = rng.pareto(2.5, size=shape) - 0.7
    else:  # rare severe harm on top of mild noise
        severe = rng.random(shape) < 0.08
        cost = np.where(severe, rng.lognormal(1.0, 0.8, size=shape), rng.normal(-0.5, 0.3, shape))
    cost += 0.3 * rng.normal(size=(prompts, 1))
    return rng.normal(size=shape) + 0.2 * np.minimum(cost, 3.0), cost


@dataclass
class BruteForce:
    """Every threshold among the costs, each with its multiplier by 90 bisections."""

    reward: np.ndarray
    cost: np.ndarray
    kl_coef: float

    def value_of(self, weights):
        uniform = 1.0 / weights.shape[1]
        entropy = np.where(weights > 0, weights * np.log(np.maximum(weights, 1e-300) / uniform), 0)
        return (weights * self.reward).sum(1).mean() - self.kl_coef * entropy.sum(1).mean()

    def free_value(self):
        return self.kl_coef * logsumexp(
            self.reward / self.kl_coef, axis=1
        ).mean() - self.kl_coef * np.log(self.reward.shape[1])

    def best(self, penalty, budget):
        """The largest value over all thresholds; −∞ where nothing is feasible.

        Args:
            penalty: (costs, threshold) → φ.
            budget: d.
        """
        thresholds = np.unique(self.cost)
        phi = np.stack([penalty(self.cost, nu) for nu in thresholds])
        low, high = np.zeros(len(thresholds)), np.full(len(thresholds), 1e7)
        for _ in range(90):
            middle = np.where(high > 4 * low + 1, np.sqrt((low + 1e-6) * high), 0.5 * (low + high))
            over = self._risk(phi, middle) > budget
            low, high = np.where(over, middle, low), np.where(over, high, middle)
        slack = self._risk(phi, np.zeros_like(low)) <= budget
        multiplier = np.where(slack, 0.0, high)
        feasible = self._risk(phi, multiplier) <= budget + 1e-12
        values = [
            self.value_of(self._tilt(phi[j : j + 1], multiplier[j : j + 1])[0])
            for j in np.flatnonzero(feasible)
        ]
        return max(values, default=-np.inf)

    def _tilt(self, phi, multiplier):
        exponent = (self.reward - multiplier[:, None, None] * phi) / self.kl_coef
        return np.exp(exponent - logsumexp(exponent, axis=2, keepdims=True))

    def _risk(self, phi, multiplier):
        return (self._tilt(phi, multiplier) * phi).sum(axis=2).mean(axis=1)


@dataclass
class ConvexProgram:
    """The policy itself as variable, by an interior-point solver; thresholds by enumeration."""

    reward: np.ndarray
    cost: np.ndarray
    kl_coef: float

    def best(self, penalties, budgets, num_thresholds):
        """The largest value over all vectors of thresholds among the costs.

        Args:
            penalties: one function a constraint, (costs, thresholds) → φ.
            budgets: one a constraint.
            num_thresholds: length of the shared vector of thresholds.
        """
        prompts, samples = self.reward.shape
        policy = cp.Variable((prompts, samples), nonneg=True)
        phis = [cp.Parameter((prompts, samples)) for _ in penalties]
        kl: Any = cp.sum(cp.kl_div(policy, np.full((prompts, samples), 1 / samples))) / prompts
        gain: Any = cp.sum(cp.multiply(policy, self.reward)) / prompts
        limits: list[Any] = [
            cp.sum(cp.multiply(policy, phi)) / prompts <= d
            for phi, d in zip(phis, budgets, strict=True)
        ]
        simplex: Any = cp.sum(policy, axis=1) == 1
        program: Any = cp.Problem(cp.Maximize(gain - self.kl_coef * kl), [simplex, *limits])
        best = -np.inf
        for thresholds in product(np.unique(self.cost), repeat=num_thresholds):
            for phi, penalty in zip(phis, penalties, strict=True):
                phi.value = penalty(self.cost, np.array(thresholds))
            program.solve(solver=cp.CLARABEL)
            if program.status in ("optimal", "optimal_inaccurate"):
                best = max(best, float(gain.value - self.kl_coef * kl.value))
        return best


@pytest.fixture(scope="session")
def draw():
    return draw_bank


@pytest.fixture(scope="session")
def brute_force():
    return BruteForce


@pytest.fixture(scope="session")
def convex_program():
    return ConvexProgram
