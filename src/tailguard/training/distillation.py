"""Offline training: the tilted bank distilled into a LoRA policy by weighted likelihood."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import ArrayLike

from tailguard.data import Prompt
from tailguard.errors import InputError
from tailguard.models.policy import Policy, tokenize_prompts
from tailguard.models.quiet import quiet_transformers
from tailguard.models.random_state import seeded
from tailguard.models.tokenizer_check import num_embeddings
from tailguard.training.adapters import TrainedAdapter, open_adapter, save_adapter
from tailguard.training.coverage import coverage
from tailguard.training.weighted_likelihood import (
    Progress,
    Row,
    order_by_length,
    weighted_likelihood_trainer,
)


@dataclass(frozen=True)
class DistillationSettings:
    """How a bank is distilled.

    Attributes:
        draws_per_prompt: responses drawn for each prompt in each pass, by their weights.
        num_passes: passes over the prompts, each with fresh draws.
        batch_size: rows in one optimiser step.
        micro_batch: the most rows in one forward pass; fewer take less memory, for the same step.
        learning_rate: peak of a linear decay after a short warm-up.
        rank: of the LoRA adapter.
        seed: of the adapter's first weights, the draws and their order.
    """

    draws_per_prompt: int = 8
    num_passes: int = 1
    batch_size: int = 32
    micro_batch: int = 32
    learning_rate: float = 1e-3
    rank: int = 16
    seed: int = 0
    device: str = "auto"
    dtype: str = "auto"

    def __post_init__(self) -> None:
        for name in ("draws_per_prompt", "num_passes", "batch_size", "micro_batch", "rank"):
            if getattr(self, name) < 1:
                raise InputError(f"{name}={getattr(self, name)}: give at least 1")
        if not self.learning_rate > 0:
            raise InputError(f"learning_rate={self.learning_rate}: give a positive number")


def distil(
    base: str | Path,
    prompts: Sequence[Prompt],
    token_ids: Sequence[Sequence[Sequence[int]]],
    weights: ArrayLike,
    out: Path,
    *,
    settings: DistillationSettings = DistillationSettings(),
    on_progress: Progress | None = None,
) -> TrainedAdapter:
    """Fit a LoRA policy to the tilted bank: max_θ Σ_x Σ_i w_i(x) log π_θ(y_i | x).

    The expectation of that gradient over banks is the one towards π_ref·exp((r − λφ_ν(c))/β): no
    rollouts are needed. Each pass draws responses by their weights (systematic resampling, so a
    weight of k/draws gives k copies) and a response drawn k times is one row that counts k-fold.

    Args:
        base: checkpoint of the policy the bank was sampled from.
        prompts: [prompts].
        token_ids: the bank's answers as they were drawn, ``[prompts][samples][tokens]``: with the token
            that ended them, or none where they were cut off. A text would not do, for reading it
            again may give other tokens.
        weights: [prompts, samples]; rows sum to 1, as `Solution.weights`.
        out: folder for the adapter; written last.
        settings: how to train.
        on_progress: called with (step, number of steps).

    Raises:
        InputError: shapes that disagree, weights that are not a law, answers too long or with
            tokens that the policy does not have.
    """
    law = _check_weights(prompts, token_ids, weights)
    policy = open_adapter(
        base, rank=settings.rank, seed=settings.seed, device=settings.device, dtype=settings.dtype
    )
    generator = np.random.default_rng(settings.seed)
    prompt_ids = _check_tokens(policy, prompts, token_ids)
    rows: list[Row] = []
    for _ in range(settings.num_passes):
        # Fresh draws in every pass: the gradient is unbiased over passes, at a few rows per prompt.
        counts = resample(law, settings.draws_per_prompt, generator)
        chosen = cast("list[tuple[int, int]]", np.argwhere(counts > 0).tolist())
        drawn = [
            Row(prompt_ids[x], list(token_ids[x][i]), float(counts[x, i]))
            for x, i in chosen
            if len(token_ids[x][i])  # an answer cut off before its first token teaches nothing
        ]
        if not drawn:
            raise InputError("token_ids: every answer is empty; nothing to learn")
        lengths = np.array([len(row.prompt_ids) + len(row.answer_ids) for row in drawn])
        order = order_by_length(lengths, settings.batch_size, generator)
        rows += [drawn[j] for j in order]
    start = time.perf_counter()
    with quiet_transformers(), seeded(settings.seed), tempfile.TemporaryDirectory() as scratch:
        trainer = weighted_likelihood_trainer(
            policy,
            rows,
            batch_size=settings.batch_size,
            micro_batch=settings.micro_batch,
            learning_rate=settings.learning_rate,
            seed=settings.seed,
            scratch=scratch,
            on_progress=on_progress,
        )
        cast(Any, trainer).train()
    path = save_adapter(policy.model, Path(out))
    return TrainedAdapter(path, coverage(policy.model), trainer.curve, time.perf_counter() - start)


def resample(
    weights: Float[np.ndarray, "prompts samples"], draws: int, generator: np.random.Generator
) -> Int[np.ndarray, "prompts samples"]:
    """How often each sample is drawn: systematic resampling, rows summing to `draws`.

    E counts = draws·weights, and each count is that number rounded up or down.
    """
    edges = np.minimum(np.cumsum(weights, axis=1) * draws, draws)
    # Rounding must not lose the last draw.
    edges[:, -1] = draws
    # One offset per prompt: the least noise that keeps counts unbiased.
    offset = generator.random((len(weights), 1))
    upto = np.ceil(edges - offset).astype(np.int64)
    return np.diff(upto, axis=1, prepend=0)


def _check_weights(
    prompts: Sequence[Prompt], token_ids: Sequence[Sequence[Sequence[int]]], weights: ArrayLike
) -> Float[np.ndarray, "prompts samples"]:
    array = np.asarray(weights, dtype=np.float64)
    if array.ndim != 2 or array.shape[0] != len(prompts) or len(token_ids) != len(prompts):
        raise InputError(
            f"weights has shape {array.shape} and token_ids {len(token_ids)} rows; "
            f"{len(prompts)} prompts need one row each"
        )
    for x, row in enumerate(token_ids):
        if len(row) != array.shape[1]:
            raise InputError(
                f"token_ids[{x}] has {len(row)} entries; weights has {array.shape[1]} columns"
            )
    if not (np.isfinite(array).all() and (array >= 0).all()):
        raise InputError("weights must be finite and not negative")
    # float32 weights of a bank sum to 1 within about 1e-6.
    if not np.allclose(array.sum(axis=1), 1.0, atol=1e-6):
        worst = int(np.abs(array.sum(axis=1) - 1).argmax())
        raise InputError(f"weights[{worst}] sums to {array[worst].sum():g}; rows must sum to 1")
    return array


def _check_tokens(
    policy: Policy, prompts: Sequence[Prompt], token_ids: Sequence[Sequence[Sequence[int]]]
) -> list[list[int]]:
    """The prompts' tokens, once every answer is known to be this policy's and to fit behind them."""
    prompt_ids = tokenize_prompts(policy, prompts)
    num_tokens = num_embeddings(policy.model)
    for x, answers in enumerate(token_ids):
        for i, answer in enumerate(answers):
            length = len(prompt_ids[x]) + len(answer)
            if length > policy.context_tokens:
                raise InputError(
                    f"token_ids[{x}][{i}] is too long: with its prompt it has {length} tokens; the"
                    f" context is {policy.context_tokens}"
                )
            if not all(0 <= token < num_tokens for token in answer):
                raise InputError(
                    f"token_ids[{x}][{i}] has tokens outside 0 … {num_tokens - 1}: it was drawn"
                    " from another policy"
                )
    return prompt_ids
