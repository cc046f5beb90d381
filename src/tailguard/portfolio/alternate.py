"""Multi-model learning to its end: assign profiles, train the member that loses most on, and again.

Members are chosen before training as if training reached its targets (`select`). It does not, and what
was trained decides. So the members are measured and each profile is assigned its mix; the member whose
profiles lose most is trained on, towards the target that would serve best in its place, as far as
training can be expected to get there; and the members are measured again. A round that does not lower regret on held-out
prompts is taken back. This is `select`'s exchange of one member with training in between, as Lloyd's
method is for clusters: Few-for-Many (2405.19650) assigns and updates in the same way.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
from jaxtyping import Float64

from tailguard.errors import InputError
from tailguard.planning import SampleBank, Solution
from tailguard.portfolio.assign import Assigner
from tailguard.portfolio.mixing import Mixer
from tailguard.portfolio.portfolio import LogRatios, Portfolio, refit
from tailguard.portfolio.profile import Profile
from tailguard.portfolio.regret import Objective, RegretScale
from tailguard.portfolio.select import SHARES_COMPARED, Search, candidate_tilts, prompts_compared

Member = TypeVar("Member")
PerSample = Float64[np.ndarray, "prompts samples"]
_HELPS = 1e-6  # of the value span: less regret than this by a target is rounding


@dataclass(frozen=True, eq=False)
class MeasuredMembers:
    """Trained members on prompts to choose on, and on others to judge the choice.

    Attributes:
        bank: samples of the reference policy, or of any other with its ``log_weight``.
        log_ratios: log π_k/π_ref of each member there, up to a constant per prompt.
        held_out: the same for prompts that nobody was trained on.
        held_out_log_ratios: of each member there.
    """

    bank: SampleBank
    log_ratios: LogRatios
    held_out: SampleBank
    held_out_log_ratios: Sequence[Float64[np.ndarray, "held_out_prompts held_out_samples"]]


@dataclass(frozen=True, eq=False)
class Proposal:
    """A member to train on.

    Attributes:
        member: its number.
        target: what it is trained towards.
        loss: its part of the regret now, each profile's shared by the weights of its mix.
        regret: expected over the profiles on the bank, if the others stay.
    """

    member: int
    target: Solution
    loss: float
    regret: float


@dataclass(frozen=True, eq=False)
class Round:
    """What one round did.

    Attributes:
        proposal: who was trained towards what.
        regret: on held-out prompts, afterwards.
        kept: whether that is less than before; else the member is as it was.
    """

    proposal: Proposal
    regret: float
    kept: bool


@dataclass(frozen=True, eq=False)
class Alternation(Generic[Member]):
    """Where the rounds have led.

    Attributes:
        members: as they are now, in their order.
        first_regret: on held-out prompts, before the first round.
        rounds: one for each training.
        settled: whether no target in any member's place promises less regret, or none that promised
            it has brought it; else the rounds were spent.
    """

    members: tuple[Member, ...]
    first_regret: float
    rounds: tuple[Round, ...]
    settled: bool

    @property
    def regret(self) -> float:
        """On held-out prompts, of the members as they are now."""
        return min([self.first_regret, *(each.regret for each in self.rounds if each.kept)])


def estimate_progress(log_ratio: PerSample, target: PerSample) -> float:
    """How far a training has come: the slope of log π/π_ref on its target's, within prompts.

    Args:
        log_ratio: of the trained policy.
        target: of what it was trained towards, up to a constant per prompt as the other.

    Returns:
        0 for the reference, 1 for the target; 1 too where the target is the reference.
    """
    wanted = target - target.mean(axis=1, keepdims=True)
    length = float((wanted**2).sum())
    return float((wanted * log_ratio).sum()) / length if length > 0.0 else 1.0


def propose(portfolio: Portfolio, progress: float = 1.0) -> list[Proposal]:
    """Each member's best target in its place, from the member that loses most on.

    Args:
        portfolio: members and profiles on a bank.
        progress: share of the way from where a member is to its target that a training is expected to
            go, in log-probabilities; 1 reaches it.

    Returns:
        At most one for each member: those that would lower regret on the bank.

    Raises:
        InputError: a progress that is not in (0, 1].
    """
    if not 0.0 < progress <= 1.0:
        raise InputError(f"progress: {progress}; must lie in (0, 1]")
    bank, profiles = portfolio.bank, list(portfolio.profiles)
    scale, targets = candidate_tilts(bank, profiles, portfolio.kl_coef, portfolio.margin)
    compared = prompts_compared(bank)
    small = bank.take(compared)
    members = [ratio[compared] for ratio in portfolio.log_ratios(bank)]
    reached = [s.shaped_reward(small.reward, small.cost) / portfolio.kl_coef for s in targets]
    count = len(members)
    moved = [
        [(1.0 - progress) * member + progress * target for target in reached] for member in members
    ]
    tried = [*members, *(ratio for row in moved for ratio in row)]
    mixer = Mixer(small, tried, [p.measure for p in profiles], portfolio.kl_coef)
    assigner = Assigner(mixer, len(tried), SHARES_COMPARED, portfolio.margin)
    search = Search(assigner, scale, portfolio.objective)
    now = search.score(list(range(count)))
    losses = _losses(portfolio, scale)
    found: list[Proposal] = []
    for member in range(count):
        others = [k for k in range(count) if k != member]
        first = count + member * len(targets)
        scores = [search.score([*others, first + k]) for k in range(len(targets))]
        best = int(np.argmin(scores))
        if scores[best] < now - _HELPS:
            found.append(Proposal(member, targets[best], float(losses[member]), scores[best]))
    return sorted(found, key=lambda proposal: (-proposal.loss, proposal.regret))


def _losses(portfolio: Portfolio, scale: RegretScale) -> Float64[np.ndarray, " members"]:
    """Each member's part of the regret: a profile's is shared by the weights of the mix that serves it."""
    served = [portfolio.assignment(profile) for profile in portfolio.profiles]
    value = np.array([each.value for each in served])
    lost = np.clip((scale.best - value) / scale.span, 0.0, 1.0)
    lost = np.where([each.met for each in served], lost, 1.0)
    weight = np.array([profile.weight for profile in portfolio.profiles])
    # Profiles that no policy on the bank can meet are nobody's loss.
    counted = np.where(np.isnan(scale.best), 0.0, weight * lost)
    shares = np.array([each.weights for each in served])
    return counted @ shares / max(float(weight.sum()), 1e-300)


def alternate(  # noqa: PLR0913
    members: Sequence[Member],
    profiles: Sequence[Profile],
    kl_coef: float | int,
    *,
    measure: Callable[[Sequence[Member]], MeasuredMembers],
    retrain: Callable[[Member, Proposal], Member],
    num_rounds: int,
    progress: float = 1.0,
    objective: Objective = "mean",
    margin: float = 2.0,
) -> Alternation[Member]:
    """Train one member after another on, until held-out regret stops falling or the rounds are spent.

    A member whose training did not help is left alone until another's has.

    Args:
        members: as trained so far.
        profiles: what users ask for.
        kl_coef: β > 0.
        measure: members on the bank and on held-out prompts; the same prompts each time.
        retrain: the member, trained on towards the target.
        num_rounds: the most trainings; 0 measures only.
        progress: of a training towards its target, as of `propose`.
        objective: "mean" regret by the profiles' weights, or the "worst".
        margin: standard errors of the risk by which a profile must be met on the bank.

    Raises:
        InputError: no members, no profiles, a negative number of rounds, or measurements that do
            not fit them.
    """
    if num_rounds < 0:
        raise InputError(f"num_rounds: {num_rounds}; must be ≥ 0")
    now = tuple(members)

    def served(those: tuple[Member, ...]) -> tuple[Portfolio, float]:
        found = measure(those)
        if len(found.log_ratios) != len(those):
            raise InputError(f"measure: gave {len(found.log_ratios)} members, not {len(those)}")
        made = refit(
            found.bank, found.log_ratios, profiles, kl_coef, objective=objective, margin=margin
        )
        return made, made.regret(found.held_out, found.held_out_log_ratios)

    portfolio, regret = served(now)
    first = regret
    rounds: list[Round] = []
    failed = set[int]()
    while True:
        proposals = [p for p in propose(portfolio, progress) if p.member not in failed]
        if not proposals or len(rounds) >= num_rounds:
            return Alternation(now, first, tuple(rounds), settled=not proposals)
        proposal = proposals[0]
        made = retrain(now[proposal.member], proposal)
        tried = (*now[: proposal.member], made, *now[proposal.member + 1 :])
        after, changed = served(tried)
        kept = changed < regret - _HELPS
        rounds.append(Round(proposal, changed, kept))
        if kept:
            now, portfolio, regret = tried, after, changed
            failed.clear()
        else:
            failed.add(proposal.member)
