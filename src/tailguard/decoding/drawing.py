"""Drawing under a rule: rounds in which every prompt that still wants an answer draws one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from tailguard.data import Prompt
from tailguard.decoding.dial import DialEntry
from tailguard.decoding.scoring import SCORE_UNAVAILABLE, Scored, ScoreSummary, score_closed
from tailguard.decoding.worth import AnswerScores, AnswerWorth
from tailguard.engines.draws import Drawn, StartedPrompts
from tailguard.engines.sampling_law import SamplingLaw
from tailguard.engines.soup import SoupPolicy
from tailguard.scorers.scorer import Scorer


@dataclass(frozen=True)
class Chosen:
    """What a prompt gets, and what it took.

    Attributes:
        text: of the answer, or of the fallback.
        abstained: whether it is the fallback.
        reason: why, where abstained; else empty.
        reward: of the text.
        cost: of the text.
        cost_upper_bound: u(y) of the text; +inf where it has no score.
        finished: ended by itself or at a stop text.
        num_draws: answers drawn.
        num_prompt_tokens: of the prompt.
        num_tokens_generated: of all draws.
        num_forward_passes: model calls, the prompt's own included.
        doubt: `error_doubt` of the verdict on the text's cost, in bits; None where it has no score.
        shift: how unlike the answers that the cost scorer was fitted on the text is, and where answers
            were withheld for that, the one most like them; None where unknown.
        unlike: whether answers were withheld for that.
    """

    text: str
    abstained: bool
    reason: str
    reward: ScoreSummary | None
    cost: ScoreSummary | None
    cost_upper_bound: float
    finished: bool
    num_draws: int
    num_prompt_tokens: int
    num_tokens_generated: int
    num_forward_passes: int
    doubt: float | None = None
    shift: float | None = None
    unlike: bool = False


def unscored(fallback: str) -> Chosen:
    """What a prompt gets whose answers could not be scored at all."""
    return Chosen(
        text=fallback,
        abstained=True,
        reason=SCORE_UNAVAILABLE,
        reward=None,
        cost=None,
        cost_upper_bound=math.inf,
        finished=True,
        num_draws=0,
        num_prompt_tokens=0,
        num_tokens_generated=0,
        num_forward_passes=0,
    )


@dataclass(frozen=True)
class Scorers:
    """Who scores draws, and how pessimistically.

    Attributes:
        reward: mean of the ensemble is the utility.
        cost: ensemble.
        pessimism: κ of u(y) = mean + κ·spread.
        largest_shift: of an answer that is served; a cost scorer's word on one farther from what it was
            fitted on counts for nothing. Where a scorer tells no shift, nothing is withheld for it.
    """

    reward: Scorer
    cost: Scorer
    pessimism: float
    largest_shift: float = math.inf


@dataclass(frozen=True)
class _Draw:
    drawn: Drawn
    text: str
    reward: Scored
    cost: Scored
    unlike: bool = False
    utility: float = -math.inf

    @property
    def bound(self) -> float:
        """u(y); +inf where either scorer failed, for a broken one makes the other suspect, or unlike."""
        return math.inf if self.reward.summary is None or self.unlike else self.cost.bound


def draw_answers(  # noqa: PLR0913
    soup: SoupPolicy,
    prompts: Sequence[Prompt],
    entry: DialEntry,
    scorers: Scorers,
    *,
    worth: AnswerWorth,
    seeds: Sequence[int],
    law: SamplingLaw,
    max_new_tokens: int,
    fallback: str,
    stop: Sequence[str] = (),
    batch_size: int = 64,
) -> list[Chosen]:
    """One answer for each prompt under an entry of the dial.

    What a prompt gets depends on itself and its seed alone (up to floating-point differences between
    batch shapes). Fails closed: where the model or a scorer gives no finite number, that draw is
    never served.

    Args:
        soup: the members on one base.
        prompts: at least one.
        entry: point and rule.
        scorers: of draws.
        worth: of draws, by their scores.
        seeds: one for each prompt.
        law: how tokens are drawn.
        max_new_tokens: most tokens per draw.
        fallback: served on abstention.
        stop: texts before the first of which an answer ends.
        batch_size: rows in one forward pass.

    Raises:
        InputError: a prompt that is empty or too long.
    """
    rule = entry.rule
    # Nothing is drawn at temperature 0: a further draw would be the same answer again.
    rule = rule if law.temperature > 0 else replace(rule, max_draws=1)
    points = [entry.point] * len(prompts)
    started = StartedPrompts(
        soup, prompts, points, max_new_tokens=max_new_tokens, law=law, batch_size=batch_size
    )
    made: list[list[_Draw]] = [[] for _ in prompts]
    going = list(range(len(prompts)))
    for number in range(rule.max_draws):
        drawn = started.draw(going, [_seed(seeds[i], number) for i in going])
        scored = _score([prompts[i] for i in going], drawn, scorers, stop)
        utilities = worth.utility(_scores(scored), entry.penalty).tolist()
        for i, draw, utility in zip(going, scored, utilities, strict=True):
            made[i].append(replace(draw, utility=utility))
        utility, bound = _arrays([made[i] for i in going])
        wants = rule.wants_draw(utility, rule.admits(bound))
        going = [i for i, wanted in zip(going, wants, strict=True) if wanted]
        if not going:
            break
    return _settle(prompts, made, entry, scorers, started.num_prompt_tokens, fallback)


def _seed(seed: int, number: int) -> int:
    """A stream for each draw of a prompt."""
    return int(np.random.SeedSequence([seed, number]).generate_state(1, np.uint64)[0])


def _score(
    prompts: Sequence[Prompt], drawn: Sequence[Drawn], scorers: Scorers, stop: Sequence[str]
) -> list[_Draw]:
    texts = [_before(draw.text, stop) for draw in drawn]
    # Predictions that were NaN gave tokens all the same: such a draw has no score.
    sound = [i for i, draw in enumerate(drawn) if math.isfinite(draw.log_prob)]
    asked, given = [prompts[i] for i in sound], [texts[i] for i in sound]
    rewards = dict(zip(sound, score_closed(scorers.reward, asked, given), strict=True))
    costs = dict(
        zip(sound, score_closed(scorers.cost, asked, given, scorers.pessimism), strict=True)
    )
    unknown = Scored(None, math.inf)
    made: list[_Draw] = []
    for i, draw in enumerate(drawn):
        cost = costs.get(i, unknown)
        unlike = cost.shift > scorers.largest_shift  # not so of NaN
        made.append(_Draw(draw, texts[i], rewards.get(i, unknown), cost, unlike))
    return made


def _arrays(made: Sequence[Sequence[_Draw]]) -> tuple[np.ndarray, np.ndarray]:
    """Utility and bound of each draw [prompts, draws]; all prompts have as many."""
    utility = [[draw.utility for draw in draws] for draws in made]
    return np.array(utility), np.array([[draw.bound for draw in draws] for draws in made])


def _scores(draws: Sequence[_Draw]) -> AnswerScores:
    """Of new draws [draws]; NaN where a scorer failed."""

    def mean(summary: ScoreSummary | None) -> float:
        return math.nan if summary is None else summary.mean

    def spread(summary: ScoreSummary | None) -> float:
        return math.nan if summary is None or summary.std is None else summary.std

    return AnswerScores(
        reward=np.array([mean(draw.reward.summary) for draw in draws]),
        cost=np.array([mean(draw.cost.summary) for draw in draws]),
        spread=np.array([spread(draw.cost.summary) for draw in draws]),
        bound=np.array([draw.bound for draw in draws]),
        num_tokens=np.array([float(len(draw.drawn.token_ids)) for draw in draws]),
    )


def _settle(
    prompts: Sequence[Prompt],
    made: Sequence[Sequence[_Draw]],
    entry: DialEntry,
    scorers: Scorers,
    num_prompt_tokens: Sequence[int],
    fallback: str,
) -> list[Chosen]:
    chosen: list[Chosen] = []
    withheld: list[int] = []
    for i, draws in enumerate(made):
        admits = entry.rule.admits(np.array([draw.bound for draw in draws]))
        admitted = [draw for draw, admitted in zip(draws, admits, strict=True) if admitted]
        best = max(admitted, key=lambda draw: draw.utility, default=None)
        # Where an answer with a sound bound was too costly, that is the reason; else its being unlike.
        unlike = not any(math.isfinite(draw.bound) for draw in draws)
        unlike = unlike and any(draw.unlike for draw in draws)
        nearest = min((draw.cost.shift for draw in draws if draw.unlike), default=math.nan)
        shift = nearest if best is None else best.cost.shift
        withheld += [i] if best is None else []
        tokens = sum(len(draw.drawn.token_ids) for draw in draws)
        chosen.append(
            Chosen(
                text="" if best is None else best.text,
                abstained=best is None,
                reason="" if best is not None else _reason(draws, entry, scorers),
                reward=None if best is None else best.reward.summary,
                cost=None if best is None else best.cost.summary,
                cost_upper_bound=math.inf if best is None else best.bound,
                finished=best is None or best.drawn.finished or best.text != best.drawn.text,
                num_draws=len(draws),
                num_prompt_tokens=num_prompt_tokens[i],
                num_tokens_generated=tokens,
                num_forward_passes=1 + sum(draw.drawn.num_passes for draw in draws),
                doubt=None if best is None else best.cost.doubt,
                shift=None if math.isnan(shift) else shift,
                unlike=best is None and unlike,
            )
        )
    asked, given = [prompts[i] for i in withheld], [fallback] * len(withheld)
    costs = score_closed(scorers.cost, asked, given, scorers.pessimism)
    rewards = score_closed(scorers.reward, asked, given)
    for i, cost, reward in zip(withheld, costs, rewards, strict=True):
        chosen[i] = replace(
            chosen[i],
            text=fallback,
            reward=reward.summary,
            cost=cost.summary,
            cost_upper_bound=cost.bound,
            doubt=cost.doubt,
        )
    return chosen


def _reason(draws: Sequence[_Draw], entry: DialEntry, scorers: Scorers) -> str:
    least = min(draw.bound for draw in draws)
    if not math.isfinite(least):
        unlike = [draw.cost.shift for draw in draws if draw.unlike]
        if not unlike:
            return SCORE_UNAVAILABLE
        return (
            f"{len(unlike)} answers are unlike those that the cost scorer was fitted on: their distance"
            f" is at least {min(unlike):.3g}, and {scorers.largest_shift:.3g} is the most that is served"
        )
    return (
        f"the smallest upper bound on cost of {len(draws)} answers, {least:.4g}, is above the"
        f" acceptance level {entry.rule.level:.4g}"
    )


def _before(text: str, stop: Sequence[str]) -> str:
    places = [place for place in map(text.find, stop) if place >= 0]
    # The earliest stop text decides, whichever was given first.
    return text[: min(places, default=len(text))]
