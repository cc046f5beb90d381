"""The exact law of a policy over a world's responses, and what that law earns and risks."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from tailguard.errors import InputError
from tailguard.lab.exact.world import ExactWorld
from tailguard.models.policy import Policy, tokenize_prompts
from tailguard.risk import RiskMeasure

NextTokenLogits = Callable[[Tensor], Tensor]
# Rounding leaks far less; a thousandth means another vocabulary or length.
_MOST_LEAK = 1e-3


@dataclass(frozen=True)
class ExactOutcome:
    """What a policy truly achieves, prompts uniform and responses from its law.

    Attributes:
        reward: E r.
        cost: E c.
        risk: ρ(C), pooled over prompts and responses.
        kl_nats: E_x KL(π(·|x) ‖ π_ref(·|x)).
        value: reward − kl_coef · kl_nats.
        unsafe_rate: P(C > 0).
    """

    reward: float
    cost: float
    risk: float
    kl_nats: float
    value: float
    unsafe_rate: float


def log_prob_tensor(
    world: ExactWorld,
    policy: Policy,
    logits: NextTokenLogits | None = None,
    *,
    batch_size: int = 4096,
) -> Float[Tensor, "prompts responses"]:
    """Log π(y|x) of every response, float64, differentiable unless gradients are off.

    All continuations of a prefix share its pass: only the num_tokens^(length − 1) prefixes are run.

    Args:
        world: whose responses are enumerated.
        policy: its tokenizer is read, and its model unless ``logits`` is given.
        logits: token ids [n, t] → next-token logits [n, t, vocabulary], for a mixture or any other
            law that is no single model.
        batch_size: prefixes in one pass.
    """

    def own(token_ids: Tensor) -> Tensor:
        return policy.model(input_ids=token_ids).logits

    run = own if logits is None else logits
    heads = tokenize_prompts(policy, world.prompts, world.length)
    last = world.num_tokens
    # Responses are in lexicographic order, so every num_tokens-th one begins a new prefix.
    parents = torch.tensor(world.responses[::last, :-1], device=policy.device)
    rows: list[Tensor] = []
    for head in heads:
        opening = torch.tensor(head, device=policy.device)
        parts = [
            _continuations(run, opening, parents[start : start + batch_size], last)
            for start in range(0, parents.shape[0], batch_size)
        ]
        rows.append(torch.cat(parts))
    return torch.stack(rows)


def exact_log_probs(
    world: ExactWorld,
    policy: Policy,
    logits: NextTokenLogits | None = None,
    *,
    batch_size: int = 4096,
) -> Float[np.ndarray, "prompts responses"]:
    """``log_prob_tensor`` as an array, in evaluation mode and without gradients.

    Raises:
        InputError: the policy gives more than a thousandth of its probability to texts that are no
            responses of this world.
    """
    model: Any = policy.model
    training = bool(model.training)
    model.eval()
    try:
        with torch.no_grad():
            result = log_prob_tensor(world, policy, logits, batch_size=batch_size)
    finally:
        model.train(training)
    array = result.cpu().numpy()
    mass = np.exp(array).sum(axis=1)
    if not np.all(np.abs(mass - 1.0) <= _MOST_LEAK):
        raise InputError(
            f"policy leaves this world: the probabilities of all responses sum to {mass.min():.4g}"
        )
    return array


def exact_outcome(
    world: ExactWorld,
    log_probs: Float[np.ndarray, "prompts responses"],
    reference: Float[np.ndarray, "prompts responses"],
    measure: RiskMeasure,
    kl_coef: float,
) -> ExactOutcome:
    """Reward, risk, KL and value of a law over responses.

    Args:
        world: with the truth.
        log_probs: log π; what it lacks to a total of 1 is spread in proportion.
        reference: log π_ref.
        measure: ρ.
        kl_coef: β.
    """
    log_law = log_probs - np.logaddexp.reduce(log_probs, axis=1, keepdims=True)
    law = np.exp(log_law)
    # 0·log 0 = 0: a response without probability adds nothing to the KL.
    ratio = np.where(law > 0, log_law - reference, 0.0)
    pooled = law / law.shape[0]
    reward = float(np.sum(pooled * world.reward))
    kl_nats = float(np.sum(pooled * ratio))
    return ExactOutcome(
        reward=reward,
        cost=float(np.sum(pooled * world.cost)),
        risk=float(measure.value_rows(world.cost.ravel(), pooled.ravel())),
        kl_nats=kl_nats,
        value=reward - kl_coef * kl_nats,
        unsafe_rate=float(np.sum(pooled * (world.cost > 0))),
    )


def _continuations(
    run: NextTokenLogits, opening: Tensor, parents: Tensor, num_tokens: int
) -> Float[Tensor, " responses"]:
    """Log-probabilities of the one-token extensions of each parent, parents in order."""
    ids = torch.cat([opening.expand(parents.shape[0], -1), parents], dim=1)
    log_probs = run(ids)[:, opening.shape[0] - 1 :].double().log_softmax(dim=-1)
    before = log_probs[:, :-1].gather(2, parents[:, :, None])[:, :, 0].sum(dim=1)
    return (before[:, None] + log_probs[:, -1, :num_tokens]).flatten()
