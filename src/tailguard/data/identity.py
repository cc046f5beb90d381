"""The identity of a prompt: one id for all spellings of a question."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from functools import lru_cache
from itertools import takewhile

from tailguard.data.records import Prompt

IDENTITY_VERSION = 3
"""Raised whenever a prompt gets another id: ids that were stored before then compare with nothing."""

# Default-ignorable code points that are not of category Cf: joiners, fillers, variation selectors.
_IGNORABLE = (
    (0x034F, 0x034F),
    (0x115F, 0x1160),
    (0x17B4, 0x17B5),
    (0x180B, 0x180F),
    (0x2800, 0x2800),  # a braille cell without dots: a symbol by category, blank to a reader
    (0x3164, 0x3164),
    (0xFE00, 0xFE0F),
    (0xFFA0, 0xFFA0),
    (0xE0100, 0xE01EF),
)
_QUOTES = str.maketrans(dict.fromkeys("‘’‚‛′`ʼ", "'") | dict.fromkeys("“”„‟«»", '"'))
_ACUTE = " \u0301"  # what NFKD makes of ´, which many type for an apostrophe
_UNUSUAL = re.compile(r"[^\x20-\x7e]")
# Punctuation by category, but part of names and terms: C#, 5%, a path, a wildcard.
_PART_OF_WORDS = frozenset("#%&*@/\\_†‡‰")


def prompt_id(prompt: Prompt) -> str:
    """Sixteen hex digits of the SHA-256 of what the user asked: what splits are made by.

    Spellings of one question have one id: see `canonical_text`. Only the user's turns count, in their
    order: neither the system text nor the answers in between make it another question. A text has
    the id of a single user message.
    """
    return hashlib.sha256(canonical_prompt(prompt).encode()).hexdigest()[:16]


def canonical_prompt(prompt: Prompt) -> str:
    """What the user asked, in the spelling that all spellings share, one line for each turn."""
    if isinstance(prompt, str):
        return canonical_text(prompt)
    asked = [canonical_text(turn["content"]) for turn in prompt if turn["role"] == "user"]
    # Without a user there is something to tell prompts apart by all the same.
    return "\n".join(filter(None, asked)) or "\n".join(
        f"{turn['role']}: {canonical_text(turn['content'])}" for turn in prompt
    )


@lru_cache(maxsize=2**17)  # the ids of one run's prompts are asked for many times
def canonical_text(text: str) -> str:
    """One line for all spellings of a text.

    Unicode's compatible forms (NFKC), case, white space, characters that nobody sees (zero-width,
    bidirectional marks, soft hyphens, variation selectors, tags, controls), curly quotes, kinds of
    dashes, the minus sign among them, and the punctuation at the end make no difference. Applying it twice changes nothing.
    A text of nothing but punctuation keeps it, and one of nothing visible is kept as it is.
    """
    folded = _fold(text)
    while (again := _fold(folded)) != folded:  # one rule can make work for another
        folded = again
    ending = sum(1 for _ in takewhile(_ends_sentence, reversed(folded)))
    return folded[: len(folded) - ending] or folded or text


def is_blank(text: str) -> bool:
    """Whether there is nothing in it that a reader would see."""
    return all(character.isspace() or _is_invisible(character) for character in text)


def _fold(text: str) -> str:
    if text.isascii() and text.isprintable():  # most texts are, and the rest below takes longer
        return " ".join(text.lower().replace("`", "'").split())
    # Decomposed first: something invisible may stand between a letter and its accent.
    decomposed = unicodedata.normalize("NFKD", text).replace(_ACUTE, "'")
    visible = _UNUSUAL.sub(lambda found: _plain(found[0]), decomposed)
    # Upper before lower: some small letters (ı, ſ, ς) meet others only as capitals.
    folded = unicodedata.normalize("NFKC", visible.upper().casefold())
    return " ".join(folded.translate(_QUOTES).split())


@lru_cache(maxsize=4096)
def _plain(character: str) -> str:
    if character.isspace():
        return " "
    if _is_invisible(character):
        return ""
    # A minus sign (U+2212) is no punctuation to Unicode, and what keyboards write as a hyphen.
    return "-" if unicodedata.category(character) == "Pd" or character == "\u2212" else character


def _is_invisible(character: str) -> bool:
    if character.isascii():
        return not character.isprintable()
    code = ord(character)
    return unicodedata.category(character) in ("Cf", "Cc") or any(
        first <= code <= last for first, last in _IGNORABLE
    )


def _ends_sentence(character: str) -> bool:
    if character.isspace():
        return True
    return character not in _PART_OF_WORDS and unicodedata.category(character).startswith("P")
