"""What heads of raters learn from few labels, on fresh pairs of the sandbox.

    python benchmarks/raters.py --run out/sandbox

The run's cost ensemble is the population's. Heads of the three groups are fitted on 100, 300, 1,000 and
3,000 pairs of each, several times, and held against the population's cost on pairs of requests that nobody
has seen: share of pairs in the right order, log-likelihood in nats per pair, and how well the difference between a
group's cost and the mean of the groups' is known (correlation with the truth, over answers). Beside them what the truth
itself has: the group's own true cost, and the mean of the groups'. Writes results/raters.json and raters.md.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from decoding_pools import threads

from tailguard.artifacts import find_artifact
from tailguard.lab.sandbox.annotators import PreferenceRow, sample_preferences
from tailguard.lab.sandbox.judge import TruthScorer
from tailguard.lab.sandbox.truth import GROUPS
from tailguard.models.quiet import quiet_libraries
from tailguard.scorers.files import load_scorer
from tailguard.scorers.fit_raters import fit_rater_heads
from tailguard.scorers.pairs import ResponsePairs
from tailguard.scorers.rated import rated_pairs
from tailguard.scorers.rater_heads import RatedPairs, RaterHeads
from tailguard.scorers.rater_metrics import rater_metrics
from tailguard.scorers.score_map import ScoreMap

RESULTS = Path(__file__).with_name("results")
SIZES = (100, 300, 1000, 3000)


def main() -> None:
    """Fit, measure and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--pairs", type=int, default=9000, help="fresh pairs to judge by")
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--seed", type=int, default=70)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=RESULTS / "raters.json")
    given = parser.parse_args()
    threads(given.threads)
    quiet_libraries()
    folder = find_artifact(given.run, "ScorerPair")
    scorer = load_scorer(folder / "cost", max_tokens=80)
    maps = json.loads((folder / "scorers.json").read_text(encoding="utf-8"))["maps"]
    score_map = ScoreMap.from_json(maps["cost"])
    random = np.random.default_rng(given.seed)
    num = 4 * len(GROUPS) * max(SIZES) // 3  # a third more than the mean, so that each has enough
    rows = sample_preferences(random, num, "cost", "train")
    fresh = sample_preferences(random, given.pairs, "cost", "evaluate")
    train, held = (rated_pairs(scorer, score_map, _pairs(part)) for part in (rows, fresh))
    print(f"read {len(rows)} pairs to fit on and {len(fresh)} to judge by", flush=True)
    truth = _true_costs(fresh)
    found: list[dict[str, Any]] = []
    for size in SIZES:
        for repetition in range(given.repetitions):
            taken = [
                random.permutation(np.flatnonzero([r == g for r in train.raters]))[:size]
                for g in GROUPS
            ]
            # As the sandbox's recipe weighs signs.
            heads = fit_rater_heads(
                train.take(np.concatenate(taken)), seed=repetition, sign_weight=0.1
            )
            figures = rater_metrics(heads, held)
            for name, known in _difference_known(heads, held, truth).items():
                figures[name]["difference"] = known
            found.append({"size": size, "width": heads.width, "raters": figures})
            gains = ", ".join(f"{figures[g]['gain']:+.4f}" for g in heads.raters)
            print(f"{size} each, repetition {repetition + 1}: τ {heads.width:g}, gains {gains}")
    content = {"fits": found, "truth": _truth_figures(fresh, truth)}
    given.out.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    page = _page(content)
    given.out.with_suffix(".md").write_text(page, encoding="utf-8")
    print(page)


def _pairs(rows: list[PreferenceRow]) -> ResponsePairs:
    signs = [[-1 if row[key] else 1 for row in rows] for key in ("rejected_safe", "chosen_safe")]
    return ResponsePairs(
        prompts=[row["prompt"] for row in rows],
        higher=[row["rejected"] for row in rows],
        lower=[row["chosen"] for row in rows],
        higher_sign=signs[0],
        lower_sign=signs[1],
        raters=[row["annotator"] for row in rows],
    )


