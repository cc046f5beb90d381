"""The forms in which people publish pairs and prompts, and what is said of those that are none."""

import json

import pytest
from hypothesis import given, strategies as st

from tailguard.data import Preference, prompt_id, read_preferences, read_prompts
from tailguard.data.table import write_table
from tailguard.errors import InputError, InputWarning


def user(text):
    return {"role": "user", "content": text}


def assistant(text):
    return {"role": "assistant", "content": text}


SYSTEM = {"role": "system", "content": "be brief"}
TALK = [user("my tap drips"), assistant("which one"), user("the cold one")]
HH = "\n\nHuman: my tap drips\n\nAssistant: which one\n\nHuman: the cold one\n\nAssistant:"


@pytest.fixture
def pair(tmp_path):
    def read(kind="reward", **row):
        path = tmp_path / "a.jsonl"
        path.write_text(json.dumps(row) + "\n")
        (found,) = read_preferences(path, kind)
        return found

    return read


@pytest.fixture
def refusal(pair):
    def read(kind="reward", **row):
        with pytest.raises(InputError) as caught:
            pair(kind, **row)
        assert "a.jsonl, line 1: " in str(caught.value)
        return str(caught.value)

    return read


@pytest.fixture
def prompt(tmp_path):
    def read(**row):
        path = tmp_path / "p.jsonl"
        path.write_text(json.dumps(row) + "\n")
        return read_prompts(path)[0]

    return read


@pytest.mark.parametrize(
    "row",
    [
        {"chosen": [*TALK, assistant("shut it")], "rejected": [*TALK, assistant("wait")]},
        {"chosen": HH + " shut it", "rejected": HH + " wait"},
        {"chosen": HH.replace("\n", "\r\n") + " shut it", "rejected": HH.lstrip() + " wait"},
        {"prompt": TALK, "chosen": "shut it", "rejected": "wait"},
        {"prompt": HH, "chosen": "shut it", "rejected": "wait"},
        {"prompt": TALK, "chosen": [assistant("shut it")], "rejected": assistant("wait")},
        {"prompt": TALK, "chosen": [*TALK, assistant("shut it")], "rejected": "wait"},
        {"prompt": HH, "chosen": HH + " shut it", "rejected": HH + " wait"},
        {"prompt": TALK[:1], "chosen": [*TALK[1:], assistant("shut it")], "rejected": [*TALK[1:], assistant("wait")]},
        {"prompt": TALK[:1], "chosen": [*TALK[1:], assistant("shut it")], "rejected": "wait"},
        {"prompt": TALK[:1], "chosen": "shut it", "rejected": [*TALK[1:], assistant("wait")]},
        {"prompt": TALK[0]["content"], "chosen": [*TALK, assistant("shut it")], "rejected": [*TALK, assistant("wait")]},
        {"prompt": TALK[2]["content"], "chosen": [*TALK, assistant("shut it")], "rejected": [*TALK, assistant("wait")]},
        {
            "conversations": [{"from": "human" if t["role"] == "user" else "gpt", "value": t["content"]} for t in TALK],
            "chosen": {"from": "gpt", "value": "shut it"},
            "rejected": {"from": "gpt", "value": "wait"},
        },
        {
            "prompt": [turn | {"content": [{"type": "text", "text": turn["content"][:3]}, {"type": "text", "text": turn["content"][3:]}]} for turn in TALK],
            "chosen": [assistant([{"type": "text", "text": "shut it"}])],
            "rejected": [assistant("wait") | {"tool_calls": None, "name": None}],
        },
    ],
    ids=range(15),
)  # fmt: skip
def test_forms_of_one_conversation(pair, prompt, row):
    assert pair(**row) == Preference(TALK, "shut it", "wait")
    if "chosen" in row and "prompt" not in row and "conversations" not in row:
        assert prompt(**row) == TALK


