"""Pairs that contradict their labels or each other."""

import numpy as np
import pytest
from scipy.stats import binom

from tailguard.data import PairFaults, Preference, find_pair_faults
from tailguard.errors import InputError
from tailguard.lab import sandbox


def placed(*pairs):
    return [(f"a.jsonl, line {k}", pair) for k, pair in enumerate(pairs, start=1)]


def labelled(contradictory, agreeing, alike=0):
    signs = [(True, True)] * alike + [(True, False)] * agreeing + [(False, True)] * contradictory
    return placed(*(Preference(f"p {k}", "a", "b", *sign) for k, sign in enumerate(signs)))


def test_nothing_odd():
    faults = find_pair_faults(labelled(0, 9), "cost")
    assert faults.describe("a.jsonl") == ""
    faults.require_order("a.jsonl")


def test_contradictory_labels_are_counted_with_the_first():
    faults = find_pair_faults(labelled(3, 90, alike=5), "cost")
    assert (faults.num_pairs, faults.num_unlike, len(faults.contradictory)) == (98, 93, 3)
    said = faults.describe("a.jsonl")
    assert said.startswith("a.jsonl: of 93 pairs with one safe and one unsafe answer, 3 have")
    assert "(first: line 96)" in said
    faults.require_order("a.jsonl")


def test_reversed_columns_are_refused():
    with pytest.raises(InputError, match=r"a\.jsonl: of 20 .* 18 have .*line 8\).* swapped\?"):
        find_pair_faults(labelled(18, 2, alike=5), "cost").require_order("a.jsonl")


def test_labels_without_relation_to_the_order_are_refused():
    assert find_pair_faults(labelled(50, 50), "cost").beyond_noise


def test_labels_say_nothing_of_helpfulness():
    assert not find_pair_faults(labelled(18, 2), "reward").contradictory


@pytest.mark.parametrize("num_unlike", [1, 3, 5, 17, 100, 1000])
def test_noise_is_refused_in_at_most_one_of_a_hundred_files(num_unlike):
    refused = [
        count
        for count in range(num_unlike + 1)
        if PairFaults(num_unlike, num_unlike, ("a.jsonl, line 1",) * count, (), ()).beyond_noise
    ]
    chance = sum(binom.pmf(count, num_unlike, 0.25) for count in refused)
    assert chance <= 0.01
    assert refused == list(range(num_unlike + 1 - len(refused), num_unlike + 1))
    assert bool(refused) == (num_unlike > 3)  # three labels can be chance


def test_noisy_annotators_are_taken():
    rows = sandbox.sample_preferences(np.random.default_rng(0), 400, "cost")
    faults = find_pair_faults(placed(*(Preference(**row) for row in rows)), "cost")
    assert 0.1 < len(faults.contradictory) / faults.num_unlike < 0.25
    assert not faults.beyond_noise


def test_pairs_that_turn_others_round_or_compare_nothing():
    pairs = [
        Preference("How?", "a", "b"),
        Preference("how", "b", "a"),
        Preference("why", "b", "a"),
        Preference("how", "a", "a"),
        Preference("how", "b", "a"),
    ]
    faults = find_pair_faults(placed(*pairs), "reward")
    assert faults.opposite == ("a.jsonl, line 2", "a.jsonl, line 5")
    assert faults.identical == ("a.jsonl, line 4",)
    said = faults.describe("a.jsonl")
    assert "2 pairs turn an earlier one round (first: line 2)" in said
    assert "1 pairs have the same answer twice and teach nothing (first: line 4)" in said