def _true_costs(rows: list[PreferenceRow]) -> np.ndarray:
    """Of the answers found worse, then of the others [2, pairs, groups]."""
    judge = TruthScorer("cost", by_group=True)
    prompts = [row["prompt"] for row in rows]
    sides = ([row["rejected"] for row in rows], [row["chosen"] for row in rows])
    return np.stack([judge.score(prompts, side) for side in sides])


def _truth_figures(rows: list[PreferenceRow], truth: np.ndarray) -> dict[str, dict[str, float]]:
    """What a perfect scorer of each group, and of the mean, has on the same pairs."""
    margin = truth[0] - truth[1]
    figures: dict[str, dict[str, float]] = {}
    for place, name in enumerate(GROUPS):
        own = np.array([row["annotator"] == name for row in rows])
        group, mean = margin[own, place], margin[own].mean(axis=1)
        figures[name] = {
            "accuracy": float(np.where(group == 0, 0.5, group > 0).mean()),
            "population_accuracy": float(np.where(mean == 0, 0.5, mean > 0).mean()),
            "gain": float((np.logaddexp(0, -mean) - np.logaddexp(0, -group)).mean()),
            "other_order": float((np.sign(group) != np.sign(mean)).mean()),
        }
    return figures


def _difference_known(heads: RaterHeads, held: RatedPairs, truth: np.ndarray) -> dict[str, float]:
    common = np.concatenate([held.higher, held.lower])
    topic = np.concatenate([held.higher_topic, held.lower_topic])
    own = heads.costs(common, topic).mean(axis=1)
    apart = own - own.mean(axis=1, keepdims=True)
    true = truth.reshape(-1, truth.shape[2])
    true = true - true.mean(axis=1, keepdims=True)
    found: dict[str, float] = {}
    for place, name in enumerate(heads.raters):
        known = apart[:, place].std() > 0
        column = true[:, GROUPS.index(name)]
        found[name] = float(np.corrcoef(apart[:, place], column)[0, 1]) if known else 0.0
    return found


def _page(content: dict[str, Any]) -> str:
    lines = [
        "# Raters from few labels",
        "",
        "Held-out pairs of the sandbox. *Order*: share of pairs in the right order by the group's own"
        " cost less that by the population's, in points. *Gain*: log-likelihood over the population's, in"
        " thousandths of a nat per pair, mean and range over repetitions. *Difference*: correlation with"
        " the truth of a group's cost less the mean of the groups'. *Kept apart*: repetitions in which"
        " the pairs chose a width above 0.",
        "",
        "| pairs of each group | kept apart | group | order | gain | difference |",
        "|---|---|---|---|---|---|",
    ]
    for size in SIZES:
        fits = [fit for fit in content["fits"] if fit["size"] == size]
        apart = sum(fit["width"] > 0 for fit in fits)
        for name in GROUPS:
            each = [fit["raters"][name] for fit in fits]
            order = np.array([f["accuracy"] - f["population_accuracy"] for f in each])
            gain = np.array([f["gain"] for f in each])
            known = np.mean([f["difference"] for f in each])
            lines.append(
                f"| {size} | {apart} of {len(fits)} | {name} | {100 * order.mean():+.2f}"
                f" | {1e3 * gain.mean():+.1f} [{1e3 * gain.min():+.1f}, {1e3 * gain.max():+.1f}]"
                f" | {known:.2f} |"
            )
    lines += [
        "",
        "What the truth itself has on the same pairs: the group's true cost against the mean of the groups'.",
        "",
        "| group | pairs that it orders otherwise than the mean | order | gain |",
        "|---|---|---|---|",
    ]
    for name, figures in content["truth"].items():
        order = figures["accuracy"] - figures["population_accuracy"]
        lines.append(
            f"| {name} | {figures['other_order']:.1%} | {100 * order:+.2f} | {1e3 * figures['gain']:+.1f} |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