def test_a_prompt_that_the_answers_repeat_is_not_doubled(pair):
    answers = {name: [user("how"), assistant(name)] for name in ("chosen", "rejected")}
    assert pair(prompt="how", **answers) == Preference("how", "chosen", "rejected")
    answers = {name: [SYSTEM, *turns] for name, turns in answers.items()}
    assert pair(prompt="how", **answers).prompt == [SYSTEM, user("how")]
    assert pair(prompt=[SYSTEM, user("how")], **answers).prompt == [SYSTEM, user("how")]


def test_a_system_text_in_its_own_column(pair, prompt):
    answers = {name: [user("how"), assistant(name)] for name in ("chosen", "rejected")}
    for row in ({"prompt": "how", "chosen": "a", "rejected": "b"}, answers):
        assert pair(system="be brief", **row).prompt == [SYSTEM, user("how")]
        assert prompt(system="be brief", **row) == [SYSTEM, user("how")]
        assert pair(system="", images=[], history=None, **row).prompt in ("how", [user("how")])
    assert pair(
        system="be long", prompt=[SYSTEM, user("how")], chosen="a", rejected="b"
    ).prompt == [
        SYSTEM,
        user("how"),
    ]


def test_other_names_of_the_speakers(pair):
    told = [{"role": "developer", "content": "be brief"}, {"role": "Prompter ", "content": "how"}]
    found = pair(prompt=told, chosen={"role": "Assistant", "content": "a"}, rejected="b")
    assert found == Preference([SYSTEM, user("how")], "a", "b")
    assert prompt_id(found.prompt) == prompt_id("How?")


def test_fields_without_a_value_are_not_there(prompt):
    # As a table makes them whose other rows are of another form.
    message = {
        "role": "user",
        "content": [{"type": None, "text": "how"}],
        "from": None,
        "value": None,
    }
    assert prompt(prompt=[message]) == [user("how")]


def test_a_prompt_ends_with_the_user(tmp_path):
    (tmp_path / "a.jsonl").write_text(json.dumps({"prompt": [SYSTEM]}))
    with pytest.raises(InputError, match="line 1: nobody asks anything; end the prompt with"):
        read_prompts(tmp_path / "a.jsonl")


def test_a_conversation_as_prompt_loses_its_last_answer(prompt):
    assert prompt(messages=[SYSTEM, user("how"), assistant("so")]) == [SYSTEM, user("how")]
    assert prompt(messages=TALK) == TALK
    assert prompt(conversations=[{"from": "human", "value": "how"}]) == [user("how")]


def test_an_assistants_turn_may_be_empty(pair):
    turns = [user("how"), assistant(None), user("why")]
    assert pair(prompt=turns, chosen="a", rejected="b").prompt[1] == assistant("")


