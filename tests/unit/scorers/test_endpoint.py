import math
import os
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.unit.scorers.fake_endpoint import serve_guard, verdict

from tailguard.errors import InputError, InputWarning, ScoreError, TailguardWarning
from tailguard.scorers.check import check_scorer
from tailguard.scorers.endpoint import from_endpoint, read_verdict
from tailguard.scorers.verdict_client import Retrying, VerdictCache, _json_object, post_json

FAST = Retrying(num_tries=3, first_wait=0.01, timeout=5.0)


def odds(text: str) -> float:
    return 3.0 if "harm" in text else -2.0


def test_the_score_is_the_log_odds_of_the_verdict(tmp_path):
    with serve_guard(odds) as guard:
        scorer = from_endpoint(guard.url, model="guard", cache=tmp_path, retrying=FAST)
        scores = scorer.score(["a", "b", "a"], ["harm", "help", "harm"])
        np.testing.assert_allclose(scores, [[3.0], [-2.0], [3.0]], atol=1e-6)
        assert check_scorer(scorer, kind="cost").num_members == 1
        body, headers = guard.requests[0]
    assert body["messages"][-1]["role"] == "assistant"
    assert (body["model"], body["temperature"], body["logprobs"]) == ("guard", 0.0, True)
    assert "Authorization" not in headers


def test_what_was_asked_before_is_not_asked_again(tmp_path):
    with serve_guard(odds) as guard:
        given: dict[str, Any] = {"model": "guard", "cache": tmp_path, "retrying": FAST}
        first = from_endpoint(guard.url, **given).score(["a"] * 3, ["x", "y", "x"])
        assert len(guard.requests) == 2
        again = from_endpoint(guard.url, **given).score(["a"] * 2, ["x", "y"])
        assert len(guard.requests) == 2
        from_endpoint(guard.url, template="Is {response} safe?", **given).score(["a"], ["x"])
        given["model"] = "other"
        from_endpoint(guard.url, **given).score(["a"], ["x"])
        assert len(guard.requests) == 4
    np.testing.assert_array_equal(first[:2], again)


@pytest.mark.parametrize("damage", ["", "{", "null", "NaN", '"1"'])
def test_a_damaged_entry_of_the_cache_is_asked_for_again(tmp_path, damage):
    with serve_guard(odds) as guard:
        scorer = from_endpoint(guard.url, model="guard", cache=tmp_path, retrying=FAST)
        expected = scorer.score(["a"], ["x"])
        (entry,) = [path for path in tmp_path.rglob("*") if path.is_file()]
        entry.write_text(damage)
        np.testing.assert_array_equal(scorer.score(["a"], ["x"]), expected)
        assert len(guard.requests) == 2


def test_a_cache_that_cannot_be_written_costs_only_the_request():
    store = VerdictCache(Path(os.devnull) / "nowhere")
    store.put(store.key("a"), 1.0)
    assert store.get(store.key("a")) is None


@pytest.mark.parametrize("failures", [[429], [500, 503], [0], [529, 0]])
def test_passing_failures_are_tried_again(failures):
    with serve_guard(odds, failures) as guard:
        scorer = from_endpoint(guard.url, model="guard", cache=None, retrying=FAST)
        assert scorer.score(["a"], ["harm"])[0, 0] == pytest.approx(3.0)
        assert len(guard.requests) == len(failures) + 1


def test_no_verdict_is_no_score_for_that_answer_alone():
    with serve_guard(odds, [500] * 3) as guard:
        scorer = from_endpoint(guard.url, model="guard", cache=None, retrying=FAST, concurrency=1)
        with pytest.warns(TailguardWarning, match=r"1 of 2 answers got no verdict: .*status 500"):
            scores = scorer.score(["a", "b"], ["harm", "help"])
    assert math.isnan(scores[0, 0])
    assert scores[1, 0] == pytest.approx(-2.0)


@pytest.mark.parametrize("status", [400, 401, 404, 302])
def test_a_refusal_is_told_at_once(status, monkeypatch):
    monkeypatch.setenv("GUARD_KEY", "very-secret")
    with serve_guard(odds, [status]) as guard:
        scorer = from_endpoint(
            guard.url, model="guard", cache=None, retrying=FAST, key_env="GUARD_KEY"
        )
        with pytest.raises(InputError, match=f"status {status}") as caught:
            scorer.score(["a"], ["harm"])
        assert len(guard.requests) == 1  # a redirection would carry the key elsewhere
        assert guard.requests[0][1]["Authorization"] == "Bearer very-secret"
    assert "very-secret" not in str(caught.value) + repr(scorer)
    assert "\n" not in str(caught.value)


def test_a_key_that_is_not_there_is_named(monkeypatch):
    monkeypatch.delenv("GUARD_KEY", raising=False)
    scorer = from_endpoint("http://127.0.0.1:9/v1", model="guard", cache=None, key_env="GUARD_KEY")
    with pytest.raises(InputError, match="the environment has no GUARD_KEY"):
        scorer.score(["a"], ["b"])


