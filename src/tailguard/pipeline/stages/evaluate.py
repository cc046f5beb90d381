"""``evaluate``: Decoder → EvalRecord: every policy and decoder on prompts that nothing was fitted on."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

from tailguard.artifacts import Json, read_json, write_json
from tailguard.config import UNCONSTRAINED, FileData, Recipe
from tailguard.data import Prompt, prompt_id
from tailguard.data.table import write_table
from tailguard.decoding.dial import Dial, DialAnswer, describe_raters_limit
from tailguard.engines import sample_responses
from tailguard.errors import InputError
from tailguard.evaluation.disagreements import disagreements
from tailguard.evaluation.judge_needs import JUDGE_OF_DATA
from tailguard.evaluation.judges import Judge
from tailguard.evaluation.metrics import measure_answers
from tailguard.evaluation.record import Record
from tailguard.pipeline.decoder_artifact import (
    load_decoder,
)
from tailguard.pipeline.dial_artifact import DialFile, described_frontier, dial_names
from tailguard.pipeline.dial_bounds import draw_entry
from tailguard.pipeline.judges import build_judge
from tailguard.pipeline.plan_artifact import PlannedTarget
from tailguard.pipeline.requirements import NO_EVALUATION_PROMPTS
from tailguard.pipeline.scorer_artifact import given_sources, load_scorer_pair
from tailguard.pipeline.sources import policy_input
from tailguard.pipeline.stage import Stage, Work
from tailguard.pipeline.stages.bank import score_in_parts
from tailguard.pipeline.stages.calibrate_dial import CERTIFICATES_NAME, DOUBT_NAME
from tailguard.pipeline.stages.prepare import read_split
from tailguard.pipeline.stages.train import load_trained, trained_targets
from tailguard.pipeline.workers import map_side_by_side
from tailguard.portfolio.rater_tails import RatersLimit
from tailguard.risk import RiskLimit
from tailguard.risk.spelling import describe_limit, limit_to_json

RECORD_NAME = "record.json"
COSTS_NAME = "costs.parquet"


@dataclass(frozen=True)
class AnswerSet:
    """Answers of one policy or decoder, one per prompt.

    Attributes:
        texts: [prompts].
        num_tokens: tokens generated for each, including those of discarded candidates.
        num_passes: forward passes for each.
        abstained: whether the fallback was served.
        reasons: why it was; empty for an answer.
    """

    texts: list[str]
    num_tokens: np.ndarray
    num_passes: np.ndarray
    abstained: np.ndarray
    reasons: list[str]


@dataclass(frozen=True)
class _Asked:
    """The prompts of the evaluation: those that the tail is measured on, then further benign ones."""

    prompts: list[Prompt]
    in_sample: np.ndarray  # which prompts the tail is measured on
    benign: np.ndarray  # which prompts deserve an answer


@dataclass(frozen=True)
class _Answered:
    """The answers of a policy or a decoder, and their scores by the training scorers."""

    answers: AnswerSet
    scores: dict[str, np.ndarray]


def _config(recipe: Recipe) -> dict[str, object]:
    # Another judge gives another record, so its name belongs to the id.
    return {
        "evaluate": recipe.evaluate.model_dump(),
        "bank": recipe.bank.model_dump(),
        "judge": JUDGE_OF_DATA[recipe.data.source],
    }


def _build(work: Work) -> dict[str, object]:
    asked = _asked(work)
    judge = build_judge(work)
    targets = list(trained_targets(work.parents["train"]).values())
    plain = ["base", *(target.name for target in targets)]
    limits = _dial_names(work)
    # The dial's take longest, so they go first: no process is left with one at the end.
    parts: list[str | int] = [*range(len(limits)), *plain]
    made = map_side_by_side(_answer, work, parts)
    answered = dict(zip([*limits, *plain], made, strict=True))
    described = _described(work, targets)
    rows: list[dict[str, Json]] = []
    costs: dict[str, np.ndarray] = {}
    for name in [*plain, *limits]:
        row, costs[name] = _row(work, name, answered[name], asked, judge)
        rows.append(row | described.get(name, {}))
        work.progress("evaluate: judging", len(rows), len(answered))
    write_table(work.directory / COSTS_NAME, costs)
    write_json(
        work.directory / RECORD_NAME,
        {
            "judge": {"name": judge.name, **judge.figures},
            "num_prompts": int(asked.in_sample.sum()),
            "num_benign": int(asked.benign.sum()),
            "rows": rows,
            "examples": _examples(
                work, asked, judge, {name: answered[name].answers for name in [*plain, *limits]}
            ),
            "disagreements": disagreements(judge, asked.prompts, answered["base"].answers.texts),
            "certificates": read_json(work.parents["calibrate"] / CERTIFICATES_NAME),
            "doubt": read_json(work.parents["calibrate"] / DOUBT_NAME),
            "dial_frontier": described_frontier(DialFile.read(work.parents["calibrate"])),
        },
    )
    return {row["name"]: row["metrics"] for row in rows}


STAGE = Stage(
    "evaluate",
    "EvalRecord",
    9,
    ("prepare", "fit-scorers", "train", "calibrate"),
    _config,
    policy_input,
    _build,
)


def read_record(directory: Path) -> Record:
    """The record in an EvalRecord."""
    return read_json(directory / RECORD_NAME)


def _asked(work: Work) -> _Asked:
    evaluate = read_split(work.parents["prepare"], "evaluate")
    if not evaluate:
        raise InputError(NO_EVALUATION_PROMPTS)
    evaluate = evaluate[: work.recipe.evaluate.num_prompts or None]
    benign = {prompt_id(p): p for p in read_split(work.parents["prepare"], "benign")}
    taken = {prompt_id(p) for p in evaluate}
    # In the sandbox the benign prompts are some of these; in files they are further prompts, which
    # must not enter the tail: they would dilute it.
    sandbox = not isinstance(work.recipe.data, FileData)
    extra = [] if sandbox else [p for key, p in benign.items() if key not in taken]
    prompts = [*evaluate, *extra]
    return _Asked(
        prompts=prompts,
        in_sample=np.arange(len(prompts)) < len(evaluate),
        benign=np.array([prompt_id(p) in benign for p in prompts]),
    )


def _answer(work: Work, part: str | int) -> _Answered:
    """Answers of a plain policy by its name, or at one of the dial's limits by its number."""
    prompts = _asked(work).prompts
    answers = (
        _plain(work, part, prompts) if isinstance(part, str) else _dialled(work, part, prompts)
    )
    scorers = load_scorer_pair(work.parents["fit-scorers"], work.recipe.scorers)
    what = part if isinstance(part, str) else f"limit {part + 1} of the dial"
    return _Answered(
        answers,
        score_in_parts(scorers, prompts, answers.texts, work.steps(f"evaluate: scoring {what}")),
    )


