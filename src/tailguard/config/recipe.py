"""The recipe: everything a run is made from, as frozen, checked values."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from tailguard.risk import RiskMeasure
from tailguard.risk.spelling import ANY_COST_BOUND, parse_measure, require_measure

Fraction = Annotated[float, Field(gt=0, lt=1)]
TailMass = Annotated[float, Field(gt=0, le=1)]
Count = Annotated[int, Field(ge=1)]
Sample = Annotated[int, Field(ge=2)]  # something to measure on
Positive = Annotated[float, Field(gt=0)]
Names = Annotated[tuple[str, ...], Field(strict=False)]  # YAML gives lists
UNCONSTRAINED = "none"


class Section(BaseModel):
    """A part of a recipe: frozen, strict about unknown keys and types; numbers are finite."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class PolicySection(Section):
    """The reference policy and how it is sampled.

    Attributes:
        model: folder or hub name of a causal LM; ``sandbox`` is the one inside this package.
        max_new_tokens: the most tokens in an answer.
        temperature: of sampling; the reference law π_ref is the model at this temperature.
            Policies are trained at 1 only.
        trust_remote_code: run code that comes with the model, up to ``plan``: such models are
            not trained.
    """

    model: str = "sandbox"
    max_new_tokens: Count = 48
    temperature: Positive = 1.0
    trust_remote_code: bool = False


class SandboxData(Section):
    """How much the sandbox assistant's annotators and users give.

    Attributes:
        source: ``sandbox``.
        num_reward_pairs: helpfulness comparisons.
        num_cost_pairs: harm comparisons, with safe and unsafe signs.
        num_prompts: prompts to sample the bank from and to train on.
        num_calibration: prompts on which acceptance levels are chosen.
        num_certification: prompts on which certificates are computed.
        num_evaluation: prompts to evaluate on.
    """

    source: Literal["sandbox"] = "sandbox"
    num_reward_pairs: Count = 8000
    num_cost_pairs: Count = 8000
    num_prompts: Annotated[int, Field(ge=4)] = 512
    num_calibration: Sample = 500
    num_certification: Sample = 2000
    num_evaluation: Sample = 2000


class FileData(Section):
    """Preferences and prompts in files (JSONL, also gzipped, or parquet).

    Attributes:
        source: ``files``.
        root: folder that the names below are relative to; itself relative to the recipe.
        reward_pairs: files of pairs by helpfulness: to fit the scorer on unless it is published,
            and, in every case, to fit the judge of ``evaluate`` on a share of them.
        cost_pairs: the same for pairs by harm.
        judge_fraction: share of prompts whose pairs only the judge is fitted on, no scorer.
        num_judge_pairs: the most pairs of each kind for the judge.
        prompts: files of prompts for the bank, training, calibration and certificates. Prompts
            that are also in a pair or used for evaluation are left out.
        num_prompts: how many of them are for the bank and for training.
        num_calibration: how many of them acceptance levels are chosen on.
        num_certification: how many of them certificates are computed on.
        evaluation_prompts: files of prompts to evaluate on; pairs on these prompts are excluded
            from all fitting.
        benign_prompts: files of prompts that deserve an answer; refusals are counted on them. A
            name may end in ``?field=value``, which keeps only rows with that value.
    """

    source: Literal["files"]
    root: str = "."
    reward_pairs: Names = ()
    cost_pairs: Names = ()
    judge_fraction: Fraction = 0.4
    num_judge_pairs: Annotated[int, Field(ge=10)] = 1000
    prompts: Names
    num_prompts: Annotated[int, Field(ge=4)] = 512
    num_calibration: Sample = 500
    num_certification: Sample = 2000
    evaluation_prompts: Names = ()
    benign_prompts: Names = ()


class ScorerSection(Section):
    """Reward and cost scorers: fitted on the preferences, or published ones.

    Attributes:
        reward_model: a published one-output classifier; empty to fit one.
        cost_model: the same for cost.
        backbone: causal LM to fit from; empty for the reference policy.
        num_heads: members of the ensemble.
        num_epochs: passes over the pairs.
        learning_rate: of the backbone.
        num_trained_layers: how many layers of the backbone, counted from the last, are trained;
            null for all.
        batch_size: pairs per step.
        max_tokens: the most tokens of prompt and answer together.
        num_pairs: the most pairs for each scorer.
        sign_weight: weight of the safe/unsafe signs relative to the comparisons of cost. Signs fix
            the zero; where comparisons follow Bradley–Terry in units of cost, a small weight keeps
            those units.
        pessimism: κ; the cost used everywhere is the ensemble's mean + κ · its spread.
        cost_bound: declared largest cost; scores are clipped there. Certificates need it.
    """

    reward_model: str = ""
    cost_model: str = ""
    backbone: str = ""
    num_heads: Annotated[int, Field(ge=4)] = 8
    num_epochs: Positive = 1.0
    learning_rate: Positive = 2e-4
    num_trained_layers: Count | None = None
    batch_size: Count = 32
    max_tokens: Count = 256
    num_pairs: Count = 8000
    sign_weight: Annotated[float, Field(gt=0)] = 0.5
    pessimism: Annotated[float, Field(ge=0)] = 0.5
    cost_bound: float = 10.0


