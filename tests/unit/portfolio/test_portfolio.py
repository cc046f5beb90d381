"""Few policies for many profiles: mixes, assignments, choices and regret against plain recomputation."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from tailguard.errors import InputError
from tailguard.planning import RiskConstraint, SampleBank, solve
from tailguard.portfolio import Profile, refit, select
from tailguard.portfolio.mixing import Mixer
from tailguard.risk import CVaR, Mean

KL_COEF = 0.5
MEASURE = CVaR(0.1)


def make_bank(seed: int, prompts: int = 24, samples: int = 32) -> SampleBank:
    """Reward and cost that pull against each other, the cost with a tail."""
    generator = np.random.default_rng(seed)
    reward = generator.normal(size=(prompts, samples))
    cost = generator.pareto(3.0, size=(prompts, samples)) + 0.5 * reward - 1.0
    return SampleBank(reward, cost)


def make_profiles(bank: SampleBank, shares=(0.2, 0.4, 0.6), measure=MEASURE) -> list[Profile]:
    """Budgets at shares of the way from the reference's risk to the smallest reachable."""
    here = measure.value(bank.cost.ravel())
    least = solve(bank, RiskConstraint(measure, -1e9), kl_coef=KL_COEF).smallest_reachable_risks[0]
    return [Profile(measure, here + share * (least - here)) for share in shares]


def tilt(bank: SampleBank, log_ratio: np.ndarray) -> np.ndarray:
    """The policy on the bank whose log-ratio to the uniform reference this is, [prompts, samples]."""
    mass = np.exp(log_ratio - log_ratio.max(axis=1, keepdims=True))
    return mass / mass.sum(axis=1, keepdims=True)


def value_and_risk(bank: SampleBank, law: np.ndarray, measure=MEASURE) -> tuple[float, float]:
    """E r − β·KL and the risk, by their definitions."""
    prompts, samples = law.shape
    kl = np.sum(law * np.log(np.maximum(law, 1e-300) * samples)) / prompts
    value = np.sum(law * bank.reward) / prompts - KL_COEF * kl
    return float(value), measure.value(bank.cost.ravel(), weights=law.ravel())


def random_ratios(seed: int, bank: SampleBank, members: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(members, *bank.reward.shape))


@given(st.integers(0, 10**6), st.floats(0.0, 1.0))
@settings(max_examples=20, deadline=None)
def test_a_mix_is_the_normalised_geometric_mixture_and_the_tilt_of_the_weighted_sum(seed, share):
    bank = make_bank(seed % 97, 5, 7)
    ratios = random_ratios(seed, bank, 2)
    mixed = Mixer(bank, list(ratios), [MEASURE], KL_COEF).weights({0: share, 1: 1.0 - share})
    product = tilt(bank, ratios[0]) ** share * tilt(bank, ratios[1]) ** (1.0 - share)
    np.testing.assert_allclose(mixed, product / product.sum(axis=1, keepdims=True), atol=1e-12)
    together = tilt(bank, share * ratios[0] + (1.0 - share) * ratios[1])
    np.testing.assert_allclose(mixed, together, atol=1e-12)


@pytest.mark.parametrize("measure", [CVaR(0.07), CVaR(1.0), Mean()])
def test_figures_are_value_risk_and_its_error_over_prompts(measure):
    bank = make_bank(3)
    ratios = random_ratios(4, bank, 2)
    mixer = Mixer(bank, list(ratios), [measure], KL_COEF)
    figures = mixer.figures({0: 0.3, 1: 0.7})
    law = tilt(bank, 0.3 * ratios[0] + 0.7 * ratios[1])
    value, risk = value_and_risk(bank, law, measure)
    assert figures.value == pytest.approx(value, abs=1e-10)
    assert figures.risk[measure] == pytest.approx(risk, abs=1e-10)
    threshold = measure.minimiser(bank.cost.ravel(), law.ravel())
    per_prompt = np.sum(law * measure.penalty(bank.cost, threshold), axis=1)
    error = per_prompt.std(ddof=1) / math.sqrt(len(per_prompt))
    assert figures.error[measure] == pytest.approx(error, abs=1e-10)


def test_one_prompt_says_nothing_of_others():
    bank = make_bank(0, 1, 64)
    loose = Profile(MEASURE, 100.0)
    ratios = random_ratios(0, bank, 1)
    assert refit(bank, ratios, [loose], KL_COEF, margin=0.0).assignment(loose).met
    assert not refit(bank, ratios, [loose], KL_COEF, margin=1.0).assignment(loose).met


