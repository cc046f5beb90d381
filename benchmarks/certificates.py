"""Are certificates true, and how tight are they? Simulated on what a dial serves, judged by the truth.

    tailguard run recipes/sandbox.yaml --out out/sandbox
    python benchmarks/certificates.py --run out/sandbox

Fresh prompts are drawn at six soups of the run's two policies and scored by its scorers and by the
truth (`certificate_pools.py`; kept in ``--cache``). Prompts with every order of their draws are a
population whose tail is known. From it, certificates are made again and again by the product's own
functions:

- how often each bound covers, and its looseness (bound − true)/(true − mean), beside conformal tail
  risk control's bounds on the whole law, by Dvoretzky-Kiefer-Wolfowitz and by Berk-Jones (2502.20285);
- how often a fixed sequence over the dial shows something false;
- end to end: calibrate on some prompts, answer a limit, certify on others;
- the judge's bound where labels are dear.

Writes results/certificates.json and certificates.md.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
from certificate_labels import labels
from certificate_pools import Served, draw_points, read_points, served
from certificate_rivals import berk_jones, by_law, dkw
from certificate_tables import page

from tailguard.config import load_recipe
from tailguard.decoding.certificates import judge_bound, scorer_bound
from tailguard.decoding.dial import Dial, DialCertificate
from tailguard.decoding.joint import MeasuredPoint, RuleGrid, joint_table
from tailguard.decoding.pool import Pool
from tailguard.decoding.worth import SCORERS_WORD, AnswerWorth
from tailguard.errors import InfeasibleError
from tailguard.models.quiet import quiet_libraries
from tailguard.risk import CVaR, RiskLimit, cvar_upper_bound

RESULTS = Path(__file__).with_name("results")
CONFIDENCE = 0.95
RANGE = 10.0  # declared largest cost of the judge, and of the scorer where nothing caps it
NUM_CALIBRATION = 600
SIZES, TAILS = (500, 2000), (0.05, 0.1)
Points = list[MeasuredPoint]
Bound = Callable[[np.ndarray, np.ndarray], float]  # costs, which are fallbacks


def main() -> None:
    """Simulate and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, help="folder of a run of the sandbox, trained")
    parser.add_argument("--recipe", type=Path, default=Path("recipes/sandbox.yaml"))
    parser.add_argument("--cache", type=Path, default=Path("out/certificate-pools.npz"))
    parser.add_argument("--prompts", type=int, default=1400)
    parser.add_argument("--draws", type=int, default=32)
    parser.add_argument("--repetitions", type=int, default=1000)
    parser.add_argument("--runs", type=int, default=60)
    parser.add_argument("--out", type=Path, default=RESULTS / "certificates.json")
    arguments = parser.parse_args()
    quiet_libraries()
    if not arguments.cache.is_file():
        if arguments.run is None:
            raise SystemExit("--run: give a run's folder, or --cache with what was drawn before")
        arguments.cache.parent.mkdir(parents=True, exist_ok=True)
        recipe = load_recipe(arguments.recipe)
        draw_points(arguments.run, recipe, arguments.cache, arguments.prompts, arguments.draws)
    points = read_points(arguments.cache)
    started = time.time()
    first, rest = split(points, np.random.default_rng(1))
    dial = make_dial(first, judged=True)
    settings = {"prompts": points[0].pool.num_prompts, "draws": points[0].pool.num_draws}
    settings |= {"repetitions": arguments.repetitions, "runs": arguments.runs}
    found = {
        "settings": settings,
        "bounds": bounds(dial, first, rest, arguments.repetitions),
        "sequence": sequence(dial, rest, arguments.repetitions),
        "end_to_end": end_to_end(points, arguments.runs),
        "labels": few_labels(dial, first, rest, arguments.repetitions),
    }
    found["minutes"] = round((time.time() - started) / 60, 1)
    arguments.out.write_text(json.dumps(found, indent=1) + "\n")
    text = page(found)
    arguments.out.with_suffix(".md").write_text(text)
    print(text)


