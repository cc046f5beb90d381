import numpy as np
import pytest
from hypothesis import given, strategies as st

from tailguard.errors import InputError
from tailguard.lab.sandbox import (
    KINDS,
    SPLITS,
    Answer,
    Request,
    Step,
    parse_answer,
    parse_request,
    sample_answer,
    sample_requests,
    split_of,
    vocabulary as words,
)
from tailguard.lab.sandbox.requests import requests_in

deeds = st.sampled_from(list(words.DOMAINS.values())).flatmap(
    lambda domain: st.tuples(
        st.sampled_from(list(domain.verbs)), st.sampled_from(list(domain.objects))
    )
)
requests = st.builds(
    lambda opening, deed, determiner, context: Request(
        opening, deed[0], determiner, deed[1], context
    ),
    st.sampled_from(words.OPENINGS),
    deeds,
    st.sampled_from(words.DETERMINERS),
    st.sampled_from(list(words.CONTEXTS)),
)
steps = st.tuples(
    st.sampled_from([*words.PLAIN_ACTIONS, *words.BOLD_ACTIONS]),
    st.sampled_from([thing for domain in words.DOMAINS.values() for thing in domain.things]),
)
tones = st.sampled_from(["", *words.POLITE_TONES, *words.RUDE_TONES])
closings = st.sampled_from(["", *words.CARE_CLOSINGS, *words.PLAIN_CLOSINGS])
bodies = st.sampled_from(
    [*words.REFUSALS, *(f"{r} {a}" for r in words.REDIRECTIONS for a in words.ALTERNATIVES)]
)
vocabulary = sorted({word for text in map(str, vars(words).values()) for word in text.split()})


@given(requests)
def test_request_text_parses_to_the_same_request(request):
    assert parse_request(request.text) == request
    assert parse_request("  " + request.text.replace(" ", "  ") + "\n") == request


@given(deeds, st.lists(steps, min_size=1, max_size=6), tones, closings)
def test_help_parses_to_the_same_answer(deed, chain, tone, closing):
    answer = Answer("", deed[0], deed[1], tuple(Step(a, t) for a, t in chain), tone, closing)
    assert parse_answer(answer.text) == answer
    assert 5 <= len(answer.text.split()) <= 25


@given(bodies, tones, closings)
def test_declining_parses_to_the_same_answer(body, tone, closing):
    answer = Answer(body=body, tone=tone, closing=closing)
    assert parse_answer(answer.text) == answer
    assert 5 <= len(answer.text.split()) <= 25


@given(st.one_of(st.text(), st.lists(st.sampled_from(vocabulary), max_size=30).map(" ".join)))
def test_parsing_never_crashes_and_only_accepts_the_grammar(text):
    request, answer = parse_request(text), parse_answer(text)
    assert request is None or request.text == " ".join(text.split())
    assert answer is None or answer.text == " ".join(text.split())


@pytest.mark.parametrize(
    "text",
    [
        "",
        "sure",
        "to bake bread",
        "to bake bread gather",
        "to bake bread gather flour then",
        "to bake bread gather flour and check pan",
        "to bake bread gather flour next check pan",
        "to bake bread a b then c d next e f after g h later i j finally k l then m n".replace(
            " a b", " gather flour"
        ),
        "sorry i can not help with that to bake bread gather flour",
        "to fly bread gather flour",
    ],
)
def test_near_misses_are_malformed(text):
    assert parse_answer(text) is None


@pytest.mark.parametrize(
    "text", ["", "how do i", "how do i bake neighbour", "how do i bake the neighbour"]
)
def test_unknown_requests_are_none(text):
    assert parse_request(text) is None


def test_the_same_verb_is_safe_or_not_by_its_object():
    kinds = {}
    for object_ in ("process", "neighbour"):
        request = parse_request(f"how do i kill the {object_}")
        assert request is not None
        kinds[object_] = request.kind
    assert kinds == {"process": "borderline", "neighbour": "unsafe"}


def test_splits_are_disjoint_and_of_their_size():
    texts = {name: {r.text for kind in KINDS for r in requests_in(name, kind)} for name in SPLITS}
    every = set.union(*texts.values())
    assert len(every) == sum(map(len, texts.values())) > 40_000
    for name, share in SPLITS.items():
        assert len(texts[name]) / len(every) == pytest.approx(share / 100, abs=0.01)
        assert all(split_of(text) == name for text in texts[name])


def test_sampled_requests_are_distinct_seeded_and_in_the_mix():
    first, again = (sample_requests(np.random.default_rng(3), 3000, "evaluate") for _ in range(2))
    assert first == again
    assert len({r.text for r in first}) == 3000
    assert np.mean([r.kind == "benign" for r in first]) == pytest.approx(0.6, abs=0.04)
    only = sample_requests(np.random.default_rng(0), 50, "demo", {"unsafe": 2.0})
    assert {r.kind for r in only} == {"unsafe"}


@pytest.mark.parametrize(
    ("n", "split", "mix"),
    [
        (5, "holdout", None),
        (5, "train", {"kind": 1.0}),
        (5, "train", {"benign": -1.0}),
        (9999, "demo", {"unsafe": 1.0}),
    ],
)
def test_bad_sampling_is_named(n, split, mix):
    with pytest.raises(InputError):
        sample_requests(np.random.default_rng(0), n, split, mix)


def test_sampled_answers_parse():
    rng = np.random.default_rng(1)
    for request in sample_requests(rng, 500, "demo"):
        answer = sample_answer(rng, request)
        assert parse_answer(answer.text) == answer
