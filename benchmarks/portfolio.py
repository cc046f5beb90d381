"""What a dial of few policies loses on profiles that nobody trained for.

    python benchmarks/portfolio.py                        # synthetic banks
    python benchmarks/portfolio.py --run out/sandbox      # and a run's own soups, judged by the truth

*Synthetic banks*: three tail families, 8 banks each, 4 members chosen with a margin of 2 standard
errors; 24 profiles that were not chosen for, on fresh prompts.
*Sandbox*: a table over the run's measured soups from 300 or 600 calibration prompts with 4 answers
each; 24 profiles; reported on 600 prompts with 16 answers each that took no part (the draws of
decoding.py). Repeated on random subsets of answers and prompts. With `--more 2000` also a table from as many
further prompts with 4 answers each. Writes results/portfolio.json and portfolio.md.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
from decoding import CHECKPOINTS, GROWN_FROM
from decoding_pools import Point, Run, fresh_draws, threads
from portfolio_synthetic import FAMILIES, compare

from tailguard.decoding.pool import Pool
from tailguard.models.quiet import quiet_libraries
from tailguard.portfolio.dial import DialTable
from tailguard.risk import CVaR, Entropic, Mean, MeanCVaR, RiskLimit, RiskMeasure, Spectral

RESULTS = Path(__file__).with_name("results")
MEASURES: tuple[RiskMeasure, ...] = (
    CVaR(0.05),
    CVaR(0.1),
    CVaR(0.25),
    CVaR(0.5),
    Mean(),
    MeanCVaR(0.1, 0.5),
    Entropic(0.5, 10.0),
    Spectral((0.1, 0.5, 1.0), (0.5, 0.3, 0.2)),
)
SHARES = (0.15, 0.45, 0.75)  # of the way from the smallest to the largest risk of a soup
NUM_BANKS = 8
COLUMNS = ("regret", "broken", "refused")


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path)
    parser.add_argument("--sandbox-only", action="store_true", help="keep the other part's figures")
    parser.add_argument("--prompts", type=int, default=600)
    parser.add_argument("--more", type=int, default=0, help="prompts of a larger table")
    parser.add_argument("--seed", type=int, default=21)
    parser.add_argument("--repetitions", type=int, default=20)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--cache", type=Path, default=Path("out/decoding-benchmark"))
    parser.add_argument("--out", type=Path, default=RESULTS / "portfolio.json")
    arguments = parser.parse_args()
    quiet_libraries()
    threads(arguments.threads)
    found = json.loads(arguments.out.read_text()) if arguments.out.is_file() else {}
    if not arguments.sandbox_only:
        found["synthetic"] = synthetic()
    if arguments.run is not None:
        found["sandbox"] = sandbox(arguments)
    arguments.out.write_text(json.dumps(found, indent=1) + "\n")
    text = page(found)
    arguments.out.with_suffix(".md").write_text(text)
    print(text)


def synthetic() -> dict[str, dict[str, dict[str, float]]]:
    """Means over the banks of a family, with the standard error of the regret."""
    found: dict[str, dict[str, dict[str, float]]] = {}
    for family in FAMILIES:
        banks = [compare(family, seed) for seed in range(100, 100 + NUM_BANKS)]
        found[family] = {}
        for name in banks[0]:
            rows = [asdict(bank[name]) for bank in banks]
            means = {key: float(np.mean([row[key] for row in rows])) for key in COLUMNS}
            regrets = np.array([row["regret"] for row in rows])
            means["error"] = float(regrets.std(ddof=1) / np.sqrt(NUM_BANKS))
            found[family][name] = means
        print(family, found[family], flush=True)
    return found


def sandbox(arguments: argparse.Namespace) -> dict[str, object]:
    """The run's soups, on a table from calibration prompts, judged on fresh ones."""
    run = Run.open(arguments.run)
    prompts = [r.text for r in run.fresh_requests(arguments.prompts, arguments.seed)]
    points = [each.point for each in run.calibration]
    kl = np.array([each.kl for each in run.calibration])
    draws = run.dial.setting.max_draws
    cached = {"seed": arguments.seed, "cache": arguments.cache}
    fresh = [
        fresh_draws(
            run, prompts, p, draws, checkpoints=CHECKPOINTS if p in GROWN_FROM else (), **cached
        ).pool
        for p in points
    ]
    judged = table(*_truth(fresh), kl)
    reward, cost = _truth([each.pool for each in run.calibration])
    names = {
        "all soups": list(range(len(points))),
        "two members, no extrapolation": [i for i, p in enumerate(points) if _inside(p)],
        "members and base (routing)": [i for i, p in enumerate(points) if sorted(map(abs, p)) in ([0, 0], [0, 1])],
    }  # fmt: skip
    result: dict[str, object] = {"points": points}
    rng = np.random.default_rng(0)
    for size in (300, 600):
        for name, chosen in names.items():
            rows = []
            for _ in range(arguments.repetitions):
                picks, four = rng.permutation(600)[:size], rng.permutation(draws)[:4]
                seen = reward[:, picks][:, :, four], cost[:, picks][:, :, four]
                rows.append(serve(table(*seen, kl), judged, chosen))
            means = np.mean(rows, axis=0)
            result[f"{name}, {size} prompts"] = dict(zip(COLUMNS, map(float, means), strict=True))
            print(name, size, means, flush=True)
    if arguments.more:
        drawn = [
            r.text
            for r in run.fresh_requests(arguments.prompts + arguments.more, arguments.seed + 1)
        ]
        further = [text for text in drawn if text not in set(prompts)][: arguments.more]
        cached |= {"seed": arguments.seed + 1}
        pools = [fresh_draws(run, further, point, 4, **cached).pool for point in points]
        seen = table(*_truth(pools), kl)
        for name, chosen in names.items():
            row = dict(zip(COLUMNS, serve(seen, judged, chosen), strict=True))
            result[f"{name}, {len(further)} prompts"] = row
            print(name, len(further), row, flush=True)
    return result


