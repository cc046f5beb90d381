"""Few members, trained on where that serves more profiles, against one training run per profile.

    python benchmarks/multi_model.py --run out/sandbox

Takes prompts, scorers and bank of a sandbox run and trains on them, with half of its steps:
*the spectrum*, two members and then rounds that train on the one that loses most (`train.num_rounds`);
and *one run per profile*, 12 policies for 4 measures × 3 budgets. All are judged by the truth: risks
measured on the run's 600 calibration prompts × 4 answers choose, with a margin of 2 standard errors;
600 fresh prompts × 4 answers say what that was worth. A profile's budget and best value are those of
its planned tilt on the bank, by the truth. Everything is kept in a folder, so that a killed benchmark
goes on. Writes results/multi_model.json and multi_model.md.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from decoding_pools import threads

from tailguard.artifacts import find_artifact, read_json, read_manifest
from tailguard.config import Recipe, load_recipe
from tailguard.data import Prompt
from tailguard.engines import response_log_probs
from tailguard.engines.soup import SoupPolicy
from tailguard.lab import sandbox
from tailguard.lab.sandbox import TruthScorer
from tailguard.models.quiet import quiet_libraries
from tailguard.pipeline.chain import run_chain
from tailguard.pipeline.plan_artifact import read_plan, read_weights
from tailguard.pipeline.points import Point, measured_points
from tailguard.pipeline.process_heads import roll_out
from tailguard.pipeline.sources import policy_path
from tailguard.pipeline.stages.bank import BANK_NAME, read_bank
from tailguard.pipeline.stages.prepare import read_split
from tailguard.pipeline.stages.train import ADAPTER_NAME, ROUNDS_NAME, policy_directories
from tailguard.portfolio.dial import DialTable
from tailguard.risk import RiskLimit, RiskMeasure

RESULTS = Path(__file__).with_name("results")
RECIPE = Path("recipes/sandbox.yaml")
TAIL_MASSES = (0.05, 0.1, 0.25, 1.0)
REDUCTIONS = (0.2, 0.45, 0.7)
SHARES = (-0.25, 0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5)
SHORT = ["train.distill_epochs=2", "train.num_steps=20"]
KEPT = ("prepare", "fit-scorers", "sample", "bank")  # of the run
CALIBRATION_DRAWS, FRESH_DRAWS = 4, 4


@dataclass(frozen=True)
class Wanted:
    """A profile: what was planned for it, by the truth."""

    name: str
    measure: RiskMeasure
    budget: float
    best: float


def main() -> None:
    """Train, measure and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--prompts", type=int, default=600)
    parser.add_argument("--seed", type=int, default=31)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--cache", type=Path, default=Path("out/multi-model"))
    parser.add_argument("--out", type=Path, default=RESULTS / "multi_model.json")
    arguments = parser.parse_args()
    quiet_libraries()
    threads(arguments.threads)
    cache = arguments.cache
    spectrum = load_recipe(RECIPE, [*SHORT, f"train.num_rounds={arguments.rounds}"])
    each = load_recipe(RECIPE, [*SHORT, f"plan.targets={json.dumps(targets())}"])
    made = {
        name: train(recipe, arguments.run, cache / name)
        for name, recipe in (("spectrum", spectrum), ("each", each))
    }
    wanted, span = profiles(each, made["each"])
    fresh = fresh_prompts(arguments.run, arguments.prompts, arguments.seed)
    shown = {"calibrate": read_split(made["each"]["prepare"], "calibrate"), "fresh": fresh}
    first, last = members_of(cache / "spectrum", made["spectrum"]["train"])
    own = {k: v / ADAPTER_NAME for k, v in policy_directories(made["each"]["train"]).items()}
    points = measured_points(2, SHARES, (1.0,))
    alone = [tuple(float(k == i) for k in range(len(own))) for i in range(len(own))]
    base = (0.0,) * len(own)
    measured = {
        "before": measure(spectrum, first, points, shown, cache / "before"),
        "after": measure(spectrum, last, points, shown, cache / "after"),
        "each": measure(each, own, [*alone, base], shown, cache / "policies"),
    }
    rows = {
        "one run per profile, as planned": as_trained(measured["each"], wanted, span),
        "one run per profile, chosen by measurement": chosen(measured["each"], wanted, span),
        "two members": chosen(measured["before"], wanted, span),
        f"two members after {arguments.rounds} rounds": chosen(measured["after"], wanted, span),
    }
    taught = round(0.75 * each.data.num_prompts)  # a quarter is held out where there are rounds
    compute = {
        "one run per profile": work(each, len(own), each.data.num_prompts, 0),
        "two members": work(spectrum, 2, taught, 0),
        "with rounds": work(spectrum, 2, taught, trainings(cache / "spectrum")),
    }
    rounds = read_json(made["spectrum"]["train"] / ROUNDS_NAME)
    kept = sum(row["kept"] for row in rounds["rounds"])
    compute["with the rounds that were kept"] = work(spectrum, 2, taught, kept)
    found = {
        "rows": rows,
        "compute": compute,
        "rounds": rounds,
        "profiles": [{"name": w.name, "budget": w.budget, "best": w.best} for w in wanted],
        "span": span,
        "prompts": arguments.prompts,
    }
    arguments.out.write_text(json.dumps(found, indent=1) + "\n")
    text = page(found)
    arguments.out.with_suffix(".md").write_text(text)
    print(text)