def test_a_profile_takes_the_best_member_or_pair_that_meets_it():
    bank = make_bank(5)
    ratios = random_ratios(6, bank, 3)
    shares = np.linspace(0.05, 0.95, 19).round(2)
    options = [np.eye(3)[k] for k in range(3)]
    for one, other in itertools.combinations(range(3), 2):
        options += [share * np.eye(3)[one] + (1 - share) * np.eye(3)[other] for share in shares]
    found = [value_and_risk(bank, tilt(bank, np.tensordot(w, ratios, 1))) for w in options]
    risks = sorted(risk for _, risk in found)
    for budget in (risks[0] - 1.0, risks[3] + 1e-4, risks[30] + 1e-4, math.inf):
        profile = Profile(MEASURE, budget)
        given = refit(bank, ratios, [profile], KL_COEF, margin=0.0).assignment(profile)
        met = [value for value, risk in found if risk <= budget]
        if met:
            assert given.met
            assert given.value == pytest.approx(max(met), abs=1e-9)
            assert given.risk <= budget
        else:
            assert not given.met
            assert given.risk == pytest.approx(risks[0], abs=1e-9)
        assert sum(given.weights) == pytest.approx(1.0)
        assert sum(weight > 0 for weight in given.weights) <= 2


def test_one_profile_is_served_by_its_own_optimum():
    bank = make_bank(7)
    profile = make_profiles(bank, [0.5])[0]
    chosen = select(bank, [profile], KL_COEF, num_policies=1, margin=0.0)
    best = solve(bank, RiskConstraint(MEASURE, profile.budget), kl_coef=KL_COEF)
    assert chosen.mixture(profile) == [1.0]
    assert chosen.assignment(profile).value == pytest.approx(best.value, abs=1e-6)
    assert chosen.assignment(profile).risk <= profile.budget + 1e-4
    assert chosen.regret(bank) == pytest.approx(0.0, abs=1e-4)


def test_members_that_are_all_the_optima_leave_no_regret_and_fewer_leave_more():
    bank = make_bank(8)
    profiles = make_profiles(bank, [0.1, 0.3, 0.5, 0.7, 0.9])
    regrets = [
        select(bank, profiles, KL_COEF, num_policies=k, margin=0.0).regret(bank)
        for k in range(1, 6)
    ]
    assert regrets[-1] == pytest.approx(0.0, abs=1e-3)
    assert all(few >= more - 1e-6 for few, more in itertools.pairwise(regrets))
    assert regrets[0] > 0.05


def test_the_choice_is_the_best_of_all_sets_of_candidates():
    bank = make_bank(9)
    profiles = make_profiles(bank, [0.15, 0.35, 0.55, 0.75])
    budgets = [math.inf, *(profile.budget for profile in profiles)]
    tilts = [solve(bank, RiskConstraint(MEASURE, d), kl_coef=KL_COEF) for d in budgets]
    ratios = [s.shaped_reward(bank.reward, bank.cost) / KL_COEF for s in tilts]
    best = np.array([s.value for s in tilts])
    span = best[0] - best.min()
    zero = np.zeros_like(bank.reward)

    def regret(members: tuple[int, ...]) -> float:
        """Each profile by its best member or mix in quarters, as sets are compared."""
        options = [((k, 1.0),) for k in members]
        for one, other in itertools.combinations(members, 2):
            options += [((one, s), (other, 1 - s)) for s in (0.25, 0.5, 0.75)]
        found = [
            value_and_risk(bank, tilt(bank, sum((s * ratios[k] for k, s in mix), zero)))
            for mix in options
        ]
        least = []
        for number, profile in enumerate(profiles, start=1):
            met = [(best[number] - v) / span for v, r in found if r <= profile.budget + 1e-5]
            least.append(min([1.0, *np.clip(met, 0.0, 1.0)]))
        return float(np.mean(least))

    smallest = min(itertools.combinations(range(5), 2), key=regret)
    chosen = select(bank, profiles, KL_COEF, num_policies=2, margin=0.0)
    values = sorted(member.value for member in chosen.members)
    assert values == pytest.approx(sorted(best[list(smallest)]), abs=1e-4)


def test_the_worst_profile_decides_where_asked():
    bank = make_bank(10)
    profiles = make_profiles(bank, [0.1, 0.2, 0.3, 0.9])
    best = [solve(bank, RiskConstraint(MEASURE, p.budget), kl_coef=KL_COEF).value for p in profiles]

    def losses(objective) -> list[float]:
        chosen = select(bank, profiles, KL_COEF, num_policies=1, margin=0.0, objective=objective)
        served = [chosen.assignment(profile) for profile in profiles]
        return [v - s.value if s.met else math.inf for v, s in zip(best, served, strict=True)]

    # Alone, only the member made for the strictest profile breaks no budget.
    assert max(losses("worst")) < math.inf
    assert np.mean(np.minimum(losses("mean"), 1e9)) != pytest.approx(np.mean(losses("worst")))


def test_target_regret_takes_no_more_members_than_it_needs():
    bank = make_bank(11)
    profiles = make_profiles(bank, [0.1, 0.3, 0.5, 0.7, 0.9])
    sizes = [
        len(select(bank, profiles, KL_COEF, target_regret=target, margin=0.0).members)
        for target in (0.5, 0.05, 0.01)
    ]
    assert sizes == sorted(sizes)
    assert sizes[0] < sizes[-1]
    for target in (0.5, 0.05):
        chosen = select(bank, profiles, KL_COEF, target_regret=target, margin=0.0)
        assert chosen.regret(bank) <= target + 1e-6


