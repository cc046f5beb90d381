"""How an assistant behaves: the law from which demonstrations and answers to be judged are drawn.

Help is a chain. A plain step is followed by another with a fixed chance; now and then a step is
bold, and a bold step is followed by another with chance `bold_again`, so bold chains have geometric
length: most help is tame, a little of it escalates.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate

import numpy as np

from tailguard.lab.sandbox.answers import MAX_STEPS, Answer, Step
from tailguard.lab.sandbox.requests import Request
from tailguard.lab.sandbox.vocabulary import (
    ALTERNATIVES,
    BOLD_ACTIONS,
    CARE_CLOSINGS,
    DOMAINS,
    KINDS,
    PLAIN_ACTIONS,
    PLAIN_CLOSINGS,
    POLITE_TONES,
    REDIRECTIONS,
    REFUSALS,
    RUDE_TONES,
)

# Shares of the bold actions and of a domain's five things, cumulated: the dangerous ones are rare.
_BOLD_UP_TO = tuple(accumulate((0.30, 0.25, 0.19, 0.13, 0.08, 0.05)))
_THING_UP_TO = tuple(accumulate((0.33, 0.25, 0.20, 0.13, 0.09)))
_BOLD_WORDS = tuple(BOLD_ACTIONS)


# Chances to help, redirect and refuse: even unsafe requests get help at times, hence a tail.
def _moves() -> dict[str, tuple[float, float, float]]:
    return {
        "benign": (0.92, 0.04, 0.04),
        "borderline": (0.74, 0.12, 0.14),
        "ambiguous": (0.62, 0.20, 0.18),
        "unsafe": (0.30, 0.30, 0.40),
    }


def _wide_moves() -> dict[str, tuple[float, float, float]]:
    return dict.fromkeys(KINDS, (0.6, 0.2, 0.2))


@dataclass(frozen=True)
class Behaviour:
    """Chances that describe an assistant; every field but `moves` is a probability.

    Attributes:
        moves: kind of request → chances to help, redirect and refuse.
        polite: a polite tone.
        rude: a rude tone.
        care: a closing word of care after help.
        bold: a step is bold although the one before was not.
        bold_again: a bold step follows a bold one.
        go_on: help continues after a plain step, or a bold chain falls back to plain.
    """

    moves: dict[str, tuple[float, float, float]] = field(default_factory=_moves)
    polite: float = 0.3
    rude: float = 0.18
    care: float = 0.2
    bold: float = 0.09
    bold_again: float = 0.4
    go_on: float = 0.55


BASE_BEHAVIOUR = Behaviour()
"""The base policy's demonstrations: helpful on average, with a rare and severe tail."""
WIDE_BEHAVIOUR = Behaviour(
    moves=_wide_moves(), rude=0.1, care=0.35, bold=0.3, bold_again=0.55, go_on=0.65
)
"""Every move is common and boldness is, so that judged pairs also reach into the tail."""


def _pick(u: float, options: Sequence[str]) -> str:
    return options[int(u * len(options))]


def _weighted(u: float, options: Sequence[str], up_to: Sequence[float]) -> str:
    return options[min(bisect_right(up_to, u), len(options) - 1)]


def _sample_steps(
    u: Iterator[float], things: Sequence[str], behaviour: Behaviour
) -> tuple[Step, ...]:
    steps: list[Step] = []
    chance_bold = behaviour.bold
    while len(steps) < MAX_STEPS:
        bold = next(u) < chance_bold
        if steps and not bold and next(u) >= behaviour.go_on:
            break
        action = (
            _weighted(next(u), _BOLD_WORDS, _BOLD_UP_TO) if bold else _pick(next(u), PLAIN_ACTIONS)
        )
        steps.append(Step(action, _weighted(next(u), things, _THING_UP_TO)))
        chance_bold = behaviour.bold_again if bold else behaviour.bold
    return tuple(steps)


def sample_answer(
    rng: np.random.Generator, request: Request, behaviour: Behaviour = BASE_BEHAVIOUR
) -> Answer:
    """Draw one answer to `request` from the law of `behaviour`."""
    # One call for all numbers that an answer may need, instead of a call for each.
    u = iter(rng.random(4 * MAX_STEPS + 8).tolist())
    chances = tuple(accumulate(behaviour.moves[request.kind]))
    move = _weighted(next(u), ("help", "redirect", "refuse"), chances)
    manner, word = next(u), next(u)
    tone = ""
    if manner < behaviour.rude:
        tone = _pick(word, RUDE_TONES)
    elif manner < behaviour.rude + behaviour.polite and move == "help":
        tone = _pick(word, POLITE_TONES)
    if move == "refuse":
        return Answer(body=_pick(next(u), REFUSALS), tone=tone)
    if move == "redirect":
        return Answer(
            body=f"{_pick(next(u), REDIRECTIONS)} {_pick(next(u), ALTERNATIVES)}", tone=tone
        )
    closing, word = next(u), next(u)
    end = ""
    if closing < behaviour.care:
        end = _pick(word, CARE_CLOSINGS)
    elif closing < behaviour.care + 0.3 * (1 - behaviour.care):
        end = _pick(word, PLAIN_CLOSINGS)
    steps = _sample_steps(u, DOMAINS[request.domain].things, behaviour)
    return Answer("", request.verb, request.object, steps, tone, end)
