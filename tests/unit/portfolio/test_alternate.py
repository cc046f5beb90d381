"""Training the member on that loses most: proposals against plain recomputation, rounds in the exact lab."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, strategies as st
from tests.unit.portfolio.test_portfolio import (
    KL_COEF,
    MEASURE,
    make_bank,
    make_profiles,
    random_ratios,
    tilt,
    value_and_risk,
)

from tailguard.errors import InputError
from tailguard.lab.exact import make_exact_world
from tailguard.planning import RiskConstraint, SampleBank, solve
from tailguard.portfolio import (
    MeasuredMembers,
    Profile,
    alternate,
    estimate_progress,
    propose,
    refit,
    select,
)
from tailguard.risk import CVaR, Mean


def world_bank(seed: int) -> SampleBank:
    """Every response of a world, each as likely: an expectation on the bank is the world's own."""
    world = make_exact_world(3, 4, 6, seed=seed)
    return SampleBank(world.reward, world.cost)


def on(bank: SampleBank):
    """Members that are log-ratios on one bank, which is the whole world: nothing is left to chance."""
    return lambda members: MeasuredMembers(bank, members, bank, members)


def trainer(bank: SampleBank, progress: float):
    """Mirror ascent on the target's objective: it goes a share of the way in log-probabilities."""

    def retrain(member, proposal):
        reached = proposal.target.shaped_reward(bank.reward, bank.cost) / KL_COEF
        reached = reached - reached.mean(axis=1, keepdims=True)
        return member + progress * (reached - member)

    return retrain


def planned(bank: SampleBank, profile: Profile):
    return solve(bank, RiskConstraint(profile.measure, profile.budget), kl_coef=KL_COEF)


@pytest.mark.parametrize("progress", [1.0, 0.6])
def test_a_proposal_is_the_target_that_lowers_regret_most_in_its_members_place(progress):
    bank = make_bank(11)
    profiles = make_profiles(bank)
    ratios = random_ratios(12, bank, 1)
    [found] = propose(refit(bank, ratios, profiles, KL_COEF, margin=0.0), progress)
    free = solve(bank, RiskConstraint(Mean(), np.inf), kl_coef=KL_COEF)
    bests = [planned(bank, profile) for profile in profiles]
    span = free.value - min(best.value for best in bests)

    def regret(solution):
        reached = solution.shaped_reward(bank.reward, bank.cost) / KL_COEF
        law = tilt(bank, (1.0 - progress) * ratios[0] + progress * reached)
        value, risk = value_and_risk(bank, law)
        lost = [
            min(1.0, max(0.0, (best.value - value) / span)) if risk <= p.budget + 1e-5 else 1.0
            for p, best in zip(profiles, bests, strict=True)
        ]
        return float(np.mean(lost))

    assert found.member == 0
    assert found.regret == pytest.approx(min(map(regret, [free, *bests])), abs=1e-4)
    assert regret(found.target) == pytest.approx(found.regret, abs=1e-4)


def test_the_member_whose_profiles_lose_most_comes_first():
    """One strict and one loose profile: which member is off decides who is trained."""
    bank = make_bank(31)
    strict, loose = make_profiles(bank, (0.8,))[0], Profile(MEASURE, math.inf)
    free = planned(bank, loose).shaped_reward(bank.reward, bank.cost) / KL_COEF
    safe = planned(bank, strict).shaped_reward(bank.reward, bank.cost) / KL_COEF
    profiles = [strict, loose]
    for members, worst in (([0.7 * free, safe], 0), ([free, 0.7 * safe], 1)):
        served = refit(bank, members, profiles, KL_COEF, margin=0.0)
        proposals = propose(served)
        assert proposals[0].member == worst
        # The parts add up to the regret, which has no other profiles.
        assert sum(each.loss for each in proposals) <= served.regret(bank) + 1e-9
    perfect = refit(bank, [free, safe], profiles, KL_COEF, margin=0.0)
    assert propose(perfect) == []


@given(st.integers(0, 1000), st.floats(0.0, 1.5))
def test_progress_is_the_share_of_the_way_whatever_the_constants_of_the_prompts(seed, share):
    generator = np.random.default_rng(seed)
    target = generator.normal(size=(5, 7))
    constants = generator.normal(size=(2, 5, 1))
    found = estimate_progress(share * target + constants[0], target + constants[1])
    assert found == pytest.approx(share, abs=1e-9)


def test_progress_to_the_reference_is_made():
    assert estimate_progress(np.ones((2, 3)), np.ones((2, 3))) == 1.0


