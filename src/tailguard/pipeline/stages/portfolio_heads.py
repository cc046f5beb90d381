"""The process heads of ``portfolio``: fitted on roll-outs of the prompts that were planned on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields

import numpy as np

from tailguard.data import Prompt
from tailguard.engines.soup import SoupPolicy
from tailguard.errors import InputError
from tailguard.pipeline.points import Point
from tailguard.pipeline.process_heads import (
    MOST_PROMPTS,
    NUM_DRAWS,
    NUM_POINTS,
    RollOuts,
    checkpoints_of,
    roll_out,
)
from tailguard.pipeline.stage import Work
from tailguard.pipeline.stages.bank import score_in_parts
from tailguard.pipeline.stages.prepare import read_split
from tailguard.scorers.pessimism import ScorerPair
from tailguard.values import HeadData, ProcessHeads
from tailguard.values.heads import FEWEST_PROMPTS

_PROMPTS_FOR_LENGTHS = 64


def fit_process_heads(
    work: Work, soup: SoupPolicy, scorers: ScorerPair, points: Sequence[Point]
) -> tuple[ProcessHeads, dict[str, object]]:
    """Heads for the soups at some of the points and between, and figures of the fit.

    Raises:
        InputError: too few prompts, or too few answers that are long enough.
    """
    prompts = read_split(work.parents["prepare"], "train")[:MOST_PROMPTS]
    if len(prompts) < FEWEST_PROMPTS:
        raise InputError(f"data: {len(prompts)} prompts to plan on; heads need {FEWEST_PROMPTS}")
    places: list[float] = np.linspace(0, len(points) - 1, NUM_POINTS).tolist()
    chosen = [points[k] for k in dict.fromkeys(map(round, places))]
    some = prompts[:_PROMPTS_FOR_LENGTHS]
    first = _roll_out(work, soup, some, chosen[-1], "lengths", (), work.steps("heads: lengths"))
    lengths = np.array([len(each.token_ids) for each in first.drawn])
    checkpoints = checkpoints_of(lengths, work.recipe.policy.max_new_tokens)
    parts: list[HeadData] = []
    for number, point in enumerate(chosen):
        what = f"heads, point {number + 1} of {len(chosen)}"
        found = _roll_out(
            work, soup, prompts, point, f"heads {number}", checkpoints, work.steps(what)
        )
        assert found.states is not None  # there are checkpoints
        asked = [prompts[i] for i in found.prompt_index]
        texts = [each.text for each in found.drawn]
        scores = score_in_parts(scorers, asked, texts, work.steps(f"{what}: scoring"))
        spread = np.nan_to_num(scores["cost_std"])
        bound = scores["cost_mean"] + work.recipe.decoding.pessimism * spread
        index = np.array(found.prompt_index)
        points_of: np.ndarray = np.tile(np.array(point), (len(index), 1))
        parts.append(HeadData(found.states, points_of, scores["reward"], bound, index))
    names = [field.name for field in fields(HeadData)]
    data = HeadData(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))
    heads = ProcessHeads.fit(data, checkpoints, work.numpy_generator("heads"))
    return heads, {"checkpoints": heads.checkpoints.tolist(), "answers": len(data.reward)}


def _roll_out(
    work: Work,
    soup: SoupPolicy,
    prompts: Sequence[Prompt],
    point: Point,
    seed: str,
    checkpoints: Sequence[int],
    on_progress: Callable[[int, int], None],
) -> RollOuts:
    recipe = work.recipe
    return roll_out(
        soup,
        prompts,
        point,
        num_draws=NUM_DRAWS,
        max_new_tokens=recipe.policy.max_new_tokens,
        temperature=recipe.policy.temperature,
        seed=work.seed(seed),
        batch_size=recipe.bank.batch_size,
        checkpoints=checkpoints,
        on_progress=on_progress,
    )
