"""How drafts are drawn: the seam for strategies that draw more than once.

A strategy is a function. It is given ``draw``, which grows, guides and scores one answer for each
prompt, and returns one draft for each. What it draws and throws away must still be counted: add the
tokens and passes of all tries to the draft that it returns (`Draft.guided`).
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

from tailguard.data import Prompt
from tailguard.decoding.answer import Draft

Draw = Callable[[Sequence[Prompt], Sequence[int]], list[Draft]]
"""Prompts and a seed for each → a scored draft for each, in order."""

Strategy = Callable[[Draw, Sequence[Prompt], Sequence[int]], list[Draft]]
"""From a way to draw, the prompts and a seed for each, to one draft for each prompt."""


def draw_once(draw: Draw, prompts: Sequence[Prompt], seeds: Sequence[int]) -> list[Draft]:
    """The default: every prompt's answer is what the first draw gives."""
    return draw(prompts, seeds)


def strategy_name(strategy: Strategy) -> str:
    """What tells strategies apart in certificates.

    The full name of a function that its module has under that name; a dataclass's fields, so that
    another parameter is another strategy. What holds values that cannot be told, as a closure
    does, is like nothing but itself.
    """
    name = getattr(strategy, "__qualname__", "")
    module = getattr(strategy, "__module__", "")
    if getattr(sys.modules.get(module), name, None) is strategy:  # as pickle finds functions
        return f"{module}.{name}"
    return repr(strategy)
