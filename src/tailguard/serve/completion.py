"""Answers as OpenAI's chat completions, whole or as events."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Iterator, Sequence

from tailguard.serve.failures import Json


def chat_completion(model: str, answers: Sequence[Json]) -> Json:
    """One completion with a choice for each answer.

    Every choice has its ``tailguard``; the first choice's is repeated at the top level. ``usage`` counts
    the tokens of all candidates, not of the served ones alone: they are what was computed.
    """
    choices = [
        {
            "index": index,
            "message": {"role": "assistant", "content": answer["text"], "refusal": None},
            "logprobs": None,
            "finish_reason": _finish_reason(answer),
            "tailguard": answer,
        }
        for index, answer in enumerate(answers)
    ]
    return {
        **_header(model, "chat.completion"),
        "choices": choices,
        "usage": _usage(answers),
        "tailguard": answers[0],
    }


def chat_events(model: str, answers: Sequence[Json], *, with_usage: bool = False) -> Iterator[str]:
    """Server-sent events of answers that were accepted before the first event is made.

    With usage, the last event carries it and no choice, and the others say that they have none.
    """
    header = _header(model, "chat.completion.chunk") | ({"usage": None} if with_usage else {})
    for index, answer in enumerate(answers):
        opening = {"role": "assistant", "content": answer["text"]}
        yield _event({**header, "choices": [_delta(index, opening, None)]})
        closing = _delta(index, {}, _finish_reason(answer)) | {"tailguard": answer}
        yield _event({**header, "choices": [closing], "tailguard": answer})
    if with_usage:
        yield _event({**header, "choices": [], "usage": _usage(answers)})
    yield "data: [DONE]\n\n"


def repeated_answer(answer: Json) -> Json:
    """The same answer as a further choice, which cost nothing to make."""
    return answer | {"num_tokens_generated": 0, "num_forward_passes": 0}


def _usage(answers: Sequence[Json]) -> dict[str, int]:
    """Tokens in OpenAI's terms; the answers are to one prompt, which is counted once."""
    # Other implementations of a decoder may not count the prompt.
    prompt: int = answers[0].get("num_prompt_tokens", 0)
    generated = sum(answer["num_tokens_generated"] for answer in answers)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": generated,
        "total_tokens": prompt + generated,
    }


def _header(model: str, kind: str) -> Json:
    return {
        "id": f"chatcmpl-{uuid.uuid4().hex}",
        "object": kind,
        "created": int(time.time()),
        "model": model,
    }


def _delta(index: int, delta: Json, finish_reason: str | None) -> Json:
    return {"index": index, "delta": delta, "logprobs": None, "finish_reason": finish_reason}


def _finish_reason(answer: Json) -> str:
    if answer["abstained"]:
        # OpenAI's word for an answer that was withheld, which clients already handle.
        return "content_filter"
    return "stop" if answer.get("finished", True) else "length"


def _event(body: Json) -> str:
    return f"data: {json.dumps(body, allow_nan=False)}\n\n"
