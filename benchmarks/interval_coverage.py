"""How often the intervals of ``tailguard.evaluation`` contain the truth.

Draws samples from laws whose CVaR is known in closed form, makes the interval of each, and counts.
Prints a table and writes ``benchmarks/results/interval_coverage.json``.

    python benchmarks/interval_coverage.py --repetitions 400
"""

import argparse
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table
from scipy import stats

from tailguard.evaluation.bootstrap import resampled
from tailguard.evaluation.intervals import Interval, cvar_intervals, paired_cvar_differences
from tailguard.risk import cvar_rows

ALPHAS = (0.01, 0.05, 0.1, 0.25, 1.0)
EDGE = 0.045  # a single value holds this mass, with a gap below it: VaR.05 jumps between resamples
DISCRETE = (np.array([8.0, 3.0, 1.0, 0.0, -1.0]), np.array([0.015, 0.035, 0.15, 0.3, 0.5]))


@dataclass(frozen=True)
class Law:
    """A cost with a known tail.

    Attributes:
        draw: uniforms [n] → costs [n].
        cvar: α → CVaR_α.
    """

    draw: Callable[[np.ndarray], np.ndarray]
    cvar: Callable[[float], float]


def pareto(shape: float) -> Law:
    """Pareto on [0, ∞): P(C > c) = (1 + c)^−shape."""
    return Law(
        lambda u: u ** (-1 / shape) - 1,
        lambda a: a ** (-1 / shape) * shape / (shape - 1) - 1,
    )


LAWS = {
    "normal": Law(
        lambda u: stats.norm.isf(u),
        lambda a: stats.norm.pdf(stats.norm.isf(a)) / a if a < 1 else 0.0,
    ),
    "Pareto(2.5)": pareto(2.5),
    "Pareto(3.5)": pareto(3.5),
    "atom at the edge": Law(
        lambda u: np.where(u < EDGE, 0.1, -0.4 - (u - EDGE)),
        lambda a: (0.1 * min(a, EDGE) - max(a - EDGE, 0.0) * (0.4 + 0.5 * max(a - EDGE, 0.0))) / a,
    ),
    "discrete": Law(
        lambda u: DISCRETE[0][np.minimum(np.searchsorted(np.cumsum(DISCRETE[1]), u), 4)],
        lambda a: float(cvar_rows(*DISCRETE, a)),
    ),
}


def percentile(costs: np.ndarray, rng: np.random.Generator, resamples: int) -> list[Interval]:
    """The usual bootstrap, for comparison."""
    again, _ = resampled(costs, None, np.array(ALPHAS), resamples, rng)
    return [Interval(0.0, *np.quantile(row, [0.025, 0.975])) for row in again]


def paired_draws(size: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Uniforms of two policies that share most of what the prompt decides (Gaussian copula, .8)."""
    first, noise = rng.normal(size=(2, size))
    return stats.norm.sf(first), stats.norm.sf(0.8 * first + 0.6 * noise)


def measure(
    make: Callable[[np.random.Generator], list[Interval]],
    truth: list[float],
    repetitions: int,
    name: str,
) -> dict[str, list[float]]:
    """Coverage, misses on either side and median width for each tail mass."""
    rng = np.random.default_rng(2024)
    made = [make(rng) for _ in track(range(repetitions), name)]
    lower = np.array([[interval.lower for interval in row] for row in made])
    upper = np.array([[interval.upper for interval in row] for row in made])
    low, high = np.array(truth) < lower - 1e-9, np.array(truth) > upper + 1e-9
    return {
        "coverage": (1 - (low | high).mean(0)).round(4).tolist(),
        "truth_below_lower": low.mean(0).round(4).tolist(),
        "truth_above_upper": high.mean(0).round(4).tolist(),
        "median_width": np.median(upper - lower, axis=0).round(4).tolist(),
    }


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repetitions", type=int, default=400)
    parser.add_argument("--prompts", type=int, default=2000)
    parser.add_argument("--resamples", type=int, default=500)
    parser.add_argument(
        "--out", type=Path, default=Path("benchmarks/results/interval_coverage.json")
    )
    args = parser.parse_args()
    size, resamples = args.prompts, args.resamples
    results: dict[str, dict[str, list[float]]] = {}
    for name, law in LAWS.items():
        truth = [law.cvar(alpha) for alpha in ALPHAS]

        def envelope(rng: np.random.Generator, law: Law = law) -> list[Interval]:
            costs = law.draw(rng.uniform(size=size))
            return cvar_intervals(costs, ALPHAS, generator=rng, num_resamples=resamples)

        def usual(rng: np.random.Generator, law: Law = law) -> list[Interval]:
            return percentile(law.draw(rng.uniform(size=size)), rng, resamples)

        results[f"{name}, ours"] = measure(envelope, truth, args.repetitions, name)
        results[f"{name}, percentile"] = measure(usual, truth, args.repetitions, name)
    for first, second in (("Pareto(2.5)", "Pareto(3.5)"), ("normal", "discrete")):
        one, two = LAWS[first], LAWS[second]

        def paired(rng: np.random.Generator, one: Law = one, two: Law = two) -> list[Interval]:
            u, v = paired_draws(size, rng)
            return paired_cvar_differences(
                one.draw(u), two.draw(v), ALPHAS, generator=rng, num_resamples=resamples
            )

        name = f"{first} − {second}, paired"
        truth = [one.cvar(alpha) - two.cvar(alpha) for alpha in ALPHAS]
        results[name] = measure(paired, truth, args.repetitions, name)

    table = Table("interval", *[f"α = {alpha:g}" for alpha in ALPHAS])
    for name, row in results.items():
        table.add_row(name, *[f"{value:.3f}" for value in row["coverage"]])
    Console().print(table)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    report = {
        "nominal": 0.95,
        "prompts": size,
        "resamples": resamples,
        "repetitions": args.repetitions,
        "tail_masses": list(ALPHAS),
        "standard_error_at_nominal": round((0.95 * 0.05 / args.repetitions) ** 0.5, 4),
        "results": results,
    }
    args.out.write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
