"""Splits of prompts and pairs."""

import numpy as np
import pytest

from tailguard.data import Preference, PromptSplits, prompt_id, split_prompts, with_prompts
from tailguard.errors import InputError

PROMPTS = [f"prompt {number}" for number in range(50)]


def draw(prompts, sizes, reserved=(), seed=0):
    return split_prompts(
        prompts, sizes, reserved=set(reserved), generator=np.random.default_rng(seed)
    )


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
