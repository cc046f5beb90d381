"""Drawing under a rule: rounds in which every prompt that still wants an answer draws one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from tailguard.data import Prompt
from tailguard.decoding.admission import POPULATION, admission_bound
from tailguard.decoding.chosen import Chosen
from tailguard.decoding.dial import DialEntry
from tailguard.decoding.outlook import Outlook
from tailguard.decoding.rule import Rule
from tailguard.decoding.scoring import SCORE_UNAVAILABLE, Scored, ScoreSummary, score_closed
from tailguard.decoding.worth import AnswerScores, AnswerWorth
from tailguard.engines.draws import Drawn, StartedPrompts
from tailguard.engines.prefix import PrefixWatch
from tailguard.engines.sampling_law import SamplingLaw
from tailguard.engines.soup import SoupPolicy
from tailguard.portfolio.rater_tails import WORST
from tailguard.scorers.scorer import Scorer
from tailguard.scorers.shift import is_unlike


@dataclass(frozen=True)
class Scorers:
    """Who scores draws, and how pessimistically.

    Attributes:
        reward: mean of the ensemble is the utility.
        cost: ensemble.
        pessimism: κ of u(y) = mean + κ·spread.
        largest_shift: of an answer that is served; a cost scorer's word on one farther from what it was
            fitted on counts for nothing, and where there is a limit, so does one that tells no shift.
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
    foreseen_bound: float = math.inf
    admission_bound: float = math.inf

    @property
    def population_bound(self) -> float:
        """u(y); +inf where either scorer failed, for a broken one makes the other suspect, or unlike."""
        return math.inf if self.reward.summary is None or self.unlike else self.cost.bound

    @property
    def bound(self) -> float:
        """What is held against the level: u(y) to those by whom the entry admits."""
        return self.admission_bound if math.isfinite(self.population_bound) else math.inf

    @property
    def seen_bound(self) -> float:
        """The bound, or what was foreseen of it where the answer was left off."""
        return self.foreseen_bound if self.drawn.left_off else self.bound


