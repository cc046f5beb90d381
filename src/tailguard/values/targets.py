"""Targets, losses and figures for process heads."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from tailguard.errors import InputError
from tailguard.scorers.pessimism import spread
from tailguard.values.process_heads import ProcessHeads


@dataclass(frozen=True)
class PrefixOutcomes:
    """Prefixes of sampled answers, and how those answers ended.

    Attributes:
        hidden: final post-norm hidden states [n, D], of the policy that continues the prefix.
        reward: final reward of the answer that the prefix became [n].
        cost: its final cost [n].
        prompt_index: which prompt it answers [n].

    Raises:
        InputError: lengths that do not match, or NaN.
    """

    hidden: Tensor
    reward: Tensor
    cost: Tensor
    prompt_index: Tensor

    def __post_init__(self) -> None:
        """Check lengths and finiteness."""
        for name in ("reward", "cost", "prompt_index"):
            if len(getattr(self, name)) != len(self.hidden) or len(self.hidden) == 0:
                raise InputError(
                    f"{name}: {len(getattr(self, name))} rows for {len(self.hidden)} hidden states"
                )
        for name in ("hidden", "reward", "cost"):
            if not bool(torch.isfinite(getattr(self, name)).all()):
                raise InputError(f"{name}: holds NaN or infinity; score those rows again")

    def __len__(self) -> int:
        return len(self.cost)

    def take(self, rows: Tensor) -> PrefixOutcomes:
        """Some rows, by index or mask, in float32."""
        return PrefixOutcomes(
            hidden=self.hidden[rows].float(),
            reward=self.reward[rows].float(),
            cost=self.cost[rows].float(),
            prompt_index=self.prompt_index[rows],
        )

    def hinge(self, thresholds: Float[Tensor, " thresholds"]) -> Float[Tensor, "n thresholds"]:
        """(C − ν_j)₊ for each threshold."""
        return (self.cost[:, None] - thresholds.to(self.cost)).clamp(min=0.0)


def start_at_marginal(heads: ProcessHeads, train: PrefixOutcomes) -> None:
    """Give fresh heads standardised features and the marginal law of the training rows.

    Every member starts at the best constant plus a small random function: its prior.
    """
    with torch.no_grad():
        scale = train.hidden.std(dim=0).clamp(min=1e-6)
        heads.feature_weight.div_(scale)
        # Standardised by the training rows, so that one learning rate suits every model.
        heads.feature_bias.copy_(-heads.feature_weight @ train.hidden.mean(dim=0))
        # Small: the prior is a function around the marginal law, not far from it.
        heads.outer_weight.mul_(0.1)
        heads.reward_scale.copy_(torch.stack([train.reward.mean(), _scale(train.reward)]))
        heads.cost_scale.copy_(torch.stack([train.cost.median(), _scale(train.cost)]))
        heads.outer_bias.copy_(_marginal_bias(heads, train))


def value_losses(heads: ProcessHeads, outcomes: PrefixOutcomes) -> Float[Tensor, "n members"]:
    """The sum of three proper losses, each with its minimum at the conditional law.

    Reward: squared error in units of its scale. Hinge: the share of each grid interval that the
    cost fills, ((C−ν_j)₊ − (C−ν_{j+1})₊) / (ν_{j+1}−ν_j), lies in [0, 1] and has mean s_j, so its
    cross-entropy with s_j; and for the rest (C−ν_J)₊ the Poisson loss h − y log h, also least at
    the mean. Squared errors of hinges have the same minimum, but a heavy tail drowns the fit in
    noise. Quantiles: pinball in units of the cost's scale.
    """
    outputs = heads.outputs(heads.features(outcomes.hidden))
    prediction = heads.assemble(outputs)
    reward_error = (prediction.reward - outcomes.reward[:, None]) / heads.reward_scale[1]
    hinge = outcomes.hinge(heads.thresholds)[:, None]
    filled = -hinge.diff(dim=-1) / heads.thresholds.diff()
    # log(1 − s) is infinite at s = 1, where a fresh head may start.
    log_survival = heads.log_survival(outputs).clamp(max=-1e-6)
    entropy = -filled * log_survival - (1.0 - filled) * torch.log(-torch.expm1(log_survival))
    rest = prediction.hinge[..., -1] / heads.cost_scale[1]
    # 1e-8 for log 0: a softplus that underflowed would make the loss infinite.
    poisson = rest - hinge[..., -1] / heads.cost_scale[1] * torch.log(rest + 1e-8)
    gap = (outcomes.cost[:, None, None] - prediction.quantiles) / heads.cost_scale[1]
    levels = heads.quantile_levels
    pinball = torch.maximum(levels * gap, (levels - 1.0) * gap)
    hinge_loss = (entropy.sum(dim=-1) + poisson) / heads.thresholds.numel()
    return reward_error.square() + 2.0 * hinge_loss + pinball.mean(dim=-1)


@torch.no_grad()
def value_metrics(
    heads: ProcessHeads, train: PrefixOutcomes, validation: PrefixOutcomes
) -> dict[str, float]:
    """Figures of the ensemble's mean on validation rows, against the training rows' constants.

    ``reward_r2`` and ``hinge_r2`` (mean and last threshold: ``tail_r2``) are 1 − squared error /
    that of the constant; ``pinball_skill`` is the same for the pinball loss. ``coverage_error`` is the mean distance of
    P(C ≤ quantile) from its level; ``hinge_bias`` the mean of prediction − outcome at the middle
    threshold, in units of the cost's scale. ``reward_spread`` and ``hinge_spread`` are members' standard
    deviations.
    """
    prediction = heads.predict(validation.hidden)
    hinge, reward = prediction.hinge.mean(dim=1), prediction.reward.mean(dim=1)
    quantiles = prediction.quantiles.mean(dim=1)
    outcome = validation.hinge(heads.thresholds)
    reward_r2 = _skill(validation.reward, reward, train.reward.mean())
    hinge_r2 = _skill(outcome, hinge, train.hinge(heads.thresholds).mean(dim=0))
    levels = heads.quantile_levels
    constant = torch.quantile(_thinned(train.cost), levels)
    covered = (validation.cost[:, None] <= quantiles).float().mean(dim=0)
    middle = outcome.shape[1] // 2
    bias = (hinge - outcome)[:, middle].mean() / heads.cost_scale[1]
    return {
        "reward_r2": float(reward_r2),
        "hinge_r2": float(hinge_r2.mean()),
        "tail_r2": float(hinge_r2[-1]),
        "pinball_skill": float(
            1.0
            - _pinball(validation.cost, quantiles, levels)
            / _pinball(validation.cost, constant.expand_as(quantiles), levels)
        ),
        "coverage_error": float((covered - levels).abs().mean()),
        "hinge_bias": float(bias),
        "reward_spread": float(spread(prediction.reward).mean()),
        "hinge_spread": float(spread(prediction.hinge[:, :, middle]).mean()),
        "num_rows": float(len(train)),
        "num_validation_rows": float(len(validation)),
    }


def _skill(outcome: Tensor, prediction: Tensor, constant: Tensor) -> Tensor:
    error = (outcome - prediction).square().mean(dim=0)
    return 1.0 - error / (outcome - constant).square().mean(dim=0).clamp(min=1e-12)


def _pinball(cost: Tensor, quantiles: Tensor, levels: Tensor) -> Tensor:
    gap = cost[:, None] - quantiles
    return torch.maximum(levels * gap, (levels - 1.0) * gap).mean().clamp(min=1e-12)


def _marginal_bias(heads: ProcessHeads, train: PrefixOutcomes) -> Tensor:
    """Outer biases at which all heads give the marginal means and quantiles."""
    scale = heads.cost_scale[1]
    hinge = train.hinge(heads.thresholds).mean(dim=0)
    # Away from 0 and 1, whose logits are infinite.
    survival = (-hinge.diff() / heads.thresholds.diff()).clamp(1e-4, 1.0 - 1e-4)
    # The running product inverted: each factor is a ratio of neighbours.
    before = torch.cat([torch.ones(1), survival[:-1]])
    steps = torch.logit((survival / before).clamp(1e-4, 1.0 - 1e-4))
    last = _inverse_softplus(hinge[-1:] / scale)
    quantiles = (
        torch.quantile(_thinned(train.cost), heads.quantile_levels) - heads.cost_scale[0]
    ) / scale
    rises = _inverse_softplus(quantiles.diff())
    return torch.cat([torch.zeros(1), steps, last, quantiles[:1], rises])


def _inverse_softplus(values: Tensor) -> Tensor:
    # The inverse of log(1 + e^x), which has none at 0.
    positive = values.clamp(min=1e-3)
    return positive + torch.log(-torch.expm1(-positive))


def _thinned(values: Tensor, limit: int = 1_000_000) -> Tensor:
    """At most ``limit`` evenly spaced entries: torch.quantile takes no more than 16 million."""
    return values[:: max(1, len(values) // limit)]


def _scale(values: Tensor) -> Tensor:
    """The central 90% in units of a normal's; the standard deviation where that is zero."""
    low, high = torch.quantile(_thinned(values), torch.tensor([0.05, 0.95]))
    # 1.6449 is the normal's 95% quantile: for normal costs this is their deviation.
    central = (high - low) / (2 * 1.6449)
    fallback = values.std(correction=0)
    chosen = torch.where(central > 0, central, fallback)
    return torch.where(chosen > 0, chosen, torch.ones_like(chosen))
