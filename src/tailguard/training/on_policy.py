"""On-policy training as one call: prompts, scorers and a plan in, a LoRA adapter out."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Protocol, cast, runtime_checkable

import numpy as np
from datasets import Dataset
from jaxtyping import Float
from transformers import PrinterCallback, TrainerControl, TrainerState, TrainingArguments
from trl.trainer.rloo_config import RLOOConfig

from tailguard.data import Prompt
from tailguard.errors import InputError, ScoreError
from tailguard.models.device import find_device, on_one_device, trains_on_cpu
from tailguard.models.policy import Policy, render_prompt, tokenize_prompts
from tailguard.models.quiet import quiet_transformers, without_announcements
from tailguard.models.random_state import seeded
from tailguard.models.trainer_steps import Progress, StepProgress
from tailguard.scorers.pessimism import pessimistic, require_pessimism
from tailguard.scorers.scorer import Scorer
from tailguard.training.adapters import (
    TrainedAdapter,
    open_adapter,
    save_adapter,
)
from tailguard.training.coverage import coverage
from tailguard.training.dual import PlannedConstraint
from tailguard.training.pid import PID
from tailguard.training.rloo import RiskConstrainedRLOOTrainer
from tailguard.training.self_test import check_trainer

_PROMPT_ROW = "prompt_row"
RaterCost = tuple[Sequence[str], Callable[[Sequence[Prompt], Sequence[str]], np.ndarray]]
"""Names of raters, and the cost of answers to each of them [answers, raters]."""


@runtime_checkable
class RewardAndCost(Protocol):
    """The two scorers that training looks at."""

    @property
    def reward(self) -> Scorer:
        """Larger is better; the mean over its members counts."""
        ...

    @property
    def cost(self) -> Scorer:
        """Larger is worse; mean plus pessimism times the spread over its members counts."""
        ...


@dataclass(frozen=True)
class RLOOSettings:
    """How a policy is trained on its own answers.

    Attributes:
        kl_coef: β ≥ 0, the price of a nat away from the base policy.
        num_steps: optimiser steps.
        prompts_per_step: prompts in one step.
        num_generations: answers to each, at least 2: the others are the baseline.
        max_new_tokens: longest answer.
        learning_rate: at first; it falls linearly to 0, for a noisy last step is a noisy tail.
        micro_batch: the most answers in one forward pass of training; fewer take less memory, for
            the same step.
        rank: of a fresh adapter.
        pessimism: standard deviations over the cost's members that are added to its mean.
        pid: the multiplier's controller, in Newton steps (`newton_scale`).
        window_size: recent costs kept for the tail; None for enough.
        seed: of everything random.
        device: where to train; the first GPU or the CPU.
        dtype: of the base policy's weights, as of `load_policy`.
    """

    kl_coef: float = 0.1
    num_steps: int = 40
    prompts_per_step: int = 16
    num_generations: int = 8
    max_new_tokens: int = 48
    learning_rate: float = 2e-4
    micro_batch: int = 32
    rank: int = 16
    pessimism: float = 0.0
    pid: PID = field(default_factory=PID)
    window_size: int | None = None
    seed: int = 0
    device: str = "auto"
    dtype: str = "auto"

    def __post_init__(self) -> None:
        for name in ("num_steps", "prompts_per_step", "max_new_tokens", "micro_batch", "rank"):
            if getattr(self, name) < 1:
                raise InputError(f"{name}={getattr(self, name)}: give at least 1")
        if self.num_generations < 2:
            raise InputError(f"num_generations={self.num_generations}: give at least 2")
        if not self.learning_rate > 0:
            raise InputError(f"learning_rate={self.learning_rate}: give a positive number")
        if not self.kl_coef >= 0:
            raise InputError(f"kl_coef={self.kl_coef}: must not be negative")
        require_pessimism(self.pessimism)


def train_rloo(  # noqa: PLR0913
    base: str | Path,
    prompts: Sequence[Prompt],
    out: Path,
    *,
    scorers: RewardAndCost,
    constraints: Sequence[PlannedConstraint] = (),
    settings: RLOOSettings = RLOOSettings(),
    start_adapter: Path | None = None,
    rater_cost: RaterCost | None = None,
    on_progress: Progress | None = None,
) -> TrainedAdapter:
    """Train a LoRA policy by RLOO on r − Σ λφ_ν(c) − β log π/π_ref, π_ref being the base policy.

    Args:
        base: checkpoint of the base policy.
        prompts: at least as many as one step takes.
        out: folder for the adapter; written last, and not at all if a score fails.
        scorers: reward and cost.
        constraints: with ν and λ₀ from the plan; none: unconstrained, costs only watched.
        settings: how to train.
        start_adapter: train on from this adapter, as the distilled one; None: a fresh one.
        rater_cost: names of raters and the cost to each [answers, raters], pessimistic already: what the
            constraints are then about, a column each, in place of the cost.
        on_progress: called with (step, number of steps).

    Returns:
        The adapter; its curve has, per step, reward, cost, kl (nats per answer), length (tokens),
        and the figures of `Dual.figures`.

    Raises:
        InputError: too few prompts, or one that does not fit the context with its answer.
        ScoreError: a score is NaN, infinite or of a wrong shape.
    """
    if len(prompts) < settings.prompts_per_step:
        raise InputError(
            f"{len(prompts)} prompts for prompts_per_step={settings.prompts_per_step}: "
            "give more prompts, or take fewer per step"
        )
    start = time.perf_counter()
    with (
        quiet_transformers(),
        without_announcements(),
        seeded(settings.seed),
        tempfile.TemporaryDirectory() as scratch,
    ):
        policy = open_adapter(
            base,
            start_adapter,
            rank=settings.rank,
            seed=settings.seed,
            device=settings.device,
            dtype=settings.dtype,
        )
        # What is too long is refused now, and not at the step that draws it.
        tokenize_prompts(policy, prompts, settings.max_new_tokens)
        recorder = _Recorder(on_progress)
        trainer: Any = RiskConstrainedRLOOTrainer(
            policy.model,
            _score_function("reward", scorers.reward, prompts),
            cost_funcs=_score_function("cost", scorers.cost, prompts, settings.pessimism)
            if rater_cost is None
            else _rater_functions(*rater_cost, prompts),
            constraints=constraints,
            args=on_one_device(_arguments(settings, scratch)),
            train_dataset=_dataset(policy, prompts),
            processing_class=policy.tokenizer,
            callbacks=[recorder],
            pid=settings.pid,
            window_size=settings.window_size,
        )
        trainer.remove_callback(PrinterCallback)
        check_trainer(trainer)
        trainer.train()
        path = save_adapter(trainer.accelerator.unwrap_model(trainer.model), Path(out))
    return TrainedAdapter(path, coverage(policy.model), recorder.curve, time.perf_counter() - start)


def _arguments(settings: RLOOSettings, scratch: str) -> RLOOConfig:
    answers = settings.prompts_per_step * settings.num_generations
    # Parts of one size, for TRL takes the mean of their means.
    parts = next(
        n
        for n in range(1, answers + 1)
        if answers % n == 0 and answers // n <= settings.micro_batch
    )
    return RLOOConfig(
        output_dir=scratch,
        beta=settings.kl_coef,
        max_steps=settings.num_steps,
        # One optimiser step per generated batch: λ then moves as often as the policy.
        per_device_train_batch_size=answers // parts,
        gradient_accumulation_steps=parts,
        num_generations=settings.num_generations,
        max_completion_length=settings.max_new_tokens,
        learning_rate=settings.learning_rate,
        lr_scheduler_type="linear",
        seed=settings.seed,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        bf16=False,
        use_cpu=trains_on_cpu(find_device(settings.device)),
        activation_checkpointing=False,
        dataloader_pin_memory=False,
        # With dropout, π at sampling and π at the step are different policies.
        disable_dropout=True,
    )


def _dataset(policy: Policy, prompts: Sequence[Prompt]) -> Dataset:
    """Chats where the tokenizer has a template, else the text that the policy continues."""
    if policy.tokenizer.chat_template is None:
        rows: list[Prompt] = [render_prompt(policy.tokenizer, prompt) for prompt in prompts]
    else:
        rows = [[{"role": "user", "content": p}] if isinstance(p, str) else p for p in prompts]
    # By row number, as TRL hands on prompts rendered, and scorers read them as given.
    columns = {"prompt": rows, _PROMPT_ROW: list(range(len(rows)))}
    return cast(Any, Dataset).from_dict(columns)


def _score_function(
    name: str, scorer: Scorer, prompts: Sequence[Prompt], pessimism: float = 0.0
) -> Callable[..., list[float]]:
    """A scorer as TRL's function; scorers read the prompts as they were given."""

    def score(completions: Sequence[Any], prompt_row: Sequence[int], **_: Any) -> list[float]:
        texts = [c if isinstance(c, str) else c[0]["content"] for c in completions]
        members = np.asarray(scorer.score([prompts[row] for row in prompt_row], texts))
        return combine_members(members, len(texts), name, pessimism).tolist()

    score.__name__ = name
    return score


