"""LoRA adapters on a base policy: opened for training, and saved so that peft and vLLM load them."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

from tailguard.errors import InputError
from tailguard.models.adapter import open_adapter_folder
from tailguard.models.dropout import switch_off_dropout
from tailguard.models.library import LanguageModel
from tailguard.models.policy import Policy, load_policy
from tailguard.models.quiet import without_announcements
from tailguard.models.random_state import seeded
from tailguard.training.coverage import Coverage, lora_config


@dataclass(frozen=True)
class TrainedAdapter:
    """A trained LoRA adapter and how its training went.

    Attributes:
        path: a plain peft folder.
        coverage: what of the policy it moves.
        curve: one dict of figures per step.
        seconds: wall-clock time of the training.
    """

    path: Path
    coverage: Coverage
    curve: list[dict[str, float]] = field(default_factory=list[dict[str, float]])
    seconds: float = 0.0


def open_adapter(
    base: str | Path,
    start_adapter: Path | None = None,
    *,
    rank: int = 16,
    seed: int = 0,
    device: str = "auto",
    dtype: str = "auto",
) -> Policy:
    """The base policy with a trainable LoRA adapter on all that `coverage` covers.

    Args:
        base: checkpoint of the base policy, which stays frozen: it is the reference π_ref.
        start_adapter: continue this adapter; otherwise a fresh one, whose update is zero.
        rank: of a fresh adapter; its scale is 2, so alpha is 2·rank.
        seed: of a fresh adapter's first weights.
        device: as of `load_policy`.
        dtype: of the base policy's weights, as of `load_policy`; the adapter's are float32.

    Returns:
        A policy whose model is a peft model; only the adapter's weights take gradients.

    Raises:
        InputError: nothing there, or an adapter that is not one.
    """
    from peft import get_peft_model

    policy = load_policy(base, device=device, dtype=dtype)
    switch_off_dropout(policy.model)
    if start_adapter is not None:
        model = open_adapter_folder(policy.model, Path(start_adapter), trainable=True)
        return replace(policy, model=model)
    if rank < 1:
        raise InputError(f"rank={rank}: give at least 1")
    # peft draws the first weights from the global generator.
    with seeded(seed), without_announcements():
        config = lora_config(policy.model, rank)
        return replace(policy, model=cast(Any, get_peft_model)(policy.model, config))


def save_adapter(model: LanguageModel, folder: Path) -> Path:
    """Write a plain peft LoRA adapter: `adapter_config.json` and `adapter_model.safetensors`.

    The same weights give the same bytes: the config's sets are sorted, and no model card is left.
    """
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(str(folder))
    # A generic model card, which says nothing of this adapter.
    (folder / "README.md").unlink(missing_ok=True)
    path = folder / "adapter_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    for key in ("target_modules", "target_parameters"):
        if isinstance(config[key], list):
            config[key] = sorted(cast("list[str]", config[key]))
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    return folder
