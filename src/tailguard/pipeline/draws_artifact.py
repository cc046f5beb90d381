"""Draws at points of the weight space, scored: what the dial is measured on, on disk."""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float

from tailguard.decoding.pool import Pool
from tailguard.models.tensor_file import read_tensors, write_tensors

DRAWS_NAME = "draws.safetensors"


@dataclass(frozen=True, eq=False)
class PointDraws:
    """Draws of the calibration prompts at one point.

    Attributes:
        point: weights of the members' LoRA updates.
        pool: the draws with their scores [prompts, draws].
        log_ratio: log π_w − log π_ref of each draw [prompts, draws].
    """

    point: tuple[float, ...]
    pool: Pool
    log_ratio: Float[np.ndarray, "prompts draws"]

    @property
    def kl(self) -> float:
        """KL(π_w ‖ π_ref) per prompt, in nats, as its draws have it."""
        return float(self.log_ratio.mean())

    def write(self, path: Path) -> None:
        """Write to one file."""
        arrays = {f.name: getattr(self.pool, f.name) for f in fields(self.pool)}
        kept = {name: value for name, value in arrays.items() if value is not None}
        kept["log_ratio"] = self.log_ratio
        tensors = {name: torch.as_tensor(np.asarray(value)) for name, value in kept.items()}
        write_tensors(path, tensors, {"point": json.dumps(self.point)})

    @classmethod
    def read(cls, path: Path) -> PointDraws:
        """Read what `write` wrote.

        Raises:
            InputError: missing, or not such a file.
        """
        tensors, metadata = read_tensors(path)
        arrays = {name: value.numpy() for name, value in tensors.items()}
        log_ratio = arrays.pop("log_ratio")
        return cls(tuple(json.loads(metadata["point"])), Pool(**arrays), log_ratio)
