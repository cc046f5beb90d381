"""The decoder of a trained spectrum: any limit on risk, per request, on one dial."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, cast

from tailguard import hooks
from tailguard.data import Prompt
from tailguard.decoding.chosen import Chosen
from tailguard.decoding.dial import Dial, DialAnswer, DialEntry
from tailguard.decoding.drawing import Scorers, draw_answers
from tailguard.decoding.scoring import ScoreSummary
from tailguard.engines.sampling_law import SamplingLaw, prompt_seeds
from tailguard.engines.soup import SoupPolicy
from tailguard.errors import InputError
from tailguard.portfolio.rater_tails import RatersAsked, RatersLimit
from tailguard.risk import RiskLimit, RiskMeasure
from tailguard.risk.spelling import limit_to_json


@dataclass(frozen=True)
class DrawSetting:
    """How draws were sampled when the dial was calibrated.

    Attributes:
        max_new_tokens: the most tokens per draw.
        fallback: served on abstention.
        temperature: of the sampling law.
        top_p: nucleus of the sampling law.
        max_draws: the most draws per answer.
    """

    max_new_tokens: int
    fallback: str
    temperature: float = 1.0
    top_p: float = 1.0
    max_draws: int = 16

    def __post_init__(self) -> None:
        """Refuse an empty fallback and a law that is none."""
        if not self.fallback.strip():
            raise InputError("fallback: empty; give the text that is served on abstention")
        SamplingLaw(self.temperature, self.top_p)


@dataclass(frozen=True)
class ServedAnswer:
    """An answer, with what was asked for and what answered.

    Attributes:
        chosen: the text and what it took.
        dial: the entry that answered.
        bounded: whether a bound by the scorer covers it.
        certified: whether one by a judge does.
        served: the entry and the request, as JSON.
    """

    chosen: Chosen
    dial: DialAnswer
    bounded: bool
    certified: bool
    served: dict[str, Any]

    @property
    def text(self) -> str:
        """What is served."""
        return self.chosen.text

    @property
    def abstained(self) -> bool:
        """Whether it is the fallback."""
        return self.chosen.abstained

    @property
    def cost(self) -> ScoreSummary | None:
        """Of the text."""
        return self.chosen.cost

    @property
    def reward(self) -> ScoreSummary | None:
        """Of the text."""
        return self.chosen.reward

    def to_dict(self) -> dict[str, Any]:
        """Every field as JSON can hold it; an infinite bound is None."""
        fields: dict[str, Any] = asdict(self.chosen)
        if not math.isfinite(self.chosen.cost_upper_bound):
            fields["cost_upper_bound"] = None
        del fields["unlike"]  # the reason says it
        names = ("bounded", "certified", "served")
        return fields | {name: getattr(self, name) for name in names}


@dataclass(frozen=True)
class DialProfile:
    """One limit that can be asked for, and what it gets.

    Attributes:
        answer: the entry, with its risk, and what covers it.
        reward: of what is served.
        tokens: per answer.
        setting: how draws are sampled.
    """

    answer: DialAnswer
    reward: float
    tokens: float
    setting: DrawSetting

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        answer = self.answer
        return {
            "limit": limit_to_json(answer.asked),
            "raters": answer.raters,
            "rater": answer.rater,
            "risk": answer.risk,
            "risk_error": answer.error,
            "reward": self.reward,
            "tokens": self.tokens,
            "withheld": answer.entry.withheld,
            "bounded": answer.bounded,
            "certified": answer.certified,
            "point": list(answer.entry.point),
            "level": answer.entry.rule.level,
            "token_price": answer.entry.rule.token_price,
            "penalty": answer.entry.penalty,
            "admission": answer.entry.admission or "population",
        }


def profile_of(
    dial: Dial, limit: RiskLimit, setting: DrawSetting, raters: RatersAsked = None
) -> DialProfile:
    """What a limit gets."""
    plain = limit == dial.default and raters is None
    answer = dial.answer(None if plain else limit, raters=raters)
    reward, tokens = (float(a[answer.number]) for a in (dial.table.reward, dial.table.tokens))
    return DialProfile(answer, reward, tokens, setting)


class Decoder:
    """Risk-bounded answers from soups of trained policies.

    An answer depends on its prompt, its seed and its place in the list, and not on the other
    prompts of the call, up to floating-point differences between batch shapes (which a token can
    turn on); the same call gives the same texts.

    Fails closed: where a scorer or the model gives no finite number, that draw is never served.
    """

    def __init__(
        self,
        soup: SoupPolicy,
        dial: Dial,
        scorers: Scorers,
        setting: DrawSetting,
        *,
        profiles: Sequence[RatersLimit] = (),
        batch_size: int = 64,
    ) -> None:
        """Join the parts.

        Args:
            soup: the members.
            dial: what was measured.
            scorers: of draws.
            setting: as calibrated.
            profiles: limits that `profiles` shows, after the default.
            batch_size: rows in one forward pass.

        Raises:
            InputError: an entry of the dial has another number of weights than there are members.
        """
        for entry in dial.entries:
            soup.at(entry.point)
        self._soup = soup
        self._dial = dial
        self._scorers = scorers
        self._setting = setting
        self._limits = (RatersLimit(dial.default), *profiles)
        self._batch_size = batch_size

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
        return cast("Decoder", decoder)  # the hook cannot name a class from above it

    @property
    def dial(self) -> Dial:
        """What was measured."""
        return self._dial

    @property
    def members(self) -> tuple[str, ...]:
        """Names of the policies, in the order of an entry's weights."""
        return self._soup.names

    @property
    def profiles(self) -> tuple[DialProfile, ...]:
        """Some limits within reach and what they get; any other limit is answered too."""
        return tuple(
            profile_of(self._dial, asked.limit, self._setting, asked.raters)
            for k, asked in enumerate(self._limits)
            if asked not in self._limits[:k]
        )

    def generate(  # noqa: PLR0913
        self,
        prompts: Sequence[Prompt],
        *,
        measure: RiskMeasure | None = None,
        budget: float | None = None,
        token_price: float | None = None,
        certified: bool = False,
        raters: RatersAsked = None,
        max_draws: int | None = None,
        max_candidates: int | None = None,
        temperature: float | None = None,
        top_p: float | None = None,
        max_new_tokens: int | None = None,
        stop: str | Sequence[str] = (),
        seed: int | Sequence[int] = 0,
    ) -> list[ServedAnswer]:
        """One answer per prompt within a limit on risk, trained for or not.

        Args:
            prompts: at least one.
            measure: the risk measure; with ``budget``, or neither for the default.
            budget: d, the limit on it.
            token_price: what one more token may cost, in units of reward; chooses between entries
                that keep the budget.
            certified: serve only from entries that a judge's certificate covers at this limit.
            raters: whose risk the limit is on: weights by group, one group's name, "worst" for each of
                them; by default the population's.
            max_draws: the most draws per answer, in place of the calibrated number.
            max_candidates: another name of it.
            temperature: of the sampling law, in place of the calibrated one.
            top_p: nucleus of the sampling law, in place of the calibrated one.
            max_new_tokens: most tokens per draw, in place of the calibrated number.
            stop: a text or some, before the first of which an answer ends.
            seed: one for the call, or one for each prompt.

        Raises:
            InputError: a measure without a budget or a budget without a measure, wrong prompts or
                settings, or an empty stop text.
            InfeasibleError: nothing that was measured is as strict.
        """
        if (measure is None) != (budget is None):
            raise InputError("measure and budget: give both, or neither for the default")
        limit = None if measure is None or budget is None else RiskLimit(measure, budget)
        found = self._dial.answer(limit, token_price, certified=certified, raters=raters)
        stop = [stop] if isinstance(stop, str) else stop
        if not all(stop):
            raise InputError("stop: an empty text; leave it out")
        asked = {
            "max_draws": max_candidates if max_draws is None else max_draws,
            "temperature": temperature,
            "top_p": top_p,
            "max_new_tokens": max_new_tokens,
        }
        given: dict[str, Any] = {k: value for k, value in asked.items() if value is not None}
        setting = replace(self._setting, **given)
        # Certificates hold for what was calibrated; any other sampling is served without them.
        usual = setting == self._setting and not stop
        if self._dial.floors and not usual:
            raise InputError(
                "this dial keeps a limit for all, which was measured as it samples: leave temperature,"
                " top_p, max_new_tokens, max_draws and stop as calibrated"
            )
        chosen = self.draw(prompts, found.entry, setting=setting, stop=stop, seed=seed)
        served = self._described(found, token_price)
        # Nor do they speak of requests that are unlike those which they were made on.
        covered = [usual and each.cost is not None and not each.unlike for each in chosen]
        return [
            ServedAnswer(each, found, found.bounded and holds, found.certified and holds, served)
            for each, holds in zip(chosen, covered, strict=True)
        ]

    def draw(
        self,
        prompts: Sequence[Prompt],
        entry: DialEntry,
        *,
        setting: DrawSetting | None = None,
        stop: Sequence[str] = (),
        seed: int | Sequence[int] = 0,
    ) -> list[Chosen]:
        """Answers under an entry that is given; what calibration and evaluation use.

        Raises:
            InputError: as `generate`.
        """
        if len(prompts) == 0:
            raise InputError("prompts: empty; give at least one")
        setting = setting or self._setting
        seeds = prompt_seeds(seed, len(prompts)) if isinstance(seed, int) else seed
        if len(seeds) != len(prompts):
            raise InputError(f"seed: {len(seeds)} seeds for {len(prompts)} prompts; one for each")
        return draw_answers(
            self._soup,
            prompts,
            entry.with_max_draws(setting.max_draws),
            self._scorers,
            worth=self._dial.worth,
            outlook=self._dial.outlook,
            raters=self._dial.scored_raters,
            seeds=seeds,
            law=SamplingLaw(setting.temperature, setting.top_p),
            max_new_tokens=setting.max_new_tokens,
            fallback=setting.fallback,
            stop=stop,
            batch_size=self._batch_size,
        )

    def _described(self, found: DialAnswer, token_price: float | None) -> dict[str, Any]:
        entry = found.entry
        weights = dict(zip(self.members, entry.point, strict=True))
        return {
            "weights": weights,
            "asked": limit_to_json(found.asked),
            "raters": found.raters,
            "rater": found.rater,
            "token_price": self._dial.token_price if token_price is None else token_price,
            "measured_risk": found.risk,
            "measured_risk_error": found.error,
            "measured_by": self._dial.measures(found.raters),
            "acceptance_level": entry.rule.level,
            "draw_price": entry.rule.token_price,
            "penalty": entry.penalty,
            "admission": entry.admission or "population",
        }