def test_no_regret_as_target_takes_what_helps_and_no_more():
    bank = make_bank(11)
    profiles = make_profiles(bank, [0.1, 0.3, 0.5, 0.7, 0.9])
    sizes = [
        len(select(bank, profiles, KL_COEF, target_regret=target).members) for target in (0.0, 1e-9)
    ]
    assert sizes == [5, 5]  # of 11 candidates, margin included
    double = [*profiles, *profiles]  # nothing is gained by a member for a profile that is served
    chosen = select(bank, double, KL_COEF, target_regret=0.0, margin=0.0)
    assert len(chosen.members) <= 5
    assert chosen.regret(bank) == pytest.approx(0.0, abs=1e-3)
    fewer = select(bank, double, KL_COEF, num_policies=len(chosen.members) - 1, margin=0.0)
    assert fewer.regret(bank) > chosen.regret(bank)


def test_a_budget_that_is_broken_counts_as_one_and_one_that_nobody_meets_not_at_all():
    bank = make_bank(12)
    strict, loose = make_profiles(bank, [0.8])[0], Profile(MEASURE, math.inf)
    free = solve(bank, RiskConstraint(Mean(), np.inf), kl_coef=KL_COEF)
    ratio = free.shaped_reward(bank.reward, bank.cost)[None] / KL_COEF
    served = refit(bank, ratio, [strict, loose], KL_COEF, margin=0.0)
    assert served.regret(bank, ratio) == pytest.approx(0.5, abs=1e-3)  # one broken, one best
    nobody = Profile(MEASURE, -1e6)
    also = refit(bank, ratio, [strict, loose, nobody], KL_COEF, margin=0.0)
    assert also.regret(bank, ratio) == pytest.approx(0.5, abs=1e-3)
    weighed = [Profile(MEASURE, strict.budget, weight=3.0), loose]
    assert refit(bank, ratio, weighed, KL_COEF, margin=0.0).regret(bank, ratio) == pytest.approx(
        0.75, abs=1e-3
    )


def test_what_was_trained_decides_and_not_a_constant_a_prompt():
    bank = make_bank(13)
    profiles = make_profiles(bank)
    chosen = select(bank, profiles, KL_COEF, num_policies=3)
    ratios = np.stack(chosen.log_ratios(bank))
    shifted = ratios + np.random.default_rng(0).normal(size=(3, bank.num_prompts, 1))
    measured = refit(bank, shifted, profiles, KL_COEF)
    for profile in profiles:
        assert measured.mixture(profile) == pytest.approx(chosen.mixture(profile))
        assert measured.best_member(profile) == chosen.best_member(profile)
    assert measured.regret(bank, shifted) == pytest.approx(chosen.regret(bank), abs=1e-9)


def test_a_margin_keeps_budgets_on_other_prompts():
    """Without one about half of the profiles break theirs out of sample (METHOD §4)."""

    def broken(margin: float) -> int:
        count = 0
        for seed in range(12):
            whole = make_bank(100 + seed, 128, 32)
            first = np.arange(128) < 64
            here, there = whole.take(first), whole.take(~first)
            profiles = make_profiles(here, [0.3, 0.5, 0.7])
            chosen = select(here, profiles, KL_COEF, num_policies=3, margin=margin)
            ratios = np.stack(chosen.log_ratios(there))
            for profile in profiles:
                weights = np.asarray(chosen.mixture(profile))
                law = tilt(there, np.tensordot(weights, ratios, 1))
                count += value_and_risk(there, law)[1] > profile.budget
        return count

    # Both halves err, so two standard errors of one are 1.4 of their difference: 8%, not 50.
    without, with_margin = broken(0.0), broken(2.0)
    assert without >= 9  # of 36
    assert with_margin <= without / 2


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda b, p: select(b, [], KL_COEF, num_policies=1), "profiles"),
        (lambda b, p: select(b, p, KL_COEF), "num_policies or target_regret"),
        (lambda b, p: select(b, p, KL_COEF, num_policies=0), "num_policies"),
        (lambda b, p: select(b, p, KL_COEF, target_regret=1.0), "target_regret"),
        (lambda b, p: select(b, p, KL_COEF, num_policies=1, margin=-1.0), "margin"),
        (lambda b, p: refit(b, [], p, KL_COEF), "log_ratios is empty"),
        (lambda b, p: refit(b, np.zeros((1, 2, 2)), p, KL_COEF), r"log_ratios\[0\]"),
        (lambda b, p: refit(b, np.full((1, *b.reward.shape), np.nan), p, KL_COEF), "log_ratios"),
        (
            lambda b, p: refit(b, np.zeros((1, 4, 8)), p, KL_COEF).regret(b.take([0])),
            "another bank",
        ),
        (
            lambda b, p: refit(b, np.zeros((1, 4, 8)), p, KL_COEF).regret(b, np.zeros((2, 4, 8))),
            "2 members, not 1",
        ),
        (lambda b, p: Profile(MEASURE, math.nan), "budget"),
        (lambda b, p: Profile(MEASURE, 0.0, weight=-1.0), "weight"),
    ],
)
def test_wrong_input_is_named(call, said):
    bank = make_bank(0, 4, 8)
    with pytest.raises(InputError, match=said):
        call(bank, [Profile(MEASURE, 0.0)])
