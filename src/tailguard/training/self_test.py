"""Before the first on-policy step: the trainer's log-probabilities and samples are the policy's own.

The trainer reads batches with gradients, generates from padded prompts, and puts a fused output layer
of its own in place of the model's. A model that takes any of it otherwise would be trained towards
something else, silently; so a short probe goes through all of it, against plain forwards.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor
from transformers import GenerationConfig

from tailguard.errors import InputError, first_line
from tailguard.models.library import without_adapter
from tailguard.models.tokenizer_check import num_embeddings

if TYPE_CHECKING:
    from tailguard.training.rloo import RiskConstrainedRLOOTrainer

_log = logging.getLogger(__name__)
_PROMPT_LENGTHS, _ANSWER_LENGTH = (7, 3), 4
# Nats at one token. Of 70 tiny architectures rounding moved one by 1e-3 and all others by far less;
# what went wrong was off by nats.
_ALLOWED, _ALLOWED_IN_HALF = 1e-2, 0.25


def check_trainer(trainer: RiskConstrainedRLOOTrainer) -> None:
    """Refuse a model whose log-probabilities the trainer gets wrong, and find out how to sample.

    Where generation from padded prompts is wrong, prompts of one length are continued together from
    then on, and one line is logged that says so.

    Raises:
        InputError: the trainer's log-probabilities or, even so, its samples are not the model's; the
            message names the architecture and how many nats it is off.
    """
    name = type(without_adapter(cast(Any, trainer).model)).__name__
    found = _tried(name, "log-probabilities", lambda: log_prob_difference(trainer))
    if not found <= _allowed(trainer):
        raise InputError(
            f"policy {name}: the trainer's log-probabilities are not the model's, by {found:.2g} nats"
            " at one token; set train.num_steps to 0 (distillation alone), or use another model"
        )
    together = _tried(name, "samples", lambda: generation_difference(trainer))
    if together <= _allowed(trainer):
        return
    trainer.generates_by_length = True
    apart = _tried(name, "samples", lambda: generation_difference(trainer))
    if not apart <= _allowed(trainer):
        raise InputError(
            f"policy {name}: transformers' generation is not the model's own law, by {apart:.2g} nats"
            " at one token; set train.num_steps to 0 (distillation alone), or use another model"
        )
    _log.warning(
        "policy %s: generation from padded prompts goes wrong (by %.2g nats at one token); prompts of"
        " unlike lengths are therefore continued apart, one pass for each length",
        name,
        together,
    )


def log_prob_difference(trainer: RiskConstrainedRLOOTrainer) -> float:
    """The trainer's log-probabilities of a padded probe against plain forwards, in nats at a token.

    In training mode, as in a step: dropout that nobody switched off shows.
    """
    model = cast(Any, trainer).model
    prompts, answers = _probe(model)
    longest = max(map(len, prompts))
    ids, mask = _pad_left(prompts, longest, model.device)
    answer_ids = torch.tensor(answers, device=model.device)
    rows = torch.cat([ids, answer_ids], dim=1)
    rows_mask = torch.cat([mask, torch.ones_like(answer_ids)], dim=1)
    expected = [
        _plain(model, p + a)[len(p) - 1 : -1] for p, a in zip(prompts, answers, strict=True)
    ]
    model.train()
    with torch.no_grad():
        found = cast(Any, trainer)._get_per_token_logps_and_entropies(
            model, rows, rows_mask, _ANSWER_LENGTH
        )[0]
    taken = [
        law.gather(1, torch.tensor(a)[:, None])[:, 0]
        for law, a in zip(expected, answers, strict=True)
    ]
    return _worst(found.double().cpu() - torch.stack(taken))


def generation_difference(trainer: RiskConstrainedRLOOTrainer) -> float:
    """What generation draws from, for the first token and a cached one, against plain forwards."""
    model = cast(Any, trainer).model
    prompts, _ = _probe(model)
    parts = [[prompt] for prompt in prompts] if trainer.generates_by_length else [prompts]
    config = GenerationConfig(
        max_new_tokens=2,
        min_new_tokens=2,
        do_sample=False,
        output_logits=True,
        return_dict_in_generate=True,
        pad_token_id=0,
    )
    worst = 0.0
    for part in parts:
        longest = max(map(len, part))
        ids, mask = _pad_left(part, longest, model.device)
        with torch.no_grad():
            made = model.generate(input_ids=ids, attention_mask=mask, generation_config=config)
        for row, prompt in enumerate(part):
            tokens = made.sequences[row, longest:].tolist()
            expected = _plain(model, prompt + tokens[:1])[-2:]
            found = torch.stack([step[row] for step in made.logits]).double().log_softmax(-1).cpu()
            # Tokens that nobody would draw may differ more.
            likely = expected > expected.max(dim=1, keepdim=True).values - 10.0
            worst = max(worst, _worst((found - expected)[likely]))
    return worst


def _plain(model: Any, token_ids: Sequence[int]) -> Tensor:
    """Log-probabilities [tokens, vocab] by one unpadded pass, without dropout."""
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            rows = torch.tensor([list(token_ids)], device=model.device)
            return model(input_ids=rows, use_cache=False).logits[0].double().log_softmax(-1).cpu()
    finally:
        model.train(training)


def _probe(model: Any) -> tuple[list[list[int]], list[list[int]]]:
    num_tokens = num_embeddings(model)

    def tokens(seed: int, length: int) -> list[int]:
        return [(37 * (seed + i) + 11) % num_tokens for i in range(length)]

    prompts = [tokens(10 * row, length) for row, length in enumerate(_PROMPT_LENGTHS)]
    return prompts, [tokens(50 + 10 * row, _ANSWER_LENGTH) for row in range(len(prompts))]


def _pad_left(rows: Sequence[Sequence[int]], length: int, device: Any) -> tuple[Tensor, Tensor]:
    ids = [[0] * (length - len(row)) + list(row) for row in rows]
    mask = [[0] * (length - len(row)) + [1] * len(row) for row in rows]
    return torch.tensor(ids, device=device), torch.tensor(mask, device=device)


def _worst(differences: Tensor) -> float:
    if bool(differences.isnan().any()):
        return float("inf")
    return float(differences.abs().max())


def _allowed(trainer: RiskConstrainedRLOOTrainer) -> float:
    half = any(
        p.dtype in (torch.bfloat16, torch.float16) for p in cast(Any, trainer).model.parameters()
    )
    return _ALLOWED_IN_HALF if half else _ALLOWED


def _tried(name: str, what: str, measure: Callable[[], float]) -> float:
    try:
        return measure()
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # models raise whatever they like
        raise InputError(
            f"policy {name}: the trainer's {what} cannot be had: {type(error).__name__}:"
            f" {first_line(error)}; set train.num_steps to 0 (distillation alone), or use another"
            " model"
        ) from error
