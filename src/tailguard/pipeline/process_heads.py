"""Process heads of a run: fitted on roll-outs of its soups, kept beside the draws, held to their policies."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from tailguard.artifacts import content_hash
from tailguard.data import Prompt
from tailguard.engines import prompt_seeds
from tailguard.engines.draws import Drawn, StartedPrompts
from tailguard.engines.prefix import PrefixWatch
from tailguard.engines.sampling_law import SamplingLaw
from tailguard.engines.soup import SoupPolicy
from tailguard.errors import InputError
from tailguard.models.tensor_file import read_tensors, write_tensors
from tailguard.pipeline.points import Point
from tailguard.values import ProcessHeads

HEADS_NAME = "heads.safetensors"
NUM_POINTS = 5
"""Of the weight space that heads are fitted at, from one end to the other; they are linear in the weights."""
NUM_DRAWS = 2
"""Per prompt and point: further prompts teach more than further draws."""
MOST_PROMPTS = 512
"""That heads are fitted on."""
_SHARES = (0.5, 0.75, 1.0)  # of the median answer's length, after which answers are looked at
_PROMPTS_PER_STEP = 64  # of progress; the answers do not depend on it


@dataclass(frozen=True)
class RollOuts:
    """Answers of a soup at one point, prompt by prompt, and what was seen of them on the way.

    Attributes:
        prompt_index: whose answer each is [n].
        drawn: the answers [n].
        states: at each checkpoint [n, checkpoints, 2·hidden]; NaN where an answer had ended.
    """

    prompt_index: list[int]
    drawn: list[Drawn]
    states: np.ndarray | None


def roll_out(  # noqa: PLR0913
    soup: SoupPolicy,
    prompts: Sequence[Prompt],
    point: Point,
    *,
    num_draws: int,
    max_new_tokens: int,
    temperature: float,
    seed: int,
    batch_size: int,
    checkpoints: Sequence[int] = (),
    on_progress: Callable[[int, int], None] | None = None,
) -> RollOuts:
    """Draw ``num_draws`` answers to each prompt; a prompt's seeds are the same at every point.

    Raises:
        InputError: as `StartedPrompts`.
    """
    law = SamplingLaw(temperature)
    seeds = prompt_seeds(seed, len(prompts))
    drawn: list[Drawn] = []
    seen: list[np.ndarray] = []
    for start in range(0, len(prompts), _PROMPTS_PER_STEP):
        part = prompts[start : start + _PROMPTS_PER_STEP]
        started = StartedPrompts(
            soup,
            part,
            [point] * len(part),
            max_new_tokens=max_new_tokens,
            law=law,
            batch_size=batch_size,
            watched=bool(checkpoints),
        )
        index = np.repeat(np.arange(len(part)), num_draws).tolist()
        own = [
            int(state)
            for k in range(len(part))
            for state in np.random.SeedSequence(seeds[start + k]).generate_state(
                num_draws, np.uint64
            )
        ]
        keeper = _Keeper(len(index), len(checkpoints))
        watch = PrefixWatch(checkpoints, keeper.look) if checkpoints else None
        drawn += started.draw(index, own, watch)
        if checkpoints:
            seen.append(keeper.states(started.width))
        if on_progress is not None:
            on_progress(len(drawn), len(prompts) * num_draws)
    index = np.repeat(np.arange(len(prompts)), num_draws).tolist()
    return RollOuts(index, drawn, np.concatenate(seen) if seen else None)


class _Keeper:
    """Keeps every state that it is shown, and leaves nothing off."""

    def __init__(self, num: int, num_checkpoints: int) -> None:
        self._found: list[tuple[int, np.ndarray, np.ndarray]] = []
        self._shape = num, num_checkpoints

    def look(self, checkpoint: int, rows: torch.Tensor, states: torch.Tensor) -> None:
        self._found.append((checkpoint, rows.numpy(), states.cpu().numpy()))

    def states(self, width: int) -> np.ndarray:
        kept = np.full((*self._shape, width), np.nan, dtype=np.float32)
        for checkpoint, rows, states in self._found:
            kept[rows, checkpoint] = states
        return kept


def checkpoints_of(lengths: np.ndarray, max_new_tokens: int) -> tuple[int, ...]:
    """After how many tokens answers of such lengths are looked at; none at the last that there can be."""
    middle = float(np.median(lengths))
    last = max(1, max_new_tokens - 1)
    return tuple(sorted({min(max(1, round(share * middle)), last) for share in _SHARES}))


def hash_of(model_hash: str, adapters: Mapping[str, Path]) -> dict[str, str]:
    """What heads hold for: the base, and the members' updates in their order."""
    return {"base": model_hash} | {name: content_hash(path) for name, path in adapters.items()}


def write_heads(heads: ProcessHeads, path: Path, made_on: Mapping[str, str]) -> None:
    """Write to one file, with what they hold for."""
    tensors = {name: torch.as_tensor(array) for name, array in heads.to_arrays().items()}
    write_tensors(path, tensors, {"made_on": json.dumps(made_on)})


def read_heads(path: Path, made_on: Mapping[str, str]) -> ProcessHeads | None:
    """What `write_heads` wrote; None where there is none.

    Raises:
        InputError: they were made on another base or on other members, or the file is damaged.
    """
    if not path.is_file():
        return None
    tensors, metadata = read_tensors(path)
    if json.loads(metadata.get("made_on", "{}")) != dict(made_on):
        raise InputError(
            f"{path}: these heads were fitted for another base or other members; run portfolio again"
        )
    try:
        return ProcessHeads.from_arrays({name: value.numpy() for name, value in tensors.items()})
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
