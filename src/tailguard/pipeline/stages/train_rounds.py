"""Rounds after the first training: one policy at a time is trained on, where that serves more users.

The profiles are those of the frontier. Members are measured on the bank by the log-probabilities that
they give its answers, and judged on prompts of it that none of them is trained on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from tailguard.artifacts import Json
from tailguard.engines import response_log_probs
from tailguard.pipeline.plan_artifact import PlanFigures, PlannedTarget
from tailguard.pipeline.sources import load_reference
from tailguard.pipeline.stage import Work
from tailguard.pipeline.stages.bank import BankTable
from tailguard.pipeline.stages.plan import frontier_profiles
from tailguard.planning import SampleBank
from tailguard.portfolio import (
    Alternation,
    MeasuredMembers,
    Proposal,
    Round,
    alternate,
    estimate_progress,
)
from tailguard.risk.spelling import describe_limit

_HELD_OUT = 4
"""Every fourth prompt of the bank is held out, where there are rounds."""
_BATCH_SIZE = 64
_LEAST_PROGRESS = 0.1
"""Of a training: one that measured less has failed, and its own measurement is of no use."""


@dataclass(frozen=True)
class TrainedMember:
    """A policy as it is after some rounds.

    Attributes:
        name: of its first target.
        directory: its artifact.
        round_number: 0 as first trained.
    """

    name: str
    directory: Path
    round_number: int = 0


def held_out_prompts(num_prompts: int, num_rounds: int) -> np.ndarray:
    """Which prompts of the bank nobody is trained on [prompts]; none where there are no rounds."""
    held = np.arange(num_prompts) % _HELD_OUT == _HELD_OUT - 1
    return held if num_rounds else np.zeros_like(held)


def train_on(
    work: Work,
    table: BankTable,
    members: Mapping[TrainedMember, PlannedTarget],
    retrain: Callable[[TrainedMember, PlannedTarget], TrainedMember],
    adapter_of: Callable[[TrainedMember], Path],
) -> Alternation[TrainedMember]:
    """The members after at most ``train.num_rounds`` rounds.

    Args:
        work: of the stage.
        table: the bank.
        members: as first trained, and towards what.
        retrain: a member, trained on towards a target.
        adapter_of: where a member's weights are.
    """
    recipe = work.recipe
    bank = table.sample_bank()
    held = held_out_prompts(bank.num_prompts, recipe.train.num_rounds)
    chosen_on, held_out = bank.take(~held), bank.take(held)
    read = _Reader(work, table, adapter_of)

    def measure(those: Sequence[TrainedMember]) -> MeasuredMembers:
        ratios = [read.log_ratio(member) for member in those]
        return MeasuredMembers(
            chosen_on,
            [ratio[~held] for ratio in ratios],
            held_out,
            [ratio[held] for ratio in ratios],
        )

    def towards(member: TrainedMember, proposal: Proposal) -> TrainedMember:
        return retrain(member, target_of(member.name, proposal))

    plan = recipe.plan
    # What training reached the first time is what it can be expected to reach again.
    came = [
        estimate_progress(read.log_ratio(member), tilt_of(target, bank, plan.kl_coef))
        for member, target in members.items()
    ]
    return alternate(
        list(members),
        frontier_profiles(bank, plan.tail_masses, plan.num_budgets),
        plan.kl_coef,
        measure=measure,
        retrain=towards,
        num_rounds=recipe.train.num_rounds,
        progress=float(np.clip(np.mean(came), _LEAST_PROGRESS, 1.0)),
        margin=recipe.dial.margin,
    )


def tilt_of(target: PlannedTarget, bank: SampleBank, kl_coef: float) -> np.ndarray:
    """Log π/π_ref of a planned policy [prompts, samples], up to a constant per prompt."""
    shaped = bank.reward
    if target.limit is not None:
        figures = target.figures
        penalty = target.limit.measure.penalty(bank.cost, np.asarray(figures.threshold))
        shaped = shaped - figures.multiplier * bank.average_raters(penalty)
    return shaped / kl_coef


def target_of(name: str, proposal: Proposal) -> PlannedTarget:
    """What a member is trained towards."""
    (limit,) = proposal.target.constraints
    constrained = bool(np.isfinite(limit.budget)) and proposal.target.multipliers[0] > 0
    figures = PlanFigures.of(proposal.target)
    return PlannedTarget(name, limit if constrained else None, figures)


def told(done: Alternation[TrainedMember]) -> dict[str, Json]:
    """The rounds, for the artifact and the report."""

    def one(each: Round) -> dict[str, Json]:
        target = target_of(done.members[each.proposal.member].name, each.proposal)
        return {
            "member": target.name,
            "target": "no limit" if target.limit is None else describe_limit(target.limit),
            "expected_regret": each.proposal.regret,
            "regret": each.regret,
            "kept": each.kept,
        }

    return {
        "first_regret": done.first_regret,
        "regret": done.regret,
        "settled": done.settled,
        "rounds": [one(each) for each in done.rounds],
    }


@dataclass(frozen=True)
class _Reader:
    """What members make of the bank's answers; each member reads them once."""

    work: Work
    table: BankTable
    adapter_of: Callable[[TrainedMember], Path]
    known: dict[Path, np.ndarray] = field(default_factory=dict[Path, np.ndarray])

    def log_ratio(self, member: TrainedMember) -> np.ndarray:
        """Log π/π_ref of every answer [prompts, samples]."""
        if member.directory not in self.known:
            recipe, table = self.work.recipe, self.table
            policy = load_reference(recipe, self.adapter_of(member))
            found: list[np.ndarray] = []
            step = _BATCH_SIZE * 16
            show = self.work.steps(f"{member.name}: reading the bank")
            for start in range(0, len(table.prompts), step):
                rows = slice(start, start + step)
                log_probs = response_log_probs(
                    policy,
                    table.prompts[rows],
                    table.token_ids[rows],
                    temperature=recipe.policy.temperature,
                    batch_size=_BATCH_SIZE,
                )
                found.append(log_probs.double().numpy() - table.log_prob[rows])
                show(min(start + step, len(table.prompts)), len(table.prompts))
            self.known[member.directory] = np.concatenate(found).reshape(table.shape)
        return self.known[member.directory]