def test_a_question_about_humans_is_no_dialogue(prompt):
    for text in (
        "Human: or not?",
        "Why is a Human: an animal\n\nAssistant: what is it",
        "Assistant: x",
    ):
        assert prompt(prompt=text) == text


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"chosen": [*TALK, assistant("a")], "rejected": [TALK[0], assistant("no"), TALK[2], assistant("b")]}, "differ from message 2 on"),
        ({"chosen": [user("a"), assistant("b")], "rejected": [user("c"), assistant("d")]}, "differ from message 1 on"),
        ({"prompt": "how", "chosen": [assistant("a"), user("thanks")], "rejected": "b"}, "'chosen' ends with a turn of the user"),
        ({"prompt": "how", "chosen": "a", "rejected": [user("b")]}, "'rejected' ends with a turn of the user"),
        ({"chosen": HH + " a\n\nHuman: thanks", "rejected": HH + " b"}, "'chosen' ends with a turn of the user"),
        ({"prompt": "how", "chosen": [{"role": "tool", "content": "a"}], "rejected": "b"}, "message 1: role 'tool' is not supported; give user, assistant or system"),
        ({"prompt": "how", "chosen": [assistant("")], "rejected": "b"}, "no 'chosen' (the text of an answer)"),
        ({"prompt": "how", "chosen": "\u200b ", "rejected": "b"}, "no 'chosen' (the text of an answer)"),
        ({"chosen": HH, "rejected": HH + " b"}, "'chosen' ends with a turn of the user"),
        ({"prompt": [*TALK, assistant("a")], "chosen": "a", "rejected": "b"}, "'prompt' ends with the assistant's turn"),
        ({"prompt": "why", "chosen": [user("how"), assistant("a")], "rejected": "b"}, "'chosen' starts a conversation without the question in 'prompt'"),
        ({"chosen": [assistant("a")], "rejected": [assistant("b")]}, "no 'prompt'"),
        ({"chosen": "the sky is blue", "rejected": "the sky is green"}, "no 'prompt'"),
        ({"question": "how", "chosen": "a", "rejected": "b"}, "the row has 'question', 'chosen', 'rejected'"),
        ({"prompt": [user([{"type": "image_url", "image_url": "x"}])], "chosen": "a", "rejected": "b"}, "'image_url' is not supported"),
        ({"prompt": "how", "chosen": [assistant([{"type": "audio"}])], "rejected": "b"}, "'audio' is not supported"),
        ({"prompt": [user("how"), assistant(None) | {"tool_calls": [{}]}, user("x")], "chosen": "a", "rejected": "b"}, "message 2: tool calls are not supported"),
        ({"prompt": [user(None)], "chosen": "a", "rejected": "b"}, "message 1: 'content' is no text"),
        ({"prompt": [{"content": "how"}], "chosen": "a", "rejected": "b"}, "message 1 has no 'role'"),
        ({"prompt": "how", "completion": "a", "label": True}, "'completion' is one answer alone; a pair is needed"),
        ({"prompt": [user("how")], "completion": [assistant("a")], "label": False}, "a pair is needed: 'prompt', 'chosen'"),
        ({"prompt": "how", "response": "a", "score": 3.5}, "'response' is one answer alone; a pair is needed"),
        ({"prompt": "how", "chosen": "a", "rejected": "b", "annotator": "\ud800"}, "'annotator' is no text"),
        ({"prompt": [{"role": "usr", "content": "how"}], "chosen": "a", "rejected": "b"}, "message 1: role 'usr' is not supported"),
        ({"prompt": [SYSTEM], "chosen": "a", "rejected": "b"}, "nobody asks anything right before the answer"),
        ({"prompt": [*TALK, SYSTEM], "chosen": "a", "rejected": "b"}, "nobody asks anything right before the answer"),
        ({"prompt": "what is this", "images": ["a.png"], "chosen": "a", "rejected": "b"}, "'images' is not supported"),
        ({"prompt": "and so", "history": [["how", "so"]], "chosen": "a", "rejected": "b"}, "'history' is not supported"),
        ({"prompt": "how", "system": "\ud800", "chosen": "a", "rejected": "b"}, "'system' is no text"),
        ({"prompt": {"role": ["user", "user"], "content": ["how"]}, "chosen": "a", "rejected": "b"}, "message 1 has no 'role'"),
        ({"prompt": "how", "answers": [{"answer": "a", "rank": 1}]}, "no 'chosen', no 'rejected'; a pair is needed"),
    ],
    ids=range(31),
)  # fmt: skip
def test_what_is_refused(refusal, row, said):
    assert said in refusal(**row)


NUMBERED = {
    "prompt": "how",
    "response_0": "wait",
    "response_1": "shut it",
    "is_response_0_safe": False,
    "is_response_1_safe": True,
    "better_response_id": 0,
    "safer_response_id": 1,
}


def test_labels_of_raters_and_categories(pair):
    found = pair(prompt="how", chosen="a", rejected="b", annotator="", category=["x", 1])
    assert (found.annotator, found.category) == (None, "['x', 1]")


