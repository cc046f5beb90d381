"""Whose tail: what a limit on the population, on people and answers together, or on each group gives each group.

    python benchmarks/people.py --seeds 0 1 2 --run out/sandbox

*Policies*: `recipes/people.yaml` is trained once for each seed (out/people-SEED, kept), and every policy
answers 2,500 prompts of the sandbox that its run has never seen; group's costs are the truth. The
budget by truth is what the group-blind policy's own population tail is: who bears more than that?
*Dial*: limits that a run's dial (`recipes/sandbox.yaml`) answers for the population, for everyone together,
for each group and for one of them, served to as many fresh prompts.
*Cost*: look-ups, size and serving with 14 groups, and plans with 14 raters.
Writes results/people.json and people.md.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from decoding_pools import Run, threads

from tailguard.artifacts import find_artifact
from tailguard.config import load_recipe
from tailguard.decoding.admission import POPULATION
from tailguard.decoding.decoder import Decoder
from tailguard.decoding.drawing import Scorers
from tailguard.engines import sample_responses
from tailguard.errors import InfeasibleError
from tailguard.lab import sandbox
from tailguard.lab.sandbox import GROUPS, TruthScorer
from tailguard.models.quiet import quiet_libraries
from tailguard.pipeline.stages.prepare import read_split
from tailguard.pipeline.stages.train import load_trained
from tailguard.planning import RaterLimit, SampleBank, solve
from tailguard.portfolio.dial import DialTable
from tailguard.portfolio.rater_tails import RaterTails, common_knots, mass_on
from tailguard.risk import CVaR, RiskLimit
from tailguard.scorers.rated import RatedCost
from tailguard.scorers.readings import WorseReading
from tailguard.scorers.score_map import MappedScorer

RESULTS = Path(__file__).with_name("results")
RECIPE = Path(__file__).parents[1] / "recipes" / "people.yaml"
TAIL = CVaR(0.1)
POLICIES = ("blind", "together", "each")
SHARES = (0.2, 0.45, 0.7)  # of the way from the smallest tail for each to that of the loosest entry
SLACK = 0.05  # of a budget's distance from the base policy's tail
NUM_GROUPS = 14


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="*", default=[])
    parser.add_argument("--run", type=Path)
    parser.add_argument("--prompts", type=int, default=2500)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=RESULTS / "people.json")
    arguments = parser.parse_args()
    quiet_libraries()
    threads(arguments.threads)
    found = json.loads(arguments.out.read_text()) if arguments.out.is_file() else {}

    def keep(name: str, figures: object) -> None:
        found[name] = figures
        arguments.out.write_text(json.dumps(found, indent=1) + "\n")
        arguments.out.with_suffix(".md").write_text(page(found))

    for seed in arguments.seeds:
        keep(f"policies, seed {seed}", policies(seed, arguments.prompts))
    if arguments.run is not None:
        keep("dial", dial(arguments.run, arguments.prompts))
        keep("cost", cost(arguments.run))
    print(arguments.out.with_suffix(".md").read_text())


def policies(seed: int, num: int) -> dict[str, object]:
    """Train where that was not done, and judge each policy by every group's truth."""
    folder = Path("out") / f"people-{seed}"
    command = ["tailguard", "train", str(RECIPE), "--set", f"seed={seed}", "--out", str(folder)]
    subprocess.run([sys.executable, "-m", *command], check=True)
    recipe = load_recipe(RECIPE, [f"seed={seed}"])
    prompts = _fresh(folder, num, 1000 + seed)
    trained = find_artifact(folder, "PolicySet")
    found: dict[str, dict[str, float]] = {}
    for name in ("base", *POLICIES):
        drawn = sample_responses(
            load_trained(recipe, trained, name),
            prompts,
            max_new_tokens=recipe.policy.max_new_tokens,
            generator=torch.Generator().manual_seed(seed),
            batch_size=256,
        )
        found[name] = _judged(prompts, drawn.texts)
        print(seed, name, found[name], flush=True)
    # What the blind policy keeps for the population is the budget; by truth, as it came out.
    budget = found["blind"]["population"]
    allowed = budget + SLACK * (found["base"]["population"] - budget)
    for row in found.values():
        row["over"] = float(np.mean([row[group] > allowed for group in GROUPS]))
    return {"budget": budget, **found}


def _fresh(folder: Path, num: int, seed: int) -> list[str]:
    prepared = find_artifact(folder, "PreferenceSet")
    splits = ("train", "calibrate", "certify", "evaluate")
    seen = {str(prompt) for split in splits for prompt in read_split(prepared, split)}
    rng = np.random.default_rng(seed)
    texts = [r.text for r in sandbox.sample_requests(rng, num + 3000, "evaluate")]
    return [text for text in texts if text not in seen][:num]


