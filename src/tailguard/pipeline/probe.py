"""How fast the policy reads and draws here, and how large it is: one load, a few timed passes."""

from __future__ import annotations

import math
import resource
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from tailguard.config import Recipe
from tailguard.data import Prompt
from tailguard.engines import response_hidden_states, sample_responses
from tailguard.models.policy import Policy, tokenize_prompts
from tailguard.pipeline.inventory import Inventory
from tailguard.pipeline.sources import load_reference
from tailguard.pipeline.workload import Lengths

_FEW_ROWS, _MANY_ROWS = 4, 64
_FIRST_TOKENS = 8  # of the first, short draw, which tells whether there is time for whole answers
_PATIENCE_SECONDS = 3.0  # for the draw of whole answers
_LIBRARIES_BYTES = 6e8  # of a process that has loaded what the stages need


@dataclass(frozen=True)
class Speed:
    """Seconds, on one thread count.

    Attributes:
        read: per token that is read.
        step: per model call that draws, whatever its rows.
        row: more, for each row of it.
    """

    read: float
    step: float
    row: float


@dataclass(frozen=True)
class Probe:
    """What was measured of the policy on this machine.

    Attributes:
        lengths: of prompts and answers.
        speed: with all threads.
        speed_alone: with one; the same where there is only one, or a GPU.
        num_threads: all of them.
        on_cpu: worker processes share the work there; on a GPU stages work alone.
        load_seconds: to load the model.
        process_bytes: of a process with its libraries, without a model.
        weight_bytes: of the model.
        cache_bytes: of the cache of one token in one row.
        activation_bytes: that training keeps of one token.
        vocab_size: entries of a row of logits.
    """

    lengths: Lengths
    speed: Speed
    speed_alone: Speed
    num_threads: int
    on_cpu: bool
    load_seconds: float
    process_bytes: float
    weight_bytes: float
    cache_bytes: float
    activation_bytes: float
    vocab_size: int

    def speed_of(self, num_threads: int) -> Speed:
        """With fewer threads, by the power law through the two that were measured."""
        if num_threads >= self.num_threads or self.num_threads == 1:
            return self.speed
        gone = math.log(self.num_threads / num_threads) / math.log(self.num_threads)

        def between(alone: float, together: float) -> float:
            return together * (alone / together) ** gone if min(alone, together) > 0 else alone

        one, every = self.speed_alone, self.speed
        return Speed(
            between(one.read, every.read),
            between(one.step, every.step),
            between(one.row, every.row),
        )


def probe_policy(
    recipe: Recipe, inventory: Inventory, *, clock: Callable[[], float] = time.perf_counter
) -> Probe:
    """Load the policy, draw a few answers and read them.

    Args:
        recipe: whose policy it is.
        inventory: examples to draw for.
        clock: in seconds.

    Raises:
        InputError: the model cannot be loaded, or a prompt does not fit its context.
    """
    process = max(_resident_bytes(), _LIBRARIES_BYTES)
    policy, loaded = _load(recipe, clock)
    if loaded < _PATIENCE_SECONDS:  # the first load also imports what only some models need
        policy, loaded = _load(recipe, clock)
    num_threads, on_cpu = torch.get_num_threads(), policy.device.type == "cpu"
    speed, answer = _measure(policy, recipe, inventory.prompts, clock)
    alone = speed
    if on_cpu and num_threads > 1:
        torch.set_num_threads(1)
        try:
            alone, _ = _measure(policy, recipe, inventory.prompts, clock)
        finally:
            torch.set_num_threads(num_threads)
    config = policy.model.config.get_text_config()
    layers = int(getattr(config, "num_hidden_layers", 1))
    return Probe(
        lengths=_lengths(policy, inventory, answer, layers),
        speed=speed,
        speed_alone=alone,
        num_threads=num_threads,
        on_cpu=on_cpu,
        load_seconds=loaded,
        process_bytes=process,
        weight_bytes=float(sum(p.numel() * p.element_size() for p in policy.model.parameters())),
        cache_bytes=_cache_bytes(policy, layers),
        # About what a layer keeps in float32: inputs of its products, the norms, and attention.
        activation_bytes=layers * 30.0 * policy.hidden_size * 4,
        vocab_size=int(config.vocab_size),
    )