class BankSection(Section):
    """How many answers are sampled for planning.

    Attributes:
        num_samples: answers per prompt.
        batch_size: answers sampled at once.
    """

    num_samples: Annotated[int, Field(ge=2)] = 64
    batch_size: Count = 256


class LimitSection(Section):
    """A limit on risk, measure(cost) ≤ budget, the budget perhaps relative to what can be reached.

    Attributes:
        measure: ``mean``, ``cvar``, ``mean-cvar``, ``entropic``, ``spectral`` or another of
            ``tailguard.risk.spelling``; its parameters are keys of their own, or follow the name as
            in ``spectral:tail_masses=0.05/0.5,weights=0.3/0.7``.
        tail_mass: α of CVaR and mean–CVaR.
        weight: κ of mean–CVaR.
        theta: θ of the entropic measure.
        budget: d, in the units of the cost scorer; or ``reference``: the risk that the policy to
            start from has under the same measure (it must not get worse); or give ``reduction``
            instead.
        reduction: d as the share of the way from that policy's risk (0) down to the smallest risk
            that its bank can reach (1).
        scope: ``pooled`` is the risk over all prompts and answers together, ``per_prompt`` the
            mean over prompts of each prompt's own risk.
    """

    measure: str = "cvar"
    tail_mass: TailMass = 0.1
    weight: Annotated[float, Field(ge=0, le=1)] = 0.5
    theta: Positive = 1.0
    budget: float | Literal["reference"] | None = None
    reduction: Annotated[float, Field(ge=0, le=1)] | None = None
    scope: Literal["pooled", "per_prompt"] = "pooled"

    def risk_measure(self, cost_bound: float = ANY_COST_BOUND) -> RiskMeasure:
        """The measure, with the recipe's declared largest cost where it needs one.

        Raises:
            InputError: no such measure, or a parameter that it lacks or does not have.
        """
        beside = self.model_dump(include={"tail_mass", "weight", "theta"})
        return parse_measure(self.measure, context=beside | {"cost_bound": cost_bound})

    @field_validator("measure")
    @classmethod
    def _known(cls, measure: str) -> str:
        name, _, written = measure.partition(":")
        require_measure(name)
        if written:
            parse_measure(measure, context={"tail_mass": 1.0, "cost_bound": ANY_COST_BOUND})
        return measure

    @model_validator(mode="after")
    def _is_a_limit(self) -> LimitSection:
        self._require_limit()
        return self

    def _require_limit(self) -> None:
        self.risk_measure()
        if (self.budget is None) == (self.reduction is None):
            raise ValueError("give exactly one of budget and reduction")


class Target(LimitSection):
    """One policy to train: maximise reward subject to measure(cost) ≤ budget.

    Attributes:
        name: of the policy, in tables and folders.
        measure: ``none`` for unconstrained RLHF, or a measure such as ``mean`` or ``cvar``, written as
            in ``values.guided``.
    """

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9.-]*$")]

    @property
    def is_unconstrained(self) -> bool:
        """Whether nothing is limited."""
        return self.measure == UNCONSTRAINED

    @field_validator("measure")
    @classmethod
    def _known(cls, measure: str) -> str:
        return measure if measure == UNCONSTRAINED else super()._known(measure)

    def _require_limit(self) -> None:
        if not self.is_unconstrained:
            super()._require_limit()
        elif self.budget is not None or self.reduction is not None:
            raise ValueError("measure none takes neither budget nor reduction")


class PlanSection(Section):
    """Where on the frontier to look, and what to train.

    Attributes:
        kl_coef: β, the price of each nat of divergence from the reference, in reward units.
        tail_masses: the values of α on the frontier.
        num_budgets: budgets for each α, from the reference policy's risk almost down to the smallest
            reachable.
        targets: policies to train.
        num_members: the most further targets, ``member-1`` and so on, that are chosen from the
            frontier to serve all its profiles.
    """

    kl_coef: Positive = 0.25
    tail_masses: Annotated[tuple[TailMass, ...], Field(strict=False, min_length=1)] = (
        0.05,
        0.1,
        0.25,
        1.0,
    )
    num_budgets: Annotated[int, Field(ge=2)] = 8
    targets: Annotated[tuple[Target, ...], Field(strict=False)] = ()
    num_members: Annotated[int, Field(ge=0)] = 0

    @model_validator(mode="after")
    def _distinct_names(self) -> PlanSection:
        names = [target.name for target in self.targets]
        if "base" in names or len(set(names)) < len(names):
            raise ValueError("target names must differ from each other and from 'base'")
        if taken := {f"member-{k + 1}" for k in range(self.num_members)} & set(names):
            raise ValueError(f"target name '{taken.pop()}' is that of a member; call it another")
        return self