def _rater_functions(
    raters: Sequence[str],
    cost: Callable[[Sequence[Prompt], Sequence[str]], np.ndarray],
    prompts: Sequence[Prompt],
) -> list[Callable[..., list[float]]]:
    """A function for each rater; TRL calls them one after the other, and the answers are read once."""
    last: dict[tuple[tuple[int, ...], tuple[str, ...]], np.ndarray] = {}

    def read(completions: Sequence[Any], rows: Sequence[int]) -> np.ndarray:
        texts = tuple(c if isinstance(c, str) else c[0]["content"] for c in completions)
        key = tuple(rows), texts
        if key not in last:
            found = np.asarray(cost([prompts[row] for row in rows], texts))
            if found.shape != (len(texts), len(raters)):
                raise ScoreError(
                    f"rater_cost gave scores of shape {found.shape} for {len(texts)} answers and"
                    f" {len(raters)} raters"
                )
            last.clear()
            last[key] = found
        return last[key]

    def of(place: int) -> Callable[..., list[float]]:
        def score(completions: Sequence[Any], prompt_row: Sequence[int], **_: Any) -> list[float]:
            return read(completions, prompt_row)[:, place].tolist()

        score.__name__ = f"cost:{raters[place]}"
        return score

    return [of(place) for place in range(len(raters))]


