"""What a model says in plain forward passes, and how near another way of asking it must come.

Plain is one unpadded row at a time, without a cache: what every architecture was written and
trained for. All else (padding, caches, forked rows, merged adapters, a trainer's own forward) can
go wrong silently, and is compared with it.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from tailguard.errors import ScoreError
from tailguard.models.library import LanguageModel, output_layer_inputs

# What is allowed, in full and in half precision: at least, and at most. Between them it is some times
# the rounding that is measured; the cached passes of 70 architectures stay within twice.
_FLOOR, _CAP, _ROUNDINGS = 1e-4, 1e-2, 10.0
_HALF_FLOOR, _HALF_CAP, _HALF_ROUNDINGS = 0.03, 0.15, 3.0
# In half precision, rounding can send a token of a mixture of experts to another expert, which is a
# large difference at one position and none of the reader's doing.
_HALF_QUANTILE = 0.75


@dataclass(frozen=True)
class PlainForward:
    """What a model says at each token of one row.

    Attributes:
        logits: [tokens, vocab].
        hidden: what meets the output layer [tokens, hidden]; None where the model does not show it.
    """

    logits: Tensor
    hidden: Tensor | None


def plain_forward(model: LanguageModel, token_ids: Tensor) -> list[PlainForward]:
    """One pass over rows of one length [n, tokens], without cache, mask or positions."""
    with output_layer_inputs(model) as met:
        logits = model(input_ids=token_ids, use_cache=False).logits
    shown = len(met) == 1 and met[0].shape[:2] == logits.shape[:2]
    return [PlainForward(logits[i], met[0][i] if shown else None) for i in range(logits.shape[0])]


class PlainForwards:
    """Plain forwards of a few rows, and how far rounding alone takes the model from them.

    Attributes:
        rows: one for each row of token ids.

    Raises:
        ScoreError: predictions are NaN.
    """

    def __init__(self, model: LanguageModel, token_rows: Sequence[Sequence[int]]) -> None:
        def as_tensor(rows: Sequence[Sequence[int]]) -> Tensor:
            return torch.tensor([list(row) for row in rows], device=model.device)

        self.rows = [plain_forward(model, as_tensor([row]))[0] for row in token_rows]
        if any(bool(row.logits.isnan().any()) for row in self.rows):
            raise ScoreError("policy: its predictions are NaN; check the model's weights")
        unit = max(torch.finfo(p.dtype).eps for p in model.parameters() if p.is_floating_point())
        self.half = unit > torch.finfo(torch.float32).eps
        # The same again in another shape: rows side by side, cut to the shortest.
        shortest = min(map(len, token_rows))
        with _jittered(model, unit):
            again = plain_forward(model, as_tensor([row[:shortest] for row in token_rows]))
        pairs = zip(again, self.rows, strict=True)
        distances = [apart(one.logits, other.logits[:shortest]) for one, other in pairs]
        self.rounding = self.worst(torch.cat(distances))

    @property
    def allowed(self) -> float:
        """How far apart (`apart`) two ways of asking may be."""
        if self.half:
            return min(max(_HALF_ROUNDINGS * self.rounding, _HALF_FLOOR), _HALF_CAP)
        return min(max(_ROUNDINGS * self.rounding, _FLOOR), _CAP)

    def worst(self, distances: Tensor) -> float:
        """The distance that counts among those of several positions; infinite for NaN."""
        if bool(distances.isnan().any()):
            return float("inf")
        return float(distances.quantile(_HALF_QUANTILE) if self.half else distances.max())


@contextmanager
def _jittered(model: LanguageModel, unit: float) -> Generator[None]:
    """Inside, embeddings are off by up to one rounding."""
    generator = torch.Generator().manual_seed(0)

    def jitter(_: nn.Module, __: object, embedded: Tensor) -> Tensor:
        noise: Any = torch.rand(embedded.shape, generator=generator)
        return embedded * (1.0 + unit * (2.0 * noise - 1.0)).to(embedded)

    hook = model.get_input_embeddings().register_forward_hook(jitter)
    try:
        yield
    finally:
        hook.remove()


def apart(found: Tensor, expected: Tensor) -> Tensor:
    """Mean difference over the last axis, in units of the spread of ``expected``.

    The spread is the median distance from the median, which a few suppressed tokens do not move.
    """
    if found.shape != expected.shape:
        return torch.full(expected.shape[:-1], float("inf"))
    found, expected = found.double().cpu(), expected.double().cpu()
    # Equal infinities (tokens that a model suppresses) are no difference.
    difference = torch.where(found == expected, 0.0, found - expected).abs().mean(dim=-1)
    middle = expected.median(dim=-1, keepdim=True).values
    spread = (expected - middle).abs().median(dim=-1).values
    return difference / torch.where(spread > 0.0, spread, 1.0)