def targets() -> list[dict[str, object]]:
    """One for each profile."""
    return [
        {"name": f"p{tail_mass:g}-{share:g}".replace(".", ""), "tail_mass": tail_mass, "reduction": share}
        for tail_mass in TAIL_MASSES
        for share in REDUCTIONS
    ]  # fmt: skip


def train(recipe: Recipe, run: Path, out: Path) -> dict[str, Path]:
    """The run's own artifacts as far as the bank, and policies on them."""
    out.mkdir(parents=True, exist_ok=True)
    for kept in KEPT:
        for folder in run.glob(f"{kept}-*"):
            if not (out / folder.name).exists():
                os.symlink(folder.resolve(), out / folder.name)

    def tell(what: str, done: int, total: int) -> None:
        if done == total:
            print(f"{out.name}: {what}", flush=True)

    return run_chain(recipe, out, until="train", progress=tell)


def members_of(root: Path, policy_set: Path) -> tuple[dict[str, Path], dict[str, Path]]:
    """The members' adapters before the rounds and after them, loosest first."""
    last = policy_directories(policy_set)
    first = {}
    for name in last:
        [start] = [
            folder
            for folder in root.glob(f"train-{name}-*")
            if "round" not in read_manifest(folder).config
        ]
        first[name] = start / ADAPTER_NAME
    order = ("unconstrained", "strict")
    return {n: first[n] for n in order}, {n: last[n] / ADAPTER_NAME for n in order}


def profiles(recipe: Recipe, made: dict[str, Path]) -> tuple[list[Wanted], float]:
    """Budget and best value of each profile: those of its planned tilt, by the truth; and their span."""
    table = read_bank(made["bank"] / BANK_NAME)
    reward, cost = (each.reshape(table.shape) for each in truth(table.prompts, table.responses))
    plan = read_plan(made["plan"])
    beta = recipe.plan.kl_coef

    def value(weights: np.ndarray) -> float:
        surprise = np.log(np.maximum(weights, 1e-300) * table.shape[1])
        return float((weights * (reward - beta * surprise)).sum(axis=1).mean())

    found: list[Wanted] = []
    for target in plan.targets:
        weights = read_weights(made["plan"], target.name).astype(np.float64)
        weights /= weights.sum(axis=1, keepdims=True)
        assert target.limit is not None
        measure = target.limit.measure
        budget = float(measure.value_rows(cost.ravel(), weights.ravel() / len(weights)))
        found.append(Wanted(target.name, measure, budget, value(weights)))
    free = np.exp((reward - reward.max(axis=1, keepdims=True)) / beta)
    best = value(free / free.sum(axis=1, keepdims=True))
    return found, best - min(each.best for each in found)


