"""Requests that get no answer, and failures that never become an unguarded one."""

import dataclasses
import threading
import time
from types import SimpleNamespace

import httpx
import openai
import pytest
from starlette.testclient import TestClient
from tests.unit.conftest import make_llama, make_tokenizer

from tailguard.decoding.chosen import Chosen
from tailguard.errors import InfeasibleError, InputError, ScoreError
from tailguard.models.policy import Policy, tokenize_prompts
from tailguard.serve import create_app
from tailguard.serve.fail_closed import DEFAULT_FALLBACK

from .conftest import FakeDecoder, answer_fields


def error_of(caught):
    """The error object, having checked that it is in OpenAI's shape."""
    body = caught.value.response.json()
    assert set(body) == {"error"}
    assert {"message", "type", "param", "code"} <= set(body["error"])
    return body["error"]


@pytest.mark.parametrize(
    ("settings", "param"),
    [
        ({"temperature": 3}, "temperature"),
        ({"temperature": "1"}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"n": 0}, "n"),
        ({"n": 1.5}, "n"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages.0.role"),
        ({"messages": [{"role": "assistant", "content": "x"}]}, "messages"),
        ({"messages": [{"role": "user"}]}, "messages.0.content"),
        ({"tailguard": {"tail_mass": 0, "budget": 0}}, "tailguard.tail_mass"),
        ({"tailguard": {"budget": 0}}, "tailguard.tail_mass"),
        ({"tailguard": {"measure": "cvar", "tail_mass": 0.1}}, "tailguard.budget"),
        ({"tailguard": {"measure": "var", "tail_mass": 0.1, "budget": 0}}, "tailguard.measure"),
        ({"tailguard": {"tailmass": 0.1}}, "tailguard.tailmass"),
        ({"tailguard": {"max_draws": 0}}, "tailguard.max_draws"),
        ({"tailguard": {"token_price": 0.5}}, "tailguard.token_price"),
        ({"tailguard": {"token_price": 0}}, "tailguard.token_price"),
        ({"tailguard": {"raters": "worst"}}, "tailguard.raters"),
        ({"tailguard": {"raters": {"carers": "much"}}}, "tailguard.raters"),
        ({"tailguard": {"raters": ["carers"]}}, "tailguard.raters"),
        ({"top_p": 0.5}, "top_p"),
        ({"stop": "end"}, "stop"),
        ({"presence_penalty": 1.0}, "presence_penalty"),
        ({"logprobs": True}, "logprobs"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
    ],
)
def test_bad_request(decoder, serve, ask, settings, param):
    with pytest.raises(openai.BadRequestError) as caught:
        ask(serve(decoder), **settings)
    error = error_of(caught)
    assert error["type"] == "invalid_request_error"
    assert error["param"] is not None
    assert error["param"].startswith(param)
    assert not decoder.seen


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"stop": list("abcde")}, "stop: at most 4; there are 5"),
        ({"stop": ["a", 1]}, "stop.1: Input should be a valid string"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]},
            "messages.0.content: image_url is not supported; send parts of type text",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "text"}]}]},
            "messages.0.content: a part needs 'type': 'text' and its 'text'",
        ),
        (
            {"messages": [{"role": "user", "content": None}]},
            "messages.0.content: Input should be a valid string",
        ),
    ],
)
def test_the_message_names_the_field_as_the_client_wrote_it(decoder, serve, ask, settings, message):
    with pytest.raises(openai.BadRequestError) as caught:
        ask(serve(decoder), **settings)
    assert error_of(caught)["message"] == message


def test_misspelt_field_is_refused(decoder, serve):
    with pytest.raises(openai.BadRequestError) as caught:
        serve(decoder).chat.completions.create(
            model="guarded",
            messages=[{"role": "user", "content": "x"}],
            extra_body={"tailgaurd": {"tail_mass": 0.1, "budget": 0}},
        )
    assert error_of(caught)["param"] == "tailgaurd"


