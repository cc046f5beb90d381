"""Sequence classifiers as scorers: published ones of any kind, and our ensembles.

Ours is a one-output ``AutoModelForSequenceClassification`` with an optional ``heads.safetensors``
beside it: M linear heads on the pooled hidden state, whose mean is the model's own
``score.weight``. One pass so gives M scores, and whoever ignores the extra file reads the ensemble's
mean.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from tailguard.data import Prompt
from tailguard.errors import InputError, ScoreError
from tailguard.models.library import LanguageModel, Tokenizer, score_layer, special_token_id
from tailguard.scorers.encoding import EncodedRow, ScorerEncoding
from tailguard.scorers.readings import Reading, worst_reading
from tailguard.scorers.scorer import require_finite
from tailguard.scorers.shift import ShiftModel

_TOKENS_WITHOUT_LIMIT = 2048  # enough to judge by, where a model names no limit


class SequenceClassificationScorer:
    """A sequence classifier read as a scorer, with optional ensemble heads.

    Attributes:
        model: the transformers model.
        tokenizer: its tokenizer.
        heads: linear heads [members, hidden] on the pooled state before ``model.score``, or
            ``None`` for the model's own output.
        shift: of the features that the heads were fitted on, or ``None`` where unknown.
        output: which of several outputs is scored; None for a model with one.
        max_tokens: longest input; longer answers are read in windows (see `ScorerEncoding`).
        combine: how windows become one score: the ``worst`` of them (a cost), or their ``mean``.
        batch_tokens: padded tokens in one forward pass.

    Raises:
        InputError: a label that the model does not have, several outputs and no label, or heads that
            do not fit the model.
    """

    def __init__(  # noqa: PLR0913
        self,
        model: LanguageModel,
        tokenizer: Tokenizer,
        *,
        heads: Float[Tensor, "members hidden"] | None = None,
        shift: ShiftModel | None = None,
        label: str | int | None = None,
        input: Literal["pair", "response"] = "pair",
        combine: Literal["worst", "mean"] = "worst",
        max_tokens: int | None = None,
        batch_tokens: int = 8192,
    ) -> None:
        self.output = _output_of(model.config, label)
        if heads is not None:
            _require_fitting(model, heads)
            heads = heads.to(device=model.device, dtype=torch.float32)
        if shift is not None and (heads is None or shift.centre.shape[1] != heads.shape[1]):
            raise InputError("shift: does not fit the heads; fit the ensemble again")
        self.model = model.eval()
        self.tokenizer = tokenizer
        self.heads = heads
        self.shift = shift
        self.combine = combine
        # A longer input would index past the positions that the model has.
        longest = usable_tokens(model, tokenizer)
        self.max_tokens = min(max_tokens or longest, longest)
        self.batch_tokens = batch_tokens
        self._pad = _pad_token(model, tokenizer)
        if self._pad is not None:
            # Decoders find the last token by this id, and some checkpoints leave it unset.
            model.config.get_text_config().pad_token_id = self._pad
        self._encoding = ScorerEncoding(tokenizer, self.max_tokens, input, _takes_types(model))
        self._pads_change_scores = self._pad is None or self._differs_when_padded()

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
        return self.read(prompts, responses).scores

    def read(self, prompts: Sequence[Prompt], responses: Sequence[str]) -> Reading:
        """Scores as `score`, and the shift of the farthest window; errors as `score`'s."""
        return self.read_with_topic(prompts, responses)[0]

    def read_with_topic(
        self, prompts: Sequence[Prompt], responses: Sequence[str]
    ) -> tuple[Reading, np.ndarray | None]:
        """As `read`, and the mean of the embeddings of an answer's first window [n, hidden].

        None for a model without heads: only an ensemble of ours tells what a text is about.
        """
        windows = self._encoding.windows(prompts, responses)
        rows = [row for parts in windows for row in parts]
        distance, topic = np.full(len(rows), np.nan), None
        counts = [len(parts) for parts in windows]
        firsts = np.cumsum([0, *counts[:-1]])
        if self.heads is not None:
            states = self._states(rows)
            # In float64: members differ by little, and their spread is a difference of such scores.
            scores = states[:, 0] @ self.heads.double().cpu().numpy().T
            topic = states[firsts, 1] if counts else states[:, 1]
            if self.shift is not None:
                distance = self.shift.distance(states[:, 1:], _lengths(rows))
        else:
            logits = self._run(rows, self._logits, (int(self.model.config.num_labels),))
            scores = _read_output(logits, self.output, self.model.config)
        farthest = np.maximum.reduceat(distance, firsts) if counts else distance
        return Reading(require_finite(self._per_answer(scores, counts)), farthest), topic

    def features(self, prompts: Sequence[Prompt], responses: Sequence[str]) -> np.ndarray:
        """The pooled hidden state before ``model.score``, float64 [n, hidden], as in `pool_last`.

        Of an answer's first window, as for fitting.
        """
        return self.states(prompts, responses)[0][:, 0]

    def states(
        self, prompts: Sequence[Prompt], responses: Sequence[str]
    ) -> tuple[np.ndarray, np.ndarray]:
        """What heads and shift read of an answer's first window.

        Returns:
            States [n, 3, hidden]: `pool_last`, and the means over tokens of the embeddings and of the
            last layer's states; and the number of tokens [n].
        """
        require_score_layer(self.model)
        rows = [parts[0] for parts in self._encoding.windows(prompts, responses)]
        return self._states(rows), _lengths(rows)

    def _states(self, rows: Sequence[EncodedRow]) -> np.ndarray:
        width = int(self.model.config.get_text_config().hidden_size)
        return self._run(rows, lambda inputs: _read_states(self.model, inputs), (3, width))

    def _logits(self, inputs: dict[str, Tensor]) -> Tensor:
        return self.model(**inputs).logits

    def _per_answer(self, scores: np.ndarray, counts: Sequence[int]) -> np.ndarray:
        if len(scores) == len(counts):
            return scores
        parts = np.split(scores, np.cumsum(counts)[:-1])
        if self.combine == "mean":
            return np.stack([part.mean(axis=0) for part in parts])
        return np.concatenate([worst_reading(list(part[:, None])) for part in parts])

    @torch.inference_mode()
    def _run(
        self,
        rows: Sequence[EncodedRow],
        read: Callable[[dict[str, Tensor]], Tensor],
        shape: tuple[int, ...],
    ) -> np.ndarray:
        """What a function reads of each row of a padded batch, float64 [n, *shape]."""
        out = np.empty((len(rows), *shape), dtype=np.float64)
        for batch in self._batches([len(row) for row in rows]):
            out[batch] = read(self._padded([rows[k] for k in batch])).float().cpu().numpy()
        return out

    def _batches(self, lengths: Sequence[int]) -> Iterator[list[int]]:
        """Rows in order of length, each padded batch within ``batch_tokens``."""
        # Longest first: the first batch is the largest, so memory fails at once or never.
        order = sorted(range(len(lengths)), key=lambda row: -lengths[row])
        start = 0
        while start < len(order):
            longest = lengths[order[start]]
            size = max(1, self.batch_tokens // max(1, longest))
            batch = order[start : start + size]
            if self._pad is None:
                batch = batch[:1]  # without a pad token, decoders read one row at a time
            elif self._pads_change_scores:
                batch = [row for row in batch if lengths[row] == longest]
            yield batch
            start += len(batch)

    def _padded(self, rows: Sequence[EncodedRow]) -> dict[str, Tensor]:
        """A batch, padded on the right."""
        longest = max(map(len, rows))

        def fill(lists: Sequence[Sequence[int]], value: int) -> Tensor:
            full = [[*values, *[value] * (longest - len(values))] for values in lists]
            return torch.tensor(full, device=self.model.device)

        batch = {
            "input_ids": fill([row.input_ids for row in rows], self._pad or 0),
            "attention_mask": fill([[1] * len(row) for row in rows], 0),
        }
        if rows[0].token_type_ids is not None:
            batch["token_type_ids"] = fill([row.token_type_ids or [] for row in rows], 0)
        return batch

    def _differs_when_padded(self) -> bool:
        """Whether a text scores otherwise beside a longer one.

        XLNet reads the last place of a row, and some recurrent models run on through pads. Such a
        model is read in batches of equal length.
        """
        self._pads_change_scores = False
        texts = ["yes", "yes and no, and then again yes and no"]
        rows = [parts[0] for parts in self._encoding.windows(["so"] * 2, texts)]
        shape = (int(self.model.config.num_labels),)
        together = self._run(rows, self._logits, shape)
        alone = np.concatenate([self._run([row], self._logits, shape) for row in rows])
        scale = 1.0 + np.abs(alone)
        # NaN is no sign of padding; whoever asks for scores is told of it.
        return bool((np.abs(together - alone) > 1e-3 * scale).any())


def pool_last(
    model: LanguageModel, input_ids: Tensor, hidden: Float[Tensor, "n tokens hidden"]
) -> Float[Tensor, "n hidden"]:
    """The hidden state at each row's last token whose id is not the pad token's.

    The rule of transformers' sequence classifiers, so that a head here and ``model.score`` read
    the same state, also where the pad token is the end token.
    """
    pad = model.config.get_text_config().pad_token_id
    real = torch.ones_like(input_ids) if pad is None else (input_ids != pad).long()
    # argmax of position × real: the last real token, 0 for a row of pads alone.
    last = (torch.arange(real.shape[1], device=real.device) * real).argmax(dim=1)
    return hidden[torch.arange(hidden.shape[0], device=hidden.device), last]


def _read_states(model: LanguageModel, inputs: dict[str, Tensor]) -> Float[Tensor, "n 3 hidden"]:
    """`pool_last`, and the means over tokens of embeddings and of last states, from one pass."""
    ids, mask = inputs["input_ids"], inputs["attention_mask"]
    hidden = model.base_model(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state
    # In float32: a mean of many tokens in bfloat16 is off by as much as answers differ.
    share = (mask / mask.sum(dim=1, keepdim=True)).float()[:, None]
    embedded = model.get_input_embeddings()(ids)
    means = [torch.bmm(share, states.float())[:, 0] for states in (embedded, hidden)]
    return torch.stack([pool_last(model, ids, hidden).float(), *means], dim=1)


def _lengths(rows: Sequence[EncodedRow]) -> np.ndarray:
    return np.array([len(row) for row in rows], dtype=np.float64)


def usable_tokens(model: LanguageModel, tokenizer: Tokenizer) -> int:
    """The smaller of what the model's positions and the tokenizer allow.

    RoBERTa and its kin number positions from behind their padding's index, so that 514 positions
    hold 512 tokens; their embedding of positions says so by having such an index.
    """
    positions = int(getattr(model.config.get_text_config(), "max_position_embeddings", 0) or 0)
    limits = [positions] if positions > 0 else [_TOKENS_WITHOUT_LIMIT]
    for name, module in model.named_modules():
        named = name.rpartition(".")[2]
        if named == "position_embeddings" and isinstance(module, nn.Embedding):
            skipped = 0 if module.padding_idx is None else module.padding_idx + 1
            limits.append(module.num_embeddings - skipped)
    return max(1, min(*limits, int(tokenizer.model_max_length)))


def require_score_layer(model: LanguageModel) -> nn.Linear:
    """The layer that ensemble heads replace; raises `InputError` where the model has none."""
    layer = score_layer(model)
    if layer is None:
        raise InputError(
            f"model: {type(model).__name__} has no linear layer `score`; ensemble heads need a"
            " decoder-style sequence classifier"
        )
    return layer


def _output_of(config: Any, label: str | int | None) -> int | None:
    """The column that a label names; None for a model with one output."""
    num_labels = int(getattr(config, "num_labels", 0) or 0)
    names = {int(k): str(v) for k, v in dict(getattr(config, "id2label", None) or {}).items()}
    listed = ", ".join(names.get(k, str(k)) for k in range(min(num_labels, 40)))
    if num_labels < 1:
        raise InputError("model: has no outputs; a scorer is a sequence classifier")
    if label is None:
        if num_labels > 1:
            raise InputError(
                f"label: none given for {num_labels} outputs; name the one to score: {listed}"
            )
        return None
    for column in range(num_labels):
        if label == column or str(label).casefold() == names.get(column, "").casefold():
            return None if num_labels == 1 else column
    raise InputError(f"label: no output '{label}'; the model has {listed}")


def _read_output(logits: np.ndarray, output: int | None, config: Any) -> np.ndarray:
    """One column: above 0 where the label is more probable than not."""
    if output is None:
        return logits
    chosen = logits[:, [output]]
    if getattr(config, "problem_type", None) == "multi_label_classification":
        return chosen  # each output is a question of its own, yes or no
    others = np.delete(logits, output, axis=1)
    return chosen - np.logaddexp.reduce(others, axis=1)[:, None]


def _pad_token(model: LanguageModel, tokenizer: Tokenizer) -> int | None:
    """The pad token's id, or the end token's in its place; None where the model knows neither."""
    known = int(getattr(model.get_input_embeddings(), "num_embeddings", 0) or 0)
    found = (special_token_id(tokenizer, name) for name in ("pad", "eos"))
    return next((k for k in found if k is not None and (k < known or known == 0)), None)


def _takes_types(model: LanguageModel) -> bool:
    """Whether the model tells the texts of a pair apart by ``token_type_ids``."""
    # Decoders' classifiers may have the argument, but were not trained with it.
    takes = "token_type_ids" in inspect.signature(model.forward).parameters
    has_types = int(getattr(model.config, "type_vocab_size", 2) or 0) > 1
    return takes and has_types and score_layer(model) is None


def _require_fitting(model: LanguageModel, heads: Tensor) -> None:
    hidden = int(require_score_layer(model).in_features)
    if int(model.config.num_labels) != 1:
        raise InputError(f"heads: need one output; the model has {model.config.num_labels}")
    if heads.ndim != 2 or heads.shape[1] != hidden or heads.shape[0] < 1:
        raise InputError(
            f"heads: shape {tuple(heads.shape)}; the model's hidden size needs [members, {hidden}]"
        )
    if not bool(torch.isfinite(heads).all()):
        raise ScoreError("heads: hold NaN or infinity; fit the ensemble again")
