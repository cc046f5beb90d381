"""Splits of prompts and pairs."""

import hashlib

import numpy as np
import pytest

from tailguard.data import Preference, PromptSplits, prompt_id, split_prompts, with_prompts
from tailguard.errors import InputError

PROMPTS = [f"prompt {number}" for number in range(50)]


def draw(prompts, sizes, reserved=(), seed=0):
    return split_prompts(
        prompts, sizes, reserved=set(reserved), generator=np.random.default_rng(seed)
    )


def test_the_id_is_the_hash_of_the_lower_cased_prompt():
    assert prompt_id("Wie Äpfel?") == hashlib.sha256("wie äpfel?".encode()).hexdigest()[:16]
    assert prompt_id("a") == prompt_id("A") != prompt_id("b")


def test_a_user_message_has_the_id_of_its_text():
    assert prompt_id([{"role": "user", "content": "How?"}]) == prompt_id("how?")


def test_roles_and_turns_make_other_prompts():
    user, system = ({"role": role, "content": "how"} for role in ("user", "system"))
    chats = [[user], [system], [user, user], [system, user]]
    assert len({prompt_id(chat) for chat in chats}) == 4


def test_everything_may_be_drawn():
    train, calibrate, certify = draw(PROMPTS, (20, 20, 10))
    assert sorted(train + calibrate + certify) == sorted(PROMPTS)


def test_too_few_prompts_say_what_to_lower():
    expected = r"51 prompts are needed \(train 20, calibrate 20, certify 11\) but only 50 distinct"
    with pytest.raises(InputError, match=expected):
        draw(PROMPTS + PROMPTS, (20, 20, 11))
    with pytest.raises(InputError, match=r"only 49 distinct .* lower num_prompts"):
        draw(PROMPTS, (20, 20, 10), reserved=[prompt_id(PROMPTS[3])])


def test_pairs_of_one_prompt_stay_together():
    pairs = [Preference(prompt, str(k), "no") for prompt in PROMPTS for k in range(3)]
    first, second = with_prompts(pairs, 0.4, salt="judge")
    assert len(first) + len(second) == len(pairs)
    assert not {str(pair.prompt) for pair in first} & {str(pair.prompt) for pair in second}


def test_fraction_and_salt():
    pairs = [Preference(f"p{number}", "a", "b") for number in range(4000)]
    judge = {str(pair.prompt) for pair in with_prompts(pairs, 0.4, salt="judge")[0]}
    held = {str(pair.prompt) for pair in with_prompts(pairs, 0.1, salt="held")[0]}
    # Binomial standard errors: 0.0077, 0.0047, 0.0031; five of them.
    assert len(judge) / 4000 == pytest.approx(0.4, abs=0.039)
    assert len(held) / 4000 == pytest.approx(0.1, abs=0.024)
    assert len(judge & held) / 4000 == pytest.approx(0.04, abs=0.016)  # independent draws


def test_names_of_the_splits():
    splits = PromptSplits([], [], [], [], [])
    assert splits.names() == ["train", "calibrate", "certify", "evaluate", "benign"]
