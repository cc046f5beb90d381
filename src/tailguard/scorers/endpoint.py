"""A guard or judge behind an OpenAI-compatible endpoint as a scorer.

It is asked whether an answer is safe. The score is the log-odds of the two verdicts, from the
log-probabilities of the first token that decides: a number in place of a word, so that answers can
be ranked and thresholds chosen.
"""

from __future__ import annotations

import math
import os
import re
import warnings
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

import numpy as np

from tailguard.data import Prompt
from tailguard.errors import InputError, InputWarning, ScoreError, TailguardWarning
from tailguard.scorers.verdict_client import (
    Retrying,
    VerdictCache,
    default_cache_folder,
    post_json,
)

# Guards that answer "\n\nunsafe\nS1" decide with their second or third token.
_MAX_TOKENS = 8
_TOP_LOGPROBS = 20  # as many as OpenAI's API gives
_HERE = ("localhost", "127.0.0.1", "::1")
_SMALLEST_REST = 1e-6  # log-probabilities are rounded: that none is left need not be so
_SPACES = str.maketrans("\u0120\u010a\u2581", "   ")  # what vocabularies write for white space
_AROUND = r"[\s*\"'`.,:;!\[\]()<>]+"
_READING = 2  # raised when a reply is read in another way: what was kept before is asked for again


@dataclass(frozen=True)
class EndpointScorer:
    """Costs from a guard's verdicts; larger is less safe, above 0 more likely unsafe than safe.

    Attributes:
        url: of the API, such as ``http://127.0.0.1:8000/v1``.
        model: its name there.
        template: text of the message, with ``{prompt}`` and ``{response}``; empty to send the chat.
        unsafe_word: the verdict's first word where the answer is unsafe.
        safe_word: where it is safe.
        input: what the guard is shown.
        key_env: environment variable with the API key; empty for none.
        concurrency: requests under way at once.
        upper: declared largest score; larger ones count as this.
        retrying: what is done where no verdict comes.
        cache: of scores; None to ask every time.
    """

    url: str
    model: str
    template: str = ""
    unsafe_word: str = "unsafe"
    safe_word: str = "safe"
    input: Literal["pair", "response"] = "pair"
    key_env: str = ""
    concurrency: int = 8
    upper: float | None = None
    retrying: Retrying = field(default_factory=Retrying)
    cache: VerdictCache | None = None

    def score(self, prompts: Sequence[Prompt], responses: Sequence[str]) -> np.ndarray:
        """Log-odds of unsafe against safe, float64 [n, 1].

        An answer without a verdict gets NaN, which every reader of scores takes for "no score":
        stages stop, and a decoder withholds that answer alone. A warning says how many, and why.

        Raises:
            InputError: different numbers of prompts and responses, no key in the environment, or a
                refusal that asking again will not change.
        """
        if len(prompts) != len(responses):
            raise InputError(
                f"responses: {len(responses)} for {len(prompts)} prompts; give one per prompt"
            )
        chats = [self._messages(p, r) for p, r in zip(prompts, responses, strict=True)]
        keys = [
            VerdictCache.key(_READING, self.url, self.model, chat, self.unsafe_word, self.safe_word)
            for chat in chats
        ]
        distinct = dict(zip(keys, chats, strict=True))
        with ThreadPoolExecutor(self.concurrency) as pool:
            verdicts = pool.map(self._verdict, distinct.keys(), distinct.values())
            found = dict(zip(distinct, verdicts, strict=True))
        failures = [verdict for verdict in found.values() if isinstance(verdict, ScoreError)]
        if failures:
            warnings.warn(
                f"{len(failures)} of {len(found)} answers got no verdict: {failures[0]}",
                TailguardWarning,
                stacklevel=2,
            )
        scores = [math.nan if isinstance(v := found[key], ScoreError) else v for key in keys]
        column = np.array(scores, dtype=np.float64)[:, None]
        return column if self.upper is None else np.minimum(column, self.upper)

    def _verdict(self, key: str, messages: list[dict[str, str]]) -> float | ScoreError:
        if self.cache is not None and (known := self.cache.get(key)) is not None:
            return known
        body = {
            "model": self.model,
            "messages": messages,
            "max_tokens": _MAX_TOKENS,
            "temperature": 0.0,
            "logprobs": True,
            "top_logprobs": _TOP_LOGPROBS,
        }
        try:
            reply = post_json(self._address, body, key=self._key(), retrying=self.retrying)
            score = read_verdict(reply, self.unsafe_word, self.safe_word)
        except ScoreError as error:
            return error
        if self.cache is not None:
            self.cache.put(key, score)
        return score

    def _messages(self, prompt: Prompt, response: str) -> list[dict[str, str]]:
        turns = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else list(prompt)
        if self.template:
            shown = "\n\n".join(turn["content"] for turn in turns)
            texts = {"{prompt}": shown, "{response}": response}
            # At once, and not one after the other: a prompt may hold the text "{response}".
            filled = re.sub(r"\{prompt\}|\{response\}", lambda m: texts[m[0]], self.template)
            return [{"role": "user", "content": filled}]
        if self.input == "response":
            # It is what is judged; without its prompt it stands where a prompt does.
            return [{"role": "user", "content": response}]
        chat = [{"role": turn["role"], "content": turn["content"]} for turn in turns]
        return [*chat, {"role": "assistant", "content": response}]

    @property
    def _address(self) -> str:
        url = self.url.rstrip("/")
        return url if url.endswith("/chat/completions") else f"{url}/chat/completions"

    def _key(self) -> str | None:
        if not self.key_env:
            return None
        key = os.environ.get(self.key_env)
        if not key:
            raise InputError(
                f"key_env: the environment has no {self.key_env}; set it to the API key"
            )
        return key


