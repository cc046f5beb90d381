"""How often alternating threshold and multiplier fails where the search over thresholds succeeds.

    python benchmarks/alternation.py

40 banks as on the page docs/why-not-alternate.md. On each, 400 rounds of alternation under the
budget CVaR.02 ≤ −.5, and under CVaR.25 ≤ −.5 for comparison; a run is judged by its last 100
rounds. Prints a table and writes ``benchmarks/results/alternation.json``.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np

from tailguard.planning import RiskConstraint, SampleBank, solve
from tailguard.risk import CVaR

BUDGET, KL_COEF, ROUNDS, LAST, OFF = -0.5, 0.25, 400, 100, 0.02
RESULT = Path(__file__).parent / "results" / "alternation.json"


def draw_bank(seed: int) -> SampleBank:
    """64 prompts × 256 samples, as on the page."""
    generator = np.random.default_rng(seed)
    reward = generator.normal(size=(64, 256))
    cost = generator.pareto(2.5, size=(64, 256)) - 1.2 + 0.3 * generator.normal(size=(64, 1))
    return SampleBank(reward, cost)


def alternate(bank: SampleBank, tail_mass: float, step: float) -> np.ndarray:
    """(λ, CVaR) of each round: ν ← VaR of the policy, λ ← (λ + step·(CVaR − d))₊."""
    cost, reward = np.asarray(bank.cost), np.asarray(bank.reward)
    order = np.argsort(-cost, axis=None)  # worst first
    multiplier, threshold = 0.0, 0.0
    path: list[tuple[float, float]] = []
    for _ in range(ROUNDS):
        penalty = threshold + np.maximum(cost - threshold, 0.0) / tail_mass
        scores = (reward - multiplier * penalty) / KL_COEF
        policy = np.exp(scores - scores.max(axis=1, keepdims=True))
        policy /= policy.sum(axis=1, keepdims=True)
        mass = np.cumsum(policy.ravel()[order]) / len(cost)
        threshold = float(cost.ravel()[order][np.searchsorted(mass, tail_mass)])
        hinge = np.maximum(cost - threshold, 0.0)
        risk = threshold + float((policy * hinge).sum()) / len(cost) / tail_mass
        multiplier = max(0.0, multiplier + step * (risk - BUDGET))
        path.append((multiplier, risk))
    return np.array(path)


def count_failures(tail_mass: float, step: float, num_banks: int) -> dict[str, float]:
    """How many of the banks on which the budget can be met end in each kind of failure."""
    counts = {"feasible": 0, "missed": 0, "strict": 0, "multiplier": 0}
    for seed in range(num_banks):
        bank = draw_bank(seed)
        plan = solve(bank, RiskConstraint(CVaR(tail_mass), BUDGET), kl_coef=KL_COEF)
        if not plan.feasible:
            continue
        multipliers, risks = alternate(bank, tail_mass, step)[-LAST:].T
        counts["feasible"] += 1
        counts["missed"] += bool((risks > BUDGET + OFF).all())
        counts["strict"] += bool((risks < BUDGET - OFF).all())
        counts["multiplier"] += bool(multipliers[-1] > 3 * plan.multipliers[0])
    return {"tail_mass": tail_mass, "step": step, **counts}


def main() -> None:
    """Count, print and write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--banks", type=int, default=40)
    parser.add_argument("--out", type=Path, default=RESULT)
    chosen = parser.parse_args()
    rows = [
        count_failures(tail_mass, step, chosen.banks)
        for tail_mass in (0.02, 0.25)
        for step in (0.05, 0.2, 1.0)
    ]
    print(
        "| α | step | can be met | missed | needlessly strict | λ more than 3 times the right one |"
    )
    print("|---|---|---|---|---|---|")
    for row in rows:
        print("| " + " | ".join(f"{value:g}" for value in row.values()) + " |")
    chosen.out.write_text(json.dumps({"banks": chosen.banks, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
