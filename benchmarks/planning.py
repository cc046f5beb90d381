"""How right, how tight and how fast planning is.

Three tail families (normal, Pareto(2.5), rare lognormal harm):

- value against brute force over every threshold on small banks, α from .02 to 1;
- the per-prompt duality gap by number of prompts;
- seconds and memory for single plans, a frontier of 48 profiles and a bank of 10,000 prompts.

    python benchmarks/planning.py

Prints tables and writes ``benchmarks/results/planning.json``. Gaps and errors are shares of the
value span V(unconstrained) − V(strictest profile). Targets: error ≤ 1e-3, CVaR ≤ d + 1e-4, per-prompt
gap ≤ 1% at 64 prompts, 64×256 in ≤ 1 s, 48 profiles in ≤ 10 s, 10,000×64 in ≤ 60 s and ≤ 4 GB. Seconds
are wall clock; CPU seconds are shown too, because other work on the machine changes only the wall clock.
"""

import argparse
import json
import multiprocessing
import os
import platform
import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import scipy
from rich.console import Console
from rich.progress import track
from rich.table import Table
from scipy.special import logsumexp

from tailguard.planning import Planner, RiskConstraint, SampleBank, Scope, Solution, frontier, solve
from tailguard.risk import (
    CVaR,
    Entropic,
    MeanCVaR,
    MonotoneMeanVariance,
    RiskMeasure,
    Spectral,
)

KL_COEF = 0.25
FAMILIES = ("normal", "Pareto(2.5)", "rare lognormal")
TAIL_MASSES = (0.02, 0.05, 0.1, 0.25, 0.5, 1.0)
SHARES = (0.02, 0.1, 0.2, 0.3, 0.45, 0.6, 0.75, 0.9)  # from the smallest reachable risk upwards
Row = dict[str, Any]


def draw(family: str, prompts: int, samples: int, seed: int, raters: int = 0) -> SampleBank:
    """A bank whose cost has that tail, and whose reward is a little in favour of harm."""
    rng = np.random.default_rng(seed)
    shape = (prompts, samples)
    if family == "normal":
        cost = rng.normal(size=shape)
    elif family == "Pareto(2.5)":
        cost = rng.pareto(2.5, size=shape) - 0.7
    else:
        severe = rng.random(shape) < 0.05
        cost = np.where(severe, rng.lognormal(1.0, 0.8, shape), rng.normal(-0.5, 0.3, shape))
    cost = cost + 0.3 * rng.normal(size=(prompts, 1))
    reward = rng.normal(size=shape) + 0.2 * np.minimum(cost, 3.0)
    if raters:
        cost = cost[:, :, None] + 0.5 * rng.normal(size=(*shape, raters))
    return SampleBank(reward, cost)


def constraints(
    planner: Planner, measure: RiskMeasure, shares: tuple[float, ...], scope: Scope = "pooled"
) -> list[RiskConstraint]:
    """Budgets between the smallest reachable risk and that of the policy without constraint."""
    shape = RiskConstraint(measure, 0.0, scope)
    least = planner.bench.reached(shape).risk
    free = planner.bench.risk(shape, planner.bench.tilt.free_weights)
    return [RiskConstraint(measure, least + share * (free - least), scope) for share in shares]


def brute_force(bank: SampleBank, tail_mass: float, budget: float) -> float:
    """The best value over every threshold among the costs, each multiplier by bisection."""
    thresholds = np.unique(bank.cost)[:, None, None]
    phi = thresholds + np.maximum(bank.cost - thresholds, 0.0) / tail_mass
    low, high = np.zeros(len(phi)), np.full(len(phi), 1e7)

    def tilt(multiplier: np.ndarray) -> np.ndarray:
        exponent = (bank.reward - multiplier[:, None, None] * phi) / KL_COEF
        return np.exp(exponent - logsumexp(exponent, axis=2, keepdims=True))

    def risk(multiplier: np.ndarray) -> np.ndarray:
        return (tilt(multiplier) * phi).sum(axis=2).mean(axis=1)

    slack = risk(low) <= budget
    for _ in range(90):
        middle = np.where(high > 4 * low + 1, np.sqrt((low + 1e-6) * high), 0.5 * (low + high))
        over = risk(middle) > budget
        low, high = np.where(over, middle, low), np.where(over, high, middle)
    multiplier = np.where(slack, 0.0, high)
    weights = tilt(multiplier)
    kl = np.where(weights > 0, weights * np.log(np.maximum(weights, 1e-300)), 0.0).sum(2).mean(1)
    value = (weights * bank.reward).sum(2).mean(1) - KL_COEF * (kl + np.log(bank.num_samples))
    return float(np.max(value, initial=-np.inf, where=risk(multiplier) <= budget + 1e-12))