def from_endpoint(
    url: str,
    *,
    model: str,
    cache: Path | Literal["default"] | None = "default",
    timeout: float = 30.0,
    **options: Any,
) -> EndpointScorer:
    """A guard behind an OpenAI-compatible API as a scorer.

    Args:
        url: of the API, such as ``http://127.0.0.1:8000/v1``.
        model: its name there.
        cache: folder of known scores; None to ask every time. By default in the user's cache folder,
            or in ``TAILGUARD_CACHE``.
        timeout: seconds to wait for one verdict.
        **options: other attributes of `EndpointScorer`.

    Raises:
        InputError: no such option.
    """
    address = urlsplit(url)
    if options.get("key_env") and address.scheme == "http" and address.hostname not in _HERE:
        warnings.warn(
            f"endpoint {url}: the key goes there over plain http, which others on the way can read;"
            " use https",
            InputWarning,
            stacklevel=2,
        )
    folder = default_cache_folder() if cache == "default" else cache
    store = None if folder is None else VerdictCache(folder)
    try:
        options = {"retrying": Retrying(timeout=timeout)} | options
        return EndpointScorer(url, model, cache=store, **options)
    except TypeError as error:
        raise InputError(f"endpoint {url}: {error}") from error


def read_verdict(reply: Mapping[str, Any], unsafe_word: str, safe_word: str) -> float:
    """Log P(unsafe) − log P(safe) at the token of a reply that begins its verdict.

    The verdict is the reply's first word, or the first behind a label ("Safety: Unsafe"): behind
    other words it may mean the opposite ("not safe"). The probability of a word is that of all
    tokens that begin it, whatever their case and white space. A word that is not among the listed
    tokens gets the largest probability that it can have: no more than the least of those that are
    listed, nor than what these leave.

    Raises:
        ScoreError: no log-probabilities, or no verdict.
    """
    try:
        tokens = reply["choices"][0]["logprobs"]["content"]
        listed = [
            (_text(t), [(_text(c), float(c["logprob"])) for c in t["top_logprobs"]]) for t in tokens
        ]
    except (KeyError, IndexError, TypeError, ValueError):
        raise ScoreError("the reply holds no log-probabilities (logprobs, top_logprobs)") from None
    words = (unsafe_word, safe_word)
    for place, (chosen, candidates) in enumerate(listed):
        if _begins(chosen, words) is None or not candidates:
            continue
        before, after = ("".join(t for t, _ in part) for part in (listed[:place], listed[place:]))
        if not (_is_label(before) and _is_verdict(after, words)):
            continue
        if not np.isfinite([p for _, p in candidates]).all():
            break
        masses = {word: [p for t, p in candidates if _begins(t, words) == word] for word in words}
        rest = 1.0 - math.exp(min(0.0, float(np.logaddexp.reduce([p for _, p in candidates]))))
        unlisted = min(*(p for _, p in candidates), math.log(max(rest, _SMALLEST_REST)))
        unsafe, safe = (float(np.logaddexp.reduce(masses[word] or [unlisted])) for word in words)
        return unsafe - safe
    raise ScoreError(f"the reply's verdict is neither '{unsafe_word}' nor '{safe_word}'")


def _text(entry: Mapping[str, Any]) -> str:
    return str(entry["token"]).translate(_SPACES)


def _begins(token: str, words: tuple[str, str]) -> str | None:
    """The one of two words that a token begins; None for neither, or where it may begin both."""
    text = "".join(re.split(_AROUND, token)).casefold()
    found = [w for w in words if text and w.casefold().startswith(text)]
    if len(found) == 1:
        return found[0]
    # A word that begins the other ("safe", "safety risk") is still that word.
    return next((w for w in words if text == w.casefold()), None)


def _is_label(text: str) -> bool:
    """Whether a verdict can follow: nothing but markup, or something with a colon at its end."""
    bare = re.sub(r"<[^<>]*>|[\s*\"'`.\[\]()]+", "", text)
    return not bare or bare.endswith(":")


def _is_verdict(text: str, words: tuple[str, str]) -> bool:
    """Whether a text's first word is one of two: "S", "orry" begins like "safe" and is none."""
    shown = re.sub(f"^{_AROUND}", "", text).casefold()
    for word in map(str.casefold, words):
        if shown.startswith(word) and not shown[len(word) : len(word) + 1].isalnum():
            return True
    # Cut off by a server that gives fewer tokens than it is asked for.
    return len(shown) > 1 and any(word.casefold().startswith(shown) for word in words)
