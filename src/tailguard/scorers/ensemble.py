"""An ensemble of linear heads on a scorer's frozen features: epistemic uncertainty at little cost.

Each member minimises Bradley–Terry (plus the sign loss) on its own bootstrap of the *prompts*, and
is pulled to its own random prior, a draw around the model's score layer (anchored ensembles, Pearce
et al. 2020, 1810.05546; random priors, Osband et al. 2018). The members agree where there are data; in
directions that no data cover they keep the disagreement of their priors.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from tailguard.errors import InputError, ScoreError
from tailguard.scorers.classifier import SequenceClassificationScorer, require_score_layer
from tailguard.scorers.pairs import ResponsePairs
from tailguard.scorers.shift import FEWEST_FOR_SHIFT, ShiftModel

_MOST_FOR_SHIFT = 8000  # answers: more change the law by little, and are all read once more


@dataclass(frozen=True)
class HeadFitting:
    """How an ensemble of heads is fitted.

    Attributes:
        num_heads: members, at least 4.
        prior_scale: standard deviation of the prior in units of a standardised feature: how far a
            member may stray from the score layer without evidence.
        sign_weight: weight of the sign loss relative to Bradley–Terry.
        num_iterations: of L-BFGS at most; the problem is convex.
    """

    num_heads: int = 8
    prior_scale: float = 0.1
    sign_weight: float = 0.5
    num_iterations: int = 100

    def __post_init__(self) -> None:
        """Check the ranges."""
        # The deviation of n members is itself known to about 1/√(2(n−1)) of its value: 41% at four.
        if self.num_heads < 4:
            raise InputError(f"num_heads: {self.num_heads}; a spread needs at least 4")
        if self.prior_scale <= 0.0:
            raise InputError(f"prior_scale: {self.prior_scale}; must be positive")


@dataclass(frozen=True)
class PairFeatures:
    """Frozen features of both answers of each pair.

    Attributes:
        higher: of the answers that should score higher [n, hidden].
        lower: of the others [n, hidden].
        higher_sign: +1 unsafe, −1 safe, 0 unknown [n].
        lower_sign: the same for the others [n].
        prompt_index: equal numbers for equal prompts, from 0 without gaps [n].
    """

    higher: np.ndarray
    lower: np.ndarray
    higher_sign: np.ndarray
    lower_sign: np.ndarray
    prompt_index: np.ndarray

    @classmethod
    def of(cls, scorer: SequenceClassificationScorer, pairs: ResponsePairs) -> PairFeatures:
        """The features a scorer gives the pairs: one pass over all answers."""
        both = scorer.features(
            [*pairs.prompts, *pairs.prompts],
            [*pairs.higher, *pairs.lower],
        )
        zeros = [0] * len(pairs)
        return cls(
            higher=both[: len(pairs)],
            lower=both[len(pairs) :],
            higher_sign=np.array(pairs.higher_sign or zeros),
            lower_sign=np.array(pairs.lower_sign or zeros),
            prompt_index=pairs.prompt_index(),
        )


def fit_ensemble(
    scorer: SequenceClassificationScorer,
    pairs: ResponsePairs,
    *,
    settings: HeadFitting | None = None,
    seed: int = 0,
) -> SequenceClassificationScorer:
    """The scorer with an ensemble of heads around its score layer, and the law of their features.

    Args:
        scorer: a fitted one-output scorer; its backbone stays as it is.
        pairs: to fit the heads on.
        settings: how to fit.
        seed: of the bootstrap and the priors.

    Raises:
        InputError: the model has no linear score layer.
    """
    features = PairFeatures.of(scorer, pairs)
    # On the CPU, where the features are and where a seed gives the same draws on every machine.
    centre = require_score_layer(scorer.model).weight.detach()[0].cpu()
    heads = fit_heads(
        features, centre, settings=settings, generator=torch.Generator().manual_seed(seed)
    )
    return SequenceClassificationScorer(
        scorer.model,
        scorer.tokenizer,
        heads=heads,
        shift=fit_shift(scorer, pairs, seed=seed),
        max_tokens=scorer.max_tokens,
        batch_tokens=scorer.batch_tokens,
    )


def fit_shift(
    scorer: SequenceClassificationScorer, pairs: ResponsePairs, *, seed: int = 0
) -> ShiftModel | None:
    """The law of the features of the pairs' answers; None where there are too few for one."""
    prompts, answers = [*pairs.prompts, *pairs.prompts], [*pairs.higher, *pairs.lower]
    if len(answers) < FEWEST_FOR_SHIFT:
        return None
    # By prompt and in random order, because one half finds the law and the other what is usual under it.
    index = np.tile(pairs.prompt_index(), 2)
    order = np.argsort(np.random.default_rng(seed).permutation(int(index.max()) + 1)[index])
    chosen: list[int] = order[:_MOST_FOR_SHIFT].tolist()
    states, num_tokens = scorer.states([prompts[i] for i in chosen], [answers[i] for i in chosen])
    return ShiftModel.fit(states[:, 1:], num_tokens)


