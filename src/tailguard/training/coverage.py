"""What a LoRA adapter covers: every linear layer of the text decoder less the head, and why not more."""

from __future__ import annotations

import copy
import inspect
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, cast

import torch
from peft import LoraConfig
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from tailguard.errors import InputError
from tailguard.models.library import LanguageModel, without_adapter

_LINEAR = (nn.Linear, Conv1D)


@dataclass(frozen=True)
class Coverage:
    """The matrices of a text decoder that an adapter moves, and those that it leaves.

    Attributes:
        covered: names of the linear layers that have an adapter.
        left_out: names of those that have none. In a fresh adapter they are the ones whose weights
            are read past it: state-space layers hand them to kernels, some only on a GPU or only in
            training, so that one policy would be trained and another one read.
        weight_share: of the decoder's matrices (linear layers and stacks), the share of weights that
            the adapter moves.
        stacks: parameters that hold several matrices, as those of experts. A fresh adapter leaves
            them: vLLM names the experts of an adapter one by one and peft a whole stack, so that no
            folder would serve both; and a stack's adapter is as many times larger as it has
            experts.
    """

    covered: tuple[str, ...]
    left_out: tuple[str, ...]
    weight_share: float
    stacks: tuple[str, ...]

    def describe(self) -> str:
        """One line for people."""
        total = len(self.covered) + len(self.left_out)
        text = (
            f"LoRA covers {len(self.covered)} of {total} linear layers of the text decoder,"
            f" {self.weight_share:.0%} of the weights in its matrices"
        )
        left = [f"{count} × {kind}" for kind, count in _kinds(self.left_out).items()]
        left += [f"stacks of {kind} in {n} layers" for kind, n in _kinds(self.stacks).items()]
        return f"{text}; left out: {', '.join(left)}" if left else text

    def to_json(self) -> dict[str, Any]:
        """For the metrics of an artifact: kinds and how many of each, not every name."""
        return {
            "covered": _kinds(self.covered),
            "left_out": _kinds(self.left_out),
            "stacks": _kinds(self.stacks),
            "weight_share": self.weight_share,
        }


def coverage(model: LanguageModel) -> Coverage:
    """What the adapter of a peft model covers; of a bare model, what a fresh one would.

    Raises:
        InputError: the model has no linear layer that could take an adapter.
    """
    bare = without_adapter(model)
    linear, stacks = _matrices(bare)
    adapted = {name for name, part in bare.named_modules() if isinstance(part, BaseTunerLayer)}
    covered = adapted & linear.keys() if adapted else linear.keys() - _read_past(bare)
    if not covered:
        raise InputError(
            f"policy: {type(bare).__name__} has no linear layer that LoRA could adapt; use another"
            " model"
        )
    return Coverage(
        covered=tuple(name for name in linear if name in covered),
        left_out=tuple(name for name in linear if name not in covered),
        weight_share=sum(linear[name] for name in covered)
        / (sum(linear.values()) + sum(stacks.values())),
        stacks=tuple(stacks),
    )


def lora_config(model: LanguageModel, rank: int) -> LoraConfig:
    """A plain peft config for all that `coverage` covers; its scale is 2."""
    names = coverage(model).covered
    config = LoraConfig(
        r=rank, lora_alpha=2 * rank, target_modules=_targets(model, names), task_type="CAUSAL_LM"
    )
    # For some mixtures of experts, peft takes names such as `gate_proj` to mean the experts, which
    # had them in earlier versions of transformers, and would leave the dense layers of that name
    # out. It then takes these layers by their parameters' names; what it saves looks the same.
    meant = _as_peft_reads(config, model)
    if meant is not None:
        taken = set(cast("list[str]", config.target_modules)) - meant
        ends = tuple(f".{target}" for target in taken)
        dense = [name for name in names if name in taken or name.endswith(ends)]
        config.target_modules = sorted(meant)
        config.target_parameters = [f"{name}.weight" for name in dense]
    return config


def _matrices(model: LanguageModel) -> tuple[dict[str, int], dict[str, int]]:
    """How many weights each linear layer of the text decoder has, and each stack of matrices."""
    decoder = cast(Any, model).get_decoder()
    inside = {id(module) for module in decoder.modules()}
    head = model.get_output_embeddings()
    linear: dict[str, int] = {}
    stacks: dict[str, int] = {}
    adapter = "\0"  # whose own parts are no layers of the model; before the first, nobody's name
    for name, module in model.named_modules():
        if id(module) not in inside or module is head or name.startswith(adapter):
            continue
        layer: nn.Module = module
        if isinstance(module, BaseTunerLayer):
            adapter = f"{name}."
            layer = module.get_base_layer()
        if _is_linear(layer):
            linear[name] = cast(Any, layer).weight.numel()
        elif not isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Conv3d):
            for own, parameter in layer.named_parameters(recurse=False):
                if parameter.dim() == 3 and min(parameter.shape) > 1:
                    stacks[f"{name}.{own}"] = parameter.numel()
    return linear, stacks


def _is_linear(module: nn.Module) -> bool:
    """Whether it is used as a linear layer: some routers are one, and give indices of experts too."""
    if not isinstance(module, _LINEAR):
        return False
    if type(module) in _LINEAR:
        return True
    weight = cast(nn.Linear, module).weight
    try:
        with torch.no_grad():
            found: object = module(weight.new_zeros(1, weight.shape[1]))
    except (RuntimeError, ValueError, TypeError):
        return False
    return isinstance(found, Tensor) and found.shape == (1, weight.shape[0])


def _read_past(model: LanguageModel) -> set[str]:
    """Layers whose weights their parents' code reads, past an adapter around them."""
    found: set[str] = set()
    code: dict[type, str] = {}
    for name, module in model.named_modules():
        kind = type(module)
        if kind not in code:
            code[kind] = _source(kind)
        for own, child in module.named_children():
            if _is_linear(child) and _reads_weight(code[kind], own):
                found.add(f"{name}.{own}" if name else own)
    return found


def _source(kind: type) -> str:
    try:
        return inspect.getsource(kind)
    except (OSError, TypeError):
        return ""  # made at run time


def _reads_weight(source: str, name: str) -> bool:
    # Neither its type and device, nor its upkeep in place, nor slices of it (BLOOM's rehearsal of
    # tensor parallelism, off by default) are what a kernel takes.
    passed = rf"self\.{re.escape(name)}\.weight\b(?!\[|\.(dtype|device|data|shape)\b)"
    return re.search(passed, source) is not None


def _targets(model: LanguageModel, names: Iterable[str]) -> list[str]:
    """Short names (`q_proj`) where all layers that end so are meant, else whole ones."""
    wanted = set(names)
    meant = Counter(_last(name) for name in wanted)
    there = Counter(_last(name) for name, _ in model.named_modules())
    return sorted({_last(n) if meant[_last(n)] == there[_last(n)] else n for n in wanted})


def _as_peft_reads(config: LoraConfig, model: LanguageModel) -> set[str] | None:
    """The target modules that peft keeps of a config's; None where it keeps all."""
    from peft.utils import transformers_weight_conversion

    converted = copy.deepcopy(config)
    cast(Any, transformers_weight_conversion).convert_peft_config_for_transformers(
        converted, model, None
    )
    kept = set(cast("set[str]", converted.target_modules))
    return None if kept == set(cast("set[str]", config.target_modules)) else kept


def _last(name: str) -> str:
    return name.rpartition(".")[2]


def _kinds(names: Iterable[str]) -> dict[str, int]:
    return dict(sorted(Counter(map(_last, names)).items()))
