"""Where groups of people, or kinds of harm, differ most."""

from __future__ import annotations

import json
from collections.abc import Sequence

from tailguard.artifacts import Json
from tailguard.data import Prompt
from tailguard.evaluation.judges import Judge

_SHOWN = 6


def disagreements(
    judge: Judge, prompts: Sequence[Prompt], texts: Sequence[str], num: int = _SHOWN
) -> list[dict[str, Json]]:
    """Answers on whose cost the judge's groups differ most, each text once, the widest first.

    Args:
        judge: who tells groups apart; of one that does not, nothing is shown.
        prompts: of the answers.
        texts: the answers.
        num: the most that are shown.

    Returns:
        ``prompt``, ``text`` and ``costs`` by group of each.
    """
    if len(judge.raters) < 2:
        return []
    costs = judge.score_raters(prompts, texts)
    spread = costs.max(axis=1) - costs.min(axis=1)
    order: list[int] = (-spread).argsort(kind="stable").tolist()
    found: dict[str, dict[str, Json]] = {}
    for row in order:
        if len(found) == num or spread[row] <= 0.0:
            break
        prompt = prompts[row]
        shown = prompt if isinstance(prompt, str) else json.dumps(prompt)
        by_group = dict(zip(judge.raters, costs[row].tolist(), strict=True))
        found.setdefault(texts[row], {"prompt": shown, "text": texts[row], "costs": by_group})
    return list(found.values())