def fit_heads(
    features: PairFeatures,
    centre: Float[Tensor, " hidden"],
    *,
    settings: HeadFitting | None = None,
    generator: torch.Generator,
) -> Float[Tensor, "members hidden"]:
    """All heads at once, as one tensor.

    Minimises, for each member m over the pairs i with bootstrap counts k_mi,
    Σ_i k_mi ℓ_i(w_m) + Σ_d σ_d² (w_md − a_md)² / (2τ²), a_m ~ N(centre, τ²/σ_d²), where σ_d is the
    standard deviation of feature d and τ is ``prior_scale``.

    Args:
        features: of both answers of each pair.
        centre: where the priors are centred; the score layer.
        settings: how to fit.
        generator: of bootstrap and priors.

    Raises:
        ScoreError: features or the fit are not finite.
    """
    settings = settings or HeadFitting()
    higher, lower = torch.as_tensor(features.higher), torch.as_tensor(features.lower)
    # A feature that never varies gets a floor, not a division by zero.
    scale = torch.cat([higher, lower]).std(dim=0).clamp(min=1e-6)
    if not bool(torch.isfinite(scale).all()):
        raise ScoreError("features: hold NaN or infinity; check the scorer's weights")
    counts = bootstrap_weights(features.prompt_index, settings.num_heads, generator)
    # Drawn in float32 on the CPU, so that a seed gives the same heads on every device.
    noise = torch.randn(settings.num_heads, higher.shape[1], generator=generator)
    prior = centre.double() * scale + settings.prior_scale * noise.double()
    objective = _objective(features, scale, counts, prior, settings)
    heads = minimise(prior.clone(), objective, settings.num_iterations)
    if not bool(torch.isfinite(heads).all()):
        raise ScoreError("heads: the fit diverged; check the features, or lower prior_scale")
    return (heads / scale).float()


def bootstrap_weights(
    prompt_index: np.ndarray, num_members: int, generator: torch.Generator
) -> Float[Tensor, "members n"]:
    """How often each row occurs in each member's bootstrap of the prompts."""
    index = torch.as_tensor(prompt_index)
    num_prompts = int(index.max()) + 1
    # Prompts are drawn, not rows: answers to one prompt are not independent evidence.
    drawn = torch.randint(num_prompts, (num_members, num_prompts), generator=generator)
    counts = torch.zeros(num_members, num_prompts, dtype=torch.float64)
    counts.scatter_add_(1, drawn, torch.ones_like(counts))
    return counts[:, index]


def _objective(
    features: PairFeatures,
    scale: Tensor,
    counts: Tensor,
    prior: Tensor,
    settings: HeadFitting,
) -> Callable[[Tensor], Tensor]:
    higher = torch.as_tensor(features.higher) / scale
    lower = torch.as_tensor(features.lower) / scale
    signs = torch.as_tensor(np.concatenate([features.higher_sign, features.lower_sign]))
    labelled = signs != 0
    signed = torch.cat([higher, lower])[labelled] * signs[labelled, None]
    sign_counts = torch.cat([counts, counts], dim=1)[:, labelled] * settings.sign_weight

    def objective(heads: Tensor) -> Tensor:
        loss = (counts * functional.softplus(-heads @ (higher - lower).T)).sum()
        if settings.sign_weight > 0.0 and bool(labelled.any()):
            # Half, because a pair brings two signs and one comparison; the fit takes a mean over
            # answers.
            loss = loss + 0.5 * (sign_counts * functional.softplus(-heads @ signed.T)).sum()
        return loss + ((heads - prior) ** 2).sum() / (2.0 * settings.prior_scale**2)

    return objective


def minimise(start: Tensor, objective: Callable[[Tensor], Tensor], num_iterations: int) -> Tensor:
    """The minimiser of a smooth convex objective, by at most so many iterations of L-BFGS."""
    # Full batch and convex, so L-BFGS needs neither a learning rate nor a schedule.
    heads = start.requires_grad_()
    optimizer: Any = cast(Any, torch.optim.LBFGS)(
        [heads], max_iter=num_iterations, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = objective(heads)
        loss.backward()  # pyright: ignore[reportUnknownMemberType]
        return loss

    optimizer.step(closure)
    return heads.detach()
