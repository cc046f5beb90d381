"""Answers: scored as drafts, then served or replaced by the fallback."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from tailguard.data import Prompt
from tailguard.decoding.acceptance import SCORE_UNAVAILABLE, Verdicts, accepted, reasons_withheld
from tailguard.decoding.guidance import GuidedResponse
from tailguard.decoding.profile import DecodingSetting
from tailguard.decoding.scoring import Scored, ScoreSummary, score_closed
from tailguard.scorers.scorer import Scorer


@dataclass(frozen=True)
class Answer:
    """One answer, served or replaced by the fallback.

    Attributes:
        text: what is served.
        abstained: whether it is the fallback.
        reason: why, where abstained; else empty.
        reward: of the text; None where it was not scored.
        cost: of the text; None where its score is unavailable.
        risk_upper_bound: mean + pessimism·std of the text's cost; +inf where unavailable.
        certified: whether a certificate covers it.
        finished: ended by itself, not at the limit of tokens; always true of a fallback.
        num_candidates: candidates grown side by side.
        num_prompt_tokens: of the prompt as the policy reads it.
        num_tokens_generated: over all candidates.
        num_forward_passes: model calls that the prompt took part in.
    """

    text: str
    abstained: bool
    reason: str
    reward: ScoreSummary | None
    cost: ScoreSummary | None
    risk_upper_bound: float
    certified: bool
    finished: bool
    num_candidates: int
    num_prompt_tokens: int
    num_tokens_generated: int
    num_forward_passes: int

    def to_dict(self) -> dict[str, Any]:
        """Every field as JSON can hold it; an infinite bound is None."""
        fields = asdict(self)
        if not math.isfinite(self.risk_upper_bound):
            fields["risk_upper_bound"] = None
        return fields


@dataclass(frozen=True)
class Draft:
    """Everything known about a prompt's answer before it is served or withheld.

    Attributes:
        text: the surviving answer; empty where guidance failed.
        reward: of it.
        cost: of it; None where a score is not finite, and then it is never served.
        cost_bound: mean + pessimism·std of its cost; +inf where unavailable.
        finished: ended by itself or at a stop text, not at the limit of tokens.
        guided: how it was found.
    """

    text: str
    reward: ScoreSummary | None
    cost: ScoreSummary | None
    cost_bound: float
    finished: bool
    guided: GuidedResponse


def draft_answers(
    prompts: Sequence[Prompt],
    guided: Sequence[GuidedResponse],
    setting: DecodingSetting,
    *,
    cost_scorer: Scorer,
    reward_scorer: Scorer | None = None,
    stop: Sequence[str] = (),
) -> list[Draft]:
    """Score the surviving answers, each up to the first stop text in it, failing closed.

    Raises:
        InputError: a cost scorer of a single member with pessimism > 0.
    """
    whole = [g.candidates[0].text if g.candidates else "" for g in guided]
    texts = [_before(text, stop) for text in whole]
    # A failed prompt has no text, and scorers refuse or misjudge empty ones.
    alive = [i for i, g in enumerate(guided) if g.candidates and not g.failed]
    asked, given = [prompts[i] for i in alive], [texts[i] for i in alive]
    costs = score_closed(cost_scorer, asked, given, setting.pessimism)
    rewards = score_closed(reward_scorer, asked, given)
    unknown = Scored(None, math.inf)
    scored = {i: (cost, reward) for i, cost, reward in zip(alive, costs, rewards, strict=True)}
    drafts: list[Draft] = []
    for i, g in enumerate(guided):
        cost, reward = scored.get(i, (unknown, unknown))
        # A broken reward scorer makes the cost suspect too: neither is used.
        if cost.summary is None or (reward_scorer is not None and reward.summary is None):
            cost, reward = unknown, unknown
        drafts.append(
            Draft(
                text=texts[i],
                reward=reward.summary,
                cost=cost.summary,
                cost_bound=cost.bound,
                finished=texts[i] != whole[i] or bool(g.candidates and g.candidates[0].finished),
                guided=g,
            )
        )
    return drafts


def settle_drafts(
    prompts: Sequence[Prompt],
    drafts: Sequence[Draft],
    setting: DecodingSetting,
    *,
    cost_scorer: Scorer,
    reward_scorer: Scorer | None = None,
    certified: bool = False,
) -> list[Answer]:
    """Serve each draft whose upper bound meets the acceptance level, and else the fallback.

    The fallback is scored as an answer to the prompts that get it, and to no others.

    Raises:
        InputError: a cost scorer of a single member with pessimism > 0.
    """
    answers = [_served(draft, setting, certified) for draft in drafts]
    verdicts = verdicts_of(drafts)
    # All at once by the rule of calibration; see `tailguard.decoding.acceptance`.
    keep = accepted(verdicts, setting.acceptance_level)
    reasons = reasons_withheld(verdicts, setting.acceptance_level)
    withheld = [i for i in range(len(drafts)) if not keep[i]]
    asked, given = [prompts[i] for i in withheld], [setting.fallback] * len(withheld)
    cost = score_closed(cost_scorer, asked, given, setting.pessimism)
    reward = score_closed(reward_scorer, asked, given)
    for place, i in enumerate(withheld):
        answers[i] = replace(
            answers[i],
            text=setting.fallback,
            abstained=True,
            reason=reasons[i],
            reward=reward[place].summary,
            cost=cost[place].summary,
            risk_upper_bound=cost[place].bound,
            certified=certified and cost[place].summary is not None,
            finished=True,
        )
    return answers


def verdicts_of(drafts: Sequence[Draft]) -> Verdicts:
    """What the rule of acceptance looks at, for calibration and for serving alike."""
    spreads = [None if draft.cost is None else draft.cost.std for draft in drafts]
    return Verdicts(
        bound=np.array([draft.cost_bound for draft in drafts], dtype=np.float64),
        spread=np.array([np.nan if s is None else s for s in spreads], dtype=np.float64),
    )


def unscored_answer(fallback: str) -> Answer:
    """The abstention where the decoder itself failed, so that nothing is known of the answer."""
    return Answer(
        text=fallback,
        abstained=True,
        reason=SCORE_UNAVAILABLE,
        reward=None,
        cost=None,
        risk_upper_bound=math.inf,
        certified=False,
        finished=True,
        num_candidates=0,
        num_prompt_tokens=0,
        num_tokens_generated=0,
        num_forward_passes=0,
    )


def _before(text: str, stop: Sequence[str]) -> str:
    places = [place for place in map(text.find, stop) if place >= 0]
    # The earliest stop text decides, whichever was given first.
    return text[: min(places, default=len(text))]


def _served(draft: Draft, setting: DecodingSetting, certified: bool) -> Answer:
    return Answer(
        text=draft.text,
        abstained=False,
        reason="",
        reward=draft.reward,
        cost=draft.cost,
        risk_upper_bound=draft.cost_bound,
        certified=certified,
        finished=draft.finished,
        num_candidates=draft.guided.num_candidates,
        num_prompt_tokens=draft.guided.num_prompt_tokens,
        num_tokens_generated=draft.guided.num_tokens_generated,
        num_forward_passes=draft.guided.num_forward_passes,
    )
