"""Reward and cost scorers: anything that gives numbers to (prompt, response) pairs.

A published scorer is a one-output ``AutoModelForSequenceClassification``. Ours is one too, with an
optional ``heads.safetensors`` beside it: M linear heads on the pooled hidden state, whose mean is
the model's own ``score.weight``. One pass so gives M scores, and whoever ignores the extra file
reads the ensemble's mean.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from tailguard.data import Prompt
from tailguard.errors import InputError, ScoreError
from tailguard.models.chat_tokens import encode_chats
from tailguard.models.library import LanguageModel, Tokenizer, score_layer, special_token_id


@runtime_checkable
class Scorer(Protocol):
    """Scores answers. The mean over members is the score; their spread says how uncertain it is."""

    def score(self, prompts: Sequence[Prompt], responses: Sequence[str]) -> np.ndarray:
        """Scores, float64 [n, members], one row per (prompt, response)."""
        ...


def require_finite(scores: np.ndarray, name: str = "scores") -> np.ndarray:
    """The same array, if every entry is finite.

    Raises:
        ScoreError: a NaN or an infinity; safety code stops rather than read it as harmless.
    """
    bad = ~np.isfinite(scores)
    if bad.any():
        first = tuple(int(i) for i in np.argwhere(bad)[0])
        raise ScoreError(
            f"{name}: {int(bad.sum())} of {bad.size} are not finite (first at {first}:"
            f" {scores[first]}); check the scorer's weights and its input length"
        )
    return scores


def require_members(scores: np.ndarray, name: str) -> np.ndarray:
    """The same array, if it is what `Scorer.score` promises and every entry is finite.

    Raises:
        ScoreError: another shape (a scorer of one's own that gives [n] is the usual slip), or as
            in `require_finite`.
    """
    if scores.ndim != 2 or scores.shape[1] == 0:
        raise ScoreError(
            f"{name}: the scorer gave an array of shape {scores.shape}; it must be [n, members],"
            " one row per answer"
        )
    return require_finite(scores, name)


def encode_for_scoring(
    tokenizer: Tokenizer, prompts: Sequence[Prompt], responses: Sequence[str], max_tokens: int
) -> list[list[int]]:
    """Token ids as the scorer reads them, at most ``max_tokens`` each.

    As `encode_chats`. A text that is too long loses its *beginning* (so the prompt first): what is
    judged is the answer, and the pooled state is that of the last token.

    Raises:
        InputError: different numbers of prompts and responses.
    """
    if len(prompts) != len(responses):
        raise InputError(
            f"responses: {len(responses)} for {len(prompts)} prompts; give one per prompt"
        )
    if len(prompts) == 0:
        return []
    rows = encode_chats(tokenizer, prompts, responses)
    # The end is kept: the answer stands there, and the pooled state is the last token's.
    return [ids[-max_tokens:] for ids in rows]


class SequenceClassificationScorer:
    """A one-output sequence classifier read as a scorer, with optional ensemble heads.

    Attributes:
        model: the transformers model, ``num_labels == 1``.
        tokenizer: its tokenizer, with a pad token.
        heads: linear heads [members, hidden] on the pooled state before ``model.score``, or
            ``None`` for the model's single output.
        max_tokens: longest input; longer ones lose their beginning (see `encode_for_scoring`).
        batch_tokens: padded tokens in one forward pass.

    Raises:
        InputError: not one output, no pad token, or heads that do not fit the model.
    """

    def __init__(
        self,
        model: LanguageModel,
        tokenizer: Tokenizer,
        *,
        heads: Float[Tensor, "members hidden"] | None = None,
        max_tokens: int | None = None,
        batch_tokens: int = 8192,
    ) -> None:
        require_one_output(model)
        pad = special_token_id(tokenizer, "pad")
        if pad is None:
            raise InputError("tokenizer: has no pad token; set tokenizer.pad_token")
        if heads is not None:
            _require_fitting(model, heads)
            heads = heads.to(device=model.device, dtype=torch.float32)
        # Classifiers find the last token by this id, and some checkpoints leave it unset.
        model.config.get_text_config().pad_token_id = pad
        self.model = model.eval()
        self.tokenizer = tokenizer
        self.heads = heads
        # A longer input would index past the positions that the model has.
        longest = _context_length(model, tokenizer)
        self.max_tokens = min(max_tokens or longest, longest)
        self.batch_tokens = batch_tokens

    @property
    def num_members(self) -> int:
        """Members of the ensemble; 1 for a plain model."""
        return 1 if self.heads is None else int(self.heads.shape[0])

    def score(self, prompts: Sequence[Prompt], responses: Sequence[str]) -> np.ndarray:
        """Scores, float64 [n, members].

        Raises:
            InputError: different numbers of prompts and responses.
            ScoreError: a score that is not finite.
        """
        if self.heads is not None:
            features = torch.as_tensor(self.features(prompts, responses))
            # In float64: members differ by little, and their spread is a difference of such scores.
            scores = (features @ self.heads.double().cpu().T).numpy()
        else:
            scores = self._run(prompts, responses, pooled=False)
        return require_finite(scores)

    def features(self, prompts: Sequence[Prompt], responses: Sequence[str]) -> np.ndarray:
        """The pooled hidden state before ``model.score``, float64 [n, hidden].

        Pooled as in `pool_last`.
        """
        require_score_layer(self.model)
        return self._run(prompts, responses, pooled=True)

    @torch.inference_mode()
    def _run(
        self, prompts: Sequence[Prompt], responses: Sequence[str], *, pooled: bool
    ) -> np.ndarray:
        encoded = encode_for_scoring(self.tokenizer, prompts, responses, self.max_tokens)
        width = int(self.model.config.get_text_config().hidden_size) if pooled else 1
        out = np.empty((len(encoded), width), dtype=np.float64)
        for rows in _length_batches([len(ids) for ids in encoded], self.batch_tokens):
            batch = self.tokenizer.pad(
                {"input_ids": [encoded[row] for row in rows]},
                # On the right, as the pooling rule below expects.
                padding_side="right",
                return_tensors="pt",
            ).to(self.model.device)
            if pooled:
                values = pool_last(self.model, batch["input_ids"], batch["attention_mask"])
            else:
                values = self.model(**batch).logits
            out[rows] = values.float().cpu().numpy()
        return out


def pool_last(
    model: LanguageModel, input_ids: Tensor, attention_mask: Tensor
) -> Float[Tensor, "n hidden"]:
    """Final hidden state at each row's last token whose id is not the pad token's.

    The rule of transformers' sequence classifiers, so that a head here and ``model.score`` read
    the same state, also where the pad token is the end token.
    """
    hidden = model.base_model(
        input_ids=input_ids, attention_mask=attention_mask, use_cache=False
    ).last_hidden_state
    real = input_ids != model.config.get_text_config().pad_token_id
    # argmax of position × real: the last real token, 0 for a row of pads alone.
    last = (torch.arange(real.shape[1], device=real.device) * real).argmax(dim=1)
    return hidden[torch.arange(hidden.shape[0], device=hidden.device), last]


def require_one_output(model: LanguageModel) -> None:
    """Raise `InputError` unless the model has exactly one output."""
    num_labels = getattr(model.config, "num_labels", None)
    if num_labels != 1:
        raise InputError(
            f"model: {type(model).__name__} has {num_labels} outputs; a scorer has one"
            " (num_labels=1)"
        )


def _length_batches(lengths: list[int], batch_tokens: int) -> Iterator[list[int]]:
    """Rows in order of length, cut so that each padded batch stays within ``batch_tokens``."""
    # Longest first: the first batch is the largest, so memory fails at once or never.
    order = sorted(range(len(lengths)), key=lambda row: -lengths[row])
    start = 0
    while start < len(order):
        size = max(1, batch_tokens // max(1, lengths[order[start]]))
        yield order[start : start + size]
        start += size


def _context_length(model: LanguageModel, tokenizer: Tokenizer) -> int:
    """The smaller of what the model's positions and the tokenizer allow."""
    # Models without learned positions name no limit; 2048 tokens are enough to judge by.
    positions = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    return min(int(positions or 2048), int(tokenizer.model_max_length))


def require_score_layer(model: LanguageModel) -> nn.Linear:
    """The layer that ensemble heads replace; raises `InputError` where the model has none."""
    layer = score_layer(model)
    if layer is None:
        raise InputError(
            f"model: {type(model).__name__} has no linear layer `score`; ensemble heads need a"
            " decoder-style sequence classifier"
        )
    return layer


def _require_fitting(model: LanguageModel, heads: Tensor) -> None:
    hidden = int(require_score_layer(model).in_features)
    if heads.ndim != 2 or heads.shape[1] != hidden or heads.shape[0] < 1:
        raise InputError(
            f"heads: shape {tuple(heads.shape)}; the model's hidden size needs [members, {hidden}]"
        )
    if not bool(torch.isfinite(heads).all()):
        raise ScoreError("heads: hold NaN or infinity; fit the ensemble again")
