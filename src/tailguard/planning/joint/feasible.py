"""Whether several budgets can be met at once."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float64, Int
from scipy.optimize import linprog

from tailguard.planning.bank import SampleBank
from tailguard.planning.tilt import Matrix

Choice = Int[np.ndarray, "prompts"]
Vector = Float64[np.ndarray, "m"]
_MAX_CUTS = 100  # each cut is one policy; two constraints need one or two


@dataclass(frozen=True)
class Excess:
    """The least by which the worst budget is passed, and a policy that does no worse.

    Attributes:
        amount: min_π max_j E_π a_j − d_j; ≤ 0 where the budgets can be met together.
        weights: the policy on the bank.
    """

    amount: float
    weights: Matrix


def least_excess(
    bank: SampleBank, penalties: list[Matrix], budgets: Vector, tolerance: float
) -> Excess:
    """min_π max_j E_π a_j − d_j over all policies on the bank, for fixed penalties.

    By linear programming duality this is max over w in the simplex of E_x min_y Σ_j w_j (a_j − d_j),
    concave in w with m small: Kelley's cutting planes. Each cut is a policy that takes one sample a
    prompt, and the program's dual variables say how to mix those policies.
    """
    over = np.stack([a - d for a, d in zip(penalties, budgets, strict=True)])
    rows = np.arange(bank.num_prompts)
    choices: list[Choice] = []
    means: list[Vector] = []
    share, best = np.full(len(over), 1.0 / len(over)), -np.inf
    while True:
        blend = np.tensordot(share, over, axes=1)
        if bank.present is not None:
            blend = np.where(bank.present, blend, np.inf)
        choices.append(blend.argmin(axis=1))
        means.append(over[:, rows, choices[-1]].mean(axis=1))
        best = max(best, float(share @ means[-1]))
        amount, share, mixed = _master(np.stack(means))
        if amount - best <= tolerance or len(means) == _MAX_CUTS:
            break
    weights = np.zeros_like(bank.reward)
    for chosen, part in zip(choices, mixed, strict=True):
        weights[rows, chosen] += part
    return Excess(amount, weights)


def _master(
    means: Float64[np.ndarray, "cuts m"],
) -> tuple[float, Vector, Float64[np.ndarray, "cuts"]]:
    """Maximise t subject to t ≤ w·mean of every cut, w in the simplex: t, w, and the mixture of cuts."""
    count, size = means.shape
    program: Any = linprog(
        np.append(np.zeros(size), -1.0),
        A_ub=np.column_stack([-means, np.ones(count)]),
        b_ub=np.zeros(count),
        A_eq=np.append(np.ones(size), 0.0)[None, :],
        b_eq=[1.0],
        bounds=[(0.0, 1.0)] * size + [(None, None)],
    )
    # Marginals are minus the weights of the cuts; rounding may leave them a little below 0.
    mixed = np.maximum(-program.ineqlin.marginals, 0.0)
    return -float(program.fun), np.asarray(program.x[:size]), mixed / mixed.sum()