def split(points: Points, rng: np.random.Generator) -> tuple[Points, Points]:
    """Prompts to calibrate on, and the others."""
    order = rng.permutation(points[0].pool.num_prompts)
    parts = order[:NUM_CALIBRATION], order[NUM_CALIBRATION:]
    return tuple([MeasuredPoint(m.point, m.pool.take(part), m.kl) for m in points] for part in parts)  # pyright: ignore[reportReturnType]  # fmt: skip


def make_dial(points: Points, *, judged: bool) -> Dial:
    """As ``calibrate`` makes it, with the defaults of ``dial``."""
    if not judged:
        points = [MeasuredPoint(m.point, unjudged(m.pool), m.kl) for m in points]
    worth = AnswerWorth.fit([m.pool for m in points]) if judged else SCORERS_WORD
    penalties = (0.0, 1.0, 3.0, 8.0) if judged else (0.0,)
    entries, table = joint_table(
        points,
        worth,
        RuleGrid(12, (0.0, 0.003, 0.01, 0.03, 0.1, 1.0), penalties, 16),
        largest_cost=RANGE,
        kl_coef=0.0 if judged else 0.5,
        largest_withheld=0.2,
    )
    named = "judge" if judged else "scorer"
    return Dial(entries, table, RiskLimit(CVaR(0.1), RANGE), 0.01, measured_by=named, worth=worth)


def unjudged(pool: Pool) -> Pool:
    """The same without a judge."""
    return Pool(**{name: array for name, array in pool.arrays().items() if "judged" not in name})


def path_of(dial: Dial, num: int) -> list[RiskLimit]:
    """Budgets from the strictest within reach to the loosest, as ``calibrate`` certifies them."""
    risk, error = dial.table.risks(CVaR(0.1))
    high = risk + dial.margin * error
    budgets = np.linspace(high.min() + 1e-6, high[dial.table.reward.argmax()], num + 1)[:num]
    return [RiskLimit(CVaR(0.1), float(budget)) for budget in budgets]


def population(dial: Dial, number: int, points: Points) -> Served:
    """What an entry serves to prompts that did not choose it."""
    entry = dial.entries[number]
    return served(next(m for m in points if m.point == entry.point), entry, dial.worth)


def bounds(dial: Dial, first: Points, rest: Points, repetitions: int) -> list[dict[str, object]]:
    """Coverage and looseness of each bound, at three places of the dial."""
    rows: list[dict[str, object]] = []
    for name, limit in places(dial):
        number = dial.answer(limit).number
        here, past = population(dial, number, rest), population(dial, number, first)
        for alpha in TAILS:
            for size in SIZES:
                for costs, way, bound in ways(here, past, alpha):
                    row = simulate_bound(costs, here.abstained, alpha, size, bound, repetitions)
                    rows.append({"entry": name, "alpha": alpha, "n": size, "way": way} | row)
        print(f"bounds, {name}: done", flush=True)
    return rows


def few_labels(
    dial: Dial, first: Points, rest: Points, repetitions: int
) -> list[dict[str, object]]:
    """The judge's bound where labels are dear."""
    rows: list[dict[str, object]] = []
    for name, limit in places(dial):
        number = dial.answer(limit).number
        here, past = population(dial, number, rest), population(dial, number, first)
        rows += labels(name, here, past, repetitions, CONFIDENCE)
    return rows


def places(dial: Dial) -> list[tuple[str, RiskLimit]]:
    """Three limits of the dial."""
    path = path_of(dial, 5)
    return [("strict", path[0]), ("middle", path[1]), ("loose", path[-1])]


