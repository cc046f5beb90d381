"""On-policy training: TRL's RLOO on r − λφ_ν(c) − β log π/π_ref, closed to unscored answers."""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, cast, runtime_checkable

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from trl.trainer.rloo_config import RLOOConfig
from trl.trainer.rloo_trainer import RLOOTrainer

from tailguard.errors import InputError, ScoreError
from tailguard.models.chat_tokens import encode_chats
from tailguard.models.dropout import switch_off_dropout
from tailguard.models.library import without_adapter
from tailguard.risk import RiskLimit, as_threshold
from tailguard.training.dual import (
    Dual,
    DualState,
    PlannedConstraint,
    numbered,
    state_from_json,
    state_to_json,
)
from tailguard.training.pid import PID

DUAL_STATE_NAME = "dual_state.json"
_TAIL_ANSWERS = 10  # fewer in the tail estimate nothing


@runtime_checkable
class _TRL(Protocol):
    """What TRL's trainer keeps and does not type."""

    accelerator: Any
    model: Any
    reward_func_names: list[str]
    reward_weights: Tensor


class RiskConstrainedRLOOTrainer(RLOOTrainer):
    """RLOO with costs: the reward of an answer is Σ w·r − Σ λφ_ν(c), less β log π/π_ref.

    Differs from TRL's trainer in five things. Prompts are tokenized as everywhere else in Tailguard. The matrix of scores is closed: one NaN or infinity
    stops training, where TRL's sum over the functions would read a NaN cost as harmless. Columns
    of costs become penalties, and each λ makes one PID step per generated batch, from that batch
    and a window before it. π_ref is the base model with its adapter off, also where training starts
    from a trained adapter (TRL would take a copy of that adapter). λ, its integral and the window
    are kept in checkpoints. And log-probabilities are of rows that start at their first token, and
    with `disable_dropout` without the dropout that is no module: TRL numbers tokens by their column,
    pads included, and leaves what models drop in functions.

    Refused, because they undo the units of λ or cut the tail: normalize_advantages,
    reward_clip_range, mask_truncated_completions, and sampling other than from π itself.

    Attributes:
        dual: the constraints and their control.
        dual_state: its state now.
        generates_by_length: whether prompts of unlike lengths are continued apart, for models that
            cannot be given pads.
    """

    dual: Dual
    dual_state: DualState
    generates_by_length: bool = False

    def __init__(
        self,
        model: Any,
        reward_funcs: Any,
        *,
        cost_funcs: Any = (),
        constraints: Sequence[RiskLimit | PlannedConstraint] = (),
        thresholds: Any = None,
        multipliers: Any = 0.0,
        args: RLOOConfig | None = None,
        **trl_arguments: Any,
    ) -> None:
        """All other arguments are TRL's; its lists about functions take rewards, then costs.

        Args:
            model: as TRL: a path, a model, or a peft model.
            reward_funcs: one or a list, as TRL; larger is better.
            cost_funcs: one or a list, of the same form; larger is worse.
            constraints: what the costs must keep. As many as cost functions: one each; else all on
                the one cost function. A `PlannedConstraint` says itself which.
            thresholds: ν of each `RiskLimit`, as `Solution.threshold`.
            multipliers: λ₀ of each, as `Solution.multiplier`.
            args: TRL's configuration; also read here: beta.
            **trl_arguments: passed on, except pid (a `PID`) and window_size (costs kept).

        Raises:
            InputError: settings that break the method, or constraints without costs or thresholds.
        """
        # TRL knows one list of functions: rewards first, then costs, which become penalties.
        rewards, costs = _as_list(reward_funcs), _as_list(cost_funcs)
        pid: PID = trl_arguments.pop("pid", None) or PID()
        window_size: int | None = trl_arguments.pop("window_size", None)
        # Copied: the caller's arguments stay as they were.
        args = RLOOConfig("rloo") if args is None else copy.copy(args)
        _check_arguments(args)
        planned = _planned(constraints, thresholds, multipliers, len(costs))
        if args.reward_weights is not None:
            args.reward_weights = [*args.reward_weights, *([1.0] * len(costs))]
        _name_backbone(model)
        super().__init__(model, [*rewards, *costs], args=args, **trl_arguments)
        if args.disable_dropout:
            switch_off_dropout(self._trl.model)
        names = self._trl.reward_func_names
        self.num_rewards = len(rewards)
        # TRL logs what it sums, and after `_calculate_rewards` that is a penalty, not a cost.
        names[len(rewards) :] = [f"penalty/{name}" for name in names[len(rewards) :]]
        self._use_base_as_reference()
        size = window_size or _window_size(planned, int(args.generation_batch_size or 1))
        self.dual = Dual(planned, len(costs), float(args.beta), size, pid)
        self.dual_state = self.dual.init()

    @property
    def _trl(self) -> _TRL:
        """This trainer as the parts of TRL's that carry no types."""
        return cast(_TRL, self)

    def _use_base_as_reference(self) -> None:
        """Drop the copy of a starting adapter that TRL would hold π against."""
        model = self._trl.accelerator.unwrap_model(self._trl.model)
        if "ref" in getattr(model, "peft_config", {}):
            model.delete_adapter("ref")

    def _tokenize_prompts(self, prompts: list[Any]) -> tuple[list[list[int]], None, dict[str, Any]]:
        """As policies read prompts everywhere else; TRL would read typed control tokens as such."""
        trl: Any = self
        tokenizer: Any = trl.processing_class
        # A text beside a template is the caller's own rendering, which TRL leaves as it is.
        rendered = tokenizer.chat_template is not None and isinstance(prompts[0], str)
        if rendered or trl.chat_template_kwargs:
            return cast(Any, super())._tokenize_prompts(prompts)
        return encode_chats(tokenizer, prompts), None, {}

    def _get_per_token_logps_and_entropies(
        self,
        model: Any,
        input_ids: Tensor,
        attention_mask: Tensor,
        logits_to_keep: int,
        *arguments: Any,
        **options: Any,
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """As TRL's, of rows moved left to their first token, where causal models see no pads."""
        width = input_ids.shape[1]
        pads = attention_mask.long().argmax(dim=1, keepdim=True)
        columns = torch.arange(width, device=input_ids.device) + pads
        inside, columns = columns < width, columns.clamp(max=width - 1)
        for name in ("token_type_ids", "mm_token_type_ids"):
            if options.get(name) is not None:
                options[name] = options[name].gather(1, columns)
        log_probs, entropies, aux_loss = cast(Any, super())._get_per_token_logps_and_entropies(
            model,
            input_ids.gather(1, columns),
            attention_mask.gather(1, columns) * inside,
            width - 1,  # the answers' columns are now others in each row
            *arguments,
            **options,
        )
        # Entry i is of the token in column i + 1.
        answer = torch.arange(width - logits_to_keep, width, device=input_ids.device) - pads - 1
        if entropies is not None:
            entropies = entropies.gather(1, answer)
        return log_probs.gather(1, answer), entropies, aux_loss

    def _generate_single_turn(
        self, prompt_ids: list[list[int]], images: Any, multimodal_fields: Any
    ) -> list[list[int]]:
        """As TRL's; by length where the model cannot be given pads."""
        generate = cast(Any, super())._generate_single_turn
        if not self.generates_by_length:
            return generate(prompt_ids, images, multimodal_fields)
        answers: list[list[int]] = [[] for _ in prompt_ids]
        for length in sorted({len(prompt) for prompt in prompt_ids}):
            rows = [i for i, prompt in enumerate(prompt_ids) if len(prompt) == length]
            drawn = generate([prompt_ids[i] for i in rows], None, {})
            for i, answer in zip(rows, drawn, strict=True):
                answers[i] = answer
        return answers

    def _calculate_rewards(
        self, inputs: object, prompts: object, completions: object, completion_ids_list: object
    ) -> Tensor:
        """The gathered matrix [answers, functions], costs turned into penalties.

        Raises:
            ScoreError: an entry is NaN or infinite; on every process, for the matrix is gathered.
        """
        scores: Tensor = cast(Any, super())._calculate_rewards(
            inputs, prompts, completions, completion_ids_list
        )
        _require_scored(scores, self._trl.reward_func_names)
        costs = scores[:, self.num_rewards :].double().cpu().numpy()
        shaped = torch.as_tensor(self.dual.shape(self.dual_state, costs))
        matrix = torch.cat([scores[:, : self.num_rewards], shaped.to(scores)], dim=1)
        # Evaluation batches are of other prompts; λ must not learn from them.
        if self._trl.model.training:
            # Shaped with the λ before the update: the batch that sets λ is not judged by it.
            used = self.dual_state
            self.dual_state = self.dual.update(used, costs)
            self._log_figures(used, scores, costs)
        return matrix

    def _log_figures(self, used: DualState, scores: Tensor, costs: np.ndarray) -> None:
        """λ as this batch used it; the rest as this batch left it."""
        figures = self.dual.figures(self.dual_state)
        before = self.dual.figures(used)
        figures |= {name: before[name] for name in before if name.startswith("multiplier")}
        weights = self._trl.reward_weights[: self.num_rewards].to(scores)
        figures["mean_reward"] = float((scores[:, : self.num_rewards] @ weights).mean())
        for j in range(costs.shape[1]):
            figures[numbered("mean_cost", j, costs.shape[1])] = float(costs[:, j].mean())
        for name, value in figures.items():
            cast(Any, self)._metrics["train"][f"risk/{name}"].append(value)

    def _save_checkpoint(self, model: nn.Module, trial: object) -> None:
        cast(Any, super())._save_checkpoint(model, trial)
        folder = Path(str(self.args.output_dir)) / f"checkpoint-{self.state.global_step}"
        if self.is_world_process_zero():
            text = json.dumps(state_to_json(self.dual_state))
            (folder / DUAL_STATE_NAME).write_text(text, encoding="utf-8")

    def _load_from_checkpoint(
        self, resume_from_checkpoint: str, model: nn.Module | None = None
    ) -> None:
        """As TRL, and λ with it.

        Raises:
            InputError: the checkpoint holds no dual state, or that of other constraints.
        """
        path = Path(resume_from_checkpoint) / DUAL_STATE_NAME
        if not path.is_file():
            raise InputError(f"{path} is not there: this checkpoint cannot be resumed safely")
        values = json.loads(path.read_text(encoding="utf-8"))
        self.dual_state = state_from_json(values, self.dual.init())
        super()._load_from_checkpoint(resume_from_checkpoint, model)

    def _send_telemetry(self) -> None:
        """Send nothing."""


def _name_backbone(model: Any) -> None:
    """TRL calls a model's layers by `base_model`, which some classes (Llama 4's) name wrongly."""
    bare: Any = without_adapter(model)
    if getattr(bare, "base_model", None) is bare:
        parts = [name for name, part in bare.named_children() if isinstance(part, PreTrainedModel)]
        if len(parts) == 1:
            bare.base_model_prefix = parts[0]


def _require_scored(scores: Tensor, names: Sequence[str]) -> None:
    finite = torch.isfinite(scores)
    if not bool(finite.all()):
        row, column = (int(i) for i in (~finite).nonzero()[0])
        raise ScoreError(
            f"{names[column]} gave {float(scores[row, column])} for answer {row}: training stops, "
            "because an answer without a score would count as harmless"
        )


def _check_arguments(args: RLOOConfig) -> None:
    refused: dict[str, tuple[object, str]] = {
        "normalize_advantages": (False, "it divides λ by the spread of each batch"),
        "reward_clip_range": (None, "it cuts the tail that is being limited"),
        "mask_truncated_completions": (False, "harm in a cut-off answer would move nothing"),
        "temperature": (1.0, "the tail must be that of the policy itself"),
        "top_p": (1.0, "the tail must be that of the policy itself"),
        "top_k": (0, "the tail must be that of the policy itself"),
        "min_p": (None, "the tail must be that of the policy itself"),
        "repetition_penalty": (1.0, "the tail must be that of the policy itself"),
    }
    given: object = cast(Any, args).generation_kwargs
    if given:
        raise InputError(
            f"generation_kwargs={given}: leave it out; the tail must be that of the policy itself"
        )
    for name, (needed, reason) in refused.items():
        if getattr(args, name) != needed:
            raise InputError(f"{name}={getattr(args, name)}: set it to {needed}; {reason}")


def _as_list(functions: Any) -> list[Any]:
    if isinstance(functions, list | tuple):
        return list(cast("Sequence[Any]", functions))
    return [functions]


def _planned(
    constraints: Sequence[RiskLimit | PlannedConstraint],
    thresholds: Any,
    multipliers: Any,
    num_costs: int,
) -> tuple[PlannedConstraint, ...]:
    count = len(constraints)
    nus = _per_constraint("thresholds", thresholds, count)
    lambdas = _per_constraint("multipliers", multipliers, count)
    plain = sum(isinstance(c, RiskLimit) for c in constraints)
    if plain and num_costs > 1 and count != num_costs:
        raise InputError(
            f"{count} constraints for {num_costs} cost_funcs: give one each, or say which cost"
            " each is for by PlannedConstraint"
        )
    return tuple(
        c if isinstance(c, PlannedConstraint) else _plan(c, nu, lam, k if num_costs > 1 else 0)
        for k, (c, nu, lam) in enumerate(zip(constraints, nus, lambdas, strict=True))
    )


def _plan(limit: RiskLimit, nu: Any, lam: Any, column: int) -> PlannedConstraint:
    if nu is None and limit.measure.slopes.any():  # the mean's penalty has no threshold
        raise InputError("thresholds is missing: give the plan's, solve(...).threshold")
    threshold = 0.0 if nu is None else as_threshold(nu)
    return PlannedConstraint(limit, threshold, float(lam), column)


def _per_constraint(name: str, values: Any, count: int) -> list[Any]:
    """One value for each constraint, from one for all or a sequence."""
    if values is None or np.ndim(values) == 0 or (count == 1 and len(values) != 1):
        return [values] * count
    if len(values) != count:
        raise InputError(f"{name} has {len(values)} entries for {count} constraints")
    return list(values)


def _window_size(planned: Sequence[PlannedConstraint], batch: int) -> int:
    """Four batches, or as many costs as put ten in the smallest tail."""
    tails = [constraint.limit.measure.smallest_tail for constraint in planned]
    # Four batches smooth λ; ten answers in the tail is where its mean begins to mean something.
    return max([4 * batch, *(int(np.ceil(_TAIL_ANSWERS / tail)) for tail in tails)])
