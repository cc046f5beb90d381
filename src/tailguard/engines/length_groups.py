"""Rows in groups whose prompts are of one length, for models that cannot be given padding."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from tailguard.engines.stepping import Rows, Step
from tailguard.models.policy import EncodedPrompts


def split_by_length(prompts: EncodedPrompts) -> list[tuple[Tensor, EncodedPrompts]]:
    """Which prompts are of one length, and those prompts without their padding."""
    lengths = prompts.mask.sum(dim=1)
    groups: list[tuple[Tensor, EncodedPrompts]] = []
    for length in sorted({int(n) for n in lengths}):
        members = (lengths == length).nonzero()[:, 0]
        kept = slice(prompts.mask.shape[1] - length, None)
        part = EncodedPrompts(prompts.token_ids[members, kept], prompts.mask[members, kept])
        groups.append((members, part))
    return groups


class LengthGroups:
    """Rows that are read group by group: a pass for each length.

    Args:
        groups: which of the rows each group holds, increasing, and the rows themselves.
    """

    def __init__(self, groups: Sequence[tuple[Tensor, Rows]]) -> None:
        self._groups = list(groups)
        self._passes_of_dropped = 0

    @property
    def num_passes(self) -> int:
        """Model calls made so far."""
        return self._passes_of_dropped + sum(part.num_passes for _, part in self._groups)

    def merge(self, steps: Sequence[Step]) -> Step:
        """The groups' predictions in the order of the rows."""
        hidden = [step.hidden for step in steps if step.hidden is not None]
        logits = self._in_order([step.logits for step in steps])
        return Step(logits, self._in_order(hidden) if hidden else None)

    def _in_order(self, parts: Sequence[Tensor]) -> Tensor:
        order = torch.cat([members for members, _ in self._groups]).argsort()
        return torch.cat(list(parts))[order]

    def step(self, token_ids: Tensor, *, with_hidden: bool = False) -> Step:
        """See `Rows`."""
        return self.merge(
            [
                part.step(token_ids[members], with_hidden=with_hidden)
                for members, part in self._groups
            ]
        )

    def read(self, token_ids: Tensor) -> Tensor:
        """See `Rows`."""
        return self._in_order([part.read(token_ids[members]) for members, part in self._groups])

    def read_hidden(self, token_ids: Tensor) -> Tensor:
        """See `Rows`."""
        read = [part.read_hidden(token_ids[members]) for members, part in self._groups]
        return self._in_order(read)

    def gather(self, rows: Tensor, *, shared_tokens: int | None = None) -> None:
        """See `Rows`."""
        kept: list[tuple[Tensor, Rows]] = []
        for members, part in self._groups:
            new_members, local = _taken(members, rows)
            if new_members.shape[0] == 0:
                self._passes_of_dropped += part.num_passes
                continue
            # New row i shares its prompt, hence its group, with old row i: so do the groups' rows.
            part.gather(local, shared_tokens=shared_tokens)
            kept.append((new_members, part))
        self._groups = kept

    def fork(self, rows: Tensor, max_new_tokens: int) -> LengthGroups:
        """See `Rows`."""
        forked: list[tuple[Tensor, Rows]] = []
        for members, part in self._groups:
            new_members, local = _taken(members, rows)
            if new_members.shape[0]:
                forked.append((new_members, part.fork(local, max_new_tokens)))
        return LengthGroups(forked)


def _taken(members: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Of new rows that are old rows ``rows``: which come from this group, and from where in it."""
    found = rows[:, None] == members
    new_members = found.any(dim=1).nonzero()[:, 0]
    return new_members, found[new_members].long().argmax(dim=1)
