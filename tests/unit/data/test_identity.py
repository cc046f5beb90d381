"""One id for all spellings of a question, another for another question."""

import hashlib
import unicodedata

import pytest
from hypothesis import given, strategies as st

from tailguard.data import prompt_id
from tailguard.data.identity import canonical_text, is_blank

QUESTION = "Wie öffne ich's: ein Schloß – “schnell”?"


def user(text):
    return {"role": "user", "content": text}


def test_the_id_is_a_hash():
    assert prompt_id("Wie  Äpfel?") == hashlib.sha256("wie äpfel".encode()).hexdigest()[:16]


@pytest.mark.parametrize(
    "spelling",
    [
        QUESTION.upper(),
        QUESTION.lower(),
        f"\n\t {QUESTION}\r\n",
        QUESTION.replace(" ", "\u00a0"),
        QUESTION.replace(" ", "\u3000 \n"),
        unicodedata.normalize("NFD", QUESTION),
        QUESTION.replace("ö", "o\u200b\u0308"),
        "\ufeff" + QUESTION,
        QUESTION.replace("Schloß", "Sch\u00adl\u200co\u2060ß\u200d"),
        "\u202e" + QUESTION + "\u202c",
        QUESTION.replace("ich", "i\ufe0fch\U000e0041\U000e0100"),
        QUESTION.replace("ich", "ｉｃｈ"),
        QUESTION.replace("ich", "i\x00c\x1bh"),
        QUESTION.replace("'", "’").replace("“", '"').replace("”", '"'),
        QUESTION.replace("–", "-"),
        QUESTION.replace("–", "—"),
        QUESTION.replace("–", "−"),
        QUESTION.replace("'", "´"),
        QUESTION.replace("'", unicodedata.normalize("NFKC", "´")),
        QUESTION.rstrip("?") + "?!",
        QUESTION.rstrip("?") + " ...",
        QUESTION.rstrip("?") + "。",
        QUESTION.rstrip("?") + "…",
        QUESTION + "\u200b",
        QUESTION.rstrip("?"),
    ],
    ids=ascii,
)
def test_spellings_of_one_question(spelling):
    assert prompt_id(spelling) == prompt_id(QUESTION)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("what is a+b?", "what is a-b?"),
        ("is x<1?", "is x>1?"),
        ("is it −5?", "is it +5?"),
        ("write it in C", "write it in C++"),
        ("who is раypal", "who is paypal"),
        ("is 1,000 more?", "is 1000 more?"),
        ("what is नमस्ते", "what is नमस्त"),
        ("is 1.5 more?", "is 15 more?"),
        ("write it in C#", "write it in C"),
        ("is it 5%?", "is it 5?"),
        ("an ice cream", "a nice cream"),
        ("où est-il", "ou est-il"),
        ("?", "!"),
        ("...", "???"),
        ("🔑", "🔒"),
        ("😀😀", "😀"),
        ("\u200b", "\u200c"),
        ("", "?"),
    ],
)
def test_other_questions(first, second):
    assert prompt_id(first) != prompt_id(second)


def test_only_the_turns_of_the_user_count():
    asked = [user("How?"), {"role": "assistant", "content": "so"}, user("Why?")]
    system = {"role": "system", "content": "be brief"}
    other = {"role": "assistant", "content": "no"}
    assert prompt_id([system, *asked]) == prompt_id(asked)
    assert prompt_id([asked[0], other, asked[2]]) == prompt_id(asked)
    assert prompt_id([system, user("how ")]) == prompt_id([user("How?")]) == prompt_id("how")


def test_roles_and_turns_make_other_prompts():
    asked = user("how")
    chats = [[asked], [{"role": "system", "content": "how"}], [asked, asked], [user("how how")]]
    assert len({prompt_id(chat) for chat in chats}) == 4
    assert prompt_id([user("a"), user("b")]) != prompt_id([user("b"), user("a")])


def test_what_nobody_sees():
    assert is_blank(" \n\u200b\ufeff\u2800\u3164\x00\ufe0f")
    assert not any(map(is_blank, ("a", "?", "🔑", "\u0301", "\ue000", " .")))


ALPHABET = "´−abIsKkßſıİéΣς?.!-+#'’ \u00a0\n\u200b\ufe0f\u0301ﬁ①ｆ漢한"


@given(st.text(ALPHABET) | st.text())
def test_a_canonical_text_is_its_own(text):
    assert canonical_text(canonical_text(text)) == canonical_text(text)


CHANGES = [
    str.upper,
    str.casefold,
    lambda text: unicodedata.normalize("NFD", text),
    lambda text: unicodedata.normalize("NFKC", text),
    lambda text: text.replace(" ", " \u2009\n"),
    lambda text: text[:3] + "\u200d" + text[3:],
    lambda text: "\u2066 " + text,
    lambda text: text + " ?!",
    lambda text: text + "\u3002\u200b",
    lambda text: text.replace("'", "\u2019"),
]


@given(st.text(ALPHABET), st.lists(st.sampled_from(CHANGES), max_size=5))
def test_spellings_may_be_combined(middle, changes):
    text = f"a {middle} z"
    spelling = text
    for change in changes:
        spelling = change(spelling)
    assert prompt_id(spelling) == prompt_id(text)