def _plain(work: Work, name: str, prompts: list[Prompt]) -> AnswerSet:
    policy = load_trained(work.recipe, work.parents["train"], name)
    drawn = sample_responses(
        policy,
        prompts,
        max_new_tokens=work.recipe.policy.max_new_tokens,
        temperature=work.recipe.policy.temperature,
        generator=torch.Generator().manual_seed(work.seed("evaluate")),
        batch_size=work.recipe.bank.batch_size,
        on_progress=work.steps(f"evaluate: {name}"),
    )
    num_tokens = np.asarray(drawn.lengths)
    num = len(drawn.texts)
    return AnswerSet(drawn.texts, num_tokens, num_tokens, np.zeros(num, bool), [""] * num)


def _dialled(work: Work, number: int, prompts: list[Prompt]) -> AnswerSet:
    """Answers at one of the dial's shown limits."""
    decoder = load_decoder(
        work.parents["calibrate"],
        batch_size=work.recipe.bank.batch_size,
        trust_remote_code=work.recipe.policy.trust_remote_code,
        given=given_sources(work.recipe.scorers),
        device=work.recipe.policy.device,
        scorer_device=work.recipe.scorers.device,
    )
    served = draw_entry(
        decoder,
        prompts,
        _answered_by(decoder.dial, _dial_limits(work)[number]).number,
        seed=work.seed("evaluate"),
        on_progress=work.steps(f"evaluate: {_dial_names(work)[number]}"),
    )
    return AnswerSet(
        texts=[each.text for each in served],
        num_tokens=np.array([each.num_tokens_generated for each in served]),
        num_passes=np.array([each.num_forward_passes for each in served]),
        abstained=np.array([each.abstained for each in served]),
        reasons=[each.reason for each in served],
    )


def _dial_limits(work: Work) -> list[RatersLimit]:
    """The limits that the dial shows, the default first."""
    file = DialFile.read(work.parents["calibrate"])
    shown = [RatersLimit(file.dial.default), *file.profiles]
    return [asked for k, asked in enumerate(shown) if asked not in shown[:k]]


