"""The decoder: a request for a risk level becomes answers, guided, checked, or withheld."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import torch
from torch import Tensor

from tailguard import hooks
from tailguard.data import Prompt
from tailguard.decoding.answer import Answer, Draft, draft_answers, settle_drafts
from tailguard.decoding.guidance import Guidance
from tailguard.decoding.guide import guide_responses
from tailguard.decoding.profile import (
    CalibratedProfile,
    DecodingSetting,
    match_profile,
)
from tailguard.decoding.scoring import SCORER_FAILURES
from tailguard.decoding.strategy import Strategy, draw_once, strategy_name
from tailguard.engines.sampling_law import SamplingLaw, prompt_seeds
from tailguard.engines.self_test import as_decoding_policy
from tailguard.engines.stepping import DecodingPolicy
from tailguard.errors import InputError
from tailguard.models.policy import Policy
from tailguard.risk import RiskLimit, RiskMeasure
from tailguard.scorers.scorer import Scorer
from tailguard.values.prefix_score import (
    PrefixHeads,
    PrefixScore,
    PrefixScorer,
    pessimistic_scorer,
)


@dataclass(frozen=True)
class GuidedPolicy:
    """A policy to decode from, with the process heads fitted for it.

    Attributes:
        policy: one model or a mix.
        heads: None where only single candidates are drawn.
    """

    policy: Policy | DecodingPolicy
    heads: PrefixHeads | None


class Decoder:
    """Risk-bounded answers from guided policies.

    An answer depends on its prompt, its seed and its place in the list, and not on the other
    prompts of the call, up to floating-point differences between batch shapes (which a token can
    turn on); the same call gives the same texts.

    Fails closed: where a head, a scorer or the model gives no finite number, the answer is an
    abstention.
    """

    def __init__(
        self,
        policies: Mapping[str, GuidedPolicy],
        profiles: Sequence[CalibratedProfile],
        *,
        cost_scorer: Scorer,
        reward_scorer: Scorer | None = None,
        batch_size: int = 64,
        strategy: Strategy = draw_once,
    ) -> None:
        """Join the parts.

        Args:
            policies: by the names that settings use.
            profiles: the calibrated grid; the first is what a request without a measure gets.
            cost_scorer: ensemble that decides whether a finished answer is served.
            reward_scorer: its scores are reported with those of cost.
            batch_size: rows (prompts × candidates) in one forward pass.
            strategy: how drafts are drawn. Acceptance levels hold for the strategy that they were
                calibrated with; certificates name theirs, and count for no other.

        Raises:
            InputError: no profiles, or one whose policy is not there or lacks the heads it needs, or
                heads on another device than their policy.
        """
        if len(profiles) == 0:
            raise InputError("profiles: empty; give at least one calibrated profile")
        for profile in profiles:
            setting = profile.setting
            if setting.policy not in policies:
                raise InputError(
                    f"policy: {setting.policy!r} of a profile; there are {sorted(policies)}"
                )
            _guidance(policies[setting.policy], setting)
        for name, guided in policies.items():
            _require_one_device(name, guided)
        self._policies = dict(policies)
        self._profiles = tuple(profiles)
        self._cost_scorer = cost_scorer
        self._reward_scorer = reward_scorer
        self._batch_size = batch_size
        self._strategy = strategy

    @classmethod
    def from_pretrained(
        cls,
        path: str | Path,
        *,
        batch_size: int = 64,
        trust_remote_code: bool = False,
        device: str = "auto",
    ) -> Decoder:
        """`tailguard.load_decoder`, under the name that users of transformers look for."""
        # The pipeline reads what lies on disk. It is above this package, so a hook is needed.
        decoder = hooks.load_decoder(
            path, batch_size=batch_size, trust_remote_code=trust_remote_code, device=device
        )
        return cast(Decoder, decoder)  # the hook cannot name a class from above it

    @property
    def profiles(self) -> tuple[CalibratedProfile, ...]:
        """The calibrated grid."""
        return self._profiles

    @property
    def strategy_name(self) -> str:
        """How drafts are drawn, as certificates name it."""
        return strategy_name(self._strategy)

    def generate(  # noqa: PLR0913
        self,
        prompts: Sequence[Prompt],
        *,
        measure: RiskMeasure | None = None,
        budget: float | None = None,
        max_candidates: int | None = None,
        temperature: float | None = None,
        top_p: float | None = None,
        max_new_tokens: int | None = None,
        stop: str | Sequence[str] = (),
        seed: int | Sequence[int] = 0,
    ) -> list[Answer]:
        """One answer per prompt at the asked risk level, or the next stricter calibrated one.

        Answers found in another way than was calibrated (other K, law or length, or cut at a stop
        text) are held to the same acceptance level, and are not certified.

        Args:
            prompts: at least one.
            measure: the risk measure; with ``budget``, or neither for the first profile.
            budget: d, the limit on it.
            max_candidates: K in place of the calibrated one.
            temperature: of the sampling law, in place of the calibrated one.
            top_p: nucleus of the sampling law, in place of the calibrated one.
            max_new_tokens: most tokens per answer, in place of the calibrated number.
            stop: a text or some, before the first of which an answer ends; what is left is what
                is scored.
            seed: one for the call, or one for each prompt.

        Raises:
            InputError: a measure without a budget or a budget without a measure, wrong prompts or
                settings, or an empty stop text.
            InfeasibleError: nothing calibrated is as strict.
        """
        if (measure is None) != (budget is None):
            raise InputError("measure and budget: give both, or neither for the default profile")
        profile = self._profiles[0]
        if measure is not None and budget is not None:
            profile = match_profile(self._profiles, RiskLimit(measure, budget))
        setting = profile.setting
        # The K rows of one prompt must fit in one pass: the winner is forked from that pass.
        if max_candidates is not None and max_candidates > self._batch_size:
            raise InputError(
                f"max_candidates: {max_candidates}; at most {self._batch_size}, the rows of one"
                " forward pass (batch_size)"
            )
        stop = [stop] if isinstance(stop, str) else stop
        asked = {
            "max_candidates": max_candidates,
            "temperature": temperature,
            "top_p": top_p,
            "max_new_tokens": max_new_tokens,
        }
        # Certificates hold for what was calibrated; any other sampling is served uncertified.
        changed = replace(setting, **{k: value for k, value in asked.items() if value is not None})
        asked_budget = profile.limit.budget if budget is None else budget
        certified = profile.covers(asked_budget, self.strategy_name)
        drafts = self.draft(prompts, changed, stop=stop, seed=seed)
        return self.settle(
            prompts, drafts, changed, certified=certified and changed == setting and not stop
        )

    def draft(
        self,
        prompts: Sequence[Prompt],
        setting: DecodingSetting,
        *,
        stop: Sequence[str] = (),
        seed: int | Sequence[int] = 0,
    ) -> list[Draft]:
        """Find and score answers under any setting, without deciding whether to serve them.

        What calibration uses: the acceptance level plays no part here.

        Raises:
            InputError: as in `generate`, an unknown policy, or an empty stop text.
        """
        if setting.policy not in self._policies:
            raise InputError(f"policy: {setting.policy!r}; there are {sorted(self._policies)}")
        if not all(stop):
            raise InputError("stop: an empty text; leave it out")
        guided_policy = self._policies[setting.policy]
        guidance = _guidance(guided_policy, setting)

        def draw(prompts: Sequence[Prompt], seeds: Sequence[int]) -> list[Draft]:
            guided = guide_responses(
                guided_policy.policy,
                prompts,
                guidance,
                max_new_tokens=setting.max_new_tokens,
                law=SamplingLaw(setting.temperature, setting.top_p),
                seeds=seeds,
                batch_size=self._batch_size,
            )
            return draft_answers(
                prompts,
                guided,
                setting,
                cost_scorer=self._cost_scorer,
                reward_scorer=self._reward_scorer,
                stop=stop,
            )

        seeds = prompt_seeds(seed, len(prompts)) if isinstance(seed, int) else seed
        return self._strategy(draw, prompts, seeds)

    def settle(
        self,
        prompts: Sequence[Prompt],
        drafts: Sequence[Draft],
        setting: DecodingSetting,
        *,
        certified: bool = False,
    ) -> list[Answer]:
        """Serve each draft that meets the setting's acceptance level, and else its fallback.

        Args:
            prompts: those of the drafts.
            drafts: from `draft`.
            setting: as there, at any acceptance level.
            certified: whether a certificate covers the answers.

        Raises:
            InputError: another number of drafts than of prompts.
        """
        if len(prompts) != len(drafts):
            raise InputError(f"drafts: {len(drafts)} for {len(prompts)} prompts; one for each")
        return settle_drafts(
            prompts,
            drafts,
            setting,
            cost_scorer=self._cost_scorer,
            reward_scorer=self._reward_scorer,
            certified=certified,
        )


def _require_one_device(name: str, guided: GuidedPolicy) -> None:
    if not isinstance(guided.heads, torch.nn.Module):
        return
    device = as_decoding_policy(guided.policy).members[0].device
    # Checked when joined: mixed devices would fail inside every answer, and all would be withheld.
    found = {parameter.device for parameter in guided.heads.parameters()} - {device}
    if found:
        raise InputError(
            f"policies: {name!r} is on {device} and its heads on {found.pop()}; move one of them"
        )


def _guidance(guided_policy: GuidedPolicy, setting: DecodingSetting) -> Guidance:
    scorer: PrefixScorer | None = None
    if guided_policy.heads is not None:
        scorer = _fail_closed(
            pessimistic_scorer(
                guided_policy.heads,
                measure=setting.limit.measure,
                threshold=setting.threshold,
                pessimism=setting.pessimism,
            )
        )
    return Guidance(
        # Nothing is drawn at temperature 0: further candidates would be the same answer again.
        num_candidates=setting.max_candidates if setting.temperature > 0 else 1,
        block_tokens=setting.block_tokens,
        score_prefix=scorer,
        multiplier=setting.multiplier,
    )


def _fail_closed(score_prefix: PrefixScorer) -> PrefixScorer:
    """Scores that are NaN where the heads raise; wrong input is still told."""

    def score(hidden: Tensor) -> PrefixScore:
        try:
            return score_prefix(hidden)
        except InputError:
            raise
        except SCORER_FAILURES:
            # NaN scores fail the prompts of this batch alone; the decoder abstains on them.
            unknown = torch.full((hidden.shape[0],), float("nan"), device=hidden.device)
            return PrefixScore(unknown, unknown)

    return score
