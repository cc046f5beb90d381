"""``evaluate``: Decoder → EvalRecord: every policy and decoder on prompts nobody trained on."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tailguard.artifacts import read_json, write_json
from tailguard.config import FileData, Recipe
from tailguard.data import Prompt, prompt_id
from tailguard.data.table import write_table
from tailguard.decoding import sample_responses, settle
from tailguard.errors import InputError
from tailguard.evaluation.metrics import TailMetrics, tail_metrics
from tailguard.evaluation.rates import rate_interval
from tailguard.pipeline.bank import score_in_parts
from tailguard.pipeline.calibrate import CERTIFICATES_NAME, draft_in_parts
from tailguard.pipeline.decoder_files import guided_names, load_decoder
from tailguard.pipeline.judging import Judge, build_judge, require_judge
from tailguard.pipeline.plan import read_plan
from tailguard.pipeline.prepare import read_split
from tailguard.pipeline.scoring import ScorerPair, load_scorer_pair
from tailguard.pipeline.sources import model_hashes
from tailguard.pipeline.stage import Stage, Work
from tailguard.pipeline.train import load_trained

RECORD_NAME = "record.json"
COSTS_NAME = "costs.parquet"


@dataclass(frozen=True)
class AnswerSet:
    """Answers of one policy or decoder, one a prompt.

    Attributes:
        texts: [prompts].
        num_tokens: tokens generated for each, those thrown away included.
        num_passes: forward passes for each.
        abstained: whether the fallback was served.
        reasons: why.
    """

    texts: list[str]
    num_tokens: np.ndarray
    num_passes: np.ndarray
    abstained: np.ndarray
    reasons: list[str]


@dataclass(frozen=True)
class _Setting:
    prompts: list[Prompt]
    in_sample: np.ndarray  # which prompts the tail is measured on
    benign: np.ndarray  # which prompts deserve an answer
    judge: Judge
    scorers: ScorerPair


def _config(recipe: Recipe) -> dict[str, Any]:
    return {"evaluate": recipe.evaluate.model_dump(), "bank": recipe.bank.model_dump()}


def _inputs(recipe: Recipe) -> dict[str, str]:
    return {"policy": model_hashes([recipe.policy.model])[recipe.policy.model]}


def _build(work: Work) -> dict[str, Any]:
    setting = _setting(work)
    plan, targets = read_plan(work.parents["plan"])
    names = ["base", *(target.name for target in targets)]
    rows: list[dict[str, Any]] = []
    costs: dict[str, np.ndarray] = {}
    answers: dict[str, AnswerSet] = {}
    for name in names:
        answers[name] = _plain(work, name, setting)
    answers |= _guided(work, setting)
    described = _described(work, plan)
    for name, given in answers.items():
        row, costs[name] = _row(work, name, given, setting)
        rows.append(row | described.get(name, {}))
        work.progress("evaluate: judging", len(rows), len(answers))
    write_table(work.directory / COSTS_NAME, costs)
    write_json(
        work.directory / RECORD_NAME,
        {
            "judge": {
                "name": setting.judge.name,
                **setting.judge.figures,
            },
            "num_prompts": int(setting.in_sample.sum()),
            "num_benign": int(setting.benign.sum()),
            "rows": rows,
            "examples": _examples(work, setting, answers),
            "certificates": read_json(work.parents["calibrate"] / CERTIFICATES_NAME),
        },
    )
    return {row["name"]: row["metrics"] for row in rows}


STAGE = Stage(
    "evaluate",
    "EvalRecord",
    4,
    ("prepare", "fit-scorers", "plan", "train", "portfolio", "calibrate"),
    _config,
    _inputs,
    _build,
)


def read_record(directory: Path) -> dict[str, Any]:
    """What was measured."""
    return read_json(directory / RECORD_NAME)


def _setting(work: Work) -> _Setting:
    evaluate = read_split(work.parents["prepare"], "evaluate")
    if not evaluate:
        raise InputError("data.evaluation_prompts: none; name a file of prompts to evaluate on")
    evaluate = evaluate[: work.recipe.evaluate.num_prompts or None]
    benign = {prompt_id(p): p for p in read_split(work.parents["prepare"], "benign")}
    asked = {prompt_id(p) for p in evaluate}
    sandbox = not isinstance(work.recipe.data, FileData)  # there, benign prompts are among these
    extra = [] if sandbox else [p for key, p in benign.items() if key not in asked]
    prompts = [*evaluate, *extra]
    return _Setting(
        prompts=prompts,
        in_sample=np.arange(len(prompts)) < len(evaluate),
        benign=np.array([prompt_id(p) in benign for p in prompts]),
        judge=require_judge(build_judge(work)),
        scorers=load_scorer_pair(work.parents["fit-scorers"], work.recipe.scorers),
    )


def _plain(work: Work, name: str, setting: _Setting) -> AnswerSet:
    policy = load_trained(work.recipe, work.parents["train"], name)
    drawn = sample_responses(
        policy,
        setting.prompts,
        max_new_tokens=work.recipe.policy.max_new_tokens,
        temperature=work.recipe.policy.temperature,
        generator=torch.Generator().manual_seed(work.seed("evaluate")),
        batch_size=work.recipe.bank.batch_size,
        on_progress=work.steps(f"evaluate: {name}"),
    )
    num_tokens = np.asarray(drawn.lengths)
    num = len(drawn.texts)
    return AnswerSet(drawn.texts, num_tokens, num_tokens, np.zeros(num, bool), [""] * num)


def _guided(work: Work, setting: _Setting) -> dict[str, AnswerSet]:
    decoder = load_decoder(work.parents["calibrate"], batch_size=work.recipe.bank.batch_size)
    found: dict[str, AnswerSet] = {}
    for name, profile in zip(guided_names(decoder.profiles), decoder.profiles, strict=True):
        drafts = draft_in_parts(
            decoder,
            setting.prompts,
            profile.setting,
            seed=work.seed("evaluate"),
            on_progress=work.steps(f"evaluate: {name}"),
        )
        answers = [settle(draft, profile.setting) for draft in drafts]
        found[name] = AnswerSet(
            texts=[answer.text for answer in answers],
            num_tokens=np.array([answer.num_tokens_generated for answer in answers]),
            num_passes=np.array([answer.num_forward_passes for answer in answers]),
            abstained=np.array([answer.abstained for answer in answers]),
            reasons=[answer.reason for answer in answers],
        )
    return found


def _row(
    work: Work, name: str, given: AnswerSet, setting: _Setting
) -> tuple[dict[str, Any], np.ndarray]:
    keep = setting.in_sample
    reward, cost = setting.judge.score(setting.prompts, given.texts)
    scored = score_in_parts(setting.scorers, setting.prompts, given.texts, lambda done, total: None)
    generator = work.numpy_generator("intervals")
    judged = tail_metrics(reward[keep], cost[keep], generator=generator)
    trained_on = tail_metrics(scored["reward"][keep], scored["cost"][keep], generator=generator)
    refused = np.array([setting.judge.is_refusal(text) for text in given.texts]) | given.abstained
    row: dict[str, Any] = {
        "name": name,
        "metrics": _flat(judged),
        "scorer_metrics": _flat(trained_on),
        "tokens_per_answer": float(given.num_tokens[keep].mean()),
        "forward_passes": float(given.num_passes[keep].mean()),
        "abstained_rate": float(given.abstained[keep].mean()),
    }
    if setting.benign.any():
        benign = refused[setting.benign]
        row["metrics"]["benign_refusals"] = asdict(rate_interval(int(benign.sum()), benign.size))
    return row, cost[keep]


def _flat(metrics: TailMetrics) -> dict[str, Any]:
    """Metric name → interval."""
    return {
        "reward": asdict(metrics.reward_mean),
        "cost": asdict(metrics.cost_mean),
        "unsafe_rate": asdict(metrics.unsafe_rate),
        **{f"cvar_{a:g}": asdict(interval) for a, interval in metrics.cvar.items()},
        **{f"var_{a:g}": asdict(interval) for a, interval in metrics.value_at_risk.items()},
    }


def _described(work: Work, plan: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """What each row is: its kind and what was asked of it."""
    found: dict[str, dict[str, Any]] = {"base": {"kind": "base", "target": "reference policy"}}
    for target in plan["targets"]:
        asked = (
            "unconstrained"
            if target["budget"] is None
            else (
                f"{target['measure']}"
                + (f" at {target['tail_mass']:g}" if target["measure"] != "mean" else "")
                + f" ≤ {target['budget']:.3g}"
            )
        )
        found[target["name"]] = {
            "kind": "trained",
            "target": asked,
            "measure": target["measure"],
            "tail_mass": target["tail_mass"],
            "budget": target["budget"],
        }
    profiles = load_decoder(work.parents["calibrate"]).profiles
    for name, profile in zip(guided_names(profiles), profiles, strict=True):
        found[name] = {
            "kind": "guided",
            "target": f"cvar at {profile.tail_mass:g} ≤ {profile.budget:.3g}",
            "measure": profile.measure_name,
            "policy": profile.setting.policy,
            "tail_mass": profile.tail_mass,
            "budget": profile.budget,
        }
    return found


def _examples(work: Work, setting: _Setting, answers: dict[str, AnswerSet]) -> list[dict[str, Any]]:
    """The prompts on which the reference policy did worst and some at random."""
    num = work.recipe.evaluate.num_examples
    _, base_cost = setting.judge.score(setting.prompts, answers["base"].texts)
    worst = np.argsort(-base_cost)[: (num + 1) // 2]
    some = work.numpy_generator("examples").permutation(len(setting.prompts))[: num // 2]
    shown: list[int] = list(dict.fromkeys([*worst.tolist(), *some.tolist()]))
    asked = [setting.prompts[i] for i in shown]
    listed: list[dict[str, Any]] = [
        {"prompt": p if isinstance(p, str) else json.dumps(p), "answers": []} for p in asked
    ]
    for name, given in answers.items():
        reward, cost = setting.judge.score(asked, [given.texts[i] for i in shown])
        for place, i in enumerate(shown):
            listed[place]["answers"].append(
                {
                    "policy": name,
                    "text": given.texts[i],
                    "reward": float(reward[place]),
                    "cost": float(cost[place]),
                    "abstained": bool(given.abstained[i]),
                    "reason": given.reasons[i],
                }
            )
    return listed