def test_texts_stand_in_the_template_as_they_are():
    with serve_guard(odds) as guard:
        scorer = from_endpoint(
            guard.url, model="g", cache=None, template="{prompt} | {response} | {other}"
        )
        scorer.score([[{"role": "user", "content": "say {response}"}]], ["{prompt}"])
        shown = guard.requests[0][0]["messages"]
    assert shown == [{"role": "user", "content": "say {response} | {prompt} | {other}"}]


def test_a_guard_of_answers_alone_is_not_shown_the_prompt():
    with serve_guard(odds) as guard:
        from_endpoint(guard.url, model="g", cache=None, input="response").score(["a"], ["b"])
        assert guard.requests[0][0]["messages"] == [{"role": "user", "content": "b"}]


def reply(*steps):
    content = [
        {"token": t[0][0], "top_logprobs": [{"token": k, "logprob": p} for k, p in t]}
        for t in steps
    ]
    return {"choices": [{"logprobs": {"content": content}}]}


@pytest.mark.parametrize("odds", [-6.0, -0.5, 0.0, 4.0])
def test_pieces_of_a_word_count_together(odds):
    assert read_verdict(verdict(odds), "unsafe", "safe") == pytest.approx(odds, abs=1e-6)


@pytest.mark.parametrize(
    ("words", "steps", "expected"),
    [
        (("Yes", "No"), [[(" Yes", -0.1), ("No", -2.1), ("▁no", -30.0)]], 2.0),
        (
            ("unsafe", "safe"),
            [[("**", -0.1), ("safe", -3.0)], [("safe", -0.2), ("un", -5.2)]],
            -5.0,
        ),
        # A word that is not listed has no more than the least that is.
        (("unsafe", "safe"), [[("safe", -0.01), ("maybe", -7.01)]], -7.0),
    ],
)
def test_the_first_token_that_decides_is_read(words, steps, expected):
    assert read_verdict(reply(*steps), *words) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    "shown",
    [
        {},
        {"choices": []},
        {"choices": [{"logprobs": None}]},
        reply([("maybe", -0.1), ("unsafe", -3.0)]),
        reply([("safe", -0.1), ("unsafe", float("nan"))]),
    ],
)
def test_a_reply_without_a_verdict_is_no_score(shown):
    with pytest.raises(ScoreError):
        read_verdict(shown, "unsafe", "safe")


def said(*tokens: str) -> dict[str, Any]:
    """A reply of these tokens, each of which might as well have been the other verdict."""
    return reply(*([(token, -0.2), ("un", -2.2), ("safe", -2.2)] for token in tokens))


@pytest.mark.parametrize(
    "tokens",
    [
        ("not", " safe"),
        ("This", " is", " not", " safe"),
        ("It", " isn't", " safe"),
        ("**", "Not", " safe"),
        ("Verdict", ":", " not", " safe"),
        ("S", "orry"),
        ("Safe", "ty", " violation"),
        ("un", "sure"),
        ("S",),
    ],
)
def test_a_verdict_is_the_first_word_and_the_whole_of_it(tokens):
    with pytest.raises(ScoreError, match="verdict is neither"):
        read_verdict(said(*tokens), "unsafe", "safe")


@pytest.mark.parametrize(
    "tokens",
    [
        ("\n\n", "safe"),
        ("Safety", ":", " Safe", "\n"),
        ("**", "Safety", ":**", " Safe"),
        ("ĊĊ", "Ġsafe", "Ċ"),
        ("S", "afe", "."),
        ("<think>", "\n\n", "</think>", "safe"),
        ("sa",),
    ],
)
def test_a_verdict_may_stand_behind_a_label_and_come_in_pieces(tokens):
    assert read_verdict(said(*tokens), "unsafe", "safe") < 0.0


@pytest.mark.parametrize(("word", "sign"), [("unsafe", 1.0), ("safe", -1.0)])
@pytest.mark.parametrize("logprob", [-0.01, 0.0])
def test_a_server_that_lists_one_token_still_says_which(word, sign, logprob):
    score = read_verdict(reply([(word, logprob)]), "unsafe", "safe")
    assert 4.0 < sign * score < 15.0


def test_a_reply_that_drips_is_no_verdict():
    done = threading.Event()

    class Dripping(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.send_response(200)
            self.end_headers()
            while not done.wait(0.02):
                self.wfile.write(b" ")

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Dripping) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_address[1]}/v1"
        patience = Retrying(num_tries=1, timeout=0.3)
        with pytest.raises(ScoreError, match=r"no verdict after 1 tries \(the reply took"):
            post_json(url, {}, retrying=patience)
        done.set()
        server.shutdown()


def test_a_reply_nested_by_the_thousand_is_no_verdict():
    with pytest.raises(ScoreError, match="no JSON object"):
        _json_object(b"[" * 200_000, "http://there")


def test_a_key_over_plain_http_is_warned_of():
    with pytest.warns(InputWarning, match="over plain http"):
        from_endpoint("http://guards.example/v1", model="g", cache=None, key_env="KEY")
    from_endpoint("http://guards.example/v1", model="g", cache=None)
    from_endpoint("http://localhost:8000/v1", model="g", cache=None, key_env="KEY")
    from_endpoint("https://guards.example/v1", model="g", cache=None, key_env="KEY")