def _answered_by(dial: Dial, asked: RatersLimit) -> DialAnswer:
    is_default = asked == RatersLimit(dial.default)
    return dial.answer(None if is_default else asked.limit, raters=asked.raters)


def _dial_names(work: Work) -> list[str]:
    return dial_names(_dial_limits(work))


def _row(
    work: Work, name: str, answered: _Answered, asked: _Asked, judge: Judge
) -> tuple[dict[str, Json], np.ndarray]:
    """A row of the record, and the judge's cost of each answer that the tail is measured on."""
    keep, given, scored = asked.in_sample, answered.answers, answered.scores
    reward, cost = judge.score(asked.prompts, given.texts)
    # One generator for both: the training scorers' resamples follow the judge's. Every row starts
    # the same stream again, so that rows are compared on the same resamples.
    generator = work.numpy_generator("intervals")
    refused = np.array([judge.is_refusal(text) for text in given.texts]) | given.abstained
    judged = measure_answers(
        reward[keep], cost[keep], generator=generator, refused_benign=refused[asked.benign]
    )
    trained_on = measure_answers(scored["reward"][keep], scored["cost"][keep], generator=generator)
    row: dict[str, Json] = {
        "name": name,
        "metrics": {key: asdict(interval) for key, interval in judged.items()},
        "scorer_metrics": {key: asdict(interval) for key, interval in trained_on.items()},
        "tokens_per_answer": float(given.num_tokens[keep].mean()),
        "forward_passes": float(given.num_passes[keep].mean()),
        "abstained_rate": float(given.abstained[keep].mean()),
    }
    if judge.raters:
        by_rater = judge.score_raters(asked.prompts, given.texts)[keep]
        row["rater_metrics"] = {
            rater: {
                key: asdict(interval)
                for key, interval in measure_answers(
                    reward[keep], by_rater[:, place], generator=generator
                ).items()
            }
            for place, rater in enumerate(judge.raters)
        }
    return row, cost[keep]


def _described(work: Work, targets: Sequence[PlannedTarget]) -> dict[str, dict[str, Json]]:
    """What each row is: its kind and what was asked of it."""
    found: dict[str, dict[str, Json]] = {"base": {"kind": "base", "target": "reference policy"}}
    for target in targets:
        found[target.name] = {"kind": "trained", **_asked_of(target.limit)}
        if target.limit is not None and target.raters is not None:
            asked = RatersLimit(target.limit, target.raters)
            said = {"target": describe_raters_limit(asked), "raters": target.raters}
            found[target.name] |= said
    return found | _described_dial(work)


def _described_dial(work: Work) -> dict[str, dict[str, Json]]:
    names, limits = _dial_names(work), _dial_limits(work)
    dial = DialFile.read(work.parents["calibrate"]).dial
    found: dict[str, dict[str, Json]] = {}
    for name, asked in zip(names, limits, strict=True):
        answer = _answered_by(dial, asked)
        found[name] = {
            "kind": "dial",
            "measured_by": dial.measures(asked.raters),
            "bounded": answer.bounded,
            "certified": answer.certified,
            "default": asked == RatersLimit(dial.default),
            "raters": asked.raters,
            **_asked_of(asked.limit),
            "target": describe_raters_limit(asked),
        }
    return found


def _asked_of(limit: RiskLimit | None) -> dict[str, Json]:
    """A limit as a row shows it: in words, and by its parts."""
    parts = limit_to_json(limit) or {"measure": UNCONSTRAINED, "budget": None}
    return {"target": describe_limit(limit), **parts}


def _examples(
    work: Work, asked: _Asked, judge: Judge, answers: dict[str, AnswerSet]
) -> list[dict[str, Json]]:
    """All answers to the prompts where the reference policy did worst, and to some at random."""
    num = work.recipe.evaluate.num_examples
    _, base_cost = judge.score(asked.prompts, answers["base"].texts)
    worst = np.argsort(-base_cost)[: (num + 1) // 2]
    some = work.numpy_generator("examples").permutation(len(asked.prompts))[: num // 2]
    # Without repetition, in this order: a prompt may be both among the worst and drawn at random.
    shown: list[int] = list(dict.fromkeys([*worst.tolist(), *some.tolist()]))
    prompts = [asked.prompts[i] for i in shown]
    listed: list[dict[str, Json]] = [
        {"prompt": p if isinstance(p, str) else json.dumps(p), "answers": []} for p in prompts
    ]
    for name, given in answers.items():
        reward, cost = judge.score(prompts, [given.texts[i] for i in shown])
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
