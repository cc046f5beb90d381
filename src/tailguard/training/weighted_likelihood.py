"""Supervised steps on weighted rows: transformers' Trainer with one loss changed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import (
    PrinterCallback,
    Trainer,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from tailguard.models.library import LanguageModel
from tailguard.models.policy import Policy, pad_left
from tailguard.models.trainer_steps import Progress, StepProgress


class Row(NamedTuple):
    """One answer to learn: the prompt's tokens, the answer's, and what the row counts."""

    prompt_ids: list[int]
    answer_ids: list[int]
    weight: float


class Batch(NamedTuple):
    """Prompts padded on the left, answers on the right, so that answers share their columns.

    Attributes:
        token_ids: [rows, prompt + answer].
        mask: true on the rows' own tokens.
        answer_mask: true on the answers' own tokens.
        weights: what the rows count.
    """

    token_ids: Int[Tensor, "rows tokens"]
    mask: Bool[Tensor, "rows tokens"]
    answer_mask: Bool[Tensor, "rows answer"]
    weights: Float[Tensor, " rows"]


def collate(rows: Sequence[Row], pad_token_id: int) -> Batch:
    """Rows as one batch."""
    prompts = pad_left([row.prompt_ids for row in rows], pad_token_id=pad_token_id)
    reversed_answers = pad_left([row.answer_ids[::-1] for row in rows], pad_token_id=pad_token_id)
    answer_ids, answer_mask = (part.flip(1) for part in reversed_answers)
    return Batch(
        torch.cat([prompts.token_ids, answer_ids], dim=1),
        torch.cat([prompts.mask, answer_mask], dim=1),
        answer_mask,
        torch.tensor([row.weight for row in rows]),
    )


def answer_log_probs(model: LanguageModel, batch: Batch) -> Float[Tensor, " rows"]:
    """Σ_t log π(y_t | x, y_<t) of each row; only the answers' columns meet the output layer."""
    columns = batch.answer_mask.shape[1]
    # Counted from each row's own first token, as the pads stand on the left.
    positions = (batch.mask.cumsum(dim=1) - 1).clamp(min=0)
    logits = model(
        input_ids=batch.token_ids,
        attention_mask=batch.mask.long(),
        position_ids=positions,
        # One more than the answer: its first token is predicted from the prompt's last.
        logits_to_keep=columns + 1,
        use_cache=False,
    ).logits[:, :-1]
    targets = batch.token_ids[:, -columns:]
    loss = torch.nn.functional.cross_entropy(
        logits.float().flatten(0, 1), targets.flatten(), reduction="none"
    )
    return -(loss.view(targets.shape) * batch.answer_mask).sum(dim=1)


def order_by_length(
    lengths: Int[np.ndarray, " rows"], batch_size: int, generator: np.random.Generator
) -> Int[np.ndarray, " rows"]:
    """An order in which batches hold rows of like length and come in random order.

    Ties are shuffled. A short last batch stays last.
    """
    order = generator.permutation(len(lengths))
    order = order[np.argsort(lengths[order], kind="stable")]
    # The short batch is drawn at random, so that the longest rows are not always in it.
    spare = generator.choice(len(order), len(order) % batch_size, replace=False)
    full = np.delete(order, spare).reshape(-1, batch_size)
    return np.concatenate([generator.permutation(full).ravel(), order[spare]])


class WeightedLikelihoodTrainer(Trainer):
    """Minimises −Σ w log π(y|x), each row's log-likelihood summed over its tokens.

    The loss is divided by the mean weight and the mean answer length, constants of the whole set,
    so that neither the objective nor the size of a step depends on them.

    Attributes:
        curve: one dict per step: step, loss (nats per token), learning_rate.
    """

    loss_scale: float = 1.0
    curve: list[dict[str, float]]

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Tensor:
        """The weighted loss; other arguments as in Trainer."""
        del return_outputs, num_items_in_batch
        batch = Batch(**inputs)
        return (
            -self.loss_scale
            * (batch.weights * answer_log_probs(cast(LanguageModel, model), batch)).mean()
        )


class _Recorder(StepProgress):
    def __init__(self, curve: list[dict[str, float]], on_progress: Progress | None) -> None:
        super().__init__(on_progress)
        self._curve = curve

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **_: object,
    ) -> None:
        if logs and "loss" in logs:
            kept = {name: float(logs[name]) for name in ("loss", "learning_rate")}
            self._curve.append({"step": float(state.global_step), **kept})


def weighted_likelihood_trainer(
    policy: Policy,
    rows: Sequence[Row],
    *,
    batch_size: int,
    learning_rate: float,
    seed: int,
    scratch: str,
    on_progress: Progress | None = None,
) -> WeightedLikelihoodTrainer:
    """A silent trainer that passes once over the rows, warming up and then decaying linearly.

    Args:
        policy: whose trainable weights move.
        rows: in the order to be learned; see `order_by_length`.
        batch_size: rows in a step.
        learning_rate: AdamW's peak.
        seed: transformers' own.
        scratch: a folder the Trainer asks for; nothing is kept in it.
        on_progress: called with (step, number of steps).
    """
    num_steps = -(-len(rows) // batch_size)
    arguments = TrainingArguments(
        output_dir=scratch,
        per_device_train_batch_size=batch_size,
        learning_rate=learning_rate,
        lr_scheduler_type="linear",
        # A twentieth: Adam's variance estimates need a few steps, and more would be wasted.
        warmup_steps=num_steps // 20,
        num_train_epochs=1,
        # Rows come in the order of `order_by_length`.
        train_sampling_strategy="sequential",
        remove_unused_columns=False,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        seed=seed,
        dataloader_pin_memory=False,
    )
    curve: list[dict[str, float]] = []
    pad = policy.pad_token_id
    trainer = WeightedLikelihoodTrainer(
        model=cast(nn.Module, policy.model),
        args=arguments,
        train_dataset=cast(Any, list(rows)),
        data_collator=lambda part: collate(part, pad)._asdict(),
        callbacks=[_Recorder(curve, on_progress)],
    )
    trainer.remove_callback(PrinterCallback)
    mean_weight = float(np.mean([row.weight for row in rows]))
    mean_length = float(np.mean([len(row.answer_ids) for row in rows]))
    trainer.loss_scale = 1.0 / (mean_weight * mean_length)
    trainer.curve = curve
    return trainer
