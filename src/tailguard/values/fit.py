"""Fit process heads on outcomes: every prefix of a bank sample learns how that sample ended.

Monte-Carlo targets and proper losses (see `value_losses`). Members see different bootstraps of the
prompts and are held to their own random starts; prompts set aside decide when to stop.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from tailguard.errors import InputError
from tailguard.scorers.ensemble import bootstrap_weights
from tailguard.values.process_heads import ProcessHeads
from tailguard.values.targets import (
    PrefixOutcomes,
    start_at_marginal,
    value_losses,
    value_metrics,
)


@dataclass(frozen=True)
class ValueFitting:
    """How process heads are fitted.

    Attributes:
        num_members: of the ensemble (M).
        num_features: linear features of the hidden state, at most about 100.
        width: of each member's hidden layer.
        learning_rate: Adam's.
        num_epochs: at most.
        patience: epochs without progress on the validation prompts before the step is cut.
        num_cuts: cuts of the step (by .3) before stopping.
        batch_size: rows per step.
        validation_share: share of the prompts that only decide when to stop.
        anchor_weight: strength of the pull to a member's random start, in rows' worth of evidence.
    """

    num_members: int = 4
    num_features: int = 64
    width: int = 32
    learning_rate: float = 3e-3
    num_epochs: int = 40
    patience: int = 2
    num_cuts: int = 3
    batch_size: int = 2048
    validation_share: float = 0.15
    anchor_weight: float = 1.0


def fit_process_heads(
    outcomes: PrefixOutcomes,
    thresholds: Float[Tensor, " thresholds"],
    quantile_levels: Float[Tensor, " levels"],
    *,
    settings: ValueFitting | None = None,
    generator: torch.Generator,
    on_progress: Callable[[int, int], None] | None = None,
) -> tuple[ProcessHeads, dict[str, float]]:
    """Heads that predict final reward and cost from the hidden state of a prefix.

    Args:
        outcomes: prefixes with the reward and cost of the answers they became.
        thresholds: grid ν_1 < … < ν_J of the hinge.
        quantile_levels: increasing, in (0, 1).
        settings: how to fit.
        generator: of starts, bootstrap, split and batches.
        on_progress: called with (epochs done, epochs at most).

    Returns:
        the heads, and figures on the validation prompts against the best constant
        (see `value_metrics`).

    Raises:
        InputError: fewer than two prompts, or a grid that is not increasing.
    """
    settings = settings or ValueFitting()
    index: Tensor = cast(Any, torch).unique(outcomes.prompt_index, return_inverse=True)[1]
    # By prompts: prefixes of one answer are nearly copies of each other.
    held_out = _held_out_rows(index, settings.validation_share, generator)
    train, validation = outcomes.take(~held_out), outcomes.take(held_out)
    heads = ProcessHeads(
        outcomes.hidden.shape[1],
        thresholds,
        quantile_levels,
        num_members=settings.num_members,
        num_features=settings.num_features,
        width=settings.width,
        generator=generator,
    )
    start_at_marginal(heads, train)
    weights = bootstrap_weights(np.asarray(index), settings.num_members, generator)
    # All members stop by the same validation rows, so only training rows are weighted.
    weights = weights.T[~held_out].float().contiguous()
    num_epochs = _train(heads, train, validation, weights, settings, generator, on_progress)
    metrics = value_metrics(heads, train, validation)
    return heads.eval(), {**metrics, "num_epochs": float(num_epochs)}


def _train(
    heads: ProcessHeads,
    train: PrefixOutcomes,
    validation: PrefixOutcomes,
    weights: Tensor,
    settings: ValueFitting,
    generator: torch.Generator,
    on_progress: Callable[[int, int], None] | None,
) -> int:
    """Adam; each time the validation loss stalls, back to the best weights with a smaller step."""
    optimizer: Any = torch.optim.Adam(heads.parameters(), lr=settings.learning_rate)
    # Members are held to their own starts: where no row speaks, they keep disagreeing.
    anchors = [parameter.detach().clone() for parameter in heads.parameters()]
    # Per row, so that the pull counts as much as that many rows at any size of bank.
    pull = settings.anchor_weight / len(train)
    best, best_loss, best_epoch = copy.deepcopy(heads.state_dict()), float("inf"), 0
    stalled, num_cuts = 0, 0
    for epoch in range(1, settings.num_epochs + 1):
        order: Any = torch.randperm(len(train), generator=generator)
        for rows in order.split(settings.batch_size):
            losses = value_losses(heads, train.take(rows))
            # Members share no weights but the features; a sum leaves each its own step size.
            loss = (losses * weights[rows]).mean(dim=0).sum()
            for parameter, anchor in zip(heads.parameters(), anchors, strict=True):
                loss = loss + 0.5 * pull * (parameter - anchor).square().sum()
            optimizer.zero_grad()
            loss.backward()  # pyright: ignore[reportUnknownMemberType]
            optimizer.step()
        with torch.no_grad():
            current = float(value_losses(heads, validation).mean())
        if on_progress is not None:
            on_progress(epoch, settings.num_epochs)
        if current < best_loss:
            best, best_loss, best_epoch = copy.deepcopy(heads.state_dict()), current, epoch
            stalled = 0
            continue
        stalled += 1
        if stalled == settings.patience:
            # The last cut brought nothing either.
            if num_cuts == settings.num_cuts:
                break
            stalled, num_cuts = 0, num_cuts + 1
            heads.load_state_dict(best)
            for group in optimizer.param_groups:
                group["lr"] *= 0.3
    heads.load_state_dict(best)
    return best_epoch


def _held_out_rows(index: Tensor, share: float, generator: torch.Generator) -> Tensor:
    num_prompts = int(index.max()) + 1
    if num_prompts < 2:
        raise InputError("prompt_index: one prompt only; heads need at least two to be judged")
    # At least one prompt on either side.
    num_held_out = min(max(1, round(share * num_prompts)), num_prompts - 1)
    chosen = torch.randperm(num_prompts, generator=generator)[:num_held_out]
    return torch.isin(index, chosen)