def _judged(prompts: Sequence[str], texts: Sequence[str]) -> dict[str, float]:
    """Reward, and the tail to the population, to people and answers together, and to each group."""
    reward = TruthScorer("reward").score(prompts, texts)[:, 0]
    by_group = TruthScorer("cost", by_group=True).score(prompts, texts)
    tails = {group: TAIL.value(by_group[:, k]) for k, group in enumerate(GROUPS)}
    return {
        "reward": float(reward.mean()),
        "reward_error": float(reward.std(ddof=1) / np.sqrt(len(reward))),
        "population": TAIL.value(by_group.mean(axis=1)),
        "together": TAIL.value(by_group.ravel()),
        **tails,
        "worst": max(tails.values()),
    }


def dial(folder: Path, num: int) -> dict[str, object]:
    """Limits for the population, for all together, for each group and for one, served and judged."""
    run = Run.open(folder, by_raters=True)
    served_by = Decoder(
        run.soup,
        run.dial.dial,
        Scorers(run.reward, run.cost, run.dial.pessimism, run.dial.largest_shift),
        run.dial.setting,
    )
    table = served_by.dial.table
    risk, error = table.rater_risks(TAIL, "worst")
    high = (risk + served_by.dial.margin * error).max(axis=1)
    low, loosest = float(high.min()), float(high[table.reward.argmax()])
    prompts = [r.text for r in run.fresh_requests(num, 77)]
    everyone = dict.fromkeys(GROUPS, 1.0)
    asked = {"population": None, "together": everyone, "each": "worst"} | {g: g for g in GROUPS}
    known: dict[int, dict[str, float]] = {}
    rows: list[dict[str, object]] = []
    for share in SHARES:
        limit = RiskLimit(TAIL, low + share * (loosest - low))
        for name, raters in asked.items():
            try:
                answer = served_by.dial.answer(limit, raters=raters)
            except InfeasibleError as error_:
                rows.append({"asked": name, "budget": limit.budget, "refused": str(error_)})
                continue
            if answer.number not in known:
                drawn = served_by.draw(prompts, answer.entry, seed=5)
                tokens = float(np.mean([each.num_tokens_generated for each in drawn]))
                known[answer.number] = _judged(prompts, [e.text for e in drawn]) | {
                    "tokens": tokens
                }
            figures = known[answer.number] | {"admission": answer.entry.admission or "population"}
            rows.append({"asked": name, "budget": limit.budget} | figures)
            print(rows[-1], flush=True)
    weights = np.linspace(0.0, 1.0, 5)
    blend = [
        _blend(served_by, limit, float(w)) for limit in [_middle(low, loosest)] for w in weights
    ]
    return {"rows": rows, "weights": blend}


def _middle(low: float, loosest: float) -> RiskLimit:
    return RiskLimit(TAIL, low + SHARES[1] * (loosest - low))


def _blend(decoder: Decoder, limit: RiskLimit, weight: float) -> dict[str, float]:
    """From all weight on the group that minds least to all on the one that minds most, as measured."""
    risk, _ = decoder.dial.table.rater_risks(TAIL, "worst")
    order = np.argsort(risk.mean(axis=0))
    least, most = (decoder.dial.raters[k] for k in (order[0], order[-1]))
    answer = decoder.dial.answer(limit, raters={least: 1.0 - weight, most: weight})
    return {
        "weight": weight,
        f"tail to {most}": float(risk[answer.number, order[-1]]),
        f"tail to {least}": float(risk[answer.number, order[0]]),
        "reward": float(decoder.dial.table.reward[answer.number]),
    }


def cost(folder: Path) -> dict[str, float]:
    """Milliseconds, megabytes and ratios with 14 groups."""
    run = Run.open(folder, by_raters=True)
    table = run.dial.dial.table
    rng = np.random.default_rng(0)
    factors = rng.uniform(0.5, 2.0, NUM_GROUPS)
    costs = [row[:, 0, None] * factors for row in table.cost]
    knots = common_knots(np.stack(costs), NUM_GROUPS)
    mass = np.stack([mass_on(knots, each) for each in costs])
    tails = RaterTails(tuple(map(str, range(NUM_GROUPS))), knots, mass, table.cost.shape[1])
    many = DialTable(table.cost, table.reward, table.kl, table.tokens, table.kl_coef, tails)
    weights = {str(k): float(w) for k, w in enumerate(factors)}
    _ = tails.hinges
    found = {
        "entries": float(table.num_entries),
        "megabytes": mass.astype(np.float32).nbytes / 1e6,
        "milliseconds, weighted": _milliseconds(many, weights),
        "milliseconds, each": _milliseconds(many, "worst"),
    }
    reading = run.cost
    assert isinstance(reading, WorseReading)
    rated = reading.scorer
    assert isinstance(rated, RatedCost)
    prompts = [r.text for r in run.fresh_requests(256, 3)]
    base = Decoder(
        run.soup,
        run.dial.dial,
        Scorers(
            run.reward,
            WorseReading(MappedScorer(rated.scorer, rated.score_map)),
            run.dial.pessimism,
            run.dial.largest_shift,
        ),
        run.dial.setting,
    )
    heads = _many_heads(rated)
    fourteen = Decoder(
        run.soup,
        replace(run.dial.dial, scored_raters=heads.raters),
        Scorers(run.reward, WorseReading(heads), run.dial.pessimism, run.dial.largest_shift),
        run.dial.setting,
    )
    entry = replace(run.dial.dial.answer().entry, admission=POPULATION)
    ratios = []
    for repetition in range(5):
        times = []
        for decoder in (base, fourteen) if repetition % 2 else (fourteen, base):
            start = time.perf_counter()
            decoder.draw(prompts, entry, seed=repetition)
            times.append(time.perf_counter() - start)
        ratios.append(times[1] / times[0] if repetition % 2 else times[0] / times[1])
    found["serving, times the population's"] = float(np.median(ratios))
    return found | _planning()


