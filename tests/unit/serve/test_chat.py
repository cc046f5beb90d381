"""Answers through the official client."""

import socket
import threading
import time

import openai
import pytest
from starlette.testclient import TestClient

from tailguard.errors import InputError
from tailguard.risk import CVaR, Entropic, Mean, MeanCVaR
from tailguard.serve import create_app, read_api_keys, serve_decoder

from .conftest import answer_fields


def test_one_prompt_at_two_risk_levels(decoder, serve, ask):
    client = serve(decoder)
    strict = ask(client, tailguard={"measure": "cvar", "tail_mass": 0.05, "budget": -0.5})
    loose = ask(client, tailguard={"measure": "cvar", "tail_mass": 0.25, "budget": 0.5})

    assert strict.choices[0].message.content == "careful 0"
    assert loose.choices[0].message.content == "bold 0"
    assert [seen["measure"] for seen in decoder.seen] == [CVaR(0.05), CVaR(0.25)]
    assert [seen["budget"] for seen in decoder.seen] == [-0.5, 0.5]
    assert [seen["prompts"] for seen in decoder.seen] == [["hello"], ["hello"]]


def test_answer_carries_the_fields_of_generate(decoder, serve, ask):
    completion = ask(serve(decoder))
    expected = answer_fields("bold 0") | {"cost_upper_bound": None}  # JSON has no infinity
    assert completion.model_extra["tailguard"] == expected
    assert completion.choices[0].model_extra["tailguard"] == expected
    assert completion.choices[0].finish_reason == "stop"
    assert (completion.object, completion.model) == ("chat.completion", "guarded")


def test_abstention_is_a_content_filter(decoder, serve, ask):
    decoder.made = answer_fields("no", abstained=True)
    choice = ask(serve(decoder)).choices[0]
    assert choice.finish_reason == "content_filter"
    assert choice.message.content == "no"
    assert choice.model_extra["tailguard"]["reason"] == "too risky"


def test_cut_answer_ends_by_length(decoder, serve, ask):
    decoder.made = answer_fields(finished=False)
    assert ask(serve(decoder)).choices[0].finish_reason == "length"


def test_usage_counts_the_prompt_once_and_every_candidate(decoder, serve, ask):
    decoder.made = answer_fields(num_prompt_tokens=7, num_tokens_generated=40)
    usage = ask(serve(decoder), n=3).usage
    assert (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens) == (7, 120, 127)


def test_n_gives_that_many_choices_of_one_call(decoder, serve, ask):
    completion = ask(serve(decoder), n=3, seed=7)
    assert [c.message.content for c in completion.choices] == ["bold 0", "bold 1", "bold 2"]
    assert [c.index for c in completion.choices] == [0, 1, 2]
    assert decoder.seen[0]["prompts"] == ["hello"] * 3
    assert decoder.seen[0]["seed"] == 7


def test_requests_without_seed_differ(decoder, serve, ask):
    client = serve(decoder)
    ask(client)
    ask(client)
    assert decoder.seen[0]["seed"] != decoder.seen[1]["seed"]


@pytest.mark.parametrize("seed", [-1, 2**64 + 3])
def test_seed_of_any_size(decoder, serve, ask, seed):
    ask(serve(decoder), seed=seed)
    assert 0 <= decoder.seen[0]["seed"] < 2**63


def test_chat_becomes_messages_and_parts_become_text(decoder, serve, ask):
    parts = [{"type": "text", "text": "how "}, {"type": "text", "text": "now"}]
    messages = [
        {"role": "developer", "content": "be kind"},
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": "hello"},
        {"role": "user", "content": parts},
    ]
    ask(serve(decoder), messages=messages)
    assert decoder.seen[0]["prompts"] == [
        [
            {"role": "system", "content": "be kind"},
            {"role": "user", "content": "hi"},
            {"role": "assistant", "content": "hello"},
            {"role": "user", "content": "how now"},
        ]
    ]


