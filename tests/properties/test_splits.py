"""Laws of splits: disjoint, of the sizes asked for, the same whatever the order."""

import numpy as np
from hypothesis import given, strategies as st

from tailguard.data import Preference, prompt_id, split_prompts, with_prompts

prompts = st.lists(st.text("abcAB ?", min_size=1, max_size=4), max_size=60)


def ids(part):
    return [prompt_id(prompt) for prompt in part]


def draw(asked, num, reserved, seed):
    return split_prompts(asked, num, reserved=reserved, generator=np.random.default_rng(seed))


@given(prompts, st.integers(0, 5), st.randoms(), st.data())
def test_prompts(asked, seed, random, data):
    distinct = sorted(set(ids(asked)))
    reserved = set(data.draw(st.lists(st.sampled_from(distinct)))) if distinct else set()
    free = len(distinct) - len(reserved)
    ends = sorted(data.draw(st.tuples(*[st.integers(0, free)] * 3)))
    num = (ends[0], ends[1] - ends[0], ends[2] - ends[1])
    parts = draw(asked, num, reserved, seed)
    drawn = [key for part in parts for key in ids(part)]
    assert tuple(map(len, parts)) == num
    assert len(set(drawn)) == len(drawn)  # disjoint, and no prompt twice
    assert set(drawn) <= set(distinct) - reserved
    shuffled = list(asked)
    random.shuffle(shuffled)
    assert list(map(ids, draw(shuffled, num, reserved, seed))) == list(map(ids, parts))


@given(st.integers(0, 100))
def test_another_seed_is_another_draw(seed):
    asked = [f"p{number}" for number in range(100)]
    first, second = (draw(asked, (50, 20, 10), set(), s) for s in (seed, seed + 1))
    assert first != second


@given(prompts, st.floats(0, 1), st.floats(0, 1), st.text(max_size=3), st.randoms())
def test_pairs(asked, low, high, salt, random):
    low, high = sorted((low, high))
    pairs = [Preference(prompt, "a", "b") for prompt in asked]
    first, second = with_prompts(pairs, low, salt=salt)
    assert not {prompt_id(p.prompt) for p in first} & {prompt_id(p.prompt) for p in second}
    assert sorted(p.prompt for p in first + second) == sorted(asked)
    # A larger share keeps those that a smaller one had.
    assert set(first) <= set(with_prompts(pairs, high, salt=salt)[0])
    shuffled = list(pairs)
    random.shuffle(shuffled)
    assert set(with_prompts(shuffled, low, salt=salt)[0]) == set(first)
    assert with_prompts(pairs, 0.0, salt=salt)[0] == []
    assert with_prompts(pairs, 1.0, salt=salt)[1] == []