def _many_heads(rated: RatedCost) -> RatedCost:
    """The run's heads, repeated to 14 groups."""
    heads = rated.heads
    pick = np.arange(NUM_GROUPS) % len(heads.raters)
    wide = replace(
        heads,
        raters=tuple(f"{heads.raters[k]} {n}" for n, k in enumerate(pick)),
        num_pairs=heads.num_pairs[pick],
        offset=heads.offset[:, pick],
        factor=heads.factor[:, pick],
        topic=heads.topic[:, pick],
    )
    return replace(rated, heads=wide)


def _milliseconds(table: DialTable, raters: Mapping[str, float] | str) -> float:
    times = []
    for tail_mass in np.linspace(0.1, 0.5, 9):
        limit = RiskLimit(CVaR(float(tail_mass)), 1.0)
        start = time.perf_counter()
        table.look_up(limit, raters=raters)
        times.append(time.perf_counter() - start)
    return 1000.0 * float(np.median(times))


def _planning() -> dict[str, float]:
    rng = np.random.default_rng(1)
    reward = rng.normal(size=(1000, 64))
    common = reward + rng.standard_t(4.0, size=reward.shape)
    cost_ = common[:, :, None] * rng.uniform(0.5, 1.5, (1000, 1, NUM_GROUPS))
    bank = SampleBank(reward, cost_)
    budget = 0.5 * TAIL.value(cost_.ravel())
    limits = [RaterLimit(TAIL, budget, rater=k) for k in range(NUM_GROUPS)]
    found: dict[str, float] = {}
    for name, asked in (("together", RiskLimit(TAIL, budget)), ("each", limits)):
        start = time.perf_counter()
        solution = solve(bank, asked, kl_coef=0.5).require_feasible()
        found[f"seconds to plan, {name}"] = time.perf_counter() - start
        assert max(solution.risks) <= budget + 1e-5
    return found


def page(found: Mapping[str, object]) -> str:
    """The tables in Markdown."""
    lines = [
        "# Whose tail?",
        "",
        "`python benchmarks/people.py --seeds 0 1 2 --run out/sandbox`.",
        "",
    ]
    trained = {k: v for k, v in found.items() if k.startswith("policies")}
    if trained:
        lines += ["## Policies with one budget in three readings, by the truth", ""]
        lines += [f"| seed | policy | reward | population | {' | '.join(GROUPS)} | over |"]
        lines += ["|---|---|---|---|" + "---|" * (len(GROUPS) + 1)]
    for name, rows in trained.items():
        assert isinstance(rows, dict)
        for policy in ("base", *POLICIES):
            row = rows[policy]
            groups = " | ".join(f"{row[group]:.2f}" for group in GROUPS)
            lines.append(
                f"| {name.split()[-1]} | {policy} | {row['reward']:.2f} ± {row['reward_error']:.2f} |"
                f" {row['population']:.2f} | {groups} | {row['over']:.0%} |"
            )
    figures = found.get("dial")
    if isinstance(figures, dict):
        lines += ["", "## The dial, asked for whom, by the truth on fresh prompts", ""]
        lines += [f"| budget | for | reward | tokens | {' | '.join(GROUPS)} | admitted by |"]
        lines += ["|---|---|---|---|" + "---|" * (len(GROUPS) + 1)]
        for row in figures["rows"]:
            if "refused" in row:
                lines.append(f"| {row['budget']:.2f} | {row['asked']} | refused |" + " |" * 5)
                continue
            groups = " | ".join(f"{row[group]:.2f}" for group in GROUPS)
            lines.append(
                f"| {row['budget']:.2f} | {row['asked']} | {row['reward']:.2f} ±"
                f" {row['reward_error']:.2f} | {row['tokens']:.0f} | {groups} | {row['admission']} |"
            )
        lines += [
            "",
            "## Weight moved from the group that minds least to the one that minds most",
            "",
        ]
        names = list(figures["weights"][0])
        lines += ["| " + " | ".join(names) + " |", "|" + "---|" * len(names)]
        lines += [
            "| " + " | ".join(f"{row[name]:.2f}" for name in names) + " |"
            for row in figures["weights"]
        ]
    costs = found.get("cost")
    if isinstance(costs, dict):
        lines += ["", f"## What {NUM_GROUPS} groups cost", "", "| figure | value |", "|---|---|"]
        lines += [f"| {name} | {value:.3g} |" for name, value in costs.items()]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
