"""A short probe through everything that the engine does with rows, against plain forwards."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from tailguard.engines.single_policy import SinglePolicy
from tailguard.engines.stepping import Step
from tailguard.errors import first_line
from tailguard.models.plain_forward import PlainForwards, apart
from tailguard.models.policy import Policy, pad_left

_NUM_READ = 3  # tokens that are read at once
_NUM_NEW = 1 + _NUM_READ + 2
# Longer than the convolutions of recurrent layers (4 tokens), and shorter.
_LENGTHS = (9, 3)
_WINDOW_NAMES = ("sliding_window", "attention_window_size", "attention_chunk_size", "window_size")
# Tokens × weights beyond which a probe past the window would take longer than a second or so.
_AFFORDABLE_ON_CPU, _AFFORDABLE = 4e9, 1e13


@dataclass(frozen=True)
class Fault:
    """Where the engine is not what plain forwards are.

    Attributes:
        check: what was tried.
        text: what came out of it.
    """

    check: str
    text: str


class Probe:
    """Two continuations of each of a few prompts, and what plain forwards say about them.

    Attributes:
        window: of the model's local attention, in tokens, where the probe goes past it, else 0.
        untried_window: the same where rows go past it in use and the probe does not, else 0.
        has_hidden: whether the model shows what meets its output layer.
    """

    def __init__(self, policy: Policy) -> None:
        window = _local_window(policy)
        self.window = window if _affordable(policy, window) else 0
        # Rows as long as the context stay inside a window of that length.
        reached = window < policy.context_tokens
        self.untried_window = window if reached and not self.window else 0
        lengths = [min(n, max(1, policy.context_tokens - _NUM_NEW)) for n in _LENGTHS]
        if self.window:
            # Already past it, and going past it token by token.
            lengths = [self.window + 3, max(self.window - 1, 1), *lengths[1:]]
        ids = _ordinary_ids(policy, 2 * sum(lengths) + 2 * _NUM_NEW * len(lengths))
        self.prompts = [[next(ids) for _ in range(n)] for n in lengths]
        self.common = [next(ids) for _ in lengths]
        self.ends = [[next(ids) for _ in range(_NUM_NEW - 1)] for _ in lengths for _ in range(2)]
        self.plain = PlainForwards(policy.model, [self._row(i) for i in range(len(self.ends))])
        self.has_hidden = all(row.hidden is not None for row in self.plain.rows)

    def _row(self, index: int) -> list[int]:
        """Continuation ``index % 2`` of prompt ``index // 2``."""
        prompt = index // 2
        return [*self.prompts[prompt], self.common[prompt], *self.ends[index]]

    def first_fault(self, policy: SinglePolicy) -> Fault | None:
        """The first thing in which the engine differs from plain forwards."""
        return next((fault for _, fault in self.checks(policy) if fault is not None), None)

    def checks(self, policy: SinglePolicy) -> Iterator[tuple[str, Fault | None]]:
        """Each check and what is wrong; they end where the model raises an error."""
        current = "reading prompts"
        try:
            for tried in self._scenario(policy):
                current = tried.check
                yield current, self._compare(tried)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # noqa: BLE001  # models raise whatever they like
            text = f"{type(error).__name__} in or after it: {first_line(error)}"
            yield current, Fault(current, text)

    def _scenario(self, policy: SinglePolicy) -> Iterator[_Tried]:
        yield from self._one_row(policy)
        yield from self._several_rows(policy)

    def _one_row(self, policy: SinglePolicy) -> Iterator[_Tried]:
        """A row alone, which has no padding, and which is read without a mask."""
        member, hidden = policy.policy, self.has_hidden
        encoded = pad_left(self.prompts[:1], pad_token_id=member.pad_token_id, device=member.device)
        rows, step = policy.prefill(encoded, 1, with_hidden=hidden)
        yield _Tried.step("a prompt", step, [0], 0)
        step = rows.step(torch.tensor(self.common[:1], device=member.device), with_hidden=hidden)
        yield _Tried.step("one more token", step, [0], 1)
        several = torch.tensor([self.ends[0][:_NUM_READ]], device=member.device)
        yield _Tried("several more tokens", rows.read(several), None, [0], 2)

    def _several_rows(self, policy: SinglePolicy) -> Iterator[_Tried]:
        """All that is done with rows, one after the other on the same rows."""
        member, hidden = policy.policy, self.has_hidden

        def on_device(numbers: Sequence[int]) -> Tensor:
            return torch.tensor(numbers, device=member.device)

        def column(rows: Sequence[int], number: int) -> Tensor:
            return on_device([self.ends[row][number] for row in rows])

        both = list(range(len(self.ends)))
        firsts, seconds = both[::2], both[1::2]
        encoded = pad_left(self.prompts, pad_token_id=member.pad_token_id, device=member.device)
        rows, step = policy.prefill(encoded, 1, with_hidden=hidden)
        yield _Tried.step("prompts of unlike lengths", step, firsts, 0)
        step = rows.step(on_device(self.common), with_hidden=hidden)
        yield _Tried.step("one more token in each", step, firsts, 1)
        several = torch.stack([column(both, i) for i in range(_NUM_READ)], dim=1)
        origin = on_device(both) // 2
        forked = rows.fork(origin, 1)  # too little room, so that buffers grow
        read = forked.read(several)
        yield _Tried("several more tokens in forked rows", read, None, both, 2)
        if hidden:
            states = rows.fork(origin, _NUM_READ).read_hidden(several)
            yield _Tried("hidden states of several tokens", None, states, both, 2)
        # The second continuation wins in both rows of each prompt, as in guided decoding.
        winners = [row for row in seconds for _ in range(2)]
        forked.gather(on_device(winners), shared_tokens=1)
        step = forked.step(column(winners, _NUM_READ), with_hidden=hidden)
        yield _Tried.step("gathered rows", step, winners, 2 + _NUM_READ)
        forked.gather(on_device(firsts[::-1]))
        step = forked.step(column(seconds[::-1], _NUM_READ + 1), with_hidden=hidden)
        yield _Tried.step("rows in another order", step, seconds[::-1], 3 + _NUM_READ)
        step = rows.step(column(firsts, 0), with_hidden=hidden)
        yield _Tried.step("the rows that were forked", step, firsts, 2)

    def _compare(self, tried: _Tried) -> Fault | None:
        distances: list[Tensor] = []
        for number, row in enumerate(tried.rows):
            start = len(self.prompts[row // 2]) - 1 + tried.num_new
            plain = self.plain.rows[row]
            if tried.logits is not None:
                found = tried.logits[number]
                expected = plain.logits[start : start + found.shape[0], : found.shape[1]]
                distances.append(apart(found, expected))
            if tried.hidden is not None and plain.hidden is not None:
                found = tried.hidden[number]
                distances.append(apart(found, plain.hidden[start : start + found.shape[0]]))
        worst = self.plain.worst(torch.cat(distances))
        if worst <= self.plain.allowed:
            return None
        return Fault(
            tried.check, f"off by {worst:.2g} of the spread, {self.plain.allowed:.2g} allowed"
        )


class _Tried(NamedTuple):
    """What came out of one thing that was tried.

    Attributes:
        check: what it was.
        logits: at one position or several that follow each other [n, positions, vocab].
        hidden: at the same positions.
        rows: of which continuations.
        num_new: how many tokens come after the prompt until the first position.
    """

    check: str
    logits: Tensor | None
    hidden: Tensor | None
    rows: list[int]
    num_new: int

    @classmethod
    def step(cls, check: str, step: Step, rows: list[int], num_new: int) -> _Tried:
        hidden = None if step.hidden is None else step.hidden[:, None]
        return cls(check, step.logits[:, None], hidden, rows, num_new)


def _ordinary_ids(policy: Policy, count: int) -> Iterator[int]:
    """Token ids all over the vocabulary, without those that models treat specially."""
    width = min(policy.num_token_ids, int(policy.model.config.get_text_config().vocab_size))
    special = {*policy.stop_token_ids, policy.pad_token_id, *policy.absent_token_ids}
    allowed = [i for i in range(width) if i not in special] or list(range(width))
    return iter(random.Random(0).choices(allowed, k=count))


def _local_window(policy: Policy) -> int:
    config = policy.model.config.get_text_config()
    found: list[Any] = [getattr(config, name, None) for name in _WINDOW_NAMES]
    return min((int(n) for n in found if isinstance(n, int) and n > 1), default=0)


def _affordable(policy: Policy, window: int) -> bool:
    longest = window + 3 + _NUM_NEW
    cost = longest * sum(p.numel() for p in policy.model.parameters())
    allowed = _AFFORDABLE_ON_CPU if policy.device.type == "cpu" else _AFFORDABLE
    return longest <= policy.context_tokens and cost <= allowed
