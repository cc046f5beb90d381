"""Prompts and answers as the token ids that a classifier reads, in windows where they are long.

A window never costs the tokens that a tokenizer or a template puts around a text ([CLS], BOS, the
marks of turns): texts are shortened, and ids never. The prompt loses its beginning first. An answer
loses nothing: it is read in windows that overlap by half, so that neither its opening nor its end
can be hidden behind length.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from tailguard.data import Prompt
from tailguard.errors import InputError
from tailguard.models.chat_tokens import encode_chats
from tailguard.models.library import Tokenizer, special_token_id

_PROMPT_SHARE = 4  # of a window: what a prompt keeps beside an answer that needs all it can get


@dataclass(frozen=True)
class EncodedRow:
    """One text as a classifier reads it.

    Attributes:
        input_ids: its tokens.
        token_type_ids: which of the pair's texts each belongs to; None where nobody asks.
    """

    input_ids: list[int]
    token_type_ids: list[int] | None = None

    def __len__(self) -> int:
        return len(self.input_ids)


@dataclass(frozen=True)
class ScorerEncoding:
    """How a classifier's inputs are made.

    Attributes:
        tokenizer: of the classifier.
        max_tokens: longest window.
        input: whether prompts are read too.
        with_types: whether the model takes ``token_type_ids``.
    """

    tokenizer: Tokenizer
    max_tokens: int
    input: Literal["pair", "response"] = "pair"
    with_types: bool = False

    def windows(
        self, prompts: Sequence[Prompt], responses: Sequence[str]
    ) -> list[list[EncodedRow]]:
        """Each answer's windows, first to last; at least one, none longer than ``max_tokens``.

        Raises:
            InputError: different numbers of prompts and responses, a prompt that cannot be encoded,
                or ``max_tokens`` with no room for a text.
        """
        if len(prompts) != len(responses):
            raise InputError(
                f"responses: {len(responses)} for {len(prompts)} prompts; give one per prompt"
            )
        if len(prompts) == 0:
            return []
        rows = self._encode(prompts, responses)
        return [
            [row] if len(row) <= self.max_tokens else self._cut(prompt, response, len(row))
            for prompt, response, row in zip(prompts, responses, rows, strict=True)
        ]

    def _encode(self, prompts: Sequence[Prompt], responses: Sequence[str]) -> list[EncodedRow]:
        if self.input == "response":
            # As text: what looks like a control token in an answer was written by a model.
            found = self.tokenizer(list(responses), verbose=False, split_special_tokens=True)
            types = found.get("token_type_ids") if self.with_types else None
            # An empty answer to a tokenizer without tokens of its own: its end is all there is.
            nothing = [special_token_id(self.tokenizer, "eos") or 0]
            return [
                EncodedRow(ids or nothing, types[k] if types is not None and ids else None)
                for k, ids in enumerate(found["input_ids"])
            ]
        rows = encode_chats(self.tokenizer, prompts, responses)
        if not self.with_types:
            return [EncodedRow(row) for row in rows]
        if self.tokenizer.chat_template is not None:
            return [EncodedRow(row, [0] * len(row)) for row in rows]
        firsts = encode_chats(self.tokenizer, prompts)
        types = _TypesOfPair.of(self.tokenizer)
        return [
            EncodedRow(row, types.of_row(len(first), len(row)))
            for first, row in zip(firsts, rows, strict=True)
        ]

    def _cut(self, prompt: Prompt, response: str, num_tokens: int) -> list[EncodedRow]:
        """Windows of an answer that is too long with its prompt."""
        spans = token_spans(self.tokenizer, response)
        used = sum(len(token_spans(self.tokenizer, text)) for text in _texts(prompt))
        used = 0 if self.input == "response" else used
        around = max(0, num_tokens - len(spans) - used)
        kept = min(
            used,
            max(self.max_tokens // _PROMPT_SHARE, self.max_tokens - around - len(spans)),
        )
        if kept < used:
            prompt = _end_of_prompt(self.tokenizer, prompt, kept)
        room = self.max_tokens - around - kept
        while room >= 1:
            texts = _overlapping(response, spans, room)
            rows = self._encode([prompt] * len(texts), texts)
            excess = max(map(len, rows)) - self.max_tokens
            if excess <= 0:
                return rows
            # Words that were cut in two have other tokens than they had together.
            room -= excess
        raise InputError(
            f"max_tokens: {self.max_tokens}; has no room for an answer beside its prompt and the"
            " tokenizer's own tokens"
        )


def encode_for_scoring(
    tokenizer: Tokenizer, prompts: Sequence[Prompt], responses: Sequence[str], max_tokens: int
) -> list[list[int]]:
    """Token ids of pairs to fit a scorer on: the first window of each; errors as in `windows`."""
    windows = ScorerEncoding(tokenizer, max_tokens).windows(prompts, responses)
    return [rows[0].input_ids for rows in windows]


def token_spans(tokenizer: Tokenizer, text: str) -> list[tuple[int, int]]:
    """Where in the text each of its tokens stands.

    Tokenizers that are not written in Rust cannot tell; there each character counts as a token,
    which makes windows shorter than they need be.
    """
    if not getattr(tokenizer, "is_fast", False):
        return [(k, k + 1) for k in range(len(text))]
    found = tokenizer(
        text,
        add_special_tokens=False,
        return_offsets_mapping=True,
        split_special_tokens=True,
        verbose=False,
    )
    return [(start, end) for start, end in found["offset_mapping"]]


def _overlapping(text: str, spans: Sequence[tuple[int, int]], room: int) -> list[str]:
    """Parts of at most ``room`` tokens, each beginning in the middle of the one before."""
    if len(spans) <= room:
        return [text]
    last = len(spans) - room
    starts = [*range(0, last, max(1, room // 2)), last]
    return [text[spans[start][0] : spans[start + room - 1][1]] for start in starts]


def _texts(prompt: Prompt) -> list[str]:
    return [prompt] if isinstance(prompt, str) else [turn["content"] for turn in prompt]


def _end_of_prompt(tokenizer: Tokenizer, prompt: Prompt, num_tokens: int) -> Prompt:
    """The last tokens of the last message: what stands nearest to the answer."""
    text = _texts(prompt)[-1]
    spans = token_spans(tokenizer, text)
    end = text[spans[-num_tokens][0] :] if num_tokens < len(spans) else text
    return end if isinstance(prompt, str) else [{**prompt[-1], "content": end}]


@dataclass(frozen=True)
class _TypesOfPair:
    """The types that a tokenizer gives the parts of a pair: its own tokens, and the two texts."""

    opening: list[int]
    first: int
    between: list[int]
    second: int
    closing: list[int]

    @classmethod
    def of(cls, tokenizer: Tokenizer) -> _TypesOfPair:
        own = tokenizer("a", add_special_tokens=False)["input_ids"]
        found = tokenizer("a", "a", return_token_type_ids=True)
        ids: list[int] = found["input_ids"]
        types: list[int] = found.get("token_type_ids") or []
        places = [k for k in range(len(ids)) if ids[k : k + len(own)] == own]
        if not types or len(places) < 2:
            raise InputError("tokenizer: gives no token_type_ids, which the model takes")
        start, last = places[0], places[-1]
        end = last + len(own)
        return cls(
            types[:start], types[start], types[start + len(own) : last], types[last], types[end:]
        )

    def of_row(self, first_length: int, length: int) -> list[int]:
        """Types of a pair whose opening and first text are so long."""
        head = [*self.opening, *[self.first] * (first_length - len(self.opening)), *self.between]
        rest = length - len(head) - len(self.closing)
        return [*head, *[self.second] * rest, *self.closing]
