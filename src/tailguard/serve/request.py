"""The body of a chat completion, checked, and the arguments that it becomes for the decoder."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal, cast

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from tailguard.data import Prompt
from tailguard.errors import InputError
from tailguard.risk import RiskLimit
from tailguard.risk.spelling import parse_request
from tailguard.serve.fail_closed import GuardedDecoder, accepted_settings, calibrated_values
from tailguard.serve.failures import bad_request

Count = Annotated[int, Field(ge=1)]

# Fields of OpenAI's API that change no answer.
_WITHOUT_EFFECT = {
    "metadata",
    "parallel_tool_calls",
    "prompt_cache_key",
    "prompt_cache_retention",
    "safety_identifier",
    "service_tier",
    "store",
    "top_logprobs",
    "user",
}
# Fields that would change the answer, and the values at which they do not. At any other value the
# request is refused: an answer that ignores, say, `response_format` would break its client.
_WITHOUT_EFFECT_AT: dict[str, tuple[object, ...]] = {
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "logprobs": (False,),
    "logit_bias": ({},),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
    # vLLM's own, which its clients send at these values as a matter of course.
    "top_k": (-1, 0),
    "min_p": (0,),
    "repetition_penalty": (1,),
    "length_penalty": (1,),
    "min_tokens": (0,),
    "best_of": (1,),
    "use_beam_search": (False,),
    "ignore_eos": (False,),
    "include_stop_str_in_output": (False,),
    "skip_special_tokens": (True,),
    "spaces_between_special_tokens": (True,),
    "stop_token_ids": ([],),
    "bad_words": ([],),
    "echo": (False,),
    "add_generation_prompt": (True,),
    "continue_final_message": (False,),
    "add_special_tokens": (False,),
    "chat_template_kwargs": ({},),
}
_ROLES = {"developer": "system"}  # OpenAI's newer name, which chat templates lack
_NUM_SEEDS = 2**63  # a torch generator takes 64-bit seeds; a client may send any integer


class Options(BaseModel):
    """The risk asked for: the ``tailguard`` fields of ``extra_body``.

    Attributes:
        measure: a name of `tailguard.risk.spelling`; its parameters follow it, or are given by the
            fields below.
        tail_mass: α.
        budget: d.
        max_draws: the most answers that one is chosen from.
        token_price: price of one token, in units of reward.
        certified: serve only what a judge's certificate covers.
        raters: whose risk: weights by group, a group's name, or "worst" for each.
        weight: κ of mean-CVaR.
        theta: θ of the entropic risk.
    """

    # Unlike the request around it, which newer clients may extend, an unknown field is refused here:
    # a misspelt `budget` must not leave an answer without its limit.

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    measure: str | None = None
    tail_mass: Annotated[float, Field(gt=0, le=1)] | None = None
    budget: float | None = None
    max_draws: Count | None = None
    certified: bool | None = None
    raters: dict[str, float] | str | None = None
    token_price: Annotated[float, Field(ge=0)] | None = None
    weight: Annotated[float, Field(ge=0, le=1)] | None = None
    theta: Annotated[float, Field(gt=0)] | None = None

    def limit(self) -> RiskLimit | None:
        """The limit; None if nothing is asked for, so that the decoder's first profile holds.

        Raises:
            ApiError: 400, naming the field to change.
        """
        parameters = self.model_dump(include={"tail_mass", "weight", "theta"})
        try:
            return parse_request(self.measure, self.budget, parameters)
        except InputError as error:
            field = error.parameter or "measure"
            raise bad_request(f"tailguard: {error}", param=f"tailguard.{field}") from error


class Message(BaseModel):
    """One message of a chat.

    Attributes:
        role: who speaks.
        content: what is said. A client may also send it in parts, of text alone; an assistant's
            turn may have none, and is then its refusal.
    """

    model_config = ConfigDict(strict=True)

    role: Literal["system", "developer", "user", "assistant"]
    content: str

    @model_validator(mode="before")
    @classmethod
    def _said(cls, message: object) -> object:
        """The message with its content as one text."""
        if not isinstance(message, dict):
            return message
        fields = cast("dict[str, object]", message)
        content = fields.get("content")
        # What a model answers with where it declines or calls a tool.
        if content is None and fields.get("role") == "assistant":
            return {**fields, "content": fields.get("refusal") or ""}
        return fields

    @field_validator("content", mode="before")
    @classmethod
    def _joined(cls, content: object) -> object:
        if not isinstance(content, list):
            return content
        return "".join(_text_of(part) for part in cast("list[object]", content))

    @model_validator(mode="after")
    def _encodable(self) -> Message:
        # JSON can spell a lone surrogate, which has no UTF-8 and would fail in the tokenizer.
        self.content.encode()
        return self


def _text_of(part: object) -> str:
    """The text of a part of a message; `ValueError` for an image, a sound or a file."""
    fields = cast("dict[str, object]", part) if isinstance(part, dict) else {}
    kind, text = fields.get("type"), fields.get("text")
    if kind == "text" and isinstance(text, str):
        return text
    if isinstance(kind, str) and kind != "text":
        raise ValueError(f"{kind[:40]} is not supported; send parts of type text")
    raise ValueError("a part needs 'type': 'text' and its 'text'")


class StreamOptions(BaseModel):
    """What a stream carries in addition to the answer."""

    model_config = ConfigDict(strict=True)

    include_usage: bool | None = None


class ChatRequest(BaseModel):
    """A chat completion; the fields are OpenAI's.

    Fields that are not declared here are kept, and `check_extras` decides which are acceptable.
    """

    model_config = ConfigDict(extra="allow", strict=True, allow_inf_nan=False)

    model: str
    messages: Annotated[list[Message], Field(min_length=1)]
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    n: Annotated[int, Field(ge=1, le=128)] | None = None
    stop: str | Annotated[list[str], Field(max_length=4)] | None = None
    seed: int | None = None
    max_tokens: Count | None = None
    max_completion_tokens: Count | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    tailguard: Options | None = None

    @property
    def num_choices(self) -> int:
        """Number of answers asked for."""
        return self.n or 1

    @property
    def streams_usage(self) -> bool:
        """Whether a stream ends with the number of tokens used."""
        return bool(self.stream_options and self.stream_options.include_usage)

    def is_greedy(self, decoder: GuardedDecoder) -> bool:
        """Whether every choice must be the same answer, because nothing is drawn at random."""
        if self.temperature is None:
            return calibrated_values(decoder, "temperature") == {0.0}
        return self.temperature == 0

    def prompt(self) -> Prompt:
        """What the decoder reads: the text of a single user message, else all messages."""
        messages = [
            {"role": _ROLES.get(message.role, message.role), "content": message.content}
            for message in self.messages
        ]
        if messages[-1]["role"] != "user":
            raise bad_request("the last message must be the user's", param="messages")
        return messages[0]["content"] if len(messages) == 1 else messages

    def check_extras(self) -> None:
        """Refuse fields whose effect this server cannot provide.

        Raises:
            ApiError: 400, naming the field.
        """
        extras: Mapping[str, object] = self.model_extra or {}
        for name, value in extras.items():
            if value is None or name in _WITHOUT_EFFECT:
                continue
            if not any(value == neutral for neutral in _WITHOUT_EFFECT_AT.get(name, ())):
                raise _unsupported(name)

    def settings(self, decoder: GuardedDecoder, fresh_seed: int) -> dict[str, object]:
        """Keyword arguments for ``generate``.

        Sampling settings that equal the calibrated ones are left out, and so is a token limit that
        calibrated answers never reach: the certificate holds for such a request.

        Args:
            decoder: that will answer.
            fresh_seed: used if the request gives no seed.

        Raises:
            ApiError: 400, for a setting that this decoder does not accept.
        """
        options = self.tailguard or Options()
        seed = fresh_seed if self.seed is None else self.seed
        limit = options.limit()
        asked: dict[str, object] = {
            "measure": None if limit is None else limit.measure,
            "budget": None if limit is None else limit.budget,
            "seed": seed % _NUM_SEEDS,
        }
        optional: dict[str, tuple[str, object]] = {
            "token_price": ("tailguard.token_price", options.token_price),
            "max_draws": ("tailguard.max_draws", options.max_draws),
            "certified": ("tailguard.certified", options.certified or None),
            "raters": ("tailguard.raters", options.raters),
            "temperature": ("temperature", self._changed(decoder, "temperature")),
            "top_p": ("top_p", self._changed(decoder, "top_p")),
            "max_new_tokens": ("max_tokens", self._shorter(decoder)),
            "stop": ("stop", [self.stop] if isinstance(self.stop, str) else self.stop or None),
        }
        # None: the decoder accepts every keyword.
        known = accepted_settings(decoder)
        for name, (field, value) in optional.items():
            if value is None:
                continue
            if known is not None and name not in known:
                raise _unsupported(field)
            asked[name] = value
        return asked

    def _changed(self, decoder: GuardedDecoder, name: str) -> float | None:
        value: float | None = getattr(self, name)
        return None if value is None or calibrated_values(decoder, name) == {value} else value

    def _shorter(self, decoder: GuardedDecoder) -> int | None:
        # Two names for one limit; the older one is deprecated, and clients may send both.
        limits = [m for m in (self.max_tokens, self.max_completion_tokens) if m is not None]
        if not limits:
            return None
        calibrated = calibrated_values(decoder, "max_new_tokens")
        limit = min(limits)
        return None if calibrated and limit >= max(calibrated) else limit


def _unsupported(name: str) -> Exception:
    return bad_request(
        f"{name}: this server does not support it; leave it out",
        param=name,
        code="unsupported_parameter",
    )
