"""The recipe: everything a run is made from, as frozen, checked values."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from tailguard.config.data_sections import FileData, SandboxData
from tailguard.config.dial import DialSection
from tailguard.config.evaluate import EvaluateSection
from tailguard.config.limits import Target
from tailguard.config.scorer_source import GivenScorer, with_defaults_of_cost
from tailguard.config.section import (
    MOST_EACH,
    MOST_LISTED,
    Confidence,
    Count,
    CountEach,
    CountOrNone,
    Device,
    GivenPath,
    NonNegative,
    PathName,
    Positive,
    SampleEach,
    Section,
    Seed,
    TailMass,
)


class PolicySection(Section):
    """The reference policy and how it is sampled.

    Attributes:
        model: folder or hub name of a causal LM; ``sandbox`` is the one that ships with tailguard.
        max_new_tokens: length limit of an answer.
        temperature: sampling temperature; the reference distribution π_ref is the model at this
            temperature. Training needs 1.
        trust_remote_code: run code that comes with the model, which is then not trained.
        device: ``auto`` (a GPU where CUDA has one), ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.
        dtype: precision of its weights; ``auto`` is float32 on a CPU, else the checkpoint's.
    """

    model: GivenPath = "sandbox"
    max_new_tokens: Count = 48
    temperature: Positive = 1.0
    trust_remote_code: bool = False
    device: Device = "auto"
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"


class ScorerSection(Section):
    """Reward and cost scorers: fitted on the preferences, or published ones.

    Attributes:
        reward_model: a given scorer: a sequence classifier's name, or a section; empty to fit one.
        cost_model: the same for the cost: larger is worse, and above 0 is unsafe.
        backbone: causal LM to fit the scorers from; empty for the reference policy.
        num_heads: members of the ensemble.
        num_epochs: passes over the pairs.
        learning_rate: learning rate of the backbone.
        num_trained_layers: train only this many of the backbone's last layers; null for all.
        batch_size: pairs per step.
        max_tokens: length limit of a prompt and its answer together, in tokens. A longer prompt
            loses its beginning; a longer answer is read in windows that overlap, of which the
            largest cost, and the mean reward, counts.
        num_pairs: largest number of pairs per scorer.
        sign_weight: weight of safe/unsafe signs beside comparisons of cost. Signs fix the cost's
            zero; comparisons fix its units, which a small weight keeps.
        pessimism: κ; the cost used everywhere is the ensemble's mean + κ · its spread. With a
            ``cost_model`` of one member, whose spread is unknown, the default is 0, and nothing else
            is allowed.
        cost_bound: declared largest cost; scores are clipped there. Certificates need it. With
            ``cost_model.upper`` the default is that.
        device: as ``policy.device``, for scorers and the judge, which are float32 everywhere.
        raters: the field of the cost pairs that names who judged them, or which kind of harm: the
            fitted cost then has a reading for each, which ``fit-scorers`` holds against the
            population's on held-out pairs. Null for the population alone. Targets of the plan, requests and
            a floor of the dial may then say whose risk they limit.
    """

    reward_model: GivenScorer = None
    cost_model: GivenScorer = None
    backbone: PathName = ""
    # The relative error of a spread over n members is about 1/√(2(n − 1)): already 41% at 4.
    num_heads: Annotated[int, Field(ge=4, le=MOST_EACH)] = 8
    num_epochs: Positive = 1.0
    learning_rate: Positive = 2e-4
    num_trained_layers: CountEach | None = None
    batch_size: CountEach = 32
    max_tokens: Count = 256
    num_pairs: Count = 8000
    sign_weight: Positive = 0.5
    pessimism: NonNegative = 0.5
    cost_bound: Positive = 10.0
    device: Device = "auto"
    raters: Literal["annotator", "category"] | None = None

    @model_validator(mode="after")
    def _cost_model_agrees(self) -> ScorerSection:
        cost = self.cost_model
        if cost is not None and self.raters is not None:
            raise ValueError(
                "raters: are fitted with the cost, and cost_model gives one; leave out one of them"
            )
        if cost is not None and cost.upper not in (None, self.cost_bound):
            raise ValueError(
                f"cost_bound: {self.cost_bound:g} contradicts cost_model.upper: {cost.upper:g};"
                " give one of them"
            )
        if self.single_member_cost and self.pessimism > 0:
            raise ValueError(_needs_members("pessimism", self.pessimism))
        return self

    @property
    def single_member_cost(self) -> bool:
        """Whether the cost has one member, or may have, so that its spread is not known."""
        return self.cost_model is not None and not self.cost_model.several_members


def _needs_members(key: str, pessimism: float) -> str:
    return (
        f"{key}: {pessimism:g} needs a cost of several members, and cost_model gives one, whose"
        " spread is unknown; set it to 0 or leave it out"
    )


class BankSection(Section):
    """How many answers are sampled for planning.

    Attributes:
        num_samples: answers per prompt.
        batch_size: answers sampled at once.
    """

    num_samples: SampleEach = 64
    batch_size: CountEach = 256


class PlanSection(Section):
    """Where on the frontier to look, and what to train.

    Attributes:
        kl_coef: β, the price of one nat of divergence from the reference policy, in reward units.
        tail_masses: the α of the frontier.
        num_budgets: budgets per α, from the reference policy's risk almost down to the smallest
            reachable risk.
        targets: policies to train.
        num_members: up to this many further targets, named ``member-1`` and so on, are chosen from
            the frontier so that together they serve all its profiles.
    """

    kl_coef: Positive = 0.25
    tail_masses: Annotated[
        tuple[TailMass, ...], Field(strict=False, min_length=1, max_length=MOST_LISTED)
    ] = (0.05, 0.1, 0.25, 1.0)
    num_budgets: Annotated[int, Field(ge=2, le=MOST_LISTED)] = 8  # both ends of the frontier
    targets: Annotated[tuple[Target, ...], Field(strict=False, max_length=MOST_LISTED)] = ()
    num_members: Annotated[int, Field(ge=0, le=MOST_LISTED)] = 0

    # Names become folders side by side, and `base` is the reference policy's name in every table.
    @model_validator(mode="after")
    def _distinct_names(self) -> PlanSection:
        names = [target.name for target in self.targets]
        if "base" in names or len(set(names)) < len(names):
            raise ValueError("target names must differ from each other and from 'base'")
        if taken := set(self.member_names) & set(names):
            raise ValueError(
                f"target name '{taken.pop()}' is reserved for a member; choose another name"
            )
        return self

    @property
    def member_names(self) -> list[str]:
        """The names that members may have."""
        return [f"member-{k + 1}" for k in range(self.num_members)]


class TrainSection(Section):
    """How a LoRA policy is trained towards its target.

    Attributes:
        rank: rank of the LoRA update.
        distill_epochs: passes over the tilted bank.
        distill_samples: answers per prompt drawn from the tilt in each pass.
        distill_learning_rate: learning rate of the distillation.
        num_steps: on-policy steps after the distillation; 0 for none.
        prompts_per_step: prompts per on-policy step.
        num_generations: answers per prompt in an on-policy step.
        learning_rate: learning rate of the on-policy steps.
        micro_batch: the most answers in one forward pass of training; fewer take less memory, for
            the same steps.
        num_rounds: further trainings, of the on-policy steps alone: each trains the policy on whose
            profiles, of the frontier and served by mixes, lose most, as long as that helps on prompts
            of the bank that are held out of training (a quarter); 0 for none.
    """

    rank: CountEach = 16
    distill_epochs: CountEach = 2
    distill_samples: CountEach = 8
    distill_learning_rate: Positive = 1e-3
    num_steps: CountOrNone = 60
    prompts_per_step: CountEach = 16
    # Leave-one-out: the baseline of an answer is the mean of the prompt's other answers.
    num_generations: SampleEach = 8
    learning_rate: Positive = 2e-4
    micro_batch: CountEach = 32
    num_rounds: Annotated[int, Field(ge=0, le=MOST_LISTED)] = 0

    @model_validator(mode="after")
    def _rounds_have_steps(self) -> TrainSection:
        if self.num_rounds and not self.num_steps:
            raise ValueError(
                f"num_rounds: {self.num_rounds} with num_steps: 0; rounds are made of on-policy steps:"
                " give steps, or no rounds"
            )
        return self

    def num_held_out(self, num_prompts: int) -> int:
        """Prompts of the bank that are not trained on: a quarter, where there are rounds."""
        return num_prompts // 4 if self.num_rounds else 0


class DecodingSection(Section):
    """How answers are served or withheld.

    Attributes:
        pessimism: κ of the bounds, the ensemble's mean ∓ κ · its spread. At least
            ``scorers.pessimism``, so that the certified cost is never smaller than the cost that
            budgets are stated in; like it, 0 with a ``cost_model`` of one member.
        fallback: the text that replaces an answer that is not acceptable.
        confidence: confidence level of the certificates.
    """

    pessimism: NonNegative = 1.0
    fallback: Annotated[str, Field(min_length=1)] = "I am sorry, but I cannot help with that."
    confidence: Confidence = 0.95


class Recipe(Section):
    """Everything that a run is made from.

    Attributes:
        name: title of the report.
        seed: seed of everything random.
        policy: the reference policy.
        data: the sandbox or files.
        scorers: reward and cost.
        bank: scored samples of the reference policy.
        plan: frontier and targets.
        train: how targets are trained.
        dial: which soups of the trained policies are measured.
        decoding: how answers are drawn and when they are served.
        evaluate: what is compared.
    """

    name: str = "run"
    seed: Seed = 0
    policy: PolicySection = PolicySection()
    data: Annotated[SandboxData | FileData, Field(discriminator="source")] = SandboxData()
    scorers: ScorerSection = ScorerSection()
    bank: BankSection = BankSection()
    plan: PlanSection = PlanSection()
    train: TrainSection = TrainSection()
    dial: DialSection = DialSection()
    decoding: DecodingSection = DecodingSection()
    evaluate: EvaluateSection = EvaluateSection()

    @model_validator(mode="before")
    @classmethod
    def _defaults_of_cost(cls, fields: object) -> object:
        return with_defaults_of_cost(fields)

    # An answer that a scorer cannot read whole would be judged by its parts at best.
    @model_validator(mode="after")
    def _answers_fit_the_scorers(self) -> Recipe:
        scorers = self.scorers
        given = [scorers.reward_model, scorers.cost_model]
        reads_tokens = any(source is None or source.kind == "model" for source in given)
        if reads_tokens and self.policy.max_new_tokens > scorers.max_tokens:
            raise ValueError(
                f"policy.max_new_tokens: {self.policy.max_new_tokens} is more than the scorers read"
                f" (scorers.max_tokens: {scorers.max_tokens}); raise that or lower this"
            )
        return self

    # Budgets are in pessimistic cost. A certificate of a less pessimistic cost would say that a
    # budget is kept while the cost that it limits exceeds it.
    @model_validator(mode="after")
    def _certified_costs_cover_budgets(self) -> Recipe:
        if self.scorers.single_member_cost and self.decoding.pessimism > 0:
            raise ValueError(_needs_members("decoding.pessimism", self.decoding.pessimism))
        if self.decoding.pessimism < self.scorers.pessimism:
            raise ValueError(
                f"decoding.pessimism: {self.decoding.pessimism:g} is below scorers.pessimism "
                f"({self.scorers.pessimism:g}), which budgets are stated in; give at least that"
            )
        return self

    # Costs are clipped at the bound, so no risk exceeds it: such a limit would be kept by anything.
    @model_validator(mode="after")
    def _budgets_limit_something(self) -> Recipe:
        bound = self.scorers.cost_bound
        for number, limit in enumerate(self.plan.targets):
            if isinstance(limit.budget, float) and limit.budget >= bound:
                raise ValueError(
                    f"plan.targets.{number}.budget: {limit.budget:g} is not below scorers.cost_bound"
                    f" ({bound:g}), the largest cost there is; it would limit nothing"
                )
        floor = self.dial.floor
        if floor is not None and isinstance(floor.budget, float) and floor.budget >= bound:
            raise ValueError(
                f"dial.floor.budget: {floor.budget:g} is not below scorers.cost_bound ({bound:g}); it"
                " would limit nothing"
            )
        return self

    @model_validator(mode="after")
    def _raters_are_known(self) -> Recipe:
        named = [target.name for target in self.plan.targets if target.raters is not None]
        if named and self.scorers.raters is None:
            raise ValueError(
                f"plan.targets: '{named[0]}' names raters, and none are fitted; give scorers.raters"
                " (annotator or category)"
            )
        if named and self.train.num_rounds:
            raise ValueError(
                f"train.num_rounds: {self.train.num_rounds} with the raters of '{named[0]}'; rounds"
                " plan on the population's cost: leave out the one or the other"
            )
        return self
