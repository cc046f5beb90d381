"""Soups: one base, the LoRA updates of several policies, and weights for every row.

A *point* w of the weight space is the policy base + Σ_k w_k Δ_k. Any weights will do: negative ones
extrapolate, and a sum other than 1 scales the whole update (Rewarded Soups, 2306.04488).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from tailguard.engines.self_test import tested_policy
from tailguard.engines.single_policy import SinglePolicy
from tailguard.engines.stepping import Rows, Step
from tailguard.errors import InputError
from tailguard.models.policy import EncodedPrompts, Policy, load_policy
from tailguard.models.soup_layers import SoupWeights, attach_updates


class SoupPolicy:
    """Several policies of one base in one model.

    Attributes:
        names: of the members, in the order of the weights.
    """

    def __init__(self, base: Policy, adapters: Mapping[str, Path]) -> None:
        """Put the members' updates on the base; its model is this soup's from then on.

        Raises:
            InputError: no adapters, or one that cannot be combined (`attach_updates`).
        """
        if not adapters:
            raise InputError("adapters: none; a soup has at least one")
        self._base = tested_policy(base)
        self.names = tuple(adapters)
        self._weights = attach_updates(base.model, adapters)

    @classmethod
    def load(
        cls,
        path: str | Path,
        adapters: Mapping[str, Path],
        *,
        trust_remote_code: bool = False,
        device: str = "auto",
        dtype: str = "auto",
    ) -> SoupPolicy:
        """From a model and folders of peft adapters; options and errors as of `load_policy`."""
        base = load_policy(path, trust_remote_code=trust_remote_code, device=device, dtype=dtype)
        return cls(base, adapters)

    @property
    def base(self) -> Policy:
        """The model without updates, its tokenizer and limits."""
        return self._base.policy

    def at(self, point: Sequence[float]) -> SoupAt:
        """The policy at one point, for everything that takes a `DecodingPolicy`.

        Raises:
            InputError: another number of weights than of members, or one that is not finite.
        """
        return self.at_rows([point])

    def at_rows(self, points: Sequence[Sequence[float]]) -> SoupAt:
        """As `at`, with a point for each prompt of the next `SoupAt.prefill`."""
        weights = np.asarray(points, dtype=np.float64)
        if weights.ndim != 2 or weights.shape[1] != len(self.names) or len(weights) == 0:
            raise InputError(
                f"point: shape {weights.shape[1:]}; one weight for each of {', '.join(self.names)}"
            )
        if not np.isfinite(weights).all():
            raise InputError(f"point: {weights.tolist()}; weights must be finite")
        rows = torch.as_tensor(weights, dtype=torch.float32, device=self.base.device)
        return SoupAt(self._base, self._weights, rows)


class SoupAt:
    """A soup at given points: one for all rows, or one for each."""

    def __init__(
        self, base: SinglePolicy, weights: SoupWeights, rows: Float[Tensor, "n members"]
    ) -> None:
        self._base = base
        self._weights = weights
        self._rows = rows

    @property
    def members(self) -> tuple[Policy, ...]:
        """The one model."""
        return self._base.members

    def prefill(
        self, prompts: EncodedPrompts, max_new_tokens: int, *, with_hidden: bool = False
    ) -> tuple[Rows, Step]:
        """See `DecodingPolicy`.

        Raises:
            InputError: points for another number of rows; or points that differ, of a model whose
                rows of unlike lengths are read apart.
        """
        num_rows = prompts.token_ids.shape[0]
        if self._rows.shape[0] not in (1, num_rows):
            raise InputError(f"points: {self._rows.shape[0]} for {num_rows} rows; one for each")
        apart = self._base.mode.cached and not self._base.mode.padded
        if apart and self._rows.shape[0] > 1 and not bool(prompts.mask.all()):
            raise InputError(
                "points: this model reads prompts of unlike lengths apart (see its self-test), so"
                " that one batch has one point; ask for each point in a call of its own"
            )
        with self._weights.at(self._rows):
            rows, step = self._base.prefill(prompts, max_new_tokens, with_hidden=with_hidden)
        return SoupRows(rows, self._weights, self._rows), step


class SoupRows:
    """Rows that bring their points to every pass."""

    def __init__(self, rows: Rows, weights: SoupWeights, points: Tensor) -> None:
        self._inner = rows
        self._weights = weights
        self._points = points

    @property
    def num_passes(self) -> int:
        """See `Rows`."""
        return self._inner.num_passes

    def step(self, token_ids: Tensor, *, with_hidden: bool = False) -> Step:
        """See `Rows`."""
        with self._weights.at(self._points):
            return self._inner.step(token_ids, with_hidden=with_hidden)

    def read(self, token_ids: Tensor) -> Tensor:
        """See `Rows`."""
        with self._weights.at(self._points):
            return self._inner.read(token_ids)

    def read_hidden(self, token_ids: Tensor) -> Tensor:
        """See `Rows`."""
        with self._weights.at(self._points):
            return self._inner.read_hidden(token_ids)

    def gather(self, rows: Tensor, *, shared_tokens: int | None = None) -> None:
        """See `Rows`."""
        self._inner.gather(rows, shared_tokens=shared_tokens)
        self._points = self._taken(rows)

    def fork(self, rows: Tensor, max_new_tokens: int) -> SoupRows:
        """See `Rows`."""
        forked = self._inner.fork(rows, max_new_tokens)
        return SoupRows(forked, self._weights, self._taken(rows))

    def _taken(self, rows: Tensor) -> Tensor:
        return self._points if self._points.shape[0] == 1 else self._points[rows]
