"""Fit a reward or a cost as a one-output sequence classifier, through TRL's ``RewardTrainer``.

Reward: Bradley–Terry, −log σ(s_higher − s_lower). Cost: the same, the riskier answer being the
higher one, plus the sign loss −log σ(sign · c) on every answer labelled safe (−1) or unsafe (+1),
which fixes the zero of the cost: c > 0 means unsafe (Dai et al. 2023, 2310.12773).
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from datasets import Dataset
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel, PreTrainedTokenizerBase, PrinterCallback
from trl.trainer.reward_config import RewardConfig
from trl.trainer.reward_trainer import DataCollatorForPreference, RewardTrainer

from tailguard.errors import InputError, first_line
from tailguard.models.checkpoint import require_checkpoint
from tailguard.models.device import find_device, on_one_device, trains_on_cpu
from tailguard.models.library import (
    LOAD_ERRORS,
    LanguageModel,
    ModelOutput,
    Tokenizer,
    decoder_layers,
    load_classifier,
    load_tokenizer,
    pad_with_end,
    score_layer,
)
from tailguard.models.quiet import quiet_transformers
from tailguard.models.random_state import seeded
from tailguard.models.trainer_steps import Progress, StepProgress
from tailguard.scorers.classifier import SequenceClassificationScorer
from tailguard.scorers.encoding import encode_for_scoring
from tailguard.scorers.pairs import ResponsePairs


@dataclass(frozen=True)
class ScorerTraining:
    """How a scorer is trained.

    Attributes:
        learning_rate: AdamW's peak rate; linear warm-up, then cosine decay.
        num_epochs: passes over the pairs.
        batch_size: pairs per step.
        max_tokens: longest input; of a longer answer the first window is fitted on.
        warmup_share: share of the steps that warm up.
        weight_decay: AdamW's.
        num_trained_layers: train only the last so many layers and the score; ``None`` for all.
        sign_weight: weight of the sign loss relative to Bradley–Terry.
        device: where to train; the first GPU or the CPU.
        centre_weight: weight of (s_higher + s_lower)², which keeps scores near zero where no
            answer has a sign.
    """

    learning_rate: float = 2e-4
    num_epochs: float | int = 2.0
    batch_size: int = 16
    max_tokens: int = 256
    warmup_share: float = 0.05
    weight_decay: float = 0.01
    num_trained_layers: int | None = None
    sign_weight: float = 0.5
    device: str = "auto"
    centre_weight: float = 0.01

    def __post_init__(self) -> None:
        """Check that sizes and rates are positive."""
        for name in ("learning_rate", "num_epochs", "batch_size", "max_tokens"):
            if getattr(self, name) <= 0:
                raise InputError(f"{name}: {getattr(self, name)}; must be positive")


def fit_scorer(
    backbone: str | Path,
    pairs: ResponsePairs,
    *,
    settings: ScorerTraining | None = None,
    seed: int = 0,
    on_progress: Progress | None = None,
) -> tuple[SequenceClassificationScorer, dict[str, float]]:
    """Train a one-output scorer from a causal LM (or a sequence classifier) on pairs.

    In float32, deterministic by ``seed`` on one machine, silent, and leaving no files and the
    global generators as they were. The score starts at zero.

    Args:
        backbone: checkpoint folder or hub name.
        pairs: which answer scores higher, with signs for a cost.
        settings: how to train.
        seed: of the order of the pairs.
        on_progress: called with (steps done, steps in all).

    Returns:
        the scorer, and figures of the training (``train_loss``, ``num_steps``).

    Raises:
        InputError: the backbone cannot be read or lacks the layers asked for.
    """
    settings = settings or ScorerTraining()
    with quiet_transformers(), seeded(seed), tempfile.TemporaryDirectory() as folder:
        # The trainer draws from the global generators, which is why `seeded` is here, and asks for a folder.
        model, tokenizer = _load_backbone(backbone)
        _freeze(model, settings.num_trained_layers)
        trainer: Any = _SignedRewardTrainer(
            model=cast(PreTrainedModel, model),
            args=on_one_device(_trainer_arguments(folder, settings, seed, signed=_signed(pairs))),
            train_dataset=_dataset(tokenizer, pairs, settings),
            processing_class=cast(PreTrainedTokenizerBase, tokenizer),
            data_collator=_SignedCollator(pad_token_id=pad_with_end(tokenizer)),
            callbacks=[StepProgress(on_progress)],
        )
        trainer.sign_weight = settings.sign_weight
        trainer.remove_callback(PrinterCallback)
        result = trainer.train()
        model = trainer.accelerator.unwrap_model(trainer.model)
    model.requires_grad_(True)
    metrics = {"train_loss": float(result.training_loss), "num_steps": float(result.global_step)}
    return SequenceClassificationScorer(model, tokenizer, max_tokens=settings.max_tokens), metrics


def pair_accuracy(higher: np.ndarray, lower: np.ndarray) -> float:
    """Share of pairs in the right order, ties counted half; scores [n, members]."""
    margins = higher.mean(axis=1) - lower.mean(axis=1)
    return float(np.mean(np.where(margins == 0.0, 0.5, margins > 0.0)))


class _SignedRewardTrainer(RewardTrainer):
    """TRL's reward trainer with the sign loss added; nothing else changes."""

    sign_weight: float = 0.0

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Tensor | tuple[Tensor, ModelOutput]:
        """Bradley–Terry plus the mean sign loss over the labelled answers."""
        # The model takes no such argument.
        signs = inputs.pop("signs")
        loss, outputs = cast(
            "tuple[Tensor, ModelOutput]",
            super().compute_loss(model, inputs, True, num_items_in_batch),
        )
        labelled = signs != 0
        if self.sign_weight > 0.0 and bool(labelled.any()):
            scores = outputs.logits.squeeze(-1)[labelled]
            loss = loss + self.sign_weight * functional.softplus(-signs[labelled] * scores).mean()
        return (loss, outputs) if return_outputs else loss

    def _send_telemetry(self) -> None:
        """Send nothing: training is private."""