def combine_members(
    members: np.ndarray, num_answers: int, name: str, pessimism: float = 0.0
) -> Float[np.ndarray, " n"]:
    """One score per answer, `pessimistic` over members, of scores [n, members].

    Raises:
        ScoreError: another shape, or a score that is not finite.
        InputError: a single member with pessimism > 0.
    """
    if members.ndim != 2 or members.shape[0] != num_answers or members.shape[1] < 1:
        raise ScoreError(
            f"{name} gave scores of shape {members.shape} for {num_answers} answers: "
            "a scorer gives [answers, members]"
        )
    if not np.isfinite(members).all():
        raise ScoreError(f"{name} gave a NaN or an infinite score: training stops")
    return pessimistic(members.astype(np.float64), pessimism)


class _Recorder(StepProgress):
    """Collects one dict per step, under short names."""

    names: ClassVar = {"risk/mean_reward": "reward", "risk/mean_cost": "cost", "kl": "kl"}

    def __init__(self, on_progress: Progress | None) -> None:
        super().__init__(on_progress)
        self.curve: list[dict[str, float]] = []

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **_: object,
    ) -> None:
        if not logs or "reward" not in logs:
            return  # the summary at the end
        length = float(logs["completions/mean_length"])
        row = {"step": float(state.global_step), "length": length}
        for name, value in logs.items():
            if name in self.names:
                row[self.names[name]] = float(value)
            elif name.startswith("risk/"):
                row[name.removeprefix("risk/")] = float(value)
        if "cost" not in row:  # with a cost for each rater: their mean, so that curves compare
            each = [value for name, value in row.items() if name.startswith("mean_cost_")]
            row["cost"] = float(np.mean(each))
        if "kl" in row:
            row["kl"] *= length  # TRL's is per token
        self.curve.append(row)
