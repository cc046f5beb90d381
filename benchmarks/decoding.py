"""The decoder beside its rivals on fresh sandbox prompts, judged by the truth.

    tailguard run recipes/sandbox.yaml --out out/sandbox
    python benchmarks/decoding.py --run out/sandbox

Five limits are asked of the run's dial. Each rival has the same: every measured soup to draw from, the
same calibration prompts with the truth's verdicts to choose its soup and its parameters by, and the same
look-up (best reward among what keeps risk + 2 standard errors within the budget, at no more tokens than
the dial takes). Rivals that grow answers block by block are tried on two soups, and chosen by a
half of 200 fresh prompts. What is reported comes from fresh prompts that nothing was chosen on.
Writes results/decoding.json and decoding.md. Draws are kept in --cache: a killed run goes on.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from decoding_baselines import blockwise, cards, on_draws, speculative
from decoding_page import page
from decoding_pools import FreshDraws, Point, Run, fresh_draws, threads

from tailguard.decoding.joint import MeasuredPoint, RuleGrid, joint_table
from tailguard.decoding.pool import Pool
from tailguard.decoding.rule import Outcome, simulate
from tailguard.decoding.worth import AnswerScores
from tailguard.models.quiet import quiet_libraries
from tailguard.portfolio.dial import DialTable
from tailguard.risk import CVaR, RiskLimit

RESULTS = Path(__file__).with_name("results")
TAIL = CVaR(0.1)
BUDGETS = (-0.4, -0.2, 0.0, 0.4, 1.0)
CHECKPOINTS = (6, 12)
GROWN_FROM: tuple[Point, ...] = ((0.5, 0.5), (0.0, 1.0))
NUM_GROWN = 200  # fresh prompts for those that grow answers: each block is scored
LARGEST_N = 64


@dataclass(frozen=True)
class Figures:
    """What was served, by the truth.

    Attributes:
        name: of the rule and its setting.
        point: of the soup.
        outcome: per prompt.
    """

    name: str
    point: Point
    outcome: Outcome

    @property
    def cost(self) -> np.ndarray:
        """True cost of what was served [prompts]."""
        assert self.outcome.judged_cost is not None
        return self.outcome.judged_cost

    @property
    def reward(self) -> np.ndarray:
        """True reward [prompts]."""
        assert self.outcome.judged_reward is not None
        return self.outcome.judged_reward

    def row(self, rows: np.ndarray | slice = slice(None)) -> dict[str, float]:
        """Reward, tail, tokens and share withheld on some prompts."""
        return {
            "reward": float(self.reward[rows].mean()),
            "cvar": TAIL.value(self.cost[rows]),
            "tokens": float(self.outcome.num_tokens[rows].mean()),
            "withheld": float((self.outcome.served[rows] < 0).mean()),
        }


def main() -> None:
    """Draw, choose, compare and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--prompts", type=int, default=600)
    parser.add_argument("--seed", type=int, default=21)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--cache", type=Path, default=Path("out/decoding-benchmark"))
    parser.add_argument("--out", type=Path, default=RESULTS / "decoding.json")
    arguments = parser.parse_args()
    quiet_libraries()
    threads(arguments.threads)
    run = Run.open(arguments.run)
    requests = run.fresh_requests(arguments.prompts, arguments.seed)
    prompts = [request.text for request in requests]
    draws = {
        point: fresh_draws(
            run,
            prompts,
            point,
            run.dial.setting.max_draws,
            seed=arguments.seed,
            cache=arguments.cache,
            checkpoints=CHECKPOINTS if point in GROWN_FROM else (),
        )
        for point in (each.point for each in run.calibration)
    }
    benign = np.array([request.kind == "benign" for request in requests])
    many = {
        point: fresh_draws(
            run,
            prompts[:NUM_GROWN],
            point,
            LARGEST_N,
            seed=arguments.seed + 1,
            cache=arguments.cache,
        )
        for point in GROWN_FROM
    }
    rivals = offered(run, draws, prompts, arguments.seed)
    found = {
        "settings": {"prompts": len(prompts), "seed": arguments.seed, "run": arguments.run.name},
        "points": [compare(run, draws, rivals, budget) for budget in BUDGETS],
        "benign": [on_benign(run, draws, benign, price) for price in (None, 0.03, 0.1)],
        "frontier": frontier(run, draws),
        "best_of_32": against_best_of(run, many[GROWN_FROM[0]].pool),
        "draws": more_draws(run, {point: found.pool for point, found in many.items()}),
    }
    arguments.out.write_text(json.dumps(found, indent=1) + "\n")
    text = page(found)
    arguments.out.with_suffix(".md").write_text(text)
    print(text)


