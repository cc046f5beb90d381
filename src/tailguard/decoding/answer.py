"""Answers: scored as drafts, then served or replaced by the fallback."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from tailguard.data import Prompt
from tailguard.decoding.acceptance import SCORE_UNAVAILABLE, accepted, reason_withheld
from tailguard.decoding.guidance import GuidedResponse
from tailguard.decoding.profile import DecodingSetting
from tailguard.scorers.pessimism import pessimistic, spread
from tailguard.scorers.scorer import Scorer

_QUANTILE_LEVELS = (0.05, 0.5, 0.95)


@dataclass(frozen=True)
class ScoreSummary:
    """What an ensemble makes of one answer.

    Attributes:
        mean: over members; the score.
        std: sample standard deviation over members; None for a single member, whose
            spread is unknown.
        quantiles: over members, by level.
    """

    mean: float
    std: float | None
    quantiles: dict[str, float]


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
    costs = _score_closed(cost_scorer, asked, given, setting.pessimism)
    rewards = _score_closed(reward_scorer, asked, given)
    unknown = _Scored(None, math.inf)
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
    bounds = np.array([draft.cost_bound for draft in drafts], dtype=np.float64)
    # All at once by the rule of calibration; see `tailguard.decoding.acceptance`.
    keep = accepted(bounds, setting.acceptance_level)
    withheld = [i for i in range(len(drafts)) if not keep[i]]
    asked, given = [prompts[i] for i in withheld], [setting.fallback] * len(withheld)
    cost = _score_closed(cost_scorer, asked, given, setting.pessimism)
    reward = _score_closed(reward_scorer, asked, given)
    for place, i in enumerate(withheld):
        answers[i] = replace(
            answers[i],
            text=setting.fallback,
            abstained=True,
            reason=reason_withheld(drafts[i].cost_bound, setting.acceptance_level),
            reward=reward[place].summary,
            cost=cost[place].summary,
            risk_upper_bound=cost[place].bound,
            certified=certified and cost[place].summary is not None,
            finished=True,
        )
    return answers


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


# Not Exception: what is missing here (an interrupt, no memory) must end the process.
SCORER_FAILURES = (ArithmeticError, LookupError, OSError, RuntimeError, TypeError, ValueError)


@dataclass(frozen=True)
class _Scored:
    """One answer's members: what is reported of them, and the bound that decides; None if unknown."""

    summary: ScoreSummary | None
    bound: float


def _score_closed(
    scorer: Scorer | None,
    prompts: Sequence[Prompt],
    responses: Sequence[str],
    pessimism: float = 0.0,
) -> list[_Scored]:
    """Summary and upper bound of each answer; +inf where there is no finite score.

    Raises:
        InputError: a single member with pessimism > 0. It is raised outside `_members_closed`,
            which would take it for a failing scorer and abstain on every prompt without a word.
    """
    return [
        _Scored(None, math.inf)
        if members is None
        else _Scored(_summary(members), float(pessimistic(members[None], pessimism)[0]))
        for members in _members_closed(scorer, prompts, responses)
    ]


def _members_closed(
    scorer: Scorer | None, prompts: Sequence[Prompt], responses: Sequence[str]
) -> list[np.ndarray | None]:
    """Members' scores of each answer, None where they are not all finite.

    If the whole batch fails, each answer is tried alone, so that one does not take the others down.
    """
    if scorer is None or len(prompts) == 0:
        return [None] * len(prompts)
    try:
        scores = np.asarray(scorer.score(prompts, responses), dtype=np.float64)
    except SCORER_FAILURES:
        if len(prompts) == 1:
            return [None]
        pairs = zip(prompts, responses, strict=True)
        return [_members_closed(scorer, [p], [r])[0] for p, r in pairs]
    if scores.ndim != 2 or scores.shape[0] != len(prompts) or scores.shape[1] < 1:
        return [None] * len(prompts)
    return [members if np.isfinite(members).all() else None for members in scores]


def _summary(members: np.ndarray) -> ScoreSummary:
    deviation = float(spread(members[None])[0])
    quantiles = np.quantile(members, _QUANTILE_LEVELS)
    return ScoreSummary(
        mean=float(members.mean()),
        std=None if math.isnan(deviation) else deviation,
        quantiles={
            f"{level:g}": float(q) for level, q in zip(_QUANTILE_LEVELS, quantiles, strict=True)
        },
    )