def _measure(
    policy: Policy, recipe: Recipe, prompts: list[Prompt], clock: Callable[[], float]
) -> tuple[Speed, float]:
    """The speed, and the mean length of an answer in tokens."""
    most = recipe.policy.max_new_tokens

    def draw(rows: int, tokens: int) -> tuple[float, int, list[list[int]]]:
        started = clock()
        drawn = sample_responses(
            policy,
            asked[:rows],
            max_new_tokens=tokens,
            temperature=recipe.policy.temperature,
            generator=torch.Generator().manual_seed(0),
            batch_size=rows,
        )
        return clock() - started, drawn.num_passes, drawn.token_rows

    asked = [prompts[i % len(prompts)] for i in range(_MANY_ROWS)]
    draw(1, 1)  # the first pass also allocates
    few, few_passes, _ = draw(_FEW_ROWS, min(_FIRST_TOKENS, most))
    whole = few / few_passes * most < _PATIENCE_SECONDS
    many, many_passes, answers = draw(_MANY_ROWS, most if whole else min(_FIRST_TOKENS, most))
    read = _measure_reading(policy, asked, [answer or [0] for answer in answers], clock)
    # Prompts were read on the way, which is counted apart; what is left is drawing.
    lengths = [len(row) for row in tokenize_prompts(policy, asked)]
    fast = _without(few, read * sum(lengths[:_FEW_ROWS])) / few_passes
    slow = _without(many, read * sum(lengths)) / many_passes
    # A straight line through two points: rows that ended take no part.
    tokens = sum(map(len, answers))
    rows = max(tokens / many_passes, _FEW_ROWS + 1)
    row = max(0.0, (slow - fast) / (rows - _FEW_ROWS))
    step = max(fast - _FEW_ROWS * row, 0.1 * fast)
    return Speed(read=read, step=step, row=row), tokens / _MANY_ROWS if whole else float(most)


def _without(seconds: float, part: float) -> float:
    """The rest, at least a third: two measurements may disagree."""
    return max(seconds - part, seconds / 3)


def _measure_reading(
    policy: Policy, prompts: list[Prompt], answers: list[list[int]], clock: Callable[[], float]
) -> float:
    """Seconds per token, in batches as large as there is time for: small ones cost more per token."""
    spent, rows = 0.0, _FEW_ROWS
    while True:
        started = clock()
        ends = [[len(answer)] for answer in answers[:rows]]
        response_hidden_states(policy, prompts[:rows], answers[:rows], ends, batch_size=rows)
        spent = clock() - started
        if rows >= len(prompts) or 8 * spent > _PATIENCE_SECONDS:
            break
        rows = len(prompts)
    pairs = zip(tokenize_prompts(policy, prompts[:rows]), answers[:rows], strict=True)
    # With the padding: the stages put answers of like length together and have next to none.
    return spent / (rows * max(len(prompt) + len(answer) for prompt, answer in pairs))


def _load(recipe: Recipe, clock: Callable[[], float]) -> tuple[Policy, float]:
    started = clock()
    policy = load_reference(recipe)
    return policy, clock() - started


def _lengths(policy: Policy, inventory: Inventory, answer: float, num_layers: int) -> Lengths:
    texts = {
        kind: [text for pair in pairs for text in (pair.chosen, pair.rejected)]
        for kind, pairs in inventory.pairs.items()
    }
    return Lengths(
        prompt=_mean_length(tokenize_prompts(policy, inventory.prompts)),
        answer=answer,
        pair_answer={
            kind: _mean_length(policy.tokenizer(found, add_special_tokens=False)["input_ids"])
            for kind, found in texts.items()
            if found
        },
        num_layers=num_layers,
    )


def _mean_length(rows: list[list[int]]) -> float:
    return sum(map(len, rows)) / len(rows)


def _cache_bytes(policy: Policy, layers: int) -> float:
    """Keys and values of one token; recurrent models keep less, which is then an upper bound."""
    config = policy.model.config.get_text_config()
    heads = int(getattr(config, "num_attention_heads", 1) or 1)
    key_heads = int(getattr(config, "num_key_value_heads", None) or heads)
    width = int(getattr(config, "head_dim", None) or policy.hidden_size // heads)
    itemsize = next(iter(policy.model.parameters())).element_size()
    return 2.0 * layers * key_heads * width * itemsize


def _resident_bytes() -> float:
    """The largest so far: kilobytes on Linux, bytes on macOS."""
    import sys

    unit = 1 if sys.platform == "darwin" else 1024
    return float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit)