@pytest.mark.parametrize(
    "body",
    [
        "{",
        "[]",
        '{"model": "guarded", "messages": [{"role": "user", "content": "\\ud800"}]}',
        '{"model": "guarded", "messages": [{"role": "user", "content": "x"}], "top_p": NaN}',
        '{"model": "guarded", "messages": [{"role": "user", "content": "x"}],'
        ' "tailguard": {"tail_mass": 0.1, "budget": Infinity}}',
    ],
)
def test_malformed_body(decoder, body):
    with TestClient(create_app(decoder, model_name="guarded")) as http:
        response = http.post(
            "/v1/chat/completions", content=body, headers={"content-type": "application/json"}
        )
    assert response.status_code == 400
    assert response.json()["error"]["type"] == "invalid_request_error"
    assert not decoder.seen


def test_prompt_beyond_the_context(decoder, serve, ask):
    with pytest.raises(InputError) as raised:
        tokenize_prompts(Policy(make_llama(0), make_tokenizer()), ["a " * 40])
    decoder.error = raised.value
    with pytest.raises(openai.BadRequestError) as caught:
        ask(serve(decoder))
    assert error_of(caught)["code"] == "context_length_exceeded"
    assert error_of(caught)["param"] == "messages"


def test_other_wrong_input_of_the_decoder(decoder, serve, ask):
    decoder.error = InputError("the prompt is empty: give some text")
    with pytest.raises(openai.BadRequestError, match="the prompt is empty") as caught:
        ask(serve(decoder))
    assert error_of(caught)["code"] == "invalid_value"


@pytest.mark.parametrize(("least", "shown"), [(-1.0, -1.0), (float("inf"), None)])
def test_infeasible_budget_names_what_can_be_reached(decoder, serve, ask, least, shown):
    decoder.error = InfeasibleError("no calibrated profile is as strict", least)
    with pytest.raises(openai.BadRequestError) as caught:
        ask(serve(decoder), tailguard={"tail_mass": 0.05, "budget": -3.0})
    error = error_of(caught)
    assert error["code"] == "infeasible_budget"
    assert error["smallest_reachable_risk"] == shown
    assert ("Smallest reachable risk: -1" in error["message"]) == (shown is not None)


def test_unknown_model(decoder, serve, ask):
    client = serve(decoder)
    with pytest.raises(openai.NotFoundError) as caught:
        ask(client, model="gpt")
    assert error_of(caught)["code"] == "model_not_found"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("gpt")


def test_unknown_route_and_method(decoder, serve):
    with TestClient(create_app(decoder, model_name="guarded")) as http:
        for response, status in (
            (http.get("/v1/none"), 404),
            (http.get("/v1/chat/completions"), 405),
        ):
            assert response.status_code == status
            assert "message" in response.json()["error"]


def test_keys(decoder, serve, ask):
    keys = ["one", "zwölf"]
    for client in (
        serve(decoder, key="three", api_keys=keys),
        serve(decoder, key="on", api_keys=keys),
    ):
        with pytest.raises(openai.AuthenticationError) as caught:
            ask(client)
        assert error_of(caught)["code"] == "invalid_api_key"
        with pytest.raises(openai.AuthenticationError):
            client.models.list()
    assert not decoder.seen
    assert ask(serve(decoder, key="one", api_keys=keys)).choices[0].message.content == "bold 0"


def test_keys_are_checked_before_the_body_and_health_is_open(decoder):
    with TestClient(create_app(decoder, model_name="guarded", api_keys=["one"])) as http:
        assert http.post("/v1/chat/completions", json={}).status_code == 401
        basic = {"authorization": "Basic one"}
        assert http.get("/v1/models", headers=basic).status_code == 401
        assert http.get("/health").status_code == 200


def test_full_queue(decoder, serve, ask):
    decoder.gate = threading.Event()
    client = serve(decoder, max_queue=1)
    answers = []
    threads = [threading.Thread(target=lambda: answers.append(ask(client))) for _ in range(2)]
    for thread in threads:
        thread.start()
    worker = client._client.app.state.worker
    wait_until(lambda: worker._num_pending == 2)
    with pytest.raises(openai.RateLimitError) as caught:
        ask(client)
    decoder.gate.set()
    for thread in threads:
        thread.join()
    assert error_of(caught)["code"] == "queue_full"
    assert int(caught.value.response.headers["retry-after"]) >= 1
    assert len(answers) == 2
    assert ask(client).choices  # there is room again


