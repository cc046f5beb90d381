"""Prompts of two splits that differ in little, against a comparison of all with all."""

import numpy as np
from hypothesis import given, strategies as st

from tailguard.data import describe_near_duplicates, find_near_duplicates
from tailguard.data.identity import canonical_prompt

WORDS = [
    "kettle",
    "lock",
    "garden",
    "candle",
    "mend",
    "open",
    "burn",
    "friend",
    "weekend",
    "ladder",
]


def similarity(first, second):
    """Jaccard index of the sets of five characters, by a loop."""
    sets = []
    for text in map(canonical_prompt, (first, second)):
        sets.append({text[k : k + 5] for k in range(max(1, len(text) - 4))})
    return len(sets[0] & sets[1]) / len(sets[0] | sets[1])


def edited(generator, text):
    words = text.split()
    for _ in range(generator.integers(0, 3)):
        words[generator.integers(len(words))] = WORDS[generator.integers(len(WORDS))]
    return " ".join(words)


def test_counts_are_those_of_a_comparison_of_all_with_all():
    generator = np.random.default_rng(0)
    train = [" ".join(generator.choice(WORDS, 20)) for _ in range(150)]
    others = [" ".join(generator.choice(WORDS, 20)) for _ in range(50)]
    test = [edited(generator, text) for text in train[:100]] + others
    close = [any(similarity(a, b) >= 0.8 for a in train) for b in test]
    (found,) = find_near_duplicates({"train": train, "test": test})
    assert (found.first, found.second) == ("train", "test")
    assert 30 < found.count < 100
    assert found.count == sum(close)
    assert similarity(*found.example) >= 0.8


@given(st.lists(st.text(max_size=12), max_size=6), st.lists(st.text(max_size=12), max_size=6))
def test_no_more_than_there_are(first, second):
    found = find_near_duplicates({"a": first, "b": second})
    close = [any(similarity(a, b) >= 0.8 for a in first) for b in second]
    same = [any(canonical_prompt(a) == canonical_prompt(b) for a in first) for b in second]
    count = found[0].count if found else 0
    assert sum(same) <= count <= sum(close)


def test_other_spellings_and_messages_are_compared_too():
    asked = [{"role": "system", "content": "x"}, {"role": "user", "content": "HOW do I mend it?"}]
    (found,) = find_near_duplicates({"a": ["how do i mend it"], "b": [asked]})
    assert found.count == 1


def test_every_pair_of_splits_is_compared():
    texts = ["how do i mend a kettle", "where do i buy a ladder"]
    splits = {"a": texts, "b": texts[:1], "c": texts[1:], "d": []}
    found = [(o.first, o.second, o.count) for o in find_near_duplicates(splits)]
    assert found == [("a", "b", 1), ("a", "c", 1)]


def test_long_prompts_end_somewhere():
    long = "".join(WORDS[k * k % 10] for k in range(2000))
    assert find_near_duplicates({"a": [long + "a" * 5000], "b": [long]})[0].count == 1


def test_one_line():
    text = "how do i mend a kettle when the handle is broken and the lid is gone"
    found = find_near_duplicates({"train": [text], "certify": ["x", f"{text} now"]})
    said = describe_near_duplicates(found)
    assert said.startswith("near-duplicates across splits, which are kept: 1 of certify are close")
    assert "'how do i mend a kettle when the handle is broken and the ...'" in said
    assert describe_near_duplicates([]) == ""
