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

import numpy as np

from tailguard.data import Prompt
from tailguard.errors import InputError, ScoreError, TailguardWarning
from tailguard.scorers.verdict_client import (
    Retrying,
    VerdictCache,
    default_cache_folder,
    post_json,
)

# Guards that answer "\n\nunsafe\nS1" decide with their second or third token.
_MAX_TOKENS = 8
_TOP_LOGPROBS = 20  # as many as OpenAI's API gives


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
            VerdictCache.key(self.url, self.model, chat, self.unsafe_word, self.safe_word)
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
    folder = default_cache_folder() if cache == "default" else cache
    store = None if folder is None else VerdictCache(folder)
    try:
        options = {"retrying": Retrying(timeout=timeout)} | options
        return EndpointScorer(url, model, cache=store, **options)
    except TypeError as error:
        raise InputError(f"endpoint {url}: {error}") from error


def read_verdict(reply: Mapping[str, Any], unsafe_word: str, safe_word: str) -> float:
    """Log P(unsafe) − log P(safe) at the first token of a reply that is one of the two words.

    The probability of a word is that of all tokens that begin it, whatever their case and white
    space. A word that is not among the listed tokens gets the smallest probability that is listed:
    no token that is left out has more.

    Raises:
        ScoreError: no log-probabilities, or no token that decides.
    """
    try:
        tokens = reply["choices"][0]["logprobs"]["content"]
        listed = [
            (str(t["token"]), [(str(c["token"]), float(c["logprob"])) for c in t["top_logprobs"]])
            for t in tokens
        ]
    except (KeyError, IndexError, TypeError, ValueError):
        raise ScoreError("the reply holds no log-probabilities (logprobs, top_logprobs)") from None
    words = (unsafe_word, safe_word)
    for chosen, candidates in listed:
        if _begins(chosen, words) is None or not candidates:
            continue
        if not np.isfinite([p for _, p in candidates]).all():
            break
        masses = {word: [p for t, p in candidates if _begins(t, words) == word] for word in words}
        least = min(p for _, p in candidates)
        unsafe, safe = (float(np.logaddexp.reduce(masses[word] or [least])) for word in words)
        return unsafe - safe
    raise ScoreError(f"the reply is neither '{unsafe_word}' nor '{safe_word}'")


def _begins(token: str, words: tuple[str, str]) -> str | None:
    """The one of two words that a token begins; None for neither, or where it may begin both."""
    # What byte-level and SentencePiece vocabularies write for a space, and punctuation around it.
    text = re.sub(r"[\s\u0120\u010a\u2581*\"'`.,:;!\[\]()<>]+", "", token).casefold()
    found = [w for w in words if text and w.casefold().startswith(text)]
    if len(found) == 1:
        return found[0]
    # A word that begins the other ("safe", "safety risk") is still that word.
    return next((w for w in words if text == w.casefold()), None)