def _truth(pools: Sequence[Pool]) -> tuple[np.ndarray, np.ndarray]:
    """True reward and cost [points, prompts, draws]."""
    found = [(pool.judged_reward, pool.judged_cost) for pool in pools]
    reward, cost = (np.stack(part) for part in zip(*found, strict=True))
    return reward, cost


def _inside(point: Point) -> bool:
    return min(point) >= 0 and abs(sum(point) - 1.0) < 1e-9


def table(reward: np.ndarray, cost: np.ndarray, kl: np.ndarray) -> DialTable:
    """Of soups without a rule: each answer is served as it is drawn."""
    return DialTable(cost, reward.mean(axis=(1, 2)), kl, np.zeros(len(kl)))


def serve(seen: DialTable, judged: DialTable, chosen: Sequence[int]) -> tuple[float, float, float]:
    """Regret to hindsight over all soups in units of the span, share broken and share refused."""
    index = np.array(chosen)
    part = seen.take(index)
    regrets, broken, refused = [], [], []
    for measure in MEASURES:
        risk, _ = judged.risks(measure)
        low, high = float(risk.min()), float(risk[judged.reward.argmax()])
        strictest = judged.reward[risk.argmin()]
        span = float(judged.reward.max() - strictest)
        for share in SHARES:
            limit = RiskLimit(measure, low + share * (high - low))
            best = float(judged.reward[risk <= limit.budget].max())
            found = part.look_up(limit)
            entry = index[found.entry]
            value = float(judged.reward[entry])
            over = bool(risk[entry] > limit.budget)
            regrets.append(min(1.0, max(0.0, (best - value) / span)))
            broken.append(found.feasible and over)
            refused.append(not found.feasible)
    return float(np.mean(regrets)), float(np.mean(broken)), float(np.mean(refused))


def page(found: dict) -> str:
    """The tables in Markdown."""
    lines = ["# Few policies for many profiles", ""]
    lines += [
        "`python benchmarks/portfolio.py --run out/sandbox`. Regret to hindsight in units of the value span."
    ]
    if "sandbox" in found:
        lines += ["", "## Sandbox soups, judged by the truth, 24 profiles", ""]
        lines += ["| table | regret | broken | refused |", "|---|---|---|---|"]
        for name, row in found["sandbox"].items():
            if name != "points":
                lines.append(
                    f"| {name} | {row['regret']:.2f} | {row['broken']:.1%} | {row['refused']:.1%} |"
                )
    lines += ["", "## Synthetic banks, 24 held-out profiles on fresh prompts, 8 banks each", ""]
    lines += [
        "| family | members and serving | regret ± s.e. | broken | refused |",
        "|---|---|---|---|---|",
    ]
    for family, rows in found["synthetic"].items():
        for name, row in rows.items():
            lines.append(
                f"| {family} | {name} | {row['regret']:.3f} ± {row['error']:.3f} |"
                f" {row['broken']:.1%} | {row['refused']:.1%} |"
            )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
