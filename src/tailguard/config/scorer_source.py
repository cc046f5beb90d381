"""Where a scorer that is not fitted comes from: a published model, a function, or an endpoint."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, cast

from pydantic import BeforeValidator, Field, field_validator, model_validator

from tailguard.config.section import (
    CountEach,
    CountOrNone,
    PathName,
    Positive,
    Section,
    possible_path,
)

_KEYS = {
    "model": {"model", "label", "input"},
    "python": {"python", "folder", "input", "members", "upper"},
    "endpoint": {
        "endpoint",
        "model",
        "template",
        "input",
        "unsafe_word",
        "safe_word",
        "key_env",
        "concurrency",
        "timeout",
        "upper",
    },
}


class ScorerSource(Section):
    """A scorer that is given: a sequence classifier, a function of Python, or a guard's endpoint.

    Attributes:
        model: folder or hub name of a sequence classifier; with ``endpoint``, the model's name there.
        label: which output of a classifier with several, by name or number: the score is its
            log-odds against the others (with ``problem_type: multi_label_classification``, its
            logit), so above 0 means more probable than not.
        input: what it reads: the ``pair`` of prompt and answer, or the ``response`` alone. A cost
            that reads pairs is also taken with the prompt withheld, and the worse counts.
        python: ``package.module:function``, called with a list of prompts and a list of answers (with
            ``input: response``, of answers alone); returns [answers] or [answers, members].
        folder: folder that the function is imported from, besides the environment; relative to the
            recipe.
        members: how many members the function gives; empty for not said, and then no pessimism
            above 0 may be asked for.
        endpoint: URL of an OpenAI-compatible API, such as ``http://127.0.0.1:8000/v1``.
        template: text of the message that asks for the verdict, with ``{prompt}`` and ``{response}``;
            empty to send prompt and answer as a chat, as guards with a template of their own
            expect.
        unsafe_word: the verdict's first word where the answer is unsafe.
        safe_word: the same where it is safe. The score is the log-odds of the two.
        key_env: name of the environment variable that holds the API key; empty for none.
        concurrency: requests under way at once.
        timeout: seconds to wait for a verdict before it is asked for again.
        upper: largest score it gives; that of a cost sets ``scorers.cost_bound``.
    """

    model: PathName = ""
    label: str | CountOrNone | None = None
    input: Literal["pair", "response"] = "pair"
    python: str = ""
    folder: PathName = "."
    members: CountEach | None = None
    endpoint: str = ""
    template: str = ""
    unsafe_word: Annotated[str, Field(min_length=1)] = "unsafe"
    safe_word: Annotated[str, Field(min_length=1)] = "safe"
    key_env: str = ""
    concurrency: Annotated[int, Field(ge=1, le=256)] = 8
    timeout: Annotated[float, Field(gt=0, le=3600)] = 30.0
    upper: Positive | None = None

    @field_validator("python")
    @classmethod
    def _names_a_function(cls, value: str) -> str:
        module, colon, function = value.partition(":")
        parts = [*module.split("."), function]
        if value and not (colon and all(part.isidentifier() for part in parts)):
            raise ValueError("write package.module:function")
        return value

    @field_validator("endpoint")
    @classmethod
    def _is_a_url(cls, value: str) -> str:
        # Messages and decoders show it, so that no key may be in it; key_env names one.
        if value and not re.fullmatch(r"https?://[^\s/@?#]+(/[^\s@?#]*)?", value):
            raise ValueError(
                "write a URL without password or query, such as http://127.0.0.1:8000/v1"
            )
        return value

    @model_validator(mode="after")
    def _one_kind(self) -> ScorerSource:
        if self.python and self.endpoint:
            raise ValueError("give one of model, python and endpoint")
        if not (self.model or self.python or self.endpoint):
            raise ValueError("give a model, a python function or an endpoint")
        if self.endpoint and not self.model:
            raise ValueError("an endpoint needs the name of its model")
        if strange := self.model_fields_set - _KEYS[self.kind]:
            raise ValueError(f"{sorted(strange)[0]}: does not go with {self.kind}; leave it out")
        if self.template and "{response}" not in self.template:
            raise ValueError("template: holds no {response}, so every answer would get one verdict")
        if self.input == "response" and "{prompt}" in self.template:
            raise ValueError("template: holds {prompt}, which input: response withholds")
        return self

    @property
    def kind(self) -> Literal["model", "python", "endpoint"]:
        """Which of the three it is."""
        return "python" if self.python else "endpoint" if self.endpoint else "model"

    @property
    def several_members(self) -> bool:
        """Whether it is known to give more than one member, so that its spread is known."""
        return (self.members or 1) > 1

    @property
    def local_model(self) -> str:
        """The folder or hub name of a classifier; empty for the other kinds."""
        return self.model if self.kind == "model" else ""


def _named(value: object) -> object:
    """A name alone is that of a model; the empty one means none."""
    if isinstance(value, str):
        # Checked here too, for its message to name the key that is there.
        return {"model": possible_path(value)} if value else None
    return value


GivenScorer = Annotated[ScorerSource | None, BeforeValidator(_named)]
"""A `ScorerSource`, or the name of a model in its place; empty for none."""


def with_defaults_of_cost(fields: object) -> object:
    """A recipe's raw keys, where what is given as cost decides the defaults of other keys.

    Its largest value is the bound, and one member, whose spread is unknown, allows no pessimism.
    Keys that are there stay as they are: whether they contradict is checked afterwards.
    """
    recipe, scorers = _keys(fields), _keys(_keys(fields).get("scorers"))
    cost = scorers.get("cost_model")
    if not cost:
        return fields
    given = _keys(cost)
    if isinstance(upper := given.get("upper"), int | float):
        scorers.setdefault("cost_bound", upper)
    members = given.get("members")
    if not isinstance(members, int) or members < 2:
        scorers.setdefault("pessimism", 0.0)
        # A section that is no section stays as it is, for the schema to name.
        if isinstance(recipe.get("decoding", {}), dict):
            decoding = _keys(recipe.get("decoding"))
            decoding.setdefault("pessimism", 0.0)
            recipe["decoding"] = decoding
    return recipe | {"scorers": scorers}


def _keys(fields: object) -> dict[str, Any]:
    return dict(cast("dict[str, Any]", fields)) if isinstance(fields, dict) else {}