def dial_serves(run: Run, pool: Pool, number: int) -> Figures:
    """An entry of the dial on draws of its soup; the live decoder is tested to do the same."""
    entry = run.dial.dial.entries[number]
    utility = run.dial.dial.worth.utility(AnswerScores.of_pool(pool), entry.penalty)
    rule = entry.rule
    name = f"level {rule.level:.2f}, price {rule.token_price:g}, λ′ {entry.penalty:g}"
    return Figures(name, entry.point, simulate(pool, rule, utility))


Rivals = dict[str, list[tuple[Figures, Figures]]]


def offered(run: Run, draws: dict[Point, FreshDraws], prompts: list[str], seed: int) -> Rivals:
    """Every setting of every rival: what it served in calibration, and to the fresh prompts.

    Blockwise rivals have no stored draws; both their parts are fresh prompts, chosen on one half.
    """
    rivals: Rivals = {}
    for measured in run.calibration:
        fresh = draws[measured.point].pool
        for family, rules in on_draws(measured.pool).items():
            for name, rule in rules:
                pair = tuple(Figures(name, measured.point, rule(p)) for p in (measured.pool, fresh))
                rivals.setdefault(family, []).append(pair)  # pyright: ignore[reportArgumentType]
    for point in GROWN_FROM:
        live = {
            "speculative rejection": [
                (n, rule(draws[point])) for n, rule in speculative(CHECKPOINTS)
            ],
            "blockwise": list(blockwise(run, prompts[:NUM_GROWN], point, seed)),
            "CARDS-like": list(cards(run, prompts[:NUM_GROWN], point, seed)),
        }
        for family, served in live.items():
            for name, outcome in served:
                figures = Figures(name, point, outcome)
                rivals.setdefault(family, []).append((figures, figures))
        print(f"grown from {point}", flush=True)
    return rivals


def table_of(figures: list[Figures], rows: slice) -> DialTable:
    """What settings served in calibration, as the dial has it."""
    cost = np.stack([each.cost[rows] for each in figures])[:, :, None]
    reward = np.array([each.reward[rows].mean() for each in figures])
    tokens = np.array([each.outcome.num_tokens[rows].mean() for each in figures])
    return DialTable(cost, reward, np.zeros(len(figures)), tokens)