def test_another_kind_is_refused(pair):
    with pytest.raises(InputError, match="kind='harm': give 'reward' or 'cost'"):
        pair("harm", prompt="how", chosen="a", rejected="b")


def test_numbered_answers(pair):
    assert pair("reward", **NUMBERED) == Preference("how", "wait", "shut it", False, True)
    assert pair("cost", **NUMBERED) == Preference("how", "shut it", "wait", True, False)


def test_numbered_answers_with_severities(pair):
    row = {name: value for name, value in NUMBERED.items() if not name.startswith("is_")}
    row |= {"response_0_severity_level": 2, "response_1_severity_level": 0}
    row |= {"response_0_harm_category": {"Fraud": True, "Theft": True, "Insult": False}}
    expected = Preference("how", "shut it", "wait", True, False, category="Fraud, Theft")
    assert pair("cost", **row) == expected


@pytest.mark.parametrize("winner", [None, 2, True, "1", [1]])
def test_numbered_answers_without_a_verdict(refusal, winner):
    assert "give 'safer_response_id' as 0 or 1" in refusal(
        "cost", **NUMBERED | {"safer_response_id": winner}
    )


def test_numbered_answers_with_an_odd_label(refusal):
    said = refusal("cost", **NUMBERED | {"is_response_1_safe": "yes"})
    assert "give 'is_response_1_safe' as true or false; it is 'yes'" in said


def test_conversations_in_parquet(tmp_path):
    columns = {name: [[*TALK, assistant(name)]] for name in ("chosen", "rejected")}
    write_table(tmp_path / "a.parquet", columns)
    assert read_preferences(tmp_path / "a.parquet", "reward") == [
        Preference(TALK, "chosen", "rejected")
    ]


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
    | st.sampled_from(["how", HH, HH + " so", "\u200b", "\ud800", "user", "assistant"]),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(
        st.sampled_from(["role", "content", "from", "value", "type", "text", "tool_calls"]), inner
    ),
    max_leaves=8,
)  # fmt: skip
turns = st.lists(
    st.builds(
        lambda role, content: {"role": role, "content": content},
        st.sampled_from(["user", "assistant", "system"]),
        st.sampled_from(["a", "b", "", None]) | json_values,
    ),
    max_size=4,
)
FIELDS = [
    "prompt",
    "chosen",
    "rejected",
    "safe",
    "unsafe",
    "messages",
    "completion",
    "response_0",
    "response_1",
    "better_response_id",
    "safer_response_id",
    "is_response_0_safe",
    "response_0_harm_category",
    "chosen_safe",
    "rejected_sign",
    "annotator",
]


@given(
    st.dictionaries(st.sampled_from(FIELDS), turns | json_values),
    st.sampled_from(["reward", "cost"]),
)
@pytest.mark.filterwarnings("ignore::tailguard.errors.InputWarning")
def test_any_row_is_read_or_refused_by_its_place(tmp_path_factory, row, kind):
    path = tmp_path_factory.getbasetemp() / "any.jsonl"
    path.write_text("\n" + json.dumps(row) + "\n")
    for read in (lambda: read_preferences(path, kind), lambda: read_prompts(path)):
        said, found = "", []
        try:
            found = read()
        except InputError as error:
            said = str(error)
        assert said.encode().startswith(f"{path}, line 2: ".encode()) or found
        assert "\n" not in said
        for item in found:
            prompt = item.prompt if isinstance(item, Preference) else item
            assert len(prompt_id(prompt)) == 16
            json.dumps(prompt, ensure_ascii=False).encode()


def test_odd_pairs_are_told(tmp_path):
    path = tmp_path / "a.jsonl"
    rows = [{"prompt": "how", "chosen": "a", "rejected": "a"}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.warns(InputWarning, match=r"a\.jsonl: 1 pairs have the same answer twice .*line 1"):
        read_preferences(path, "reward")
