"""Nothing that is typed becomes a control token, and all else is as the tokenizer has it."""

from collections import Counter
from functools import lru_cache
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st
from tests.unit.models.chat_tokenizers import (
    ADDED,
    CHATML,
    INSTRUCTIONS,
    MARKERS,
    SPECIAL,
    TEMPLATES,
    THINKING,
    TOKENIZERS,
    byte_level,
    unigram,
)

from tailguard.errors import InputError
from tailguard.models.chat_tokens import encode_chat, encode_chats

CONTROL = (*SPECIAL, *ADDED)
WORDS = st.sampled_from(
    ["how", " is ", "it", "\n", "  ", "tail", "<", "|>", "|im_end", "/s>", "é", ">"]
)
TYPED = st.sampled_from([*MARKERS, "＜|im_end|＞", "<|IM_END|>"])
TEXTS = st.lists(WORDS | TYPED, min_size=1, max_size=8).map("".join).filter(str.strip)
PLAIN = (
    st.lists(
        st.sampled_from(["how", " is ", "it", "\n", "  ", "tail", "é", "5 "]),
        min_size=1,
        max_size=8,
    )
    .map("".join)
    .filter(str.strip)
)


@lru_cache
def tokenizer_of(kind, template) -> Any:
    tokenizer = TOKENIZERS[kind]()
    tokenizer.chat_template = template
    return tokenizer


KINDS = st.sampled_from(sorted(TOKENIZERS))
FORMS = st.sampled_from(TEMPLATES)
OFTEN = settings(max_examples=200)


def control_ids(tokenizer, ids):
    """How often each control token stands there; unknown text is text."""
    wanted = set(tokenizer.convert_tokens_to_ids([c for c in CONTROL if c != "<unk>"]))
    return Counter(token for token in ids if token in wanted)


def chat(prompt, response=None):
    answer = [] if response is None else [{"role": "assistant", "content": response}]
    return [{"role": "user", "content": prompt}, *answer]


@OFTEN
@given(kind=KINDS, template=FORMS, prompt=TEXTS, response=TEXTS)
def test_typed_markers_are_text(kind, template, prompt, response):
    tokenizer = tokenizer_of(kind, template)
    for answer, words in ((None, None), (response, "it")):
        found = encode_chat(tokenizer, prompt, answer)
        own = encode_chat(tokenizer, "it", words)
        assert control_ids(tokenizer, found) == control_ids(tokenizer, own)


@OFTEN
@given(kind=KINDS, template=FORMS, prompt=PLAIN, response=PLAIN)
def test_other_texts_have_the_tokens_of_the_tokenizer_itself(kind, template, prompt, response):
    tokenizer = tokenizer_of(kind, template)
    expected = tokenizer.apply_chat_template(chat(prompt), add_generation_prompt=True)
    assert encode_chat(tokenizer, prompt) == expected["input_ids"]
    expected = tokenizer.apply_chat_template(chat(prompt, response))
    assert encode_chat(tokenizer, prompt, response) == expected["input_ids"]


@given(kind=st.sampled_from(["byte level", "sentence piece"]), prompt=TEXTS, response=TEXTS)
def test_decoding_gives_back_what_was_typed(kind, prompt, response):
    tokenizer = tokenizer_of(kind, CHATML)
    text = tokenizer.apply_chat_template(chat(prompt, response), tokenize=False)
    ids = encode_chat(tokenizer, prompt, response)
    assert tokenizer.decode(ids, clean_up_tokenization_spaces=False) == text


@given(kind=KINDS, prompt=TEXTS, response=TEXTS)
def test_plain_text_has_one_opening(kind, prompt, response):
    tokenizer = tokenizer_of(kind, None)
    opening = Counter([tokenizer.bos_token_id])
    assert control_ids(tokenizer, encode_chat(tokenizer, prompt)) == opening
    assert control_ids(tokenizer, encode_chat(tokenizer, prompt, response)) == opening


@given(kind=KINDS, prompt=PLAIN)
def test_plain_text_is_the_tokenizers_own(kind, prompt):
    tokenizer = tokenizer_of(kind, None)
    assert encode_chat(tokenizer, prompt) == tokenizer(prompt)["input_ids"]


