"""LoRA updates of several adapters on one model, weighted anew for every row of a batch.

    y = W x + B_cat · (w_row ⊙ A_cat x),

where A_cat [K·r, in] and B_cat [out, K·r] hold the K updates side by side and w_row repeats each
member's weight over its rank. So rows at different points of the weight space share one pass and one
base. Averaging the A's and the B's apart, as peft's ``linear`` combination does, is not the sum of
the updates.
"""

from __future__ import annotations

import copy
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from tailguard.errors import InputError
from tailguard.models.adapter import open_adapter_folder
from tailguard.models.library import LanguageModel


@dataclass(frozen=True)
class _Update:
    """One member's update of one layer, its scaling in ``up``."""

    down: Float[Tensor, "rank inputs"]
    up: Float[Tensor, "outputs rank"]


class SoupWeights:
    """The weights under which the model is read now; None for the base alone.

    A forward pass has no argument for them, so whoever calls the model sets them around the call.
    """

    def __init__(self) -> None:
        self._rows: Tensor | None = None
        self._spread: dict[tuple[int, ...], Tensor] = {}

    @contextmanager
    def at(self, rows: Float[Tensor, "n members"]) -> Generator[None]:
        """Read the model at these points: one for each row, or one [1, members] for all."""
        before, self._rows, self._spread = self._rows, rows, {}
        try:
            yield
        finally:
            self._rows, self._spread = before, {}

    def over_ranks(self, ranks: tuple[int, ...], like: Tensor) -> Tensor | None:
        """Each member's weight repeated over its rank, [n or 1, 1 …, Σ ranks]; None for the base."""
        if self._rows is None:
            return None
        if self._rows.shape[0] not in (1, like.shape[0]):
            raise InputError(
                "soup: this model takes the rows of a batch apart inside its layers (as mixtures of"
                " experts do), so that rows of one batch cannot have weights of their own"
            )
        if ranks not in self._spread:
            repeats = torch.tensor(ranks, device=self._rows.device)
            self._spread[ranks] = self._rows.repeat_interleave(repeats, dim=1).to(like.dtype)
        spread = self._spread[ranks]
        return spread.reshape(spread.shape[0], *(1,) * (like.dim() - 2), spread.shape[1])


def attach_updates(model: LanguageModel, adapters: Mapping[str, Path]) -> SoupWeights:
    """Put the updates of LoRA adapters on a model, whose own weights stay as they are.

    Args:
        model: the base; its layers get hooks.
        adapters: name → folder of a peft LoRA adapter.

    Returns:
        What sets the weights; while it sets none, the model is the base.

    Raises:
        InputError: a folder is no plain LoRA adapter that fits (as `open_adapter_folder`), or it
            changes more than linear layers, which cannot be weighted by row.
    """
    layers: dict[str, list[_Update]] = {}
    for number, folder in enumerate(adapters.values()):
        for layer, update in _updates(model, folder).items():
            found = layers.setdefault(layer, [])
            # Layers that an earlier member leaves alone get an update of rank 0 from it.
            found += [_nothing(update)] * (number - len(found))
            found.append(update)
    weights = SoupWeights()
    modules = dict(model.named_modules())
    for layer, updates in layers.items():
        updates += [_nothing(updates[0])] * (len(adapters) - len(updates))
        _Hook(weights, updates).attach(modules[layer])
    return weights


class _Hook:
    """Adds a layer's weighted updates to its output."""

    def __init__(self, weights: SoupWeights, updates: Sequence[_Update]) -> None:
        self._weights = weights
        self._ranks = tuple(update.down.shape[0] for update in updates)
        self._down = torch.cat([update.down for update in updates])
        self._up = torch.cat([update.up for update in updates], dim=1)

    def attach(self, module: nn.Module) -> None:
        module.register_forward_hook(self._add)

    def _add(self, _: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        reduced = nn.functional.linear(inputs[0], self._down)
        weights = self._weights.over_ranks(self._ranks, reduced)
        if weights is None:
            return output
        return output + nn.functional.linear(reduced * weights, self._up)


def _nothing(like: _Update) -> _Update:
    return _Update(like.down[:0], like.up[:, :0])


def _updates(model: LanguageModel, folder: Path) -> dict[str, _Update]:
    """Name of a layer of the model → its update."""
    # Other module objects around the same weights: opening an adapter changes modules in place.
    shared = {id(weights): weights for weights in model.parameters()}
    opened: Any = open_adapter_folder(copy.deepcopy(model, shared), folder)
    name = f"adapter {str(folder)!r}"
    config = opened.peft_config["default"]
    if config.use_dora or config.modules_to_save or config.bias != "none":
        raise InputError(
            f"{name}: uses DoRA, trained biases or whole trained modules, which cannot be combined by"
            " weight; train plain LoRA on linear layers"
        )
    found: dict[str, _Update] = {}
    seen: dict[int, str] = {}
    for key, module in opened.base_model.model.named_modules():
        if not hasattr(module, "lora_A"):
            continue
        if "default" not in module.lora_A:
            raise InputError(f"{name}: {key} is an embedding; only linear layers can be combined")
        layer = cast(nn.Module, module.base_layer)
        weight = cast(Any, layer).weight
        if id(weight) in seen:
            raise InputError(
                f"{name}: {key} and {seen[id(weight)]} are one layer used twice, with two updates;"
                " serve this policy alone"
            )
        seen[id(weight)] = key
        down, up = module.lora_A["default"].weight, module.lora_B["default"].weight
        scaled = up.detach() * module.scaling["default"]
        found[key] = _Update(down.detach().to(weight), scaled.to(weight))
    return found
