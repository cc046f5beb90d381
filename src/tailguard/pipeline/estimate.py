"""Hours and memory of each stage, from its load and what the probe measured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tailguard.pipeline.probe import Probe
from tailguard.pipeline.workload import StageLoad

# What a step of the trainers costs beside the model: collation, the optimiser, logging.
_OPTIMISER_STEP_SECONDS = 0.03
_TRAINER_SECONDS = 0.5  # to set one up
_DRAWN_LOGITS, _TRAINED_LOGITS = 3, 6  # copies: log-softmax, workspace, and in training gradients


@dataclass(frozen=True)
class StageEstimate:
    """What a stage will take, within a factor of two.

    Attributes:
        seconds: from its start to its end.
        num_bytes: of memory at its peak, all processes together.
        num_tokens: that models read, draw and train on.
    """

    seconds: float
    num_bytes: float
    num_tokens: float


def estimate_stages(loads: Mapping[str, StageLoad], probe: Probe) -> dict[str, StageEstimate]:
    """Stage → estimate; scorers are taken to be as large as the policy."""
    return {name: _estimate(load, probe) for name, load in loads.items()}


def _estimate(load: StageLoad, probe: Probe) -> StageEstimate:
    num_processes = min(load.num_parts, probe.num_threads) if probe.on_cpu else 1
    speed = probe.speed_of(max(1, probe.num_threads // num_processes))
    work = (
        speed.read * (load.read_tokens + load.trained_tokens)
        + speed.step * load.draw_steps
        + speed.row * load.drawn_tokens
        + _OPTIMISER_STEP_SECONDS * load.optimiser_steps
        + (_TRAINER_SECONDS * load.num_parts if load.optimiser_steps else 0.0)
    )
    # Parts are of about one size, and the last ones may run with a process idle.
    rounds = -(-load.num_parts // num_processes) / load.num_parts
    return StageEstimate(
        seconds=work * rounds + probe.load_seconds * load.num_models,
        num_bytes=num_processes * _process_bytes(load, probe),
        num_tokens=float(load.read_tokens + load.drawn_tokens + load.trained_tokens),
    )


def _process_bytes(load: StageLoad, probe: Probe) -> float:
    lengths = probe.lengths
    exchange = lengths.prompt + lengths.answer
    drawing = load.rows * (exchange * probe.cache_bytes + _DRAWN_LOGITS * 4 * probe.vocab_size)
    training = load.trained_rows * (
        exchange * probe.activation_bytes
        + lengths.answer * _TRAINED_LOGITS * 4 * probe.vocab_size
    )  # fmt: skip
    return probe.process_bytes + load.num_models * probe.weight_bytes + max(drawing, training)
