"""Certificates of a decoder on new prompts."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tailguard import __version__
from tailguard.artifacts import hash_of, read_calls, record_call, require_recordable
from tailguard.data import Prompt, prompt_id
from tailguard.decoding import Decoder
from tailguard.decoding.certificates import scorer_bound, served_bounds, unscored_answers
from tailguard.errors import InputError
from tailguard.models.device import require_device
from tailguard.pipeline.decoder_artifact import check_decoder, load_decoder
from tailguard.pipeline.dial_artifact import DialFile
from tailguard.pipeline.dial_bounds import caps, draw_entry
from tailguard.pipeline.given_judge import GivenJudge, read_verdicts
from tailguard.pipeline.seen_prompts import read_seen_prompts
from tailguard.risk import (
    CVaR,
    RiskLimit,
    RiskMeasure,
    check_confidence,
    check_tail_mass,
    prompts_needed,
)
from tailguard.scorers.scorer import Scorer


def certify_decoder(  # noqa: PLR0913
    path: Path,
    prompts: Sequence[Prompt],
    *,
    tail_mass: float,
    budget: float | None,
    confidence: float,
    seed: int,
    trust_remote_code: bool = False,
    device: str = "auto",
    judge: GivenJudge | None = None,
) -> dict[str, object]:
    """Bound the CVaR of what a decoder serves on prompts that it never saw, and record the call.

    The same prompts with other seeds, or other prompts, until one certificate is good enough: that
    is no certificate. Nobody can forbid it, so each call is written down beside the decoder, where
    ``tailguard inspect`` shows them all.

    Args:
        path: of the decoder, or of the folder of its run.
        prompts: held out, in any order.
        tail_mass: α.
        budget: d; None for the strictest within the reach of the dial.
        confidence: confidence level of the bound, at least .5.
        seed: seed of the sampling.
        trust_remote_code: let the code run that the decoder's model brings.
        device: where to put the models.
        judge: who took no part; without one nothing is `certified`, and a dial's limit at best
            `bounded` by its own scorer.

    Raises:
        InputError: a prompt that the decoder was trained or calibrated on, or that is there twice,
            in any spelling; fewer prompts than can certify anything; a number out of range; a place
            where the call cannot be recorded; a judge that took part.
        InfeasibleError: out of the reach of the dial.
    """
    check_tail_mass(tail_mass, "--tail-mass")
    check_confidence(confidence, "--confidence")
    require_device(device, "--device")
    directory, content = check_decoder(path, trust_remote_code=trust_remote_code)
    if judge is not None:
        judge.require_outsider(directory, content)
    limit = _dial_limit(directory, CVaR(tail_mass), budget)
    # Before the models are loaded: this takes a moment, loading them may take minutes.
    prompts_hash, prompts = _require_fresh(prompts, directory)
    _require_enough(len(prompts), CVaR(tail_mass), confidence)
    require_recordable(directory)
    # A judge that is not there is told at once too.
    verdicts = None if judge is None else judge.open(content.max_scorer_tokens, device)
    decoder = load_decoder(directory, trust_remote_code=trust_remote_code, device=device)
    found = _certify_dial(
        decoder, prompts, limit, confidence, seed, content.cost_bound, judge, verdicts
    )
    return _recorded(directory, found, seed, prompts_hash)


def _recorded(
    directory: Path, found: dict[str, object], seed: int, prompts_hash: str
) -> dict[str, object]:
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    call = {"time": now, "version": __version__, "seed": seed, "prompts_hash": prompts_hash}
    record_call(directory, found | call)  # before anybody sees the figures
    return found | {"num_calls": len(read_calls(directory))}


def _dial_limit(directory: Path, measure: CVaR, budget: float | None) -> RiskLimit:
    """The limit to certify; by default the smallest budget within the dial's reach."""
    dial = DialFile.read(directory).dial
    if budget is None:
        risk, error = dial.table.risks(measure)
        near = (dial.table.kl <= dial.largest_kl) & dial.table.keeps(dial.floors, dial.margin)
        budget = float((risk + dial.margin * error)[near].min())
    limit = RiskLimit(measure, budget)
    dial.answer(limit)  # out of reach is told before a model is loaded
    return limit


def _certify_dial(
    decoder: Decoder,
    prompts: Sequence[Prompt],
    limit: RiskLimit,
    confidence: float,
    seed: int,
    largest_cost: float,
    given: GivenJudge | None,
    judge: Scorer | None,
) -> dict[str, object]:
    """What held-out answers show at a limit: `bounded` by the scorer, `certified` by a judge."""
    answer = decoder.dial.answer(limit)
    served = draw_entry(
        decoder, prompts, answer.number, seed=seed, on_progress=lambda done, total: None
    )
    bound = scorer_bound(
        *served_bounds(served),
        limit.measure,
        # What a group's own bound admits may cost the population more than the level.
        level=answer.entry.rule.level if caps(answer.entry.admission) else largest_cost,
        largest_cost=largest_cost,
        confidence=confidence,
    ).value
    judged: dict[str, object] = {"certified": False}
    if given is not None and judge is not None:
        cost = read_verdicts(judge, prompts, [each.text for each in served])
        cost = np.where(unscored_answers(served), given.largest_cost, cost)
        judged = given.shown(cost, limit.measure, limit.budget, confidence)
    return {
        "measure": "cvar",
        "tail_mass": limit.measure.smallest_tail,
        "budget": limit.budget,
        "risk_upper_bound": bound,
        "by": "the scorer that chose the answers, which is no judge of them",
        "confidence": confidence,
        "bounded": bound <= limit.budget,
        **judged,
        "num_prompts": len(prompts),
        "abstained": sum(each.abstained for each in served) / len(served),
        "num_unscored": int(unscored_answers(served).sum()),
    }


def _require_fresh(prompts: Sequence[Prompt], directory: Path) -> tuple[str, list[Prompt]]:
    """Refuse prompts that took part, or that are the same; else the hash of what they are, in order.

    The bound bets on one answer after the other. Of prompts sorted by kind it would know the tail of
    the first kinds before it meets the last, and stop there; and another order of the same prompts
    would be another try. An id is a hash, so its order has nothing to do with costs.
    """
    ids = [prompt_id(prompt) for prompt in prompts]
    seen = read_seen_prompts(directory)
    if overlap := sum(key in seen for key in ids):
        raise InputError(
            f"--prompts: {overlap} of {len(ids)} were used to train or calibrate this decoder;"
            " a certificate needs prompts that it never saw, in any spelling"
        )
    if len(set(ids)) < len(ids):
        first = next(number for number, key in enumerate(ids) if key in ids[:number])
        raise InputError(
            f"--prompts: {len(ids)} prompts are {len(set(ids))} different ones (prompt {first + 1}"
            f" is prompt {ids.index(ids[first]) + 1} again, if spelt differently); a certificate"
            " counts each once: leave the others out"
        )
    return hash_of(sorted(ids)), sorted(prompts, key=prompt_id)


def _require_enough(num: int, measure: RiskMeasure, confidence: float) -> None:
    needed = prompts_needed(measure.smallest_tail, confidence)
    if num < needed:
        raise InputError(
            f"--prompts: {num}; on fewer than {needed} nothing can be certified at tail mass"
            f" {measure.smallest_tail:g} and confidence {confidence:g}: give more, a larger"
            " --tail-mass or a smaller --confidence"
        )