def truth(prompts: Sequence[Prompt], texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """True reward and cost [answers]."""
    reward, cost = (
        TruthScorer(what).score(list(prompts), list(texts))[:, 0] for what in ("reward", "cost")
    )
    return reward, cost


def fresh_prompts(run: Path, num: int, seed: int) -> list[Prompt]:
    """Requests that are in none of the run's splits."""
    prepared = find_artifact(run, "PreferenceSet")
    splits = ("train", "calibrate", "certify", "evaluate")
    seen = {str(p) for split in splits for p in read_split(prepared, split)}
    rng = np.random.default_rng(seed)
    found = [r.text for r in sandbox.sample_requests(rng, 6000, "evaluate")]
    return list(dict.fromkeys(text for text in found if text not in seen))[:num]


@dataclass(frozen=True)
class Measured:
    """Policies on the prompts that choose and on fresh ones."""

    calibrate: DialTable
    fresh: DialTable


def measure(
    recipe: Recipe,
    adapters: dict[str, Path],
    points: Sequence[Point],
    shown: dict[str, list[Prompt]],
    cache: Path,
) -> Measured:
    """Draw at every point and ask the truth; kept in a folder."""
    cache.mkdir(parents=True, exist_ok=True)
    soup = SoupPolicy.load(policy_path(recipe), adapters)
    tables = []
    for name, draws in (("calibrate", CALIBRATION_DRAWS), ("fresh", FRESH_DRAWS)):
        figures = []
        for number, point in enumerate(points):
            path = cache / f"{name}-{number}.npz"
            if not path.is_file():
                reward, cost, ratio = draw(recipe, soup, point, shown[name], draws)
                part = path.with_suffix(".part.npz")
                np.savez(part, reward=reward, cost=cost, ratio=ratio)
                part.rename(path)
                print(f"{cache.name}: {name}, point {number + 1} of {len(points)}", flush=True)
            with np.load(path) as file:
                figures.append((file["cost"], file["reward"].mean(), file["ratio"].mean()))
        cost, reward, kl = (np.stack(column) for column in zip(*figures, strict=True))
        tables.append(DialTable(cost, reward, kl, np.zeros(len(kl)), recipe.plan.kl_coef))
    return Measured(*tables)


def draw(
    recipe: Recipe, soup: SoupPolicy, point: Point, prompts: Sequence[Prompt], num_draws: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """True reward and cost [prompts, draws], and log π/π_ref of the answers."""
    found = roll_out(
        soup,
        prompts,
        point,
        num_draws=num_draws,
        max_new_tokens=recipe.policy.max_new_tokens,
        temperature=recipe.policy.temperature,
        seed=5,
        batch_size=recipe.bank.batch_size,
    )
    asked = [prompts[i] for i in found.prompt_index]
    reference = response_log_probs(
        soup.at((0.0,) * len(point)), asked, [d.token_ids for d in found.drawn], batch_size=64
    )
    ratio = np.array([d.log_prob for d in found.drawn]) - reference.double().numpy()
    reward, cost = truth(asked, [d.text for d in found.drawn])
    shape = (len(prompts), num_draws)
    return reward.reshape(shape), cost.reshape(shape), ratio.reshape(shape)


def chosen(measured: Measured, wanted: Sequence[Wanted], span: float) -> dict[str, float]:
    """Each profile gets what the calibration prompts say is best."""
    picks = [measured.calibrate.look_up(RiskLimit(w.measure, w.budget)) for w in wanted]
    refused = float(np.mean([not pick.feasible for pick in picks]))
    return judged(measured, [p.entry for p in picks], wanted, span) | {"refused": refused}


def as_trained(measured: Measured, wanted: Sequence[Wanted], span: float) -> dict[str, float]:
    """Each profile gets the policy that was trained for it."""
    return judged(measured, list(range(len(wanted))), wanted, span) | {"refused": 0.0}


def judged(
    measured: Measured, entries: Sequence[int], wanted: Sequence[Wanted], span: float
) -> dict[str, float]:
    """Regret on fresh prompts: value lost against the planned tilt, or 1 where the budget is broken."""
    table, losses, broken = measured.fresh, [], []
    for entry, profile in zip(entries, wanted, strict=True):
        risk, _ = table.risks(profile.measure)
        value = float(table.reward[entry] - table.kl_coef * table.kl[entry])
        over = bool(risk[entry] > profile.budget)
        losses.append(1.0 if over else min(1.0, max(0.0, (profile.best - value) / span)))
        broken.append(over)
    return {
        "regret": float(np.mean(losses)),
        "error": float(np.std(losses, ddof=1) / np.sqrt(len(losses))),
        "broken": float(np.mean(broken)),
    }


def trainings(root: Path) -> int:
    """Rounds that trained a policy; one that repeats a training of before finds it there."""
    return sum("round" in read_manifest(folder).config for folder in root.glob("train-*-*"))


def work(recipe: Recipe, num_runs: int, num_prompts: int, num_rounds: int) -> dict[str, int]:
    """Answers that training reads, and those of them that the policies in training draw."""
    settings = recipe.train
    distilled = num_prompts * settings.distill_samples * settings.distill_epochs
    drawn = settings.num_steps * settings.prompts_per_step * settings.num_generations
    return {
        "trained": num_runs * (distilled + drawn) + num_rounds * drawn,
        "drawn": (num_runs + num_rounds) * drawn,
    }


def page(found: dict) -> str:
    """The tables in Markdown."""
    compute, rounds = found["compute"], found["rounds"]
    whole = compute["one run per profile"]
    lines = [
        "# A spectrum from few members",
        "",
        f"`python benchmarks/multi_model.py --run out/sandbox`. {len(found['profiles'])} profiles,"
        f" judged by the truth on {found['prompts']} fresh prompts; regret in units of the value span"
        f" ({found['span']:.2f}), 1 where the budget is broken. Standard errors are over profiles.",
        "",
        "| trained and served | regret ± s.e. | budget broken | refused |",
        "|---|---|---|---|",
        *(
            f"| {name} | {row['regret']:.2f} ± {row['error']:.2f} | {row['broken']:.0%} | {row['refused']:.0%} |"
            for name, row in found["rows"].items()
        ),
        "",
        "Compute of training, in answers (time depends on what else runs):",
        "",
        "| | trained on | of one run per profile | drawn by the policies | of one run per profile |",
        "|---|---|---|---|---|",
        *(
            f"| {name} | {row['trained']} | {row['trained'] / whole['trained']:.2f} | {row['drawn']} |"
            f" {row['drawn'] / whole['drawn']:.2f} |"
            for name, row in compute.items()
        ),
        "",
        f"Rounds (regret on held-out prompts of the bank, by the scorers; {rounds['first_regret']:.3f} at first):",
        "",
        "| trained on | towards | regret expected | regret after | kept |",
        "|---|---|---|---|---|",
        *(
            f"| {r['member']} | {r['target']} | {r['expected_regret']:.3f} | {r['regret']:.3f} |"
            f" {'yes' if r['kept'] else 'no'} |"
            for r in rounds["rounds"]
        ),
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