def simulate_bound(
    costs: np.ndarray,
    abstained: np.ndarray,
    alpha: float,
    size: int,
    bound: Bound,
    repetitions: int,
) -> dict[str, float]:
    """Independent samples of the population, the same ones for every bound."""
    rng = np.random.default_rng(17)
    true, mean = CVaR(alpha).value(costs), float(costs.mean())
    rows = [rng.integers(0, costs.size, size) for _ in range(repetitions)]
    found = np.array([bound(costs[r], abstained[r]) for r in rows])
    return {
        "true": true,
        "bound": float(found.mean()),
        "coverage": float((found >= true - 1e-9).mean()),
        "looseness": float((found.mean() - true) / (true - mean)),
    }


def ways(here: Served, past: Served, alpha: float) -> list[tuple[np.ndarray, str, Bound]]:
    """Each bound, with its name and the costs that it is of."""
    tail = CVaR(alpha)
    threshold = float(tail.minimiser(past.scorer)), float(tail.minimiser(past.judge))

    def product(costs: np.ndarray, abstained: np.ndarray) -> float:
        return scorer_bound(
            costs, abstained, tail, level=here.level, largest_cost=RANGE, confidence=CONFIDENCE
        ).value

    def fixed(upper: float, nu: float) -> Bound:
        return lambda costs, _: cvar_upper_bound(
            np.minimum(costs, upper), alpha, min(nu, upper), upper=upper, confidence=CONFIDENCE
        )

    def law(upper: float, least: Callable[[int, float], np.ndarray]) -> Bound:
        return lambda costs, _: by_law(
            np.minimum(costs, upper), alpha, upper, least(len(costs), CONFIDENCE)
        )

    def judged(costs: np.ndarray, _: np.ndarray) -> float:
        return judge_bound(costs, tail, RANGE, CONFIDENCE).value

    cap = max(here.level, float(here.scorer[here.abstained].max(initial=-np.inf)))
    return [
        (here.scorer, "scorer: ours, range ends at the level", product),
        (here.scorer, "scorer: ours, range 10", judged),
        (here.scorer, "scorer: fixed threshold, range ends at the level", fixed(cap, threshold[0])),
        (here.scorer, "scorer: DKW, range ends at the level", law(cap, dkw)),
        (here.scorer, "scorer: Berk-Jones, range ends at the level", law(cap, berk_jones)),
        (here.judge, "judge: ours, range 10", judged),
        (here.judge, "judge: fixed threshold, range 10", fixed(RANGE, threshold[1])),
        (here.judge, "judge: DKW, range 10", law(RANGE, dkw)),
        (here.judge, "judge: Berk-Jones, range 10", law(RANGE, berk_jones)),
    ]


def sequence(dial: Dial, rest: Points, repetitions: int) -> list[dict[str, object]]:
    """How often the dial covers an entry whose true risk is above what is asked."""
    path = path_of(dial, 5)
    numbers = [dial.answer(limit).number for limit in path]
    there = [population(dial, number, rest) for number in numbers]
    tail = CVaR(0.1)
    rows: list[dict[str, object]] = []
    for by in ("scorer", "judge"):
        truth = [tail.value(getattr(each, by)) for each in there]
        # Just below the risk of each entry: the worst that can be asked.
        asked = [risk - 1e-6 for risk in truth]
        for size in SIZES:
            rng = np.random.default_rng(23)
            wrong, covered, single = np.zeros(len(asked)), np.zeros(len(path)), 0
            anything = 0
            for _ in range(repetitions):
                pick = rng.integers(0, len(there[0].prompt), size)
                tested = certified(dial, path, numbers, there, pick)
                errors = [shows_false(tested, RiskLimit(tail, d), numbers, truth, by) for d in asked]  # fmt: skip
                wrong += errors
                anything += any(errors)
                found = [set(tested.covered(limit, by)) for limit in path]  # pyright: ignore[reportArgumentType]
                covered += [number in each for number, each in zip(numbers, found, strict=True)]
                bound = [getattr(c, f"{by}_bound") for c in tested.certificates]
                single += any(b < t for b, t in zip(bound, truth, strict=True))
            rows.append(
                {
                    "by": by,
                    "n": size,
                    "limits": len(asked),
                    "wrong_at_worst_limit": float(wrong.max() / repetitions),
                    "wrong_at_any_limit": anything / repetitions,
                    "any_bound_wrong": single / repetitions,
                    "shown_at_own_budget": (covered / repetitions).tolist(),
                }
            )
        print(f"sequence by {by}: done", flush=True)
    return rows


