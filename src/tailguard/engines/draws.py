"""Drawing answers one after the other: prompts are read once, and each draw forks their cache.

What a draw gives depends on its prompt, its point and its seed, and not on what else is drawn with
it (up to floating-point differences between batch shapes).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tailguard.data import Prompt
from tailguard.engines.advance import advance
from tailguard.engines.prefix import PrefixWatch
from tailguard.engines.sample import decode_texts, length_batches, tokenize_for, trimmed_rows
from tailguard.engines.sampling_law import SamplingLaw, uniform_draws
from tailguard.engines.soup import SoupPolicy
from tailguard.engines.stepping import DecodingPolicy, Rows, inference
from tailguard.errors import InputError
from tailguard.models.policy import pad_left


@dataclass(frozen=True)
class Drawn:
    """One answer as it was drawn.

    Attributes:
        token_ids: a stop token included.
        text: decoded without special tokens.
        log_prob: under the sampling law; NaN where the model's predictions were.
        finished: ended with a stop token, not by running out of tokens.
        num_passes: model calls it took part in.
        left_off: given up on its way by whoever watched; the text is a beginning.
    """

    token_ids: list[int]
    text: str
    log_prob: float
    finished: bool
    num_passes: int
    left_off: bool = False


@dataclass(frozen=True)
class _Batch:
    """Prompts that were read together."""

    policy: DecodingPolicy
    rows: Rows
    logits: Tensor
    hidden: Tensor | None


class StartedPrompts:
    """Prompts that were read, each at its point, from which answers can be drawn again and again.

    Attributes:
        num_prompt_tokens: of each prompt.
        width: of the states that a watch is shown; 0 where the prompts were started without.
    """

    def __init__(
        self,
        soup: SoupPolicy,
        prompts: Sequence[Prompt],
        points: Sequence[Sequence[float]],
        *,
        max_new_tokens: int,
        law: SamplingLaw,
        batch_size: int = 64,
        watched: bool = False,
    ) -> None:
        """Read the prompts.

        Args:
            soup: the members on one base.
            prompts: at least one.
            points: of the weight space, one for each prompt.
            max_new_tokens: at most so many tokens per answer.
            law: how tokens are drawn.
            batch_size: rows in one forward pass.
            watched: keep the prompts' hidden states, so that draws can be watched.

        Raises:
            InputError: a prompt that is empty or too long, another number of points than of
                prompts, or a count below 1.
        """
        if len(points) != len(prompts):
            raise InputError(f"points: {len(points)} for {len(prompts)} prompts; one for each")
        if max_new_tokens < 1 or batch_size < 1:
            raise InputError("max_new_tokens and batch_size: must be at least 1")
        self._law = law
        self._max_new_tokens = max_new_tokens
        self._batch_size = batch_size
        base = soup.at(points[0])
        token_rows = tokenize_for(base, prompts, max_new_tokens)
        self.num_prompt_tokens = [len(row) for row in token_rows]
        self._member = base.members[0]
        self.width = 0
        self._batches: list[_Batch] = []
        self._place: dict[int, tuple[int, int]] = {}  # prompt → its batch and row
        with inference(base):
            for indices in length_batches(token_rows, batch_size):
                policy = soup.at_rows([points[i] for i in indices])
                encoded = pad_left(
                    [token_rows[i] for i in indices],
                    pad_token_id=self._member.pad_token_id,
                    device=self._member.device,
                )
                rows, step = policy.prefill(encoded, 0, with_hidden=watched)
                self.width = 0 if step.hidden is None else 2 * int(step.hidden.shape[1])
                self._place |= {i: (len(self._batches), row) for row, i in enumerate(indices)}
                self._batches.append(_Batch(policy, rows, step.logits, step.hidden))

    def draw(
        self, prompts: Sequence[int], seeds: Sequence[int], watch: PrefixWatch | None = None
    ) -> list[Drawn]:
        """One new answer for each entry, in order.

        Args:
            prompts: numbers of started prompts; one may be there several times.
            seeds: one for each entry.
            watch: looks at the answers on their way; it calls each by its place in ``prompts``.

        Raises:
            InputError: another number of seeds, or a watch over prompts that were not started for one.
        """
        if watch is not None and any(batch.hidden is None for batch in self._batches):
            raise InputError("watch: the prompts were started without; give watched=True there")
        if len(seeds) != len(prompts):
            raise InputError(f"seeds: {len(seeds)} for {len(prompts)} draws; one for each")
        order = sorted(range(len(prompts)), key=lambda i: self._place[prompts[i]])
        found: dict[int, Drawn] = {}
        for number, batch in enumerate(self._batches):
            mine = [i for i in order if self._place[prompts[i]][0] == number]
            for start in range(0, len(mine), self._batch_size):
                part = mine[start : start + self._batch_size]
                rows = [self._place[prompts[i]][1] for i in part]
                drawn = self._draw(batch, rows, [seeds[i] for i in part], part, watch)
                found.update(zip(part, drawn, strict=True))
        return [found[i] for i in range(len(prompts))]

    def _draw(
        self,
        batch: _Batch,
        origin: list[int],
        seeds: list[int],
        numbers: list[int],
        watch: PrefixWatch | None,
    ) -> list[Drawn]:
        member = self._member
        with inference(batch.policy):
            index = torch.tensor(origin, device=member.device)
            rows = batch.rows.fork(index, self._max_new_tokens)
            if watch is not None and batch.hidden is not None:
                watch.begin(batch.hidden[index].float(), numbers)
            uniform = uniform_draws(seeds, 1, self._max_new_tokens)[:, 0]
            made = advance(
                rows,
                batch.logits[index],
                law=self._law,
                uniform=uniform.to(member.device),
                stop_token_ids=member.stop_token_ids,
                pad_token_id=member.pad_token_id,
                watch=watch,
            )
        token_rows = trimmed_rows(made.token_ids, made.lengths)
        columns = (made.log_probs, made.stopped, made.left_off)
        figures: Any = torch.stack([column.to(made.log_probs) for column in columns], dim=1)
        return [
            Drawn(token_ids, text, log_prob, bool(stopped), len(token_ids), bool(left_off))
            for token_ids, text, (log_prob, stopped, left_off) in zip(
                token_rows, decode_texts(batch.policy, token_rows), figures.tolist(), strict=True
            )
        ]
