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

from tailguard.models.device import on_one_device, trains_on_cpu
from tailguard.models.library import LanguageModel, only_columns
from tailguard.models.policy import Policy
from tailguard.models.trainer_steps import Progress, StepProgress


class Row(NamedTuple):
    """One answer to learn: the prompt's tokens, the answer's, and what the row counts."""

    prompt_ids: list[int]
    answer_ids: list[int]
    weight: float


class Batch(NamedTuple):
    """Rows from their first token on, filled up on the right, where causal models see no fillers.

    So neither a mask nor positions need be passed, which some models read in ways of their own.

    Attributes:
        token_ids: [rows, prompt + answer].
        columns: of the tokens that each token of the answer is predicted from [rows, answer].
        answer_ids: the answers [rows, answer].
        answer_mask: true on the answers' own tokens.
        weights: what the rows count.
    """

    token_ids: Int[Tensor, "rows tokens"]
    columns: Int[Tensor, "rows answer"]
    answer_ids: Int[Tensor, "rows answer"]
    answer_mask: Bool[Tensor, "rows answer"]
    weights: Float[Tensor, " rows"]


def collate(rows: Sequence[Row], pad_token_id: int) -> Batch:
    """Rows as one batch."""
    longest = max(len(row.prompt_ids) + len(row.answer_ids) for row in rows)
    lengths = torch.tensor([len(row.answer_ids) for row in rows])
    offsets = torch.arange(int(lengths.max()))
    first = torch.tensor([len(row.prompt_ids) - 1 for row in rows])
    # The first is predicted from the prompt's last; where there is no token, any column will do.
    columns = (first[:, None] + offsets).clamp(max=longest - 1)
    token_ids = torch.full((len(rows), longest), pad_token_id)
    for i, row in enumerate(rows):
        whole = [*row.prompt_ids, *row.answer_ids]
        token_ids[i, : len(whole)] = torch.tensor(whole)
    answer_ids = token_ids.gather(1, (columns + 1).clamp(max=longest - 1))
    weights = torch.tensor([row.weight for row in rows])
    return Batch(token_ids, columns, answer_ids, offsets < lengths[:, None], weights)


def answer_log_probs(model: LanguageModel, batch: Batch) -> Float[Tensor, " rows"]:
    """Σ_t log π(y_t | x, y_<t) of each row; only these positions meet the output layer."""
    with only_columns(model, batch.columns):
        logits = model(input_ids=batch.token_ids, use_cache=False).logits
    loss = torch.nn.functional.cross_entropy(
        logits.float().flatten(0, 1), batch.answer_ids.flatten(), reduction="none"
    )
    return -(loss.view(batch.answer_ids.shape) * batch.answer_mask).sum(dim=1)


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
        loss_scale: what the sums are multiplied by.
        micro_batch: rows in one forward pass.
        curve: one dict per step: step, loss (nats per token), learning_rate.
    """

    loss_scale: float = 1.0
    micro_batch: int = 1
    curve: list[dict[str, float]]

    def training_step(
        self,
        model: nn.Module,
        inputs: dict[str, Tensor],
        num_items_in_batch: Tensor | int | None = None,
    ) -> Tensor:
        """The gradient of one batch, summed over parts of at most `micro_batch` rows."""
        del num_items_in_batch
        model.train()
        batch = Batch(**cast(Any, self)._prepare_inputs(inputs))
        total = torch.zeros((), device=batch.weights.device)
        for start in range(0, len(batch.weights), self.micro_batch):
            rows = slice(start, start + self.micro_batch)
            part = Batch(*(tensor[rows] for tensor in batch))
            log_probs = answer_log_probs(cast(LanguageModel, model), part)
            # Divided by the whole batch's rows, so that parts of different sizes add up.
            loss = -self.loss_scale * (part.weights * log_probs).sum() / len(batch.weights)
            cast(Any, self).accelerator.backward(loss)
            total += loss.detach()
        return total


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
    micro_batch: int,
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
        micro_batch: rows in one forward pass.
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
        use_cpu=trains_on_cpu(policy.device),
    )
    curve: list[dict[str, float]] = []
    pad = policy.pad_token_id
    trainer = WeightedLikelihoodTrainer(
        model=cast(nn.Module, policy.model),
        args=on_one_device(arguments),
        train_dataset=cast(Any, list(rows)),
        data_collator=lambda part: collate(part, pad)._asdict(),
        callbacks=[_Recorder(curve, on_progress)],
    )
    trainer.remove_callback(PrinterCallback)
    mean_weight = float(np.mean([row.weight for row in rows]))
    mean_length = float(np.mean([len(row.answer_ids) for row in rows]))
    trainer.loss_scale = 1.0 / (mean_weight * mean_length)
    trainer.micro_batch = micro_batch
    trainer.curve = curve
    return trainer
