"""What the sandbox's base policy does by the truth, and what planning says can be made of it.

    python benchmarks/sandbox_base.py

Samples one answer to each of `--answers` evaluation requests and a bank of 256 × 64 answers to
training requests, judges both by the truth, and plans on the bank: no constraint, mean cost at most
the base's, and CVaR halfway from the base's down to the smallest reachable. Prints two tables and
writes `benchmarks/results/sandbox_base.json`.
"""

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table

from tailguard.engines import sample_responses
from tailguard.evaluation.intervals import Interval
from tailguard.evaluation.metrics import cvar_key, measure_answers
from tailguard.lab.sandbox import (
    COST_FLOOR,
    KINDS,
    Request,
    TruthScorer,
    base_policy_path,
    is_refusal,
    parse_answer,
    sample_requests,
)
from tailguard.models.policy import Policy, load_policy
from tailguard.planning import Planner, RiskConstraint, SampleBank, Solution
from tailguard.risk import CVaR, Mean

TAIL_MASSES = (0.1, 0.05, 0.01)  # plans have too few samples for the last


@dataclass(frozen=True)
class Judged:
    """Answers with their truth, all [n]."""

    kinds: np.ndarray
    reward: np.ndarray
    cost: np.ndarray
    refused: np.ndarray
    parsed: np.ndarray


def judge(policy: Policy, requests: list[Request], num_samples: int, seed: int) -> Judged:
    """Sample answers at temperature 1 and judge them by parsing."""
    texts: list[str] = []
    for start in track(range(0, len(requests), 64), "sampling"):
        some = [request.text for request in requests[start : start + 64]]
        generator = torch.Generator().manual_seed(seed + start)
        texts += sample_responses(
            policy, some, num_samples=num_samples, max_new_tokens=32, generator=generator
        ).texts
    asked = [request for request in requests for _ in range(num_samples)]
    prompts = [request.text for request in asked]
    return Judged(
        kinds=np.array([request.kind for request in asked]),
        reward=TruthScorer("reward").score(prompts, texts)[:, 0],
        cost=TruthScorer("cost").score(prompts, texts)[:, 0],
        refused=np.array([is_refusal(text) for text in texts]),
        parsed=np.array([parse_answer(text) is not None for text in texts]),
    )


def base_figures(judged: Judged) -> dict[str, Any]:
    """Metrics of one answer a request, with 95% intervals, and by kind of request."""
    metrics = measure_answers(judged.reward, judged.cost, generator=np.random.default_rng(0))

    def listed(interval: Interval) -> list[float]:
        return [round(v, 4) for v in (interval.estimate, interval.lower, interval.upper)]

    kinds = {
        kind: {
            "reward": float(judged.reward[judged.kinds == kind].mean()),
            "mean cost": float(judged.cost[judged.kinds == kind].mean()),
            "unsafe": float((judged.cost[judged.kinds == kind] > 0).mean()),
            "refused": float(judged.refused[judged.kinds == kind].mean()),
        }
        for kind in KINDS
    }
    return {
        "answers": judged.cost.size,
        "in the grammar": float(judged.parsed.mean()),
        "reward": listed(metrics["reward"]),
        "mean cost": listed(metrics["cost"]),
        **{f"CVaR {a:g}": listed(metrics[cvar_key(a)]) for a in TAIL_MASSES},
        "unsafe": listed(metrics["unsafe_rate"]),
        "kinds": kinds,
    }


def figures_of(
    bank: SampleBank, refused: np.ndarray, benign: np.ndarray, weights: np.ndarray
) -> dict[str, float]:
    """What a policy on the bank gives; weights [prompts, samples], rows summing to 1."""
    cost, mass = bank.cost.ravel(), weights.ravel()
    return {
        "reward": float((weights * bank.reward).sum(1).mean()),
        "mean cost": Mean().value(cost, mass),
        **{f"CVaR {a:g}": CVaR(a).value(cost, mass) for a in TAIL_MASSES[:2]},
        "unsafe": float(mass[cost > 0].sum() / mass.sum()),
        "benign refused": float((weights * refused)[benign].sum(1).mean()),
    }


def plans(bank: SampleBank, kl_coef: float) -> dict[str, Solution]:
    """Unconstrained, mean-constrained and tail-constrained tilts."""
    planner = Planner(bank, kl_coef)
    costs = bank.cost.ravel()
    own = float(costs.mean())
    wanted = {
        "unconstrained": RiskConstraint(Mean(), np.inf),
        "mean ≤ base": RiskConstraint(Mean(), own),
    }
    for alpha in (0.1, 0.05):
        floor = planner.solve_one(
            RiskConstraint(CVaR(alpha), COST_FLOOR - 1)
        ).smallest_reachable_risks
        budget = (CVaR(alpha).value(costs) + floor[0]) / 2
        wanted[f"CVaR {alpha:g} ≤ {budget:.2f}"] = RiskConstraint(CVaR(alpha), budget)
    found = {name: planner.solve_one(constraint) for name, constraint in wanted.items()}
    tail = next(s for name, s in found.items() if name.startswith("CVaR 0.1"))
    same = Mean().value(costs, tail.weights.ravel())
    found[f"mean ≤ {same:.2f}"] = planner.solve_one(RiskConstraint(Mean(), same))
    return found


def show(title: str, rows: dict[str, dict[str, float]]) -> None:
    """Print a table, one row a policy."""
    columns = list(next(iter(rows.values())))
    table = Table("policy", *columns, title=title)
    for name, row in rows.items():
        table.add_row(name, *[f"{row[column]:.3f}" for column in columns])
    Console(width=150).print(table)


def main() -> None:
    """Sample, judge, plan, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=base_policy_path())
    parser.add_argument("--answers", type=int, default=6000)
    parser.add_argument("--prompts", type=int, default=256)
    parser.add_argument("--samples", type=int, default=64)
    parser.add_argument("--kl-coef", type=float, default=0.25)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/sandbox_base.json"))
    args = parser.parse_args()
    policy = load_policy(args.model)
    rng = np.random.default_rng(0)

    base = base_figures(judge(policy, sample_requests(rng, args.answers, "evaluate"), 1, seed=1))
    Console().print(base)
    asked = sample_requests(rng, args.prompts, "train")
    judged = judge(policy, asked, args.samples, seed=2)
    shape = (args.prompts, args.samples)
    bank = SampleBank(judged.reward.reshape(shape), judged.cost.reshape(shape))
    benign = np.array([request.kind == "benign" for request in asked])
    refused = judged.refused.reshape(shape)
    base_row = figures_of(bank, refused, benign, np.full(shape, 1 / args.samples))
    rows = {"base policy": base_row | {"multiplier": 0.0, "KL": 0.0, "samples": args.samples}}
    for name, plan in plans(bank, args.kl_coef).items():
        rows[name] = figures_of(bank, refused, benign, plan.weights) | {
            "multiplier": plan.multipliers[0],
            "KL": plan.kl,
            "samples": plan.effective_sample_size,
        }
    show(f"planned on {args.prompts} × {args.samples} answers, β = {args.kl_coef:g}", rows)
    report = {
        "base": base,
        "reward_std": float(bank.reward.std()),
        "kl_coef": args.kl_coef,
        "plans": rows,
    }
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
