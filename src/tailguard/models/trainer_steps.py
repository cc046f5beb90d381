"""Progress of transformers' trainers, as (step, number of steps)."""

from __future__ import annotations

from collections.abc import Callable

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

Progress = Callable[[int, int], None]


class StepProgress(TrainerCallback):
    """Reports every optimiser step to a function, if there is one."""

    def __init__(self, on_progress: Progress | None) -> None:
        self._on_progress = on_progress

    def on_step_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **_: object,
    ) -> None:
        """Called by the trainer."""
        if self._on_progress is not None:
            self._on_progress(int(state.global_step), int(state.max_steps))