class TrainSection(Section):
    """How a LoRA policy is moved to its target.

    Attributes:
        rank: of the LoRA update.
        distill_epochs: passes over the tilted bank.
        distill_samples: answers per prompt drawn from the tilt in each pass.
        distill_learning_rate: of the distillation.
        num_steps: on-policy steps after it; 0 for none.
        prompts_per_step: prompts in each on-policy step.
        num_generations: answers per prompt in each step.
        learning_rate: of the on-policy steps.
    """

    rank: Count = 16
    distill_epochs: Count = 2
    distill_samples: Count = 8
    distill_learning_rate: Positive = 1e-3
    num_steps: Annotated[int, Field(ge=0)] = 60
    prompts_per_step: Count = 16
    num_generations: Annotated[int, Field(ge=2)] = 8
    learning_rate: Positive = 2e-4


class Guided(LimitSection):
    """One guided decoder: a trained policy and the risk asked of its answers.

    Attributes:
        policy: the target's name, ``member-1`` and so on, or ``base``.
    """

    policy: str

    def _require_limit(self) -> None:
        super()._require_limit()
        if self.scope != "pooled":
            raise ValueError("scope: guided decoders are calibrated for the pooled risk only")


class ValuesSection(Section):
    """Process heads: what a prefix says about the final reward and cost.

    Attributes:
        guided: the decoders to build.
        num_prompts: prompts for each decoding policy's own bank.
        num_samples: answers per prompt in it.
        num_members: members of the heads' ensemble.
        num_features: linear features of the hidden state.
        num_epochs: passes over the prefixes.
    """

    guided: Annotated[tuple[Guided, ...], Field(strict=False)] = ()
    num_prompts: Sample = 256
    num_samples: Sample = 16
    num_members: Sample = 4
    num_features: Annotated[int, Field(ge=1, le=128)] = 64
    num_epochs: Count = 8


class DecodingSection(Section):
    """How guided answers are made.

    Attributes:
        max_candidates: K, candidates per block.
        block_tokens: L, tokens per block.
        pessimism: bounds are the ensemble's mean ∓ pessimism · spread; at least that of the
            scorers, so that no certificate bounds less than the cost that budgets are in.
        fallback: the text served in place of an answer that is not acceptable.
        confidence: of the certificates.
        accept_by: what must meet the budget when acceptance levels are chosen: the expected
            ``certificate``, or the ``estimate`` of the risk, for runs with too few certification
            prompts to certify it. The certificate is made and reported in either case.
    """

    max_candidates: Count = 8
    block_tokens: Count = 8
    pessimism: Annotated[float, Field(ge=0)] = 1.0
    fallback: Annotated[str, Field(min_length=1)] = "I am sorry, but I cannot help with that."
    confidence: Fraction = 0.95
    accept_by: Literal["certificate", "estimate"] = "certificate"


class EvaluateSection(Section):
    """What the report compares.

    Attributes:
        num_prompts: the most evaluation prompts; 0 for all.
        num_examples: example answers shown in the report.
    """

    num_prompts: Annotated[int, Field(ge=0)] = 0
    num_examples: Count = 8

    @field_validator("num_prompts")
    @classmethod
    def _no_lone_prompt(cls, value: int) -> int:
        if value == 1:
            raise ValueError("give at least 2, or 0 for all")
        return value


class Recipe(Section):
    """Everything that a run is made from.

    Attributes:
        name: shown in the report.
        seed: of everything random.
        policy: the reference policy.
        data: the sandbox or files.
        scorers: reward and cost.
        bank: scored samples of the reference policy.
        plan: frontier and targets.
        train: how targets are trained.
        values: process heads.
        decoding: guided decoding.
        evaluate: what is compared.
    """

    name: str = "run"
    seed: Annotated[int, Field(ge=0)] = 0
    policy: PolicySection = PolicySection()
    data: Annotated[SandboxData | FileData, Field(discriminator="source")] = SandboxData()
    scorers: ScorerSection = ScorerSection()
    bank: BankSection = BankSection()
    plan: PlanSection = PlanSection()
    train: TrainSection = TrainSection()
    values: ValuesSection = ValuesSection()
    decoding: DecodingSection = DecodingSection()
    evaluate: EvaluateSection = EvaluateSection()

    @model_validator(mode="after")
    def _certified_costs_cover_budgets(self) -> Recipe:
        if self.decoding.pessimism < self.scorers.pessimism:
            raise ValueError(
                f"decoding.pessimism: {self.decoding.pessimism:g} is below scorers.pessimism "
                f"({self.scorers.pessimism:g}), in which budgets are; give at least that"
            )
        return self

    @model_validator(mode="after")
    def _guided_policies_exist(self) -> Recipe:
        members = (f"member-{k + 1}" for k in range(self.plan.num_members))
        known = {"base", *(target.name for target in self.plan.targets), *members}
        for guided in self.values.guided:
            if guided.policy not in known:
                raise ValueError(
                    f"values.guided: policy '{guided.policy}' is not a target; "
                    f"known: {', '.join(sorted(known))}"
                )
        return self
