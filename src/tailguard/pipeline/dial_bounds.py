"""Held-out answers of an entry of the dial, and the bounds that they give to the population and each rater."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from tailguard.data import Prompt
from tailguard.decoding.admission import POPULATION
from tailguard.decoding.certificates import (
    judge_bound,
    scorer_bound,
    served_bounds,
    unscored_answers,
)
from tailguard.decoding.chosen import Chosen
from tailguard.decoding.decoder import Decoder
from tailguard.decoding.dial import Dial, DialCertificate
from tailguard.engines import prompt_seeds
from tailguard.evaluation.judges import Judge
from tailguard.portfolio.rater_tails import WORST, RatersLimit

_PROMPTS_PER_STEP = 256  # of progress; the answers do not depend on it


def caps(admission: str, rater: str = POPULATION) -> bool:
    """Whether nothing above the level is served to a rater, or to the population, by rule."""
    return admission in (rater, WORST)


def draw_entry(
    decoder: Decoder,
    prompts: Sequence[Prompt],
    number: int,
    *,
    seed: int,
    on_progress: Callable[[int, int], None],
) -> list[Chosen]:
    """Answers of one entry to many prompts, with progress."""
    seeds = prompt_seeds(seed, len(prompts))
    made: list[Chosen] = []
    for start in range(0, len(prompts), _PROMPTS_PER_STEP):
        rows = slice(start, start + _PROMPTS_PER_STEP)
        made += decoder.draw(prompts[rows], decoder.dial.entries[number], seed=seeds[rows])
        on_progress(len(made), len(prompts))
    return made


def entry_bounds(
    dial: Dial,
    number: int,
    asked: RatersLimit,
    prompts: Sequence[Prompt],
    served: Sequence[Chosen],
    *,
    judge: Judge | None,
    largest_cost: float,
    confidence: float,
) -> DialCertificate:
    """Upper confidence bounds of one entry, by the scorer and by the judge, also to each rater.

    Args:
        dial: of the entry.
        number: of the entry.
        asked: what it was chosen for.
        prompts: held out.
        served: its answers to them.
        judge: who took no part; None where there is none.
        largest_cost: declared, of the scorer, and of a judge that declares none.
        confidence: of each bound.
    """
    entry, measure = dial.entries[number], asked.limit.measure

    def own(bounds: np.ndarray, *, is_capped: bool) -> float:
        """By the scorer; nothing above the level is served only to those by whom the entry admits."""
        unscored = unscored_answers(served)
        return scorer_bound(
            np.where(unscored, np.inf, bounds),
            np.array([each.abstained for each in served]),
            measure,
            level=entry.rule.level if is_capped else largest_cost,
            largest_cost=largest_cost,
            confidence=confidence,
        ).value

    def by_judge(cost: np.ndarray, upper: float) -> float:
        cost = np.where(unscored_answers(served), upper, cost)
        found = judge_bound(cost, measure, upper, confidence)
        # Where the declared range was wrong, so is a bound that rests on it.
        return math.inf if found.num_clipped else found.value

    certificate = DialCertificate(
        number,
        asked.limit,
        scorer_bound=own(served_bounds(served)[0], is_capped=caps(entry.admission)),
        judge_bound=math.inf,
        confidence=confidence,
        num_prompts=len(prompts),
        raters=asked.raters,
        scorer_rater_bounds={
            name: own(
                np.array([each.rater_bounds.get(name, math.inf) for each in served]),
                is_capped=caps(entry.admission, name),
            )
            for name in dial.scored_raters
        },
    )
    if judge is None:
        return certificate
    upper = judge.cost_bound if judge.cost_bound is not None else largest_cost
    texts = [each.text for each in served]
    by_rater = judge.score_raters(prompts, texts)
    return replace(
        certificate,
        judge_bound=by_judge(judge.score(prompts, texts)[1], upper),
        judge_rater_bounds={
            name: by_judge(by_rater[:, place], upper) for place, name in enumerate(judge.raters)
        },
    )