def test_health_answers_while_generating(decoder, serve, ask):
    decoder.gate = threading.Event()
    client = serve(decoder)
    thread = threading.Thread(target=lambda: ask(client))
    thread.start()
    wait_until(lambda: len(decoder.seen) == 1)
    assert client._client.get("/health").json() == {"status": "ready"}
    decoder.gate.set()
    thread.join()


def test_not_ready_before_the_decoder_is_there_and_after_closing(decoder, serve, ask):
    client = serve(None)
    http = client._client
    assert http.get("/health").status_code == 503
    with pytest.raises(openai.InternalServerError) as caught:
        ask(client)
    assert caught.value.status_code == 503
    assert error_of(caught)["code"] == "not_ready"

    http.app.state.worker.decoder = decoder
    assert ask(client).choices[0].message.content == "bold 0"

    http.app.state.worker.close()
    assert http.get("/health").status_code == 503
    with pytest.raises(openai.InternalServerError):
        ask(client)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("error", [RuntimeError("weights of secret"), ValueError("x"), KeyError(1)])
def test_failure_serves_no_text(decoder, serve, ask, error, stream):
    decoder.error = error
    client = serve(decoder)
    with pytest.raises(openai.InternalServerError) as caught:
        ask(client, stream=stream)
    assert caught.value.status_code == 503
    assert "secret" not in error_of(caught)["message"]
    decoder.error = None
    assert ask(client).choices[0].message.content == "bold 0"


def test_score_error_abstains(decoder, serve, ask):
    decoder.error = ScoreError("cost: NaN")
    completion = ask(serve(decoder), n=2)
    assert len(completion.choices) == 2
    for choice in completion.choices:
        fields = choice.model_extra["tailguard"]
        assert choice.finish_reason == "content_filter"
        assert fields["abstained"] is True
        assert fields["certified"] is False
        assert set(fields) == {
            *({field.name for field in dataclasses.fields(Chosen)} - {"unlike"}),
            *("bounded", "certified", "served"),
        }
        assert choice.message.content == DEFAULT_FALLBACK


@pytest.mark.parametrize("made", [None, answer_fields("leak", cost=None)])
def test_a_decoder_that_fails_answers_with_its_own_fallback(serve, ask, made):
    class Failing(FakeDecoder):
        @property
        def profiles(self):
            return [SimpleNamespace(setting=SimpleNamespace(fallback="let us talk about tea"))]

    broken = Failing(made=made, error=None if made else ScoreError("cost: NaN"))
    choice = ask(serve(broken)).choices[0]
    assert choice.message.content == "let us talk about tea"
    assert choice.model_extra["tailguard"]["reason"] == "score unavailable"


@pytest.mark.parametrize(
    "made",
    [
        answer_fields("leak", cost=None),
        answer_fields("leak", cost=float("nan")),
        answer_fields("leak", cost=float("inf")),
        {"text": "leak", "abstained": False},
        {"text": "leak", "cost": {"mean": 0.0}},
    ],
)
def test_answer_without_a_score_is_withheld(decoder, serve, ask, made):
    decoder.made = made
    choice = ask(serve(decoder)).choices[0]
    assert choice.finish_reason == "content_filter"
    assert "leak" not in choice.to_json()


def test_wrong_number_of_answers_is_a_failure(serve, ask):
    class Short:
        def generate(self, prompts, **settings):
            return []

    with pytest.raises(openai.InternalServerError):
        ask(serve(Short()))


def test_over_a_real_socket(decoder):
    import uvicorn

    config = uvicorn.Config(
        create_app(decoder, model_name="guarded"), port=0, log_level="error", lifespan="on"
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        wait_until(lambda: server.started)
        port = server.servers[0].sockets[0].getsockname()[1]
        body = {"model": "guarded", "messages": [{"role": "user", "content": "hello"}]}
        with httpx.Client(base_url=f"http://127.0.0.1:{port}") as http:
            answer = http.post("/v1/chat/completions", json=body).json()
        assert answer["choices"][0]["message"]["content"] == "bold 0"
    finally:
        server.should_exit = True
        thread.join(10)
    assert not thread.is_alive()


def wait_until(condition, seconds=10.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.005)