def certified(
    dial: Dial, path: list[RiskLimit], numbers: list[int], there: list[Served], pick: np.ndarray
) -> Dial:
    """The dial with certificates of its path, all from one sample of prompts."""
    made = []
    for limit, number, each in zip(path, numbers, there, strict=True):
        own = scorer_bound(
            each.scorer[pick],
            each.abstained[pick],
            limit.measure,
            level=each.level,
            largest_cost=RANGE,
            confidence=CONFIDENCE,
        )
        judged = judge_bound(each.judge[pick], limit.measure, RANGE, CONFIDENCE)
        made.append(DialCertificate(number, limit, own.value, judged.value, CONFIDENCE, len(pick)))
    return Dial(dial.entries, dial.table, dial.default, 0.01, tuple(made), worth=dial.worth)


def shows_false(
    dial: Dial, asked: RiskLimit, numbers: list[int], truth: list[float], by: str
) -> bool:
    """Whether an entry is covered whose risk is above the budget."""
    risk = dict(zip(numbers, truth, strict=True))
    return any(risk[number] > asked.budget for number in dial.covered(asked, by))  # pyright: ignore[reportArgumentType]


ASKS = {
    # budget, certification prompts, margin of the dial
    "scorer": ((-0.4, 500, 2.0), (-0.4, 500, 3.0), (-0.4, 500, 4.0), (-0.7, 500, 4.0)),
    "judge": ((0.2, 800, 2.0), (0.5, 800, 4.0), (1.0, 800, 4.0)),
}


def end_to_end(points: Points, runs: int) -> list[dict[str, object]]:
    """Calibrate on 600 prompts, answer a limit, certify on others; new prompts each time."""
    found: dict[tuple[str, float, int, float], list[list[float]]] = {}
    for by, asks in ASKS.items():
        rng = np.random.default_rng(29)
        for _ in range(runs):
            first, rest = split(points, rng)
            dial = make_dial(first, judged=by == "judge")
            for ask in asks:
                row = once(dial, rest, by, ask, rng)
                found.setdefault((by, *ask), []).extend([row] if row else [])
        print(f"end to end by {by}: done", flush=True)
    names = ("shown", "covers", "withheld", "broken", "reward")
    rows: list[dict[str, object]] = []
    for (by, budget, size, margin), each in found.items():
        row: dict[str, object] = {"by": by, "budget": budget, "n": size, "margin": margin}
        figures = np.array(each).mean(axis=0) if each else np.full(len(names), np.nan)
        rows.append(row | {"reached": len(each) / runs} | dict(zip(names, figures, strict=True)))
    return rows


def once(
    dial: Dial, rest: Points, by: str, ask: tuple[float, int, float], rng: np.random.Generator
) -> list[float]:
    """One certificate; nothing where the limit is out of reach."""
    budget, size, margin = ask
    limit = RiskLimit(CVaR(0.1), budget)
    try:
        number = replace(dial, margin=margin).answer(limit).number
    except InfeasibleError:
        return []
    there = population(dial, number, rest)
    pool = rest[0].pool
    order = pool.num_prompts * rng.integers(0, pool.num_draws, size)
    pick = rng.choice(pool.num_prompts, size, replace=False) + order
    tested = certified(dial, [limit], [number], [there], pick).certificates[0]
    bound = tested.scorer_bound if by == "scorer" else tested.judge_bound
    true = CVaR(0.1).value(getattr(there, by))
    withheld = float(there.abstained.mean())
    return [bound <= budget, bound >= true, withheld, true > budget, dial.table.reward[number]]


if __name__ == "__main__":
    main()
