"""A decoder without a model, and the official client against the app over it."""

import threading
from dataclasses import dataclass, field
from types import SimpleNamespace

import openai
import pytest
from starlette.testclient import TestClient

from tailguard.errors import InfeasibleError
from tailguard.serve import create_app


@dataclass
class FakeAnswer:
    """Fields of ``generate --json``."""

    fields: dict

    def to_dict(self):
        return self.fields


def answer_fields(text="fine", *, abstained=False, cost: float | None = 0.25, **more):
    return {
        "text": text,
        "abstained": abstained,
        "reason": "too risky" if abstained else "",
        "reward": {"mean": 1.0, "std": 0.1, "quantiles": {"0.5": 1.0}},
        "cost": None if cost is None else {"mean": cost, "std": 0.1, "quantiles": {"0.5": cost}},
        "cost_upper_bound": float("inf"),
        "certified": True,
        "num_draws": 8,
        "num_tokens_generated": 40,
    } | more


@dataclass
class FakeDecoder:
    """Bold answers above budget 0, careful ones down to −1, nothing below; remembers requests."""

    temperature: float = 1.0
    max_new_tokens: int = 48
    seen: list = field(default_factory=list)
    threads: list = field(default_factory=list)
    gate: threading.Event | None = None
    error: Exception | None = None
    made: dict | None = None

    @property
    def profiles(self):
        return [
            SimpleNamespace(
                setting=SimpleNamespace(
                    temperature=self.temperature, top_p=1.0, max_new_tokens=self.max_new_tokens
                )
            )
        ]

    def generate(
        self,
        prompts,
        *,
        measure=None,
        budget=None,
        max_draws=None,
        seed=0,
        max_new_tokens=None,
        temperature=None,
    ):
        self.seen.append(
            {
                "prompts": list(prompts),
                "measure": measure,
                "budget": budget,
                "max_draws": max_draws,
                "seed": seed,
                "max_new_tokens": max_new_tokens,
            }
        )
        self.threads.append(threading.current_thread())
        if self.gate is not None:
            assert self.gate.wait(10)
        if self.error is not None:
            raise self.error
        if self.made is not None:
            return [FakeAnswer(self.made) for _ in prompts]
        if budget is not None and budget < -1:
            raise InfeasibleError("no calibrated profile is as strict", -1.0)
        text = "bold" if budget is None or budget > 0 else "careful"
        return [FakeAnswer(answer_fields(f"{text} {i}")) for i in range(len(prompts))]


@pytest.fixture
def decoder():
    return FakeDecoder()


@pytest.fixture
def serve():
    """Start an app and give an official client of it that does not retry."""
    opened = []

    def start(decoder, *, key="any", **settings):
        http = TestClient(create_app(decoder, model_name="guarded", **settings))
        http.__enter__()
        opened.append(http)
        return openai.OpenAI(
            api_key=key, base_url="http://testserver/v1", http_client=http, max_retries=0
        )

    yield start
    for http in opened:
        http.__exit__(None, None, None)


@pytest.fixture
def ask():
    """One question through the official client."""

    def question(client, text="hello", *, tailguard=None, **settings):
        body = {} if tailguard is None else {"tailguard": tailguard}
        messages = settings.pop("messages", [{"role": "user", "content": text}])
        model = settings.pop("model", "guarded")
        return client.chat.completions.create(
            model=model, messages=messages, extra_body=body, **settings
        )

    return question