@pytest.mark.parametrize(
    ("options", "measure"),
    [
        ({"measure": "mean", "budget": 0}, Mean()),
        ({"tail_mass": 0.1, "budget": 0.1}, CVaR(0.1)),
        ({"measure": "mean-cvar", "tail_mass": 0.1, "budget": 0.1}, MeanCVaR(0.1, 0.5)),
        ({"measure": "entropic", "theta": 2, "budget": 0.1}, Entropic(2.0, 1e300)),
        ({"max_draws": 3}, None),
    ],
)
def test_measures(decoder, serve, ask, options, measure):
    ask(serve(decoder), tailguard=options)
    assert decoder.seen[0]["measure"] == measure
    assert decoder.seen[0]["max_draws"] == options.get("max_draws")


def test_token_limit_is_passed_on_only_where_it_binds(decoder, serve, ask):
    client = serve(decoder)
    for limits in ({"max_tokens": 48}, {"max_tokens": 900, "max_completion_tokens": 5}):
        ask(client, **limits)
    assert [seen["max_new_tokens"] for seen in decoder.seen] == [None, 5]


def test_sampling_as_calibrated_is_no_change(decoder, serve, ask):
    ask(serve(decoder), temperature=1, top_p=1.0, frequency_penalty=0, user="me", logprobs=False)
    assert len(decoder.seen) == 1


def test_decoder_that_takes_more_is_given_more(serve, ask):
    class Willing:
        def generate(self, prompts, **settings):
            seen.append(settings)
            return [type("A", (), {"to_dict": lambda _: answer_fields()})() for _ in prompts]

    seen = []
    ask(
        serve(Willing()),
        temperature=0.5,
        top_p=0.9,
        stop="end",
        max_tokens=9,
        tailguard={"token_price": 0.1},
    )
    expected = {
        "temperature": 0.5,
        "top_p": 0.9,
        "stop": ["end"],
        "max_new_tokens": 9,
        "token_price": 0.1,
    }
    assert expected.items() <= seen[0].items()
    # A price of 0 is one, and no price is none.
    ask(serve(Willing()), tailguard={"token_price": 0.0, "raters": {"carers": 0.6, "traders": 0.4}})
    assert seen[1]["token_price"] == 0.0
    assert seen[1]["raters"] == {"carers": 0.6, "traders": 0.4}
    ask(serve(Willing()), tailguard={"raters": "worst"})
    assert seen[2]["raters"] == "worst"
    assert "token_price" not in seen[2]


def test_stream_sends_the_accepted_answer(decoder, serve, ask):
    chunks = list(ask(serve(decoder), stream=True, n=2))
    text = {0: "", 1: ""}
    for chunk in chunks:
        for choice in chunk.choices:
            text[choice.index] += choice.delta.content or ""
    assert text == {0: "bold 0", 1: "bold 1"}
    assert chunks[-1].choices[0].finish_reason == "stop"
    assert chunks[-1].choices[0].model_extra["tailguard"]["text"] == "bold 1"
    assert len({chunk.id for chunk in chunks}) == 1


def test_stream_ends_with_usage_where_asked(decoder, serve, ask):
    *others, last = ask(serve(decoder), stream=True, n=2, stream_options={"include_usage": True})
    assert last.choices == []
    assert last.usage.completion_tokens == 80
    assert all(chunk.usage is None and chunk.choices for chunk in others)


def test_generation_runs_in_one_other_thread(decoder, serve, ask):
    client = serve(decoder)
    ask(client)
    ask(client)
    assert decoder.threads[0] is decoder.threads[1]
    assert decoder.threads[0].name.startswith("decoder")
    assert decoder.threads[0] is not threading.main_thread()


def test_models(decoder, serve):
    client = serve(decoder)
    assert [model.id for model in client.models.list()] == ["guarded"]
    assert client.models.retrieve("guarded").id == "guarded"


def test_key_file(tmp_path):
    path = tmp_path / "keys"
    path.write_text("# ours\n one \n\ntwo\n")
    assert read_api_keys(path) == ["one", "two"]
    path.write_text("\n#\n")
    with pytest.raises(InputError, match="holds no key"):
        read_api_keys(path)
    with pytest.raises(InputError, match="cannot be read"):
        read_api_keys(tmp_path / "none")


def test_no_key_at_all_is_not_an_open_server(decoder):
    with pytest.raises(InputError, match="api_keys"):
        create_app(decoder, model_name="guarded", api_keys=[])


