"""LoRA adapters from folders: opened only if they are whole, merged only if that changes nothing.

The seam to peft's own loading, which warns at most: a file without tensors, or with tensors that fit
nothing, opens as the base policy, and two layers that share one weight are merged into it twice.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch

from tailguard.errors import InputError, first_line
from tailguard.models.library import LanguageModel
from tailguard.models.plain_forward import PlainForwards, apart, plain_forward
from tailguard.models.quiet import without_announcements
from tailguard.models.tokenizer_check import num_embeddings

if TYPE_CHECKING:
    from peft import LoraConfig, PeftModel

CONFIG_NAME = "adapter_config.json"
WEIGHTS_NAME = "adapter_model.safetensors"
_log = logging.getLogger(__name__)
# What makes a LoRA what it is; all else in a config is how it was begun, or another method.
_READ = (
    *("r", "lora_alpha", "rank_pattern", "alpha_pattern", "use_rslora", "use_dora"),
    *("target_modules", "target_parameters", "exclude_modules", "modules_to_save"),
    *("layers_to_transform", "layers_pattern", "fan_in_fan_out", "lora_dropout", "bias"),
)
# How weights were begun, where they came from: they are in the file, and the base is the caller's.
_PASSED_OVER = (
    *("auto_mapping", "base_model_name_or_path", "revision", "peft_version", "peft_type"),
    *("task_type", "inference_mode", "init_lora_weights", "runtime_config"),
)
_PROBE_LENGTHS = (12, 7)


def open_adapter_folder(
    model: LanguageModel, folder: Path, *, trainable: bool = False
) -> LanguageModel:
    """The model, in a peft wrapper, with the adapter; only a trainable one takes gradients.

    Nothing but the folder's two files is read: its names of other models or classes never matter.

    Raises:
        InputError: a file is missing or unreadable, the adapter is no plain LoRA, its tensors do not
            fit the model, or some are missing.
    """
    from peft import get_peft_model

    name = f"adapter {str(folder)!r}"
    config = _read_config(folder, name)
    if not (folder / WEIGHTS_NAME).is_file():
        raise InputError(f"{name} has no {WEIGHTS_NAME}")
    config.inference_mode = not trainable
    try:
        with without_announcements():
            opened = cast("PeftModel", cast(Any, get_peft_model)(model, config))
            result: Any = cast(Any, opened).load_adapter(
                str(folder), "default", is_trainable=trainable, torch_device=str(model.device)
            )
    except Exception as error:  # the libraries raise all kinds at what they cannot read
        if isinstance(error, MemoryError | torch.OutOfMemoryError):
            raise
        # The first line of torch's errors only says that there are more.
        reason = " ".join(str(error).split())[:300]
        raise InputError(f"{name} cannot be loaded: {reason}") from error
    _check_whole(result.missing_keys, result.unexpected_keys, opened, name)
    return cast(LanguageModel, opened)


def _check_whole(missing: list[str], unexpected: list[str], opened: Any, name: str) -> None:
    if unexpected:
        raise InputError(
            f"{name} does not fit this model: it has {len(unexpected)} tensors for layers that the"
            f" model lacks or that its config does not name, as {unexpected[0]}"
        )
    if missing:
        raise InputError(
            f"{name} is not whole: tensors of {len(missing)} are missing, as {missing[0]}; without"
            " them these layers would be the base policy's"
        )
    for key, parameter in opened.named_parameters():
        if ".lora_" in key and not bool(torch.isfinite(parameter).all()):
            raise InputError(f"{name}: {key} has NaN or infinite weights")


def _read_config(folder: Path, name: str) -> LoraConfig:
    from peft import LoraConfig

    path = folder / CONFIG_NAME
    if not path.is_file():
        raise InputError(f"{name} has no {CONFIG_NAME}: give a peft folder")
    try:
        given: Any = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{name}: {CONFIG_NAME} cannot be read: {first_line(error)}") from error
    if not isinstance(given, dict):
        raise InputError(f"{name}: {CONFIG_NAME} must hold one JSON object")
    fields = cast("dict[str, Any]", given)
    if fields.get("peft_type") != "LORA" or fields.get("task_type") not in (None, "CAUSAL_LM"):
        raise InputError(
            f"{name}: {CONFIG_NAME} says peft_type={fields.get('peft_type')!r} and"
            f" task_type={fields.get('task_type')!r}; only LoRA of a causal LM is read"
        )
    usual = vars(LoraConfig())
    for key, value in fields.items():
        if key not in (*_READ, *_PASSED_OVER) and value and value != usual.get(key):
            raise InputError(f"{name}: {CONFIG_NAME} sets {key}, which only plain LoRA leaves out")
    read = {key: fields[key] for key in _READ if fields.get(key) is not None}
    try:
        return LoraConfig(**read, task_type="CAUSAL_LM")
    except (TypeError, ValueError) as error:
        raise InputError(f"{name}: {CONFIG_NAME}: {first_line(error)}") from error


def merge_adapter_folder(model: LanguageModel, folder: Path) -> LanguageModel:
    """The model with the adapter in its weights, so that it runs as fast as before.

    Where merging would give other predictions, its layers stay beside the weights, and one line is
    logged that says so.

    Raises:
        InputError: as `open_adapter_folder`.
    """
    opened = open_adapter_folder(model, folder).eval()
    difference, allowed = merged_difference(opened)
    peft: Any = opened
    if difference <= allowed:
        # The weights stay as they were merged.
        return cast(LanguageModel, peft.unload())
    peft.unmerge_adapter()
    layers = sum(".lora_A." in key for key, _ in peft.named_parameters())
    _log.warning(
        "adapter %r: merged into %s it gives other predictions (off by %.2g of their spread), so it"
        " stays beside the weights: two small matrix products more in each of %d layers for every"
        " token",
        str(folder),
        type(peft.get_base_model()).__name__,
        difference,
        layers,
    )
    return cast(LanguageModel, peft.get_base_model())


@torch.no_grad()
def merged_difference(opened: LanguageModel) -> tuple[float, float]:
    """Merge an opened adapter in place: how far that moves predictions, and how far it may.

    Both in spreads of the logits (`apart`). `unmerge_adapter` of the model takes it out again.
    """
    num_tokens = num_embeddings(opened)
    rows = [[(31 * i + 7 * n) % num_tokens for i in range(n)] for n in _PROBE_LENGTHS]
    plain = PlainForwards(opened, rows)
    cast(Any, opened).merge_adapter()
    worst = 0.0
    for row, expected in zip(rows, plain.rows, strict=True):
        found = plain_forward(opened, torch.tensor([row], device=opened.device))[0]
        worst = max(worst, plain.worst(apart(found.logits, expected.logits)))
    return worst, plain.allowed
