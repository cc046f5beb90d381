"""Chats as token ids, in which nothing that was typed is a control token.

The end of a turn, the opening of another, the end of a text: a template writes them as special
tokens, and a tokenizer would read the same characters in a user's text as the same tokens. Whoever
may write the prompt could so end their turn and speak for the assistant, to the policy and to the
scorers. Here only the template's own are control tokens. Where a text holds none, which is nearly
always, the ids are those of the tokenizer's own ``apply_chat_template``.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Generator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache

from tailguard.data import Prompt
from tailguard.errors import InputError
from tailguard.models.chat_text import (
    apply_template,
    chat_messages,
    plain_text,
    template_parts,
)
from tailguard.models.library import (
    Tokenizer,
    added_tokens,
    special_token_id,
    special_token_ids,
    token_spans,
)

# Written by templates: `<|user|>`, `</s>`, `[INST]`. Tokenizers may not list them as special.
_MARKUP = re.compile(r"<[^<>\s]{1,40}>|\[[^\[\]\s]{1,40}\]")
_BRACKETS = frozenset("<>[]{}|")
# What stands before a piece from the middle of a text while it is encoded, and is cut off again:
# SentencePiece puts a space before whatever comes first. A newline joins no word after it.
_LEADS = ("\n", ".")
_PRIVATE = range(0xF0000, 0xF0100)  # marks go round typed control tokens; no vocabulary holds these
_PROBES = (("system", "user"), ("user",), ("user", "assistant"), ("user", "assistant", "user"))


def encode_chat(tokenizer: Tokenizer, prompt: Prompt, response: str | None = None) -> list[int]:
    """As `encode_chats`, of one prompt."""
    return encode_chats(tokenizer, [prompt], None if response is None else [response])[0]


def encode_chats(
    tokenizer: Tokenizer, prompts: Sequence[Prompt], responses: Sequence[str] | None = None
) -> list[list[int]]:
    """Token ids of prompts for a policy to continue, or of answered prompts for a scorer to read.

    With a chat template: the rendered chat; without responses, with the assistant's turn opened.
    Without one: the plain text behind the tokenizer's own opening (one BOS, where it has one) and,
    for a policy, without an end. A response follows directly, as when it was sampled, or, where the
    tokenizer has a separator, as the second text of a pair.

    Typed control tokens become tokens of their characters: those of ``split_special_tokens=True``
    where these hold no control token, else those of the two halves, each on its own.

    Raises:
        InputError: an empty or malformed prompt, a template that refuses it, or a control token of
            a single character in it.
    """
    chats: list[list[dict[str, str]]] = []
    for index, prompt in enumerate(prompts):
        with _naming(index):
            chats.append(chat_messages(prompt))
    if tokenizer.chat_template is None:
        return _encode_plain(tokenizer, [plain_text(chat) for chat in chats], responses)
    if responses is not None:
        answers = [{"role": "assistant", "content": response} for response in responses]
        chats = [[*chat, answer] for chat, answer in zip(chats, answers, strict=True)]
    return _encode_templated(tokenizer, chats, open_turn=responses is None)


@contextmanager
def _naming(index: int) -> Generator[None]:
    try:
        yield
    except InputError as error:
        raise InputError(f"prompts[{index}]: {error}") from error


def _encode_templated(
    tokenizer: Tokenizer, chats: Sequence[list[dict[str, str]]], *, open_turn: bool
) -> list[list[int]]:
    texts: list[str] = []
    written: dict[tuple[str, ...], Counter[int]] = {}
    control = _control_tokens(tokenizer)
    for index, chat in enumerate(chats):
        with _naming(index):
            texts.append(apply_template(tokenizer, chat, open_turn=open_turn))
            roles = tuple(message["role"] for message in chat)
            if roles not in written:
                parts = template_parts(tokenizer, roles, open_turn=open_turn)
                written[roles] = control.among(_encode(tokenizer, ["x".join(parts)])[0])
    rows = _encode(tokenizer, texts)
    for index, (chat, row) in enumerate(zip(chats, rows, strict=True)):
        expected = written[tuple(message["role"] for message in chat)]
        contents = [message["content"] for message in chat]
        if control.among(row) != expected or any(map(control.pattern.search, contents)):
            with _naming(index):
                rows[index] = _encode_around_typed(tokenizer, control, chat, open_turn)
    return rows


def _encode_plain(
    tokenizer: Tokenizer, texts: Sequence[str], responses: Sequence[str] | None
) -> list[list[int]]:
    control = _control_tokens(tokenizer)
    frame = _frame(tokenizer, answered=responses is not None)
    rows = [[*frame.opening, *ids] for ids in _encode_texts(tokenizer, control, texts)]
    if responses is None:
        # Behind an end of text, which some tokenizers write, nothing is a continuation.
        return rows
    if frame.between is None:
        answers = [_encode_typed(tokenizer, control, text, after=True) for text in responses]
    else:
        answers = _encode_texts(tokenizer, control, responses)
    between = frame.between or ()
    return [
        [*row, *between, *answer, *frame.closing] for row, answer in zip(rows, answers, strict=True)
    ]


@dataclass(frozen=True)
class _Frame:
    """What a tokenizer without a chat template writes around texts."""

    opening: tuple[int, ...]
    between: tuple[int, ...] | None
    closing: tuple[int, ...]


def _frame(tokenizer: Tokenizer, *, answered: bool) -> _Frame:
    text = "a"
    own = _encode(tokenizer, [text])[0]
    # Without a separator a second text is just more text: decoders would get a second BOS instead.
    pair = answered and special_token_id(tokenizer, "sep") is not None
    ids = tokenizer(text, *([text] if pair else []), verbose=False)["input_ids"]
    starts = [k for k in range(len(ids)) if ids[k : k + len(own)] == own]
    first, last = starts[0], starts[-1]
    between = tuple(ids[first + len(own) : last]) if pair else None
    return _Frame(tuple(ids[:first]), between, tuple(ids[last + len(own) :]))


@dataclass(frozen=True)
class _ControlTokens:
    """What only a template or the tokenizer itself may write.

    Attributes:
        ids: as tokens.
        pattern: as text.
        only_text: markup that is no token, as a template may write it; a typed one gets other
            tokens than the template's.
    """

    ids: frozenset[int]
    pattern: re.Pattern[str]
    only_text: frozenset[str]

    def among(self, ids: Sequence[int]) -> Counter[int]:
        """How often each stands there."""
        return Counter(token for token in ids if token in self.ids)


def _control_tokens(tokenizer: Tokenizer) -> _ControlTokens:
    """Special tokens, other added tokens that look like markup, and the template's markup.

    Added tokens of letters or white space alone are vocabulary: domain words, runs of spaces.
    """
    markup = set(_MARKUP.findall("\n".join(_template_text(tokenizer))))
    vocabulary = tokenizer.get_vocab()
    texts, ids = set(markup), {vocabulary[each] for each in markup if each in vocabulary}
    for token_id, token in added_tokens(tokenizer).items():
        if token.special or _BRACKETS & set(token.content):
            texts.add(token.content)
            ids.add(token_id)
    ids |= special_token_ids(tokenizer)
    # What the tokenizer does not know is text; such a token ends or opens nothing.
    unknown = special_token_id(tokenizer, "unk")
    roles = ("bos", "eos", "pad", "sep", "cls")
    if unknown not in {special_token_id(tokenizer, role) for role in roles}:
        ids -= {unknown}
    only_text = markup - vocabulary.keys()
    return _ControlTokens(frozenset(ids), _pattern(frozenset(texts - {""})), frozenset(only_text))


@lru_cache(maxsize=16)
def _pattern(texts: frozenset[str]) -> re.Pattern[str]:
    # Longest first: a token is found before those that it contains.
    ordered = sorted(texts, key=lambda text: (-len(text), text))
    return re.compile("|".join(map(re.escape, ordered)) or "(?!)")


def _template_text(tokenizer: Tokenizer) -> list[str]:
    """What the template writes of its own in a few short chats."""
    written: list[str] = []
    if tokenizer.chat_template is not None:
        for roles in _PROBES:
            with suppress(InputError):  # a template may refuse a role, or an order of roles
                parts = template_parts(tokenizer, roles, open_turn=roles[-1] == "user")
                written.extend(parts)
    return written


def _encode(tokenizer: Tokenizer, texts: Sequence[str], **options: bool) -> list[list[int]]:
    if len(texts) == 0:
        return []
    encoded = tokenizer(list(texts), add_special_tokens=False, verbose=False, **options)
    return encoded["input_ids"]


def _encode_texts(
    tokenizer: Tokenizer, control: _ControlTokens, texts: Sequence[str]
) -> list[list[int]]:
    """Texts without a template; whatever control tokens stand in them were typed."""
    rows = _encode(tokenizer, texts)
    for index, (text, row) in enumerate(zip(texts, rows, strict=True)):
        if control.among(row) or control.pattern.search(text):
            with _naming(index):
                rows[index] = _encode_typed(tokenizer, control, text)
    return rows


def _encode_typed(
    tokenizer: Tokenizer, control: _ControlTokens, text: str, *, after: bool = False
) -> list[int]:
    ids = _encode_pieces(tokenizer, control, _split(tokenizer, control, text), after=after)
    return _require(control, ids, Counter())


def _encode_around_typed(
    tokenizer: Tokenizer, control: _ControlTokens, chat: list[dict[str, str]], open_turn: bool
) -> list[int]:
    """A chat with typed control tokens: the rendering is split at them, wherever they end up."""
    contents = "".join(message["content"] for message in chat)
    opening, closing, stand_in = [m for m in map(chr, _PRIVATE) if m not in contents][:3]
    marked: list[dict[str, str]] = []
    neutral: list[dict[str, str]] = []
    typed: set[str] = set()
    for message in chat:
        pieces = _split(tokenizer, control, message["content"])
        typed |= {piece for piece, is_typed in pieces if is_typed}
        marks = [f"{opening}{piece}{closing}" if is_typed else piece for piece, is_typed in pieces]
        words = [stand_in if is_typed else piece for piece, is_typed in pieces]
        marked.append(message | {"content": "".join(marks)})
        neutral.append(message | {"content": "".join(words)})
    # A template may cut a content up and so part two marks; a mark without its fellow is dropped.
    pair = f"{opening}({'|'.join(map(re.escape, typed)) or '(?!)'}){closing}|[{opening}{closing}]"
    parts = re.split(pair, apply_template(tokenizer, marked, open_turn=open_turn))
    ids = _encode_pieces(
        tokenizer, control, [(part or "", k % 2 == 1) for k, part in enumerate(parts)]
    )
    # An independent count: the same chat without what was typed.
    text = apply_template(tokenizer, neutral, open_turn=open_turn)
    return _require(control, ids, control.among(_encode(tokenizer, [text])[0]))


def _require(control: _ControlTokens, ids: list[int], expected: Counter[int]) -> list[int]:
    if control.among(ids) != expected:
        raise InputError(
            "holds text that this tokenizer can read only as a control token; leave it out"
        )
    return ids


def _split(tokenizer: Tokenizer, control: _ControlTokens, text: str) -> list[tuple[str, bool]]:
    """The text in pieces; true for those that are typed control tokens."""
    spans = [match.span() for match in control.pattern.finditer(text)]
    # Normalisers make more texts the same token than the pattern finds, such as full-width letters.
    spans += token_spans(tokenizer, text, control.ids)
    pieces: list[tuple[str, bool]] = []
    done = 0
    for start, end in sorted(spans):
        if start >= done:
            pieces += [(text[done:start], False), (text[start:end], True)]
            done = end
    return [*pieces, (text[done:], False)]


def _encode_pieces(
    tokenizer: Tokenizer,
    control: _ControlTokens,
    pieces: Sequence[tuple[str, bool]],
    *,
    after: bool = False,
) -> list[int]:
    ids: list[int] = []
    for piece, is_typed in pieces:
        if is_typed:
            ids += _encode_as_text(tokenizer, control, piece, after=after)
        elif piece:
            ids += _encode_piece(tokenizer, piece, after=after)
        after = after or bool(piece)
    return ids


def _encode_as_text(
    tokenizer: Tokenizer, control: _ControlTokens, text: str, *, after: bool
) -> list[int]:
    ids = _encode_piece(tokenizer, text, after=after, split_special_tokens=True)
    if text not in control.only_text and not control.among(ids):
        return ids
    return _encode_halves(tokenizer, control, text, after=after)


def _encode_halves(
    tokenizer: Tokenizer, control: _ControlTokens, text: str, *, after: bool
) -> list[int]:
    if len(text) < 2:
        return _encode_piece(tokenizer, text, after=after)
    ids: list[int] = []
    middle = len(text) // 2
    for half, behind in ((text[:middle], after), (text[middle:], True)):
        found = _encode_piece(tokenizer, half, after=behind)
        if control.among(found):
            found = _encode_halves(tokenizer, control, half, after=behind)
        ids += found
    return ids


def _encode_piece(tokenizer: Tokenizer, piece: str, *, after: bool, **options: bool) -> list[int]:
    """A piece of a text; ``after`` something else, so not with a first word's space."""
    if after:
        for lead in _LEADS:
            before, both = _encode(tokenizer, [lead, lead + piece], **options)
            if both[: len(before)] == before:
                return both[len(before) :]
    return _encode(tokenizer, [piece], **options)[0]
