"""The KV cache of a batch of rows: grown in place, forked, gathered.

Layers that keep every position live in one buffer, so that a new token costs one write and not a
copy of the whole cache. Other layers (sliding windows, linear attention) stay as transformers makes
them. Models see an ordinary ``DynamicCache``.
"""

from __future__ import annotations

import copy
from typing import Any, cast

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer, LinearAttentionCacheLayerMixin


class GrowingLayer(DynamicLayer):
    """Keys and values of one layer, [rows, heads, positions, width], in a buffer with spare room."""

    def __init__(self, capacity: int) -> None:
        """Room for ``capacity`` positions at first; more is made when needed."""
        cast(Any, super()).__init__()
        self.capacity = capacity
        self.num_positions = 0
        self._key_buffer = torch.empty(0)
        self._value_buffer = torch.empty(0)

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        """Append positions; returns all keys and values as views of the buffers."""
        start, added = self.num_positions, key_states.shape[-2]
        if not self.is_initialized:
            self.dtype, self.device = key_states.dtype, key_states.device
            self._key_buffer = _room_like(key_states, self.capacity)
            self._value_buffer = _room_like(value_states, self.capacity)
            self.is_initialized = True
        if start + added > self._key_buffer.shape[-2]:
            # Doubling: each position is then copied less than twice over a whole answer.
            self._reserve(2 * (start + added))
        self._key_buffer.narrow(2, start, added).copy_(key_states)
        self._value_buffer.narrow(2, start, added).copy_(value_states)
        self._show(start + added)
        return cast(Tensor, self.keys), cast(Tensor, self.values)

    def gather(self, rows: Tensor, shared: int) -> None:
        """Row i becomes old row ``rows[i]``; the first ``shared`` positions are equal already."""
        self._key_buffer = _gathered(self._key_buffer, rows, shared, self.num_positions)
        self._value_buffer = _gathered(self._value_buffer, rows, shared, self.num_positions)
        self._show(self.num_positions)

    def fork(self, rows: Tensor, capacity: int) -> GrowingLayer:
        """A new layer whose row i is a copy of row ``rows[i]``."""
        forked = GrowingLayer(capacity)
        forked.update(
            cast(Tensor, self.keys).index_select(0, rows),
            cast(Tensor, self.values).index_select(0, rows),
        )
        return forked

    def _reserve(self, capacity: int) -> None:
        for name in ("_key_buffer", "_value_buffer"):
            old = cast(Tensor, getattr(self, name))
            new = _room_like(old, capacity)
            new[:, :, : self.num_positions] = old[:, :, : self.num_positions]
            setattr(self, name, new)

    def _show(self, num_positions: int) -> None:
        self.num_positions = num_positions
        self.keys = self._key_buffer.narrow(2, 0, num_positions)
        self.values = self._value_buffer.narrow(2, 0, num_positions)


def _room_like(states: Tensor, capacity: int) -> Tensor:
    rows, heads, positions, width = states.shape
    return states.new_empty(rows, heads, max(capacity, positions), width)


def _gathered(buffer: Tensor, rows: Tensor, shared: int, end: int) -> Tensor:
    num_rows = rows.shape[0]
    if num_rows > buffer.shape[0]:
        grown = buffer.new_empty(num_rows, *buffer.shape[1:])
        grown[:, :, :end] = buffer[:, :, :end].index_select(0, rows)
        return grown
    # index_select copies before the assignment, so that rows may be swapped in place.
    buffer[:num_rows, :, shared:end] = buffer[:, :, shared:end].index_select(0, rows)
    return buffer[:num_rows]


class RowCache:
    """The cache of one model for a batch of rows.

    Attributes:
        past: what the model takes as its cache.
    """

    def __init__(self, past: DynamicCache) -> None:
        self.past = past

    @classmethod
    def empty(cls, config: Any, capacity: int) -> RowCache:
        """A cache for a model with this config, with room for ``capacity`` positions."""
        past = DynamicCache(config=config)
        past.layers = [
            # Exactly that type: subclasses (sliding windows) forget positions, which a buffer must
            # not.
            GrowingLayer(capacity) if type(layer) is DynamicLayer else layer
            for layer in past.layers
        ]
        return cls(past)

    @property
    def reads_many(self) -> bool:
        """Whether several tokens can be appended at once.

        Recurrent layers of some models (Mamba's first version) go on from their state one token at a
        time only, and start from nothing when given more.
        """
        layers = cast("list[Any]", self.past.layers)
        return not any(isinstance(layer, LinearAttentionCacheLayerMixin) for layer in layers)

    def gather(self, rows: Tensor, shared: int = 0) -> None:
        """Row i becomes old row ``rows[i]``.

        Args:
            rows: indices [m] of old rows.
            shared: number of leading positions in which new row i equals old row i, so that they
                need no copy. Layers that do not keep every position ignore it.
        """
        for layer in cast("list[Any]", self.past.layers):
            if isinstance(layer, GrowingLayer):
                layer.gather(rows, shared)
            else:
                layer.reorder_cache(rows)

    def fork(self, rows: Tensor, capacity: int) -> RowCache:
        """A new cache whose row i is a copy of row ``rows[i]``; this one stays as it is."""
        # Shallow: the layers are replaced right below, the rest is shared.
        past = copy.copy(self.past)
        past.layers = [_fork_layer(layer, rows, capacity) for layer in self.past.layers]
        return RowCache(past)


def _fork_layer(layer: Any, rows: Tensor, capacity: int) -> Any:
    if isinstance(layer, GrowingLayer):
        return layer.fork(rows, capacity)
    copied = copy.deepcopy(layer)
    copied.reorder_cache(rows)
    return copied