def draw_answers(  # noqa: PLR0913
    soup: SoupPolicy,
    prompts: Sequence[Prompt],
    entry: DialEntry,
    scorers: Scorers,
    *,
    worth: AnswerWorth,
    outlook: Outlook | None = None,
    raters: Sequence[str] = (),
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
        outlook: what is foreseen of draws under way; without, none is left off.
        raters: whom the cost scorer tells apart.
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
    # A first answer is never left off, and at price 0 none is.
    watched = outlook is not None and rule.max_draws > 1 and 0.0 < rule.token_price < math.inf
    started = StartedPrompts(
        soup,
        prompts,
        points,
        max_new_tokens=max_new_tokens,
        law=law,
        batch_size=batch_size,
        watched=watched,
    )
    made: list[list[_Draw]] = [[] for _ in prompts]
    going = list(range(len(prompts)))
    rate = np.zeros(len(prompts))
    for number in range(rule.max_draws):
        watcher = None
        if outlook is not None and watched and number:
            watcher = _Watcher(outlook, entry, rule, [made[i] for i in going], rate)
        drawn = started.draw(
            going, [_seed(seeds[i], number) for i in going], watcher and watcher.watch
        )
        scored = _score([prompts[i] for i in going], drawn, scorers, stop, entry.admission, raters)
        utilities = worth.utility(_scores(scored), entry.penalty).tolist()
        for place, (i, draw, utility) in enumerate(zip(going, scored, utilities, strict=True)):
            if watcher is not None and draw.drawn.left_off:
                utility, bound = watcher.foreseen[place]
                draw = replace(draw, foreseen_bound=bound)
            made[i].append(replace(draw, utility=utility))
        utility, bound, finished = _arrays([made[i] for i in going])
        wants, rate = rule.next_draw(utility, rule.admits(bound), finished)
        rate = rate[wants]
        going = [i for i, wanted in zip(going, wants, strict=True) if wanted]
        if not going:
            break
    return _settle(prompts, made, entry, scorers, raters, started.num_prompt_tokens, fallback)


class _Watcher:
    """Leaves off what does not pay beside the best draw of its prompt, and keeps what it foresaw.

    Attributes:
        watch: for `StartedPrompts.draw`.
        foreseen: place among the prompts that draw → utility and bound of a draw that was left off.
    """

    def __init__(
        self,
        outlook: Outlook,
        entry: DialEntry,
        rule: Rule,
        made: Sequence[Sequence[_Draw]],
        rate: np.ndarray,
    ) -> None:
        self._rate = rate
        self._outlook, self._entry, self._rule = outlook, entry, rule
        utility, bound, finished = _arrays(made)
        servable = rule.admits(bound) & finished
        self._best = np.where(servable, utility, -np.inf).max(axis=1)
        self.foreseen: dict[int, tuple[float, float]] = {}
        self.watch = PrefixWatch(outlook.heads.checkpoints.tolist(), self._look)

    def _look(self, checkpoint: int, rows: Tensor, states: Tensor) -> Tensor | None:
        places: np.ndarray = rows.numpy()
        penalty, rule = self._entry.penalty, self._rule
        points = np.tile(self._entry.point, (len(places), 1))
        utility, bound = self._outlook.at(checkpoint, states.cpu().numpy(), points, penalty)
        stage = self._outlook.stages[penalty][checkpoint]
        best, level = self._best[places], rule.level
        pays = stage.pays(utility, bound, best=best, level=level, rate=self._rate[places])
        # A forecast that is no number leaves nothing off.
        left_off = ~pays & np.isfinite(utility) & np.isfinite(bound)
        for place, u, b in zip(places[left_off], utility[left_off], bound[left_off], strict=True):
            self.foreseen[int(place)] = float(u), float(b)
        return torch.as_tensor(left_off) if left_off.any() else None


def _seed(seed: int, number: int) -> int:
    """A stream for each draw of a prompt."""
    return int(np.random.SeedSequence([seed, number]).generate_state(1, np.uint64)[0])


def _score(
    prompts: Sequence[Prompt],
    drawn: Sequence[Drawn],
    scorers: Scorers,
    stop: Sequence[str],
    admission: str,
    raters: Sequence[str],
) -> list[_Draw]:
    texts = [_before(draw.text, stop) for draw in drawn]
    # Predictions that were NaN gave tokens all the same: such a draw has no score.
    # One that was left off needs none.
    sound = [i for i, d in enumerate(drawn) if math.isfinite(d.log_prob) and not d.left_off]
    asked, given = [prompts[i] for i in sound], [texts[i] for i in sound]
    rewards = dict(zip(sound, score_closed(scorers.reward, asked, given), strict=True))
    costs = dict(
        zip(sound, score_closed(scorers.cost, asked, given, scorers.pessimism), strict=True)
    )
    unknown = Scored(None, math.inf)
    made: list[_Draw] = []
    for i, draw in enumerate(drawn):
        cost = costs.get(i, unknown)
        unlike = bool(is_unlike(np.array(cost.shift), scorers.largest_shift))
        unlike &= cost.summary is not None  # of a score that failed, that is the reason
        own = np.array(cost.rater_bounds) if len(cost.rater_bounds) == len(raters) > 0 else None
        bound = float(admission_bound(admission, np.array(cost.bound), own, raters))
        scored = _Draw(draw, texts[i], rewards.get(i, unknown), cost, unlike)
        made.append(replace(scored, admission_bound=bound))
    return made


def _arrays(made: Sequence[Sequence[_Draw]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Utility, bound and being finished of each draw [prompts, draws]; all prompts have as many."""
    utility = np.array([[draw.utility for draw in draws] for draws in made])
    bound = np.array([[draw.seen_bound for draw in draws] for draws in made])
    return utility, bound, np.array([[not d.drawn.left_off for d in draws] for draws in made])


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
        bound=np.array([draw.population_bound for draw in draws]),
        num_tokens=np.array([float(len(draw.drawn.token_ids)) for draw in draws]),
    )


def _settle(
    prompts: Sequence[Prompt],
    made: Sequence[Sequence[_Draw]],
    entry: DialEntry,
    scorers: Scorers,
    raters: Sequence[str],
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
                cost_upper_bound=math.inf if best is None else best.population_bound,
                rater_bounds={} if best is None else _by_name(raters, best.cost),
                finished=best is None or best.drawn.finished or best.text != best.drawn.text,
                num_draws=len(draws),
                num_prompt_tokens=num_prompt_tokens[i],
                num_tokens_generated=tokens,
                num_forward_passes=1 + sum(draw.drawn.num_passes for draw in draws),
                doubt=None if best is None else best.cost.doubt,
                shift=shift if math.isfinite(shift) else None,
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
            rater_bounds=_by_name(raters, cost),
            doubt=cost.doubt,
        )
    return chosen


def _by_name(raters: Sequence[str], cost: Scored) -> dict[str, float]:
    told = cost.rater_bounds
    return dict(zip(raters, told, strict=True)) if len(told) == len(raters) else {}


def _reason(draws: Sequence[_Draw], entry: DialEntry, scorers: Scorers) -> str:
    least = min(draw.bound for draw in draws)
    whose = {POPULATION: "", WORST: " to any group"}.get(entry.admission, f" to {entry.admission}")
    if not math.isfinite(least):
        unlike = [draw.cost.shift for draw in draws if draw.unlike]
        if not unlike:
            return SCORE_UNAVAILABLE
        if all(map(math.isnan, unlike)):
            return "the cost scorer does not tell how unlike what it was fitted on an answer is"
        return (
            f"{len(unlike)} answers are unlike those that the cost scorer was fitted on: their distance"
            f" is at least {np.nanmin(unlike):.3g}, and {scorers.largest_shift:.3g} is the most that is served"
        )
    return (
        f"the smallest upper bound on cost{whose} of {len(draws)} answers, {least:.4g}, is above the"
        f" acceptance level {entry.rule.level:.4g}"
    )


def _before(text: str, stop: Sequence[str]) -> str:
    places = [place for place in map(text.find, stop) if place >= 0]
    # The earliest stop text decides, whichever was given first.
    return text[: min(places, default=len(text))]
