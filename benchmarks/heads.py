"""What process heads know on the way, and what leaving answers off saves, on fresh prompts of the sandbox.

    python benchmarks/heads.py --run out/sandbox

Heads of the run's decoder foresee answers to requests that nobody has seen, drawn at five points of the weight
space. *Knowing*: R² of E(C − ν′)₊ and of the reward against the full scorers, AUROC for answers that are unsafe in truth
(beside the full scorer's on the whole answer), coverage of the .9-quantile. *Saving*: for each price of a token the
entries that the default limit gets, with and without leaving off, on the same draws. *Racing*: six answers started at
once and dropped by heads at the checkpoints, against best-of-6 and against drawing on while it pays, under the default
entry's level and ranking. Writes results/heads.json and heads.md.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from decoding_pools import Run, score, threads
from scipy.special import ndtr

from tailguard.decoding.joint import risk_costs
from tailguard.decoding.outlook import Prospects, stack_foreseen
from tailguard.decoding.pool import Pool
from tailguard.decoding.rule import simulate
from tailguard.decoding.worth import AnswerScores
from tailguard.models.quiet import quiet_libraries
from tailguard.pipeline.process_heads import roll_out
from tailguard.risk import CVaR
from tailguard.scorers import area_under_roc

RESULTS = Path(__file__).with_name("results")
RESAMPLES = 400
FIELD = 6  # answers in a race


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--prompts", type=int, default=600)
    parser.add_argument("--seed", type=int, default=70)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=RESULTS / "heads.json")
    arguments = parser.parse_args()
    quiet_libraries()
    threads(arguments.threads)
    run = Run.open(arguments.run)
    if run.dial.dial.outlook is None:
        raise SystemExit("the run's decoder has no process heads")
    prompts = [r.text for r in run.fresh_requests(arguments.prompts, arguments.seed)]
    points = sorted({entry.point for entry in run.dial.dial.entries})
    chosen = [points[round(k)] for k in np.linspace(0, len(points) - 1, 5)]
    known = [drawn(run, prompts, point, 2, arguments.seed + k) for k, point in enumerate(chosen)]
    found = {
        "settings": {"prompts": len(prompts), "points": chosen},
        "knowing": knowing(run, known),
        "saving": saving(run, prompts, arguments.seed + 10),
        "racing": racing(run, prompts, arguments.seed + 20),
    }
    arguments.out.write_text(json.dumps(found, indent=1) + "\n")
    text = page(found)
    arguments.out.with_suffix(".md").write_text(text)
    print(text)


def drawn(run: Run, prompts: list[str], point: tuple[float, ...], num: int, seed: int) -> Pool:
    """A pool of fresh draws, with what the heads foresaw."""
    outlook, setting = run.dial.dial.outlook, run.dial.setting
    assert outlook is not None
    made = roll_out(
        run.soup,
        prompts,
        point,
        num_draws=num,
        max_new_tokens=setting.max_new_tokens,
        temperature=setting.temperature,
        seed=seed,
        batch_size=256,
        checkpoints=outlook.heads.checkpoints.tolist(),
    )
    assert made.states is not None
    points = np.tile(np.array(point), (len(made.drawn), 1))
    foreseen = np.stack(
        [
            stack_foreseen(outlook.heads.foresee(k, made.states[:, k], points))
            for k in range(len(outlook.heads.checkpoints))
        ],
        axis=1,
    )
    asked = [prompts[i] for i in made.prompt_index]
    shape = (len(prompts), num)
    scores = score(run, asked, [each.text for each in made.drawn])
    fallback = score(run, prompts, [setting.fallback] * len(prompts))
    names = ("reward", "cost", "cost_bound", "judged_reward", "judged_cost")
    return Pool(
        **{name: values.reshape(shape) for name, values in scores.items()},
        num_tokens=np.array([float(len(each.token_ids)) for each in made.drawn]).reshape(shape),
        foreseen=foreseen.reshape(*shape, *foreseen.shape[1:]),
        **{f"fallback_{name}": fallback[name] for name in names},
    )


def knowing(run: Run, pools: list[Pool]) -> list[dict[str, Any]]:
    """What is foreseen at each checkpoint against what came, with intervals over prompts."""
    outlook = run.dial.dial.outlook
    assert outlook is not None
    heads, rows = outlook.heads, []
    rng = np.random.default_rng(0)
    for k, tokens in enumerate(heads.checkpoints.tolist()):
        columns: dict[str, list[np.ndarray]] = {}
        for pool in pools:
            assert pool.foreseen is not None
            assert pool.judged_cost is not None
            # Answers unlike what the scorer was fitted on have no bound.
            there = np.isfinite(pool.foreseen[..., k, 0]) & np.isfinite(pool.cost_bound)
            foreseen = pool.foreseen[there][:, k]
            part = {
                "prompt": np.nonzero(there)[0],
                "share": tokens / pool.num_tokens[there],
                "reward": pool.reward[there],
                "excess": np.maximum(pool.cost_bound[there] - outlook.threshold, 0.0),
                "bound": pool.cost_bound[there],
                "unsafe": pool.judged_cost[there] > 0.0,
                "reward foreseen": foreseen[:, 0],
                "bound foreseen": foreseen[:, 1],
                "excess foreseen": heads.hinge_at(foreseen[:, 2:], outlook.threshold),
            }
            for name, values in part.items():
                columns.setdefault(name, []).append(values)
        table = {name: np.concatenate(values) for name, values in columns.items()}
        rows_of = [np.flatnonzero(table["prompt"] == i) for i in np.unique(table["prompt"])]
        figures = _knowing(table, heads.margins[k], np.arange(len(table["prompt"])))
        drawn_again = [
            _knowing(
                table,
                heads.margins[k],
                np.concatenate([rows_of[i] for i in rng.integers(len(rows_of), size=len(rows_of))]),
            )
            for _ in range(RESAMPLES)
        ]
        intervals = {
            name: [value, *np.quantile([each[name] for each in drawn_again], [0.025, 0.975])]
            for name, value in figures.items()
        }
        about = {"tokens": tokens, "answers": len(table["prompt"])}
        rows.append(about | {"share": float(table["share"].mean())} | intervals)
    return rows


def _knowing(table: dict[str, np.ndarray], margin: float, rows: np.ndarray) -> dict[str, float]:
    t = {name: values[rows] for name, values in table.items()}

    def r2(name: str) -> float:
        return float(1.0 - ((t[name] - t[f"{name} foreseen"]) ** 2).mean() / t[name].var())

    return {
        "excess R2": r2("excess"),
        "reward R2": r2("reward"),
        "unsafe AUROC": area_under_roc(t["bound foreseen"], t["unsafe"]),
        "scorer's AUROC": area_under_roc(t["bound"], t["unsafe"]),
        "coverage": float((t["bound"] <= t["bound foreseen"] + margin).mean()),
    }


def saving(run: Run, prompts: list[str], seed: int) -> list[dict[str, Any]]:
    """What the default limit gets at each price, with and without leaving off."""
    dial = run.dial.dial
    outlook = dial.outlook
    assert outlook is not None
    rows: list[dict[str, Any]] = []
    pools: dict[tuple[float, ...], Pool] = {}
    for price in sorted({entry.rule.token_price for entry in dial.entries} - {0.0}):
        entry = dial.answer(token_price=price).entry
        if entry.point not in pools:
            pools[entry.point] = drawn(run, prompts, entry.point, entry.rule.max_draws, seed)
        pool = pools[entry.point].within(run.dial.largest_shift)
        # The rule's own price, which is what decides; the request's only chose the entry.
        utility = dial.worth.utility(AnswerScores.of_pool(pool), entry.penalty)
        prospects = outlook.of_pool(pool, entry.penalty)
        row: dict[str, Any] = {"price": price, "draw price": entry.rule.token_price}
        for name, given in (("off", None), ("on", prospects)):
            found = simulate(pool, entry.rule, utility, given)
            assert found.judged_reward is not None
            value = found.judged_reward - entry.rule.token_price * found.num_tokens
            row[name] = {
                "tokens": float(found.num_tokens.mean()),
                "draws": float(found.num_draws.mean()),
                "reward": float(found.judged_reward.mean()),
                "cvar": CVaR(0.1).value(risk_costs(found, 10.0)),
                "value": float(value.mean()),
            }
            row[f"{name} rows"] = value
        difference = row.pop("on rows") - row.pop("off rows")
        row["gain"] = float(difference.mean())
        row["gain error"] = float(1.96 * difference.std() / len(difference) ** 0.5)
        rows.append(row)
        # A rule that draws more: its price a third.
    entry = dial.answer().entry
    pool = pools.get(entry.point) or drawn(run, prompts, entry.point, entry.rule.max_draws, seed)
    utility = dial.worth.utility(AnswerScores.of_pool(pool), entry.penalty)
    for price in (0.001, 0.003, 0.01, 0.03):
        rule = replace(entry.rule, token_price=price)
        row = {"price": "same entry", "draw price": price}
        for name, given in (("off", None), ("on", outlook.of_pool(pool, entry.penalty))):
            found = simulate(pool, rule, utility, given)
            assert found.judged_reward is not None
            row[name] = {
                "tokens": float(found.num_tokens.mean()),
                "draws": float(found.num_draws.mean()),
                "reward": float(found.judged_reward.mean()),
                "cvar": CVaR(0.1).value(risk_costs(found, 10.0)),
                "value": float((found.judged_reward - price * found.num_tokens).mean()),
            }
        rows.append(row)
    return rows


def racing(run: Run, prompts: list[str], seed: int) -> list[dict[str, Any]]:
    """Six at once, all to their end or dropped by heads on the way; and one after the other."""
    dial = run.dial.dial
    entry, outlook = dial.answer().entry, dial.outlook
    assert outlook is not None
    pool = drawn(run, prompts, entry.point, entry.rule.max_draws, seed)
    pool = pool.within(run.dial.largest_shift)
    utility = dial.worth.utility(AnswerScores.of_pool(pool), entry.penalty)
    prospects = outlook.of_pool(pool, entry.penalty)
    rows: list[dict[str, Any]] = []
    for kept in (None, (4, 3, 2), (3, 2, 2), (3, 2, 1)):
        starts = range(0, pool.num_draws - FIELD + 1, 5)
        heats = [race(pool, entry.rule.level, utility, prospects, start, kept) for start in starts]
        name = f"{FIELD} at once" + ("" if kept is None else f", {'→'.join(map(str, kept))} go on")
        means = {key: float(np.mean([heat[key] for heat in heats])) for key in heats[0]}
        rows.append({"name": name} | means)
    for price in (0.001, 0.003, 0.01, 0.03):
        found = simulate(pool, replace(entry.rule, token_price=price), utility, prospects)
        assert found.judged_reward is not None
        assert found.judged_cost is not None
        rows.append(
            {"name": f"one after the other, price {price:g}"}
            | _served(found.judged_reward, found.judged_cost, found.num_tokens, found.served)
        )
    return rows


def race(
    pool: Pool,
    level: float,
    utility: np.ndarray,
    prospects: Prospects,
    start: int,
    kept: tuple[int, ...] | None,
) -> dict[str, float]:
    """Of the draws from ``start`` on, those go on that promise most; the ended are out of the race."""
    field = slice(start, start + FIELD)
    tokens = pool.num_tokens[:, field].copy()
    alive = np.ones_like(tokens, dtype=bool)
    for k, stage in enumerate(prospects.stages[: len(kept or ())]):
        promised, bound = prospects.utility[:, field, k], prospects.bound[:, field, k]
        admissible = np.maximum(ndtr((level - bound) / stage.bound.deviation), 1e-9)
        going = alive & np.isfinite(promised)
        worth = np.where(going, promised + np.log(admissible), -np.inf)
        assert kept is not None
        dropped = going & ((-worth).argsort(axis=1).argsort(axis=1) >= kept[k])
        tokens[dropped] = stage.tokens
        alive &= ~dropped
    admitted = alive & np.isfinite(pool.cost_bound[:, field]) & (pool.cost_bound[:, field] <= level)
    best = np.where(admitted, utility[:, field], -np.inf)
    served = np.where(admitted.any(axis=1), best.argmax(axis=1), -1)

    def judged(draws: np.ndarray | None, fallback: np.ndarray | None) -> np.ndarray:
        assert draws is not None
        assert fallback is not None
        return np.where(served >= 0, draws[:, field][np.arange(len(served)), served], fallback)

    reward = judged(pool.judged_reward, pool.fallback_judged_reward)
    cost = judged(pool.judged_cost, pool.fallback_judged_cost)
    return _served(reward, cost, tokens.sum(axis=1), served)


def _served(
    reward: np.ndarray, cost: np.ndarray, tokens: np.ndarray, served: np.ndarray
) -> dict[str, float]:
    return {
        "tokens": float(tokens.mean()),
        "reward": float(reward.mean()),
        "cvar": CVaR(0.1).value(np.minimum(cost, 10.0)),
        "withheld": float((served < 0).mean()),
    }


def page(found: dict[str, Any]) -> str:
    """As Markdown."""
    settings = found["settings"]
    lines = [
        "# Process heads",
        "",
        f"`python benchmarks/heads.py --run out/sandbox`: {settings['prompts']} fresh prompts, two answers each"
        f" at {len(settings['points'])} points of the weight space; 95% intervals from resampled prompts.",
        "",
        "| after | answers | share of the answer | R² of the excess cost | R² of the reward | AUROC, unsafe in truth |"
        " the full scorer's | .9-quantile covers |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in found["knowing"]:
        names = ("excess R2", "reward R2", "unsafe AUROC", "scorer's AUROC", "coverage")
        cells = " | ".join(f"{row[n][0]:.3f} [{row[n][1]:.3f}, {row[n][2]:.3f}]" for n in names)
        lines.append(
            f"| {row['tokens']} tokens | {row['answers']} | {row['share']:.2f} | {cells} |"
        )
    lines += [
        "",
        "Leaving off, on the same draws, by the truth: what the default limit gets at each price of a token, and its own"
        " entry's rule at other prices. *Value* is reward less price · tokens.",
        "",
        "| price asked | of a draw | tokens | draws | reward | CVaR.1 | value | tokens saved |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in found["saving"]:
        off, on = row["off"], row["on"]
        saved = 1.0 - on["tokens"] / off["tokens"]
        cells = [
            f"{off[name]:.{digits}f} → {on[name]:.{digits}f}"
            for name, digits in (
                ("tokens", 1),
                ("draws", 1),
                ("reward", 2),
                ("cvar", 2),
                ("value", 3),
            )
        ]
        lines.append(
            f"| {row['price']} | {row['draw price']:g} | {' | '.join(cells)} | {saved:.0%} |"
        )
    lines += [
        "",
        "Racing, under the default entry's level and ranking, by the truth:",
        "",
        "| draws | tokens | reward | CVaR.1 | withheld |",
        "|---|---|---|---|---|",
    ]
    lines += [
        f"| {row['name']} | {row['tokens']:.1f} | {row['reward']:.2f} | {row['cvar']:.2f} | {row['withheld']:.1%} |"
        for row in found["racing"]
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