def accuracy(repetitions: int) -> list[Row]:
    """Errors against brute force, worst over random banks of 6 prompts × 20 samples."""
    rows: list[Row] = []
    for family in FAMILIES:
        for tail_mass in TAIL_MASSES:
            errors: list[float] = []
            excess, gap = -np.inf, 0.0
            for seed in range(repetitions):
                bank = draw(family, 6, 20, seed)
                planner = Planner(bank, KL_COEF)
                asked = constraints(planner, CVaR(tail_mass), (0.05, 0.3, 0.7))
                best = [brute_force(bank, tail_mass, c.budget) for c in asked]
                span = planner.bench.tilt.free_value - min(best)
                for constraint, value in zip(asked, best, strict=True):
                    found = solve(bank, constraint, KL_COEF)
                    errors.append(abs(found.value - value) / span)
                    excess = max(excess, found.risks[0] - constraint.budget)
                    gap = max(gap, (found.dual_bound - found.value) / span)
            row = {"family": family, "tail_mass": tail_mass, "plans": len(errors)}
            rows.append(row | {"error": max(errors), "gap": gap, "excess_risk": excess})
    return rows


def per_prompt_gaps() -> list[Row]:
    """The duality gap, worst over budgets and two banks, by number of prompts."""
    rows: list[Row] = []
    for family in FAMILIES:
        for prompts in (2, 16, 64, 256):
            gaps: list[float] = []
            for seed in range(2):
                planner = Planner(draw(family, prompts, 256, seed), KL_COEF)
                asked = [
                    c
                    for a in TAIL_MASSES
                    for c in constraints(planner, CVaR(a), (0.05, 0.2, 0.5), "per_prompt")
                ]
                found = planner.frontier(asked)
                span = planner.bench.tilt.free_value - min(s.value for s in found)
                gaps += [(s.dual_bound - s.value) / span for s in found]
            mean = float(np.mean(gaps))
            rows.append({"family": family, "prompts": prompts, "worst": max(gaps), "mean": mean})
    return rows


def other_measures() -> list[Row]:
    """Gap and seconds of the measures and scopes that need more than one search, 64 × 256."""
    rows: list[Row] = []
    bank = draw("Pareto(2.5)", 64, 256, 0)
    planner = Planner(bank, KL_COEF)
    free = planner.bench.tilt.free_value
    strict = planner.solve_one(constraints(planner, CVaR(0.02), (0.02,))[0]).value
    measures: list[RiskMeasure] = [
        MeanCVaR(0.05, 0.5),
        Entropic(0.1, 200.0),
        Spectral((0.02, 0.3), (0.5, 0.5)),
        MonotoneMeanVariance(0.3),
    ]
    asked: list[RiskConstraint | list[RiskConstraint]] = []
    for scope in ("pooled", "per_prompt"):
        asked += [constraints(planner, m, (0.2,), scope)[0] for m in measures]
    tail = constraints(planner, CVaR(0.02), (0.06,))[0]
    asked.append([tail, constraints(planner, MeanCVaR(0.5, 0.5), (0.08,))[0]])
    for constraint in asked:
        found, seconds, cpu = timed(lambda c=constraint: solve(bank, c, KL_COEF))
        gap = (found.dual_bound - found.value) / (free - strict)
        name = " and ".join(f"{c.measure} {c.scope}" for c in found.constraints)
        rows.append({"constraint": name, "gap": gap, "seconds": seconds, "cpu_seconds": cpu})
    return rows


