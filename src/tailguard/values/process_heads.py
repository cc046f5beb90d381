"""Process heads: what a prefix's hidden state says about the final reward and cost.

At most ~100 linear features of the final (post-norm) hidden state, then a tiny network per ensemble
member on those, all members in one batched product. Three outputs, each valid by construction:

- reward: E[R | prefix];
- hinge: h(ν_j) = E[(C − ν_j)₊ | prefix] on a grid ν_1 < … < ν_J, which is ≥ 0, non-increasing
  with slope in [−1, 0], and convex in ν: h(ν_J) is a softplus and the slopes are −s_j with
  1 ≥ s_1 ≥ s_2 ≥ … ≥ 0 as running products of sigmoids (s_j is the mean of P(C > ν) between ν_j
  and ν_{j+1});
- quantiles of C: the first plus cumulative softplus steps, so they never cross.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from tailguard.errors import InputError
from tailguard.models.tensor_file import read_tensors, write_tensors
from tailguard.risk import RiskMeasure, Threshold

_FORMAT = "tailguard.process_heads/1"


@dataclass(frozen=True)
class HeadPrediction:
    """Predictions for n prefixes by M members.

    Attributes:
        reward: mean of the final reward [n, M].
        hinge: E(C − ν_j)₊ on the grid [n, M, J]; ≥ 0, non-increasing and convex in ν_j.
        quantiles: quantiles of the final cost [n, M, Q], non-decreasing.
    """

    reward: Float[Tensor, "n members"]
    hinge: Float[Tensor, "n members thresholds"]
    quantiles: Float[Tensor, "n members levels"]

    def expected_penalty(
        self,
        thresholds_grid: Float[Tensor, " thresholds"],
        measure: RiskMeasure,
        threshold: Threshold,
    ) -> Float[Tensor, "n members"]:
        """E φ_ν(C) under any measure, from the hinges alone.

        φ_ν is replaced by the piecewise linear function that meets it on the grid, which is a sum of
        hinges: E φ ≈ φ(ν_1) + Σ_j a_j E(C − ν_j)₊ with a_j the changes of slope. A convex φ is never
        above its chords, so this is an upper bound for costs within the grid, exact for CVaR at a ν
        of the grid. Below the grid φ is at most φ(ν_1), as it does not fall; above it the last slope
        is the largest that φ has, or for measures that curve ever upwards that of a chord as long as
        the grid. A declared largest cost ends the last chord, also where it lies within the grid.

        Args:
            thresholds_grid: ν_1 < … < ν_J, on which the hinges stand.
            measure: whose penalty.
            threshold: ν; one per CVaR for a spectral measure.
        """
        grid = thresholds_grid.detach().cpu().double().numpy()
        end = min(2.0 * grid[-1] - grid[0], measure.largest_cost)
        knots = np.append(grid[grid < end], end)
        penalty = measure.penalty(knots, np.asarray(threshold))
        slopes = np.diff(penalty) / np.diff(knots)  # one for each point of the grid below the end
        if math.isfinite(measure.largest_slope):
            slopes[-1] = measure.largest_slope
        changes = torch.as_tensor(np.diff(slopes, prepend=0.0)).to(self.hinge)
        return float(penalty[0]) + self.hinge[..., : len(changes)] @ changes


class ProcessHeads(nn.Module):
    """An ensemble of reward and cost heads on hidden states.

    Attributes:
        thresholds: the grid ν_1 < … < ν_J [J].
        quantile_levels: increasing levels in (0, 1) [Q].
        base_hash: hash of the base model whose hidden states these are; empty if not set.
        policy_hash: hash of the policy (adapter) that continues the prefix; empty if not set.
    """

    thresholds: Tensor
    quantile_levels: Tensor
    reward_scale: Tensor
    cost_scale: Tensor

    def __init__(
        self,
        hidden_size: int,
        thresholds: Float[Tensor, " thresholds"],
        quantile_levels: Float[Tensor, " levels"],
        *,
        num_members: int = 4,
        num_features: int = 64,
        width: int = 32,
        generator: torch.Generator | None = None,
    ) -> None:
        """Fresh heads, their starting weights drawn with ``generator``.

        Raises:
            InputError: a grid that is not increasing, levels outside (0, 1), or sizes below 1.
        """
        super().__init__()
        _require_increasing("thresholds", thresholds, least=2)
        _require_increasing("quantile_levels", quantile_levels, least=1)
        if float(quantile_levels[0]) <= 0.0 or float(quantile_levels[-1]) >= 1.0:
            raise InputError(f"quantile_levels: {_listed(quantile_levels)}; must lie in (0, 1)")
        sizes = {
            "hidden_size": hidden_size,
            "num_members": num_members,
            "num_features": num_features,
            "width": width,
        }
        for name, size in sizes.items():
            if size < 1:
                raise InputError(f"{name}: {size}; must be at least 1")
        # Reward, J for the hinge, Q for the quantiles.
        num_outputs = 1 + len(thresholds) + len(quantile_levels)

        def drawn(*shape: int, fan_in: int) -> nn.Parameter:
            # Variance 1/fan-in: outputs start at order 1 whatever the width.
            return nn.Parameter(torch.randn(*shape, generator=generator) * fan_in**-0.5)

        self.feature_weight = drawn(num_features, hidden_size, fan_in=hidden_size)
        self.feature_bias = nn.Parameter(torch.zeros(num_features))
        self.inner_weight = drawn(num_members, num_features, width, fan_in=num_features)
        self.inner_bias = nn.Parameter(torch.zeros(num_members, width))
        self.outer_weight = drawn(
            num_members, num_features + width, num_outputs, fan_in=num_features + width
        )
        self.outer_bias = nn.Parameter(torch.zeros(num_members, num_outputs))
        # Buffers: they are saved with the weights, which mean nothing on another grid.
        self.register_buffer("thresholds", thresholds.detach().float().clone())
        self.register_buffer("quantile_levels", quantile_levels.detach().float().clone())
        self.register_buffer("reward_scale", torch.tensor([0.0, 1.0]))
        self.register_buffer("cost_scale", torch.tensor([0.0, 1.0]))
        self.base_hash = ""
        self.policy_hash = ""

    @property
    def num_members(self) -> int:
        """Members of the ensemble (M)."""
        return int(self.inner_weight.shape[0])

    @property
    def hidden_size(self) -> int:
        """Width of the hidden states these heads read (D)."""
        return int(self.feature_weight.shape[1])

    def features(self, hidden: Float[Tensor, "n hidden"]) -> Float[Tensor, "n features"]:
        """The linear features: what a stock engine can serve as extra rows of its output matrix."""
        # float32 even on half-precision models, because bounds compare small differences.
        return functional.linear(hidden.float(), self.feature_weight, self.feature_bias)

    def forward(self, hidden: Float[Tensor, "n hidden"]) -> HeadPrediction:
        """Predictions with gradients; see `predict`."""
        return self.from_features(self.features(hidden))

    def from_features(self, features: Float[Tensor, "n features"]) -> HeadPrediction:
        """Predictions from the linear features alone."""
        return self.assemble(self.outputs(features))

    def outputs(self, features: Float[Tensor, "n features"]) -> Float[Tensor, "n members outputs"]:
        """The networks' unconstrained outputs: reward, J for the hinge, Q for the quantiles."""
        members = features.expand(self.num_members, -1, -1)
        inner = functional.silu(
            torch.baddbmm(self.inner_bias.unsqueeze(1), members, self.inner_weight)
        )
        return torch.baddbmm(
            self.outer_bias.unsqueeze(1), torch.cat([members, inner], dim=-1), self.outer_weight
        ).transpose(0, 1)

    def assemble(self, outputs: Float[Tensor, "n members outputs"]) -> HeadPrediction:
        """Valid predictions from unconstrained outputs."""
        num_thresholds = self.thresholds.numel()
        steps = outputs[..., 1 + num_thresholds :]
        quantiles = torch.cat([steps[..., :1], functional.softplus(steps[..., 1:])], dim=-1)
        # From the last threshold backwards, as the hinge falls to h(ν_J) from the left.
        rise = (self.log_survival(outputs).exp() * self.thresholds.diff()).flip(-1)
        last = functional.softplus(outputs[..., num_thresholds, None]) * self.cost_scale[1]
        return HeadPrediction(
            reward=self.reward_scale[0] + self.reward_scale[1] * outputs[..., 0],
            hinge=torch.cat([last + rise.cumsum(dim=-1).flip(-1), last], dim=-1),
            quantiles=self.cost_scale[0] + self.cost_scale[1] * quantiles.cumsum(dim=-1),
        )

    def log_survival(
        self, outputs: Float[Tensor, "n members outputs"]
    ) -> Float[Tensor, "n members intervals"]:
        """Logarithm of s_j, the mean of P(C > ν) over the interval from ν_j to ν_{j+1}."""
        # A running product of sigmoids, as a sum of logarithms: no underflow over long grids.
        return functional.logsigmoid(outputs[..., 1 : self.thresholds.numel()]).cumsum(dim=-1)

    @torch.no_grad()
    def predict(self, hidden: Float[Tensor, "n hidden"]) -> HeadPrediction:
        """Predictions for hidden states, in one batched pass over all members.

        Raises:
            InputError: hidden states of another width.
        """
        if hidden.shape[-1] != self.hidden_size:
            raise InputError(
                f"hidden: width {hidden.shape[-1]}; these heads read {self.hidden_size}"
            )
        return self(hidden)

    def require_policy(self, base_hash: str, policy_hash: str) -> None:
        """Raise `InputError` unless these heads were fitted on this base and policy."""
        if (self.base_hash, self.policy_hash) != (base_hash, policy_hash):
            raise InputError(
                f"process heads: fitted for base {_short(self.base_hash)}, policy"
                f" {_short(self.policy_hash)}; this is base {_short(base_hash)}, policy"
                f" {_short(policy_hash)}. Fit the values again for this policy"
            )

    def save(self, path: str | Path) -> None:
        """Write one safetensors file, with the hashes in its metadata."""
        metadata = {
            "format": _FORMAT,
            "base_hash": self.base_hash,
            "policy_hash": self.policy_hash,
        }
        write_tensors(path, self.state_dict(), metadata)

    @classmethod
    def load(cls, path: str | Path) -> ProcessHeads:
        """Read heads written by `save`.

        Raises:
            InputError: missing, unreadable, or not process heads.
        """
        tensors, metadata = read_tensors(path)
        if metadata.get("format") != _FORMAT:
            raise InputError(f"{path}: holds {metadata.get('format')}, not {_FORMAT}")
        num_members, num_features, width = tensors["inner_weight"].shape
        heads = cls(
            tensors["feature_weight"].shape[1],
            tensors["thresholds"],
            tensors["quantile_levels"],
            num_members=num_members,
            num_features=num_features,
            width=width,
        )
        heads.load_state_dict(tensors)
        heads.base_hash = metadata["base_hash"]
        heads.policy_hash = metadata["policy_hash"]
        return heads.eval()


def _short(found: str) -> str:
    """Enough of a SHA-256 to tell two apart in one line; names of hub models stay whole."""
    return found[:12] if len(found) == 64 else found or "unknown"


def _require_increasing(name: str, values: Tensor, least: int) -> None:
    if values.ndim != 1 or len(values) < least or not bool((values.diff() > 0).all()):
        raise InputError(
            f"{name}: {_listed(values)}; give at least {least} strictly increasing numbers"
        )


def _listed(values: Tensor) -> str:
    return ", ".join(f"{float(value):.4g}" for value in values.flatten())