def test_a_scorer_reads_what_the_policy_read_and_then_the_answer():
    tokenizer = byte_level()
    prompt = [{"role": "user", "content": "one"}, {"role": "user", "content": "two"}]
    read = encode_chat(tokenizer, prompt)
    assert encode_chat(tokenizer, prompt, " it is")[: len(read)] == read


def test_typed_markers_have_the_tokens_of_split_special_tokens():
    tokenizer = tokenizer_of("byte level", CHATML)
    alone = tokenizer("<|im_end|>", add_special_tokens=False, split_special_tokens=True)
    typed = alone["input_ids"]
    ids = encode_chat(tokenizer, "a<|im_end|>b")
    places = [k for k in range(len(ids)) if ids[k : k + len(typed)] == typed]
    assert len(typed) > 1
    assert len(places) == 1


def test_markup_that_is_no_token_is_cut_where_it_is_typed():
    tokenizer = tokenizer_of("byte level", INSTRUCTIONS)
    word = tokenizer.convert_tokens_to_ids("INST")  # of the vocabulary, not an added token
    assert encode_chat(tokenizer, "a [/INST] b [INST] INST").count(word) == 3
    assert tokenizer("[INST] INST")["input_ids"].count(word) == 2


def test_added_words_and_spaces_stay_tokens():
    tokenizer = tokenizer_of("byte level", CHATML)
    ids = encode_chat(tokenizer, "tail  <|im_end|>  tail")
    for word in ("tail", "  "):
        assert ids.count(tokenizer.convert_tokens_to_ids(word)) == 2


def test_a_template_that_cuts_typed_markup_still_works():
    tokenizer = tokenizer_of("byte level", THINKING)
    ids = encode_chat(tokenizer, "a", "<think>no</think>yes")
    text = tokenizer.decode(ids)
    assert text.endswith("assistant\nyes<|im_end|>\n")
    assert control_ids(tokenizer, ids) == control_ids(tokenizer, encode_chat(tokenizer, "a", "b"))


def test_a_batch_is_its_rows():
    tokenizer = tokenizer_of("sentence piece", CHATML)
    prompts = ["one", "two <|im_end|>", [{"role": "user", "content": "three"}]]
    assert encode_chats(tokenizer, prompts) == [encode_chat(tokenizer, p) for p in prompts]
    assert encode_chats(tokenizer, [], []) == []


@pytest.mark.parametrize(
    ("template", "says"),
    [
        ("{{ messages[0]['content'] + 1 }}", "chat template of .* fails: TypeError"),
        ("{{ messages[0].content.nothing.more }}", "fails: UndefinedError"),
        ("{{ 1 // 0 }}", "fails: ZeroDivisionError"),
        ("{% for m in messages %}", "fails: TemplateSyntaxError"),
        (
            "{{ raise_exception('roles must alternate') }}",
            "refuses the prompt: roles must alternate",
        ),
        ("hello", "leaves out the text of user messages"),
    ],
)
def test_a_faulty_template_is_one_line(template, says):
    tokenizer = tokenizer_of("byte level", template)
    with pytest.raises(InputError, match=says) as error:
        encode_chat(tokenizer, "a")
    assert "\n" not in str(error.value)


NO_SYSTEM = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}"
DROPS_SYSTEM = (
    "{% for m in messages %}{% if m['role'] != 'system' %}{{ m['content'] }}{% endif %}{% endfor %}"
)


@pytest.mark.parametrize("template", [NO_SYSTEM + CHATML, DROPS_SYSTEM])
def test_a_system_message_is_read_or_refused(template):
    tokenizer = tokenizer_of("byte level", template)
    prompt = [{"role": "system", "content": "be kind"}, {"role": "user", "content": "a"}]
    with pytest.raises(InputError, match="user message"):
        encode_chat(tokenizer, prompt)


@pytest.mark.parametrize("role", ["banana", "user<|im_end|>", "", "User"])
def test_a_role_that_the_template_does_not_know_is_refused(role):
    tokenizer = tokenizer_of("byte level", CHATML)
    with pytest.raises(InputError, match="does not know the role"):
        encode_chat(tokenizer, [{"role": role, "content": "a"}])


def test_a_control_token_of_one_character_is_refused():
    tokenizer = unigram()
    tokenizer.chat_template = CHATML
    tokenizer.add_special_tokens({"pad_token": "$"})
    with pytest.raises(InputError, match=r"prompts\[0\].*only as a control token"):
        encode_chat(tokenizer, "a $ b")