@pytest.mark.parametrize("seed", range(3))
def test_full_training_from_the_reference_reaches_what_choosing_in_advance_does(seed):
    bank = world_bank(seed)
    profiles = make_profiles(bank, (0.1, 0.4, 0.7))
    chosen = select(bank, profiles, KL_COEF, num_policies=2, margin=0.0)
    start = [np.zeros_like(bank.reward)] * 2
    done = alternate(
        start, profiles, KL_COEF, measure=on(bank), retrain=trainer(bank, 1.0),
        num_rounds=20, margin=0.0,
    )  # fmt: skip
    assert done.settled
    assert done.first_regret == pytest.approx(1.0)  # the reference breaks every budget
    # An exchange of one at a time can end beside the best pair, which `select` finds by trying all.
    assert done.regret <= chosen.regret(bank) + 0.05
    again = refit(bank, done.members, profiles, KL_COEF, margin=0.0)
    assert done.regret == pytest.approx(again.regret(bank), abs=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_members_that_fell_short_of_their_targets_lose_less_with_each_round_kept(seed):
    bank = world_bank(seed + 10)
    profiles = make_profiles(bank, (0.1, 0.4, 0.7))
    chosen = select(bank, profiles, KL_COEF, num_policies=2, margin=0.0)
    short = [0.4 * (ratio - ratio.mean(axis=1, keepdims=True)) for ratio in chosen.log_ratios(bank)]
    done = alternate(
        short, profiles, KL_COEF, measure=on(bank), retrain=trainer(bank, 0.6),
        num_rounds=8, margin=0.0, progress=0.6,
    )  # fmt: skip
    kept = [done.first_regret, *(each.regret for each in done.rounds if each.kept)]
    assert all(after < before for before, after in itertools.pairwise(kept))
    assert done.regret < 0.7 * done.first_regret
    assert done.regret >= 0.0


def test_members_at_their_targets_are_left_alone():
    bank = world_bank(3)
    profile = make_profiles(bank, (0.5,))
    member = planned(bank, profile[0]).shaped_reward(bank.reward, bank.cost) / KL_COEF

    def refuse(member, proposal):
        raise AssertionError("there is nothing to gain")

    done = alternate(
        [member], profile, KL_COEF, measure=on(bank), retrain=refuse, num_rounds=5, margin=0.0
    )
    assert done.settled
    assert not done.rounds
    assert done.regret == done.first_regret


@pytest.mark.parametrize(("num_rounds", "settled"), [(1, False), (2, True), (9, True)])
def test_training_that_does_not_help_is_taken_back(num_rounds, settled):
    bank = world_bank(5)
    profiles = make_profiles(bank, (0.2, 0.6))
    start = [np.zeros_like(bank.reward), -bank.cost / 2]
    done = alternate(
        start, profiles, KL_COEF, measure=on(bank), retrain=lambda member, proposal: bank.cost,
        num_rounds=num_rounds, margin=0.0,
    )  # fmt: skip
    assert [member is before for member, before in zip(done.members, start, strict=True)] == [1, 1]
    assert done.settled == settled
    # Each member is tried once, and neither twice.
    tried = [each.proposal.member for each in done.rounds]
    assert sorted(tried) == sorted(set(tried))
    assert len(tried) == min(num_rounds, 2)
    assert not any(each.kept for each in done.rounds)
    assert done.regret == done.first_regret


def test_held_out_prompts_decide_and_not_those_that_were_chosen_on():
    bank, other = make_bank(21), make_bank(22, 9, 20)
    profiles = [Profile(CVaR(0.1), float(np.quantile(bank.cost, 0.9)))]
    good = planned(bank, profiles[0]).shaped_reward(bank.reward, bank.cost) / KL_COEF
    harm = 3.0 * other.cost  # held out, the trained member does nothing but harm
    before = np.zeros_like(bank.reward), -other.cost

    def measure(members):
        pairs = [before if member == "before" else (good, harm) for member in members]
        return MeasuredMembers(bank, [a for a, _ in pairs], other, [b for _, b in pairs])

    done = alternate(
        ["before"], profiles, KL_COEF, measure=measure,
        retrain=lambda member, proposal: "after", num_rounds=3, margin=0.0,
    )  # fmt: skip
    assert done.members == ("before",)
    assert [each.kept for each in done.rounds] == [False]


def test_wrong_inputs_are_refused():
    bank = make_bank(1)
    profiles = make_profiles(bank, (0.5,))
    with pytest.raises(InputError, match="num_rounds: -1"):
        alternate(
            [bank.cost], profiles, 0.5, measure=on(bank), retrain=lambda m, p: m, num_rounds=-1
        )
    for progress in (0.0, -0.5, 1.5, np.nan):
        with pytest.raises(InputError, match="progress: "):
            propose(refit(bank, [bank.cost], profiles, 0.5), progress)
    with pytest.raises(InputError, match="gave 1 members, not 2"):
        alternate(
            [bank.cost] * 2, profiles, 0.5, measure=lambda members: on(bank)(members[:1]),
            retrain=lambda m, p: m, num_rounds=1,
        )  # fmt: skip
    with pytest.raises(InputError, match="log_ratios is empty"):
        alternate([], profiles, 0.5, measure=on(bank), retrain=lambda m, p: m, num_rounds=1)