def compare(
    run: Run, draws: dict[Point, FreshDraws], rivals: Rivals, budget: float
) -> dict[str, object]:
    """One limit asked of the dial and of each rival."""
    dial = run.dial.dial
    answer = dial.table.look_up(RiskLimit(TAIL, budget), token_price=dial.token_price)
    ours = dial_serves(run, draws[dial.entries[answer.entry].point].pool, answer.entry)
    most = float(dial.table.tokens[answer.entry])
    found: dict[str, object] = {"budget": budget, "reached": bool(answer.feasible)}
    found["dial"] = ours.row() | {"setting": ours.name, "point": list(ours.point)}
    rows = {}
    for family, pairs in rivals.items():
        # Those that were grown live have one set of prompts for both: the first half chooses.
        same = pairs[0][0] is pairs[0][1]
        num = len(pairs[0][0].cost)
        halves = slice(0, num // 2), slice(num // 2, num)
        choosing, judging = halves if same else (slice(None), slice(None))
        table = table_of([chosen for chosen, _ in pairs], choosing)
        cheap = np.flatnonzero(table.tokens <= most * 1.02)
        if not cheap.size:
            cheap = np.array([table.tokens.argmin()])
        pick = table.take(cheap).look_up(RiskLimit(TAIL, budget))
        theirs = pairs[cheap[pick.entry]][1]
        row = theirs.row(judging) | {"setting": theirs.name, "point": list(theirs.point)}
        mine = ours.row(judging)
        better = [p for p in pairs if at_once(p[1].row(judging), mine)]
        surely = [p for p in better if surely_better(p[1], ours, judging)]
        rows[family] = row | {
            "kept_in_calibration": bool(pick.feasible),
            "settings": len(pairs),
            "better_in_hindsight": len(better),
            "surely_better": len(surely),
            "better_at_once": at_once(row, mine),
        }
    return found | {"rivals": rows}


def at_once(theirs: dict[str, float], ours: dict[str, float]) -> bool:
    """Better in reward, tail and tokens at once."""
    return (
        theirs["reward"] > ours["reward"]
        and theirs["cvar"] < ours["cvar"]
        and theirs["tokens"] < ours["tokens"]
    )


def surely_better(theirs: Figures, ours: Figures, rows: slice, times: int = 200) -> bool:
    """Whether it stays better at once in 95% of bootstrap resamples of the prompts."""
    num = len(ours.cost[rows])
    picks = np.random.default_rng(0).integers(0, num, (times, num))
    reward = (theirs.reward[rows] - ours.reward[rows])[picks].mean(axis=1) > 0
    tokens = (theirs.outcome.num_tokens[rows] - ours.outcome.num_tokens[rows])[picks].mean(1) < 0
    tail = [TAIL.value(theirs.cost[rows][p]) < TAIL.value(ours.cost[rows][p]) for p in picks]
    return float((reward & tokens & np.array(tail)).mean()) >= 0.95


def frontier(run: Run, draws: dict[Point, FreshDraws]) -> list[dict[str, object]]:
    """What is served at each limit and price of a token."""
    dial = run.dial.dial
    found: list[dict[str, object]] = []
    for budget in (-0.5, -0.4, -0.3, -0.2, -0.1, 0.0, 0.2, 0.4, 0.7, 1.0, 1.5):
        for price in (0.001, 0.003, 0.01, 0.03, 0.1):
            answer = dial.table.look_up(RiskLimit(TAIL, budget), token_price=price)
            entry = dial.entries[answer.entry]
            ours = dial_serves(run, draws[entry.point].pool, answer.entry)
            row = ours.row() | {"budget": budget, "price": price, "point": list(entry.point)}
            found.append(row | {"setting": ours.name, "reached": bool(answer.feasible)})
    return found


def on_benign(
    run: Run, draws: dict[Point, FreshDraws], benign: np.ndarray, price: float | None
) -> dict[str, object]:
    """The default limit on benign prompts, beside a plain answer of the same soup."""
    dial = run.dial.dial
    answer = dial.answer(token_price=price)
    fresh = draws[answer.entry.point]
    ours = dial_serves(run, fresh.pool, answer.number)
    served = np.maximum(ours.outcome.served, 0)
    refused = np.where(ours.outcome.served < 0, True, fresh.refusal[np.arange(len(served)), served])
    plain = fresh.pool.num_tokens[benign, 0].mean()
    return ours.row(benign) | {
        "asked": dial.default.budget,
        "price": dial.token_price if price is None else price,
        "times_plain_tokens": float(ours.outcome.num_tokens[benign].mean() / plain),
        "refusals": float(refused[benign].mean()),
        "plain_refusals": float(fresh.refusal[benign].mean()),
        "all": ours.row(),
    }


def against_best_of(run: Run, pool: Pool) -> dict[str, object]:
    """Reward alone: what drawing on while it pays gets of best-of-32's gain, and at what divergence."""
    dial = run.dial.dial
    point = GROWN_FROM[0]
    assert pool.judged_reward is not None
    plain = float(pool.judged_reward[:, 0].mean())
    best = pool.reward[:, :32].argmax(axis=1)
    rows = np.arange(pool.num_prompts)
    gain = float(pool.judged_reward[rows, best].mean()) - plain
    tokens = float(pool.num_tokens[:, :32].sum(axis=1).mean())
    found: list[dict[str, float]] = []
    for number, entry in enumerate(dial.entries):
        if entry.point != point or entry.rule.level < np.quantile(pool.cost_bound, 0.999):
            continue
        ours = dial_serves(run, pool, number)
        row = ours.row()
        # A served answer is one of N draws, so its density is at most E[N | prompt] times the soup's.
        kl = float(np.log(ours.outcome.num_draws.mean()))
        found.append(
            row
            | {
                "price": entry.rule.token_price,
                "penalty": entry.penalty,
                "share_of_gain": (row["reward"] - plain) / gain,
                "share_of_tokens": row["tokens"] / tokens,
                "less_kl": row["reward"] - 0.5 * kl,
            }
        )
    kl = float(np.log(32) - 31 / 32)
    return {
        "plain": plain,
        "best_of_32": {
            "reward": plain + gain,
            "tokens": tokens,
            "less_kl": plain + gain - 0.5 * kl,
        },
        "drawn_on": found,
    }


def more_draws(run: Run, pools: dict[Point, Pool]) -> list[dict[str, object]]:
    """The tail by the truth as more draws are allowed, soup, level and price chosen anew for each N.

    Calibration prompts have 16 draws; for more the three soups with 64 fresh draws are used, one half
    of the prompts choosing and the other judging.
    """
    half = next(iter(pools.values())).num_prompts // 2
    first, last = np.arange(half), np.arange(half, 2 * half)
    found: list[dict[str, object]] = []
    for budget in (-0.2, 0.4):
        for size in (1, 2, 4, 8, 16, 32, 64):
            grid = RuleGrid(10, (0.0, 0.01), (0.0, 3.0), size)
            points = [MeasuredPoint(p, pool.take(first), 0.0) for p, pool in pools.items()]
            worth = run.dial.dial.worth
            entries, table = joint_table(points, worth, grid, largest_cost=10.0)
            entry = entries[table.look_up(RiskLimit(TAIL, budget)).entry]
            pool = pools[entry.point].take(last)
            utility = worth.utility(AnswerScores.of_pool(pool), entry.penalty)
            ours = Figures("", entry.point, simulate(pool, entry.rule, utility))
            found.append({"budget": budget, "draws": size} | ours.row())
    return found


if __name__ == "__main__":
    main()