class _SignedCollator(DataCollatorForPreference):
    """Adds the signs [2 × pairs], in the order of the input rows: higher answers, then lower."""

    def torch_call(self, examples: list[dict[str, Any]]) -> dict[str, Any]:
        batch = super().torch_call(examples)
        signs: list[int] = [row["chosen_sign"] for row in examples] + [
            row["rejected_sign"] for row in examples
        ]
        batch["signs"] = torch.tensor(signs, dtype=torch.float32)
        return batch


def _load_backbone(backbone: str | Path) -> tuple[LanguageModel, Tokenizer]:
    require_checkpoint(backbone, "backbone")
    try:
        tokenizer = load_tokenizer(str(backbone))
        model, *_ = load_classifier(str(backbone), num_labels=1)  # a causal LM lacks the score
    except LOAD_ERRORS as error:
        raise InputError(f"backbone {backbone}: cannot be read: {first_line(error)}") from error
    model.config.get_text_config().pad_token_id = pad_with_end(tokenizer)
    layer = score_layer(model)
    if layer is None:
        raise InputError(
            f"backbone {backbone}: {type(model).__name__} has no linear layer `score`; give a"
            " causal LM or a decoder-style sequence classifier"
        )
    torch.nn.init.zeros_(layer.weight)
    return model, tokenizer


def _freeze(model: LanguageModel, num_trained_layers: int | None) -> None:
    """Leave only the last layers, the final norm and the score trainable."""
    if num_trained_layers is None:
        return
    layers = decoder_layers(model)
    if layers is None or not 0 <= num_trained_layers <= len(layers):
        depth = "none" if layers is None else len(layers)
        raise InputError(
            f"num_trained_layers: {num_trained_layers}; the backbone's layers number {depth}"
        )
    # The embeddings too: they are most of a small model, and below all that is trained.
    frozen = [model.get_input_embeddings(), *layers[: len(layers) - num_trained_layers]]
    for module in frozen:
        module.requires_grad_(False)


def _dataset(tokenizer: Tokenizer, pairs: ResponsePairs, settings: ScorerTraining) -> Dataset:
    """TRL's tokenized preference format, with exactly the ids that scoring will read."""
    higher = encode_for_scoring(tokenizer, pairs.prompts, pairs.higher, settings.max_tokens)
    lower = encode_for_scoring(tokenizer, pairs.prompts, pairs.lower, settings.max_tokens)
    unknown = [0] * len(pairs)
    columns: dict[str, Any] = {
        "chosen_ids": higher,
        "rejected_ids": lower,
        "chosen_sign": list(pairs.higher_sign or unknown),
        "rejected_sign": list(pairs.lower_sign or unknown),
        "length": [max(len(a), len(b)) for a, b in zip(higher, lower, strict=True)],
    }
    return cast(Any, Dataset).from_dict(columns)


def _signed(pairs: ResponsePairs) -> bool:
    return any(pairs.higher_sign or ()) or any(pairs.lower_sign or ())


def _trainer_arguments(
    folder: str, settings: ScorerTraining, seed: int, *, signed: bool
) -> RewardConfig:
    return RewardConfig(
        output_dir=folder,
        learning_rate=settings.learning_rate,
        num_train_epochs=settings.num_epochs,
        per_device_train_batch_size=settings.batch_size,
        lr_scheduler_type="cosine",
        warmup_steps=settings.warmup_share,
        weight_decay=settings.weight_decay,
        # Signs fix the zero; without them it would drift, as comparisons leave it free.
        center_rewards_coefficient=None if signed else settings.centre_weight,
        # Rows are cut by `encode_for_scoring` already, as scoring cuts them.
        max_length=None,
        train_sampling_strategy="group_by_length",
        remove_unused_columns=False,
        activation_checkpointing=False,
        # TRL's default is bfloat16, in which scores that are close tie.
        bf16=False,
        use_cpu=trains_on_cpu(find_device(settings.device)),
        dataloader_pin_memory=torch.cuda.is_available(),
        logging_strategy="no",
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        seed=seed,
    )