def test_serve_decoder_listens_where_it_is_told_with_the_keys_of_the_file(
    decoder, tmp_path, monkeypatch
):
    started = {}

    def run(server, sockets):
        app = server.config.app
        started.update(app=app, address=sockets[0].getsockname())
        while not app.state.worker.ready:
            time.sleep(0.005)

    monkeypatch.setattr("uvicorn.Server.run", run)
    path = tmp_path / "keys"
    path.write_text("one\n")
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
    serve_decoder(lambda: decoder, host="127.0.0.1", port=port, api_key_file=path, model_name="m")
    assert started["address"] == ("127.0.0.1", port)
    with TestClient(started["app"]) as http:
        assert http.get("/v1/models").status_code == 401
        listed = http.get("/v1/models", headers={"authorization": "Bearer one"}).json()
    assert [model["id"] for model in listed["data"]] == ["m"]


def test_requests_wait_for_nothing_while_the_decoder_is_loaded(decoder, monkeypatch):
    loading, seen = threading.Event(), []

    def load():
        assert loading.wait(10)
        return decoder

    def run(server, sockets):
        with TestClient(server.config.app) as http:
            seen.append(http.get("/health").status_code)
            loading.set()
            while not server.config.app.state.worker.ready:
                time.sleep(0.005)
            seen.append(http.get("/health").status_code)
        raise KeyboardInterrupt  # as uvicorn hands on, once it has ended

    monkeypatch.setattr("uvicorn.Server.run", run)
    serve_decoder(load, host="127.0.0.1", port=0)
    assert seen == [503, 200]


def test_a_decoder_that_cannot_be_loaded_ends_the_server():
    def load():
        raise InputError("no such decoder")

    with pytest.raises(InputError, match="no such decoder"):
        serve_decoder(load, host="127.0.0.1", port=0)


@pytest.mark.parametrize("place", ["taken", "70000", "no such host"])
def test_an_address_that_cannot_be_had_is_said_before_anything_is_loaded(place):
    with socket.create_server(("127.0.0.1", 0)) as other:
        host = "no.such.host.invalid" if place == "no such host" else "127.0.0.1"
        port = 70000 if place == "70000" else other.getsockname()[1]
        with pytest.raises(InputError, match=f"--port {port}: cannot listen there"):
            serve_decoder(lambda: pytest.fail("loaded"), host=host, port=port)


def test_greedy_choices_are_computed_once(decoder, serve, ask):
    completion = ask(serve(decoder), temperature=0, n=4)
    assert [c.message.content for c in completion.choices] == ["bold 0"] * 4
    assert [len(seen["prompts"]) for seen in decoder.seen] == [1]
    assert completion.usage.completion_tokens == 40
    # A repeated choice says itself that it cost nothing.
    made = [c.model_extra["tailguard"]["num_tokens_generated"] for c in completion.choices]
    assert made == [40, 0, 0, 0]


def test_greedy_choices_of_a_decoder_calibrated_at_temperature_0(decoder, serve, ask):
    decoder.temperature = 0.0
    assert len(ask(serve(decoder), n=3).choices) == 3
    assert len(decoder.seen[0]["prompts"]) == 1


@pytest.mark.parametrize(
    ("turn", "read"),
    [({"content": None, "refusal": "no"}, "no"), ({"content": None}, ""), ({"content": ""}, "")],
)
def test_assistant_turn_without_content(decoder, serve, ask, turn, read):
    user = {"role": "user", "content": "go on"}
    ask(serve(decoder), messages=[user, {"role": "assistant", **turn}, user])
    assert decoder.seen[0]["prompts"][0][1] == {"role": "assistant", "content": read}


@pytest.mark.parametrize("field", ["top_k", "min_p", "repetition_penalty", "ignore_eos", "best_of"])
def test_fields_of_vllm_at_the_value_that_changes_nothing(decoder, serve, ask, field):
    neutral = {
        "top_k": -1,
        "min_p": 0,
        "repetition_penalty": 1.0,
        "ignore_eos": False,
        "best_of": 1,
    }
    other = {"top_k": 5, "min_p": 0.1, "repetition_penalty": 1.1, "ignore_eos": True, "best_of": 2}
    client = serve(decoder)
    create, user = client.chat.completions.create, {"role": "user", "content": "hi"}
    asked = {"model": "guarded", "messages": [user]}
    create(**asked, extra_body={field: neutral[field]})
    with pytest.raises(openai.BadRequestError, match=field):
        create(**asked, extra_body={field: other[field]})