def timed(work: Callable[[], Solution]) -> tuple[Solution, float, float]:
    """The result, wall seconds and CPU seconds."""
    wall, cpu = time.perf_counter(), time.process_time()
    found = work()
    return found, time.perf_counter() - wall, time.process_time() - cpu


def speed() -> list[Row]:
    """Worst seconds over α and d on 64 × 256, and a frontier of 48 profiles."""
    rows: list[Row] = []
    for scope in ("pooled", "per_prompt"):
        bank = draw("Pareto(2.5)", 64, 256, 0)
        planner = Planner(bank, KL_COEF)
        grid = [c for a in TAIL_MASSES for c in constraints(planner, CVaR(a), SHARES, scope)]
        singles = [timed(lambda c=c, bank=bank: solve(bank, c, KL_COEF))[1:] for c in grid[::3]]
        wall, cpu = np.max(singles, axis=0)
        name = f"64×256, one profile, {scope} (worst of {len(singles)})"
        rows.append({"work": name, "seconds": wall, "cpu_seconds": cpu})
        _, wall, cpu = timed(lambda grid=grid, bank=bank: frontier(bank, grid, KL_COEF)[0])
        name = f"64×256, frontier of {len(grid)}, {scope}"
        rows.append({"work": name, "seconds": wall, "cpu_seconds": cpu})
    return rows


def large(scope: Scope, raters: int, tail_mass: float) -> Row:
    """10,000 × 64, in a process of its own, so that the peak memory is its own."""
    bank = draw("Pareto(2.5)", 10_000, 64, 0, raters)
    asked = constraints(Planner(bank, KL_COEF), CVaR(tail_mass), (0.15,), scope)[0]
    found, wall, cpu = timed(lambda: solve(bank, asked, KL_COEF))
    name = f"10,000×64, {scope}, α={tail_mass}" + (f", {raters} raters" if raters else "")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    gap = (found.dual_bound - found.value) / (Planner(bank, KL_COEF).bench.span)
    return {"work": name, "seconds": wall, "cpu_seconds": cpu, "peak_gb": peak, "gap": gap}


def all_large() -> list[Row]:
    """The large cases, one fresh process each."""
    cases: list[tuple[Scope, int, float]] = [
        ("pooled", 0, 0.02),
        ("pooled", 0, 0.25),
        ("per_prompt", 0, 0.02),
        ("pooled", 3, 0.1),
        ("per_prompt", 3, 0.1),
    ]
    rows: list[Row] = []
    for case in track(cases, "10,000 prompts"):
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            rows.append(pool.apply(large, case))
    return rows


def machine() -> Row:
    """What the figures were measured on."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    model = next((x.split(":")[1].strip() for x in lines if x.startswith("model name")), "")
    return {
        "cpu": model or platform.processor(),
        "cpus": os.cpu_count(),
        "load_average": os.getloadavg()[0],
        "python": platform.python_version(),
        "numpy": np.__version__,
        "scipy": scipy.__version__,
    }


def show(console: Console, title: str, rows: list[Row]) -> None:
    """A table of the rows."""
    table = Table(title=title)
    for name in rows[0]:
        table.add_column(name)
    for row in rows:
        table.add_row(*(f"{v:.3g}" if isinstance(v, float) else str(v) for v in row.values()))
    console.print(table)


def main() -> None:
    """Measure everything, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--repetitions", type=int, default=20, help="small banks per family and α")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results/planning.json")
    chosen = parser.parse_args()
    console = Console()
    results: dict[str, list[Row]] = {
        "large": all_large(),
        "speed": speed(),
        "accuracy": accuracy(chosen.repetitions),
        "per_prompt_gap": per_prompt_gaps(),
        "other_measures": other_measures(),
    }
    for title, rows in results.items():
        show(console, title, rows)
    chosen.out.parent.mkdir(parents=True, exist_ok=True)
    chosen.out.write_text(json.dumps({"machine": machine()} | results, indent=1, default=float))
    console.print(f"wrote {chosen.out}")


if __name__ == "__main__":
    main()
