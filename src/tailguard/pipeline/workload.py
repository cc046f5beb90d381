"""How much each stage asks of the models, in tokens: arithmetic on the recipe and its data's counts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from tailguard.config import Recipe
from tailguard.pipeline.inventory import Inventory
from tailguard.pipeline.points import measured_points
from tailguard.pipeline.process_heads import MOST_PROMPTS, NUM_DRAWS, NUM_POINTS
from tailguard.values.heads import FEWEST_PROMPTS

# A backward pass costs about twice its forward pass; half of that is the weights' own gradient,
# which frozen weights under a LoRA update do not need.
_FULL_TRAINING, _LORA_TRAINING = 3.0, 2.0
_USUAL_DRAWS = 3  # of an answer on the dial, as seen on the sandbox


@dataclass(frozen=True)
class Lengths:
    """Mean lengths in tokens of the policy.

    Attributes:
        prompt: of a rendered prompt.
        answer: of an answer that the policy draws.
        pair_answer: kind of score → of an answer in its pairs.
        num_layers: of the policy, to know what share of it is trained.
    """

    prompt: float
    answer: float
    pair_answer: Mapping[str, float]
    num_layers: int


@dataclass(frozen=True)
class StageLoad:
    """What one stage asks of the models.

    Attributes:
        read_tokens: read without gradients.
        drawn_tokens: drawn one after the other.
        draw_steps: model calls that draw them, each for a whole batch.
        trained_tokens: read with gradients, in tokens of plain reading that take as long.
        optimiser_steps: updates of weights.
        num_parts: independent parts, which worker processes share.
        rows: most rows of a batch that is drawn.
        trained_rows: most rows of a batch with gradients.
        num_models: models that a process holds at once, in units of the policy.
    """

    read_tokens: float | int = 0
    drawn_tokens: float | int = 0
    draw_steps: float | int = 0
    trained_tokens: float | int = 0
    optimiser_steps: float | int = 0
    num_parts: int = 1
    rows: int = 0
    trained_rows: int = 0
    num_models: float | int = 0

    def __add__(self, other: StageLoad) -> StageLoad:
        """Both, one after the other in the same processes."""
        return StageLoad(
            self.read_tokens + other.read_tokens,
            self.drawn_tokens + other.drawn_tokens,
            self.draw_steps + other.draw_steps,
            self.trained_tokens + other.trained_tokens,
            self.optimiser_steps + other.optimiser_steps,
            max(self.num_parts, other.num_parts),
            max(self.rows, other.rows),
            max(self.trained_rows, other.trained_rows),
            self.num_models + other.num_models,
        )

    def times(self, number: int, *, side_by_side: bool = False) -> StageLoad:
        """The same work ``number`` times, on one model after another or side by side."""
        return StageLoad(
            self.read_tokens * number,
            self.drawn_tokens * number,
            self.draw_steps * number,
            self.trained_tokens * number,
            self.optimiser_steps * number,
            number if side_by_side else self.num_parts,
            self.rows,
            self.trained_rows,
            self.num_models,
        )


def workload(recipe: Recipe, inventory: Inventory, lengths: Lengths) -> dict[str, StageLoad]:
    """Stage → its load; stages that run no model are left out."""
    return _Workload(recipe, inventory, lengths).stages()


@dataclass(frozen=True)
class _Workload:
    recipe: Recipe
    inventory: Inventory
    lengths: Lengths

    def stages(self) -> dict[str, StageLoad]:
        recipe = self.recipe
        num_prompts, num_samples = recipe.data.num_prompts, recipe.bank.num_samples
        answers = num_prompts * num_samples
        targets = len(recipe.plan.targets) + recipe.plan.num_members
        stages = {
            "fit-scorers": self._fitted(),
            "sample": self._drawn(num_prompts, num_samples),
            "bank": self._scored(answers),
        }
        if targets:
            first = (self._distilled() + self._on_policy()).times(targets, side_by_side=True)
            stages["train"] = first + self._rounds(targets)
            stages |= {"portfolio": self._measured(targets)} | self._dial(targets)
        return {name: load for name, load in stages.items() if load.num_models or load.rows}

    @property
    def _exchange(self) -> float:
        """Tokens of a prompt and its answer."""
        return self.lengths.prompt + self.lengths.answer

    def _fitted(self) -> StageLoad:
        settings, total = self.recipe.scorers, StageLoad()
        kinds = [k for k in ("reward", "cost") if not getattr(settings, f"{k}_model")]
        layers = settings.num_trained_layers
        share = 1.0 if layers is None else layers / max(1, self.lengths.num_layers)
        for kind in kinds:
            roles = self.inventory.num_pairs.get(kind, {})
            train, held = (
                min(roles.get(role, 0), settings.num_pairs) for role in ("train", "validate")
            )
            length = min(
                settings.max_tokens,
                self.lengths.prompt + self.lengths.pair_answer.get(kind, self.lengths.answer),
            )
            total += StageLoad(
                # The heads are fitted on features of the trained model: one more pass.
                read_tokens=2 * (train + held) * length,
                trained_tokens=2 * train * length * settings.num_epochs
                * (1.0 + (_FULL_TRAINING - 1.0) * share),
                optimiser_steps=train * settings.num_epochs / settings.batch_size,
                trained_rows=2 * settings.batch_size,
            )  # fmt: skip
        parts = max(1, len(kinds))
        # Gradients, and two moments of Adam: three more copies of what is trained.
        models = 1.0 + 3.0 * share if kinds else 0.0
        return replace(total, num_parts=parts, num_models=models)

    def _drawn(self, num_prompts: int, num_samples: int) -> StageLoad:
        rows = self.recipe.bank.batch_size
        answers = num_prompts * num_samples
        if not answers:  # without evaluation prompts, for a recipe that stops before
            return StageLoad()
        at_once = min(answers, max(rows // num_samples, 1) * num_samples)
        return StageLoad(
            read_tokens=num_prompts * self.lengths.prompt,
            drawn_tokens=answers * self.lengths.answer,
            draw_steps=-(-answers // at_once) * self.recipe.policy.max_new_tokens,
            rows=min(at_once, rows),
            num_models=1,
        )

    def _scored(self, answers: int) -> StageLoad:
        """Read by the reward's model and by the cost's, where they are models that we run."""
        scorers = self.recipe.scorers
        whole = min(self._exchange, scorers.max_tokens)
        alone = min(self.lengths.answer, scorers.max_tokens)
        read, num_models = 0.0, 0
        for kind, source in (("reward", scorers.reward_model), ("cost", scorers.cost_model)):
            if source is not None and source.kind != "model":
                continue
            num_models += 1
            pair = source is None or source.input == "pair"
            read += whole if pair else alone
            # A cost that reads pairs is also taken with the prompt withheld.
            read += alone if pair and kind == "cost" else 0.0
        return StageLoad(read_tokens=answers * read, num_models=num_models)

    def _distilled(self) -> StageLoad:
        settings = self.recipe.train
        per_prompt = min(settings.distill_samples, self.recipe.bank.num_samples)
        rows = settings.distill_epochs * self.recipe.data.num_prompts * per_prompt
        batch = 32  # of distillation's own
        return StageLoad(
            trained_tokens=rows * self._exchange * _LORA_TRAINING,
            optimiser_steps=rows / batch,
            trained_rows=min(batch, settings.micro_batch),
            num_models=1,
        )

    def _on_policy(self) -> StageLoad:
        settings, policy = self.recipe.train, self.recipe.policy
        if not settings.num_steps:
            return StageLoad()
        at_once = settings.prompts_per_step * settings.num_generations
        answers = settings.num_steps * at_once
        return self._scored(answers) + StageLoad(
            # Drawn by the trainer, which reads each prompt for each of its answers; then read by the
            # reference and by the policy of before the step.
            read_tokens=answers * (self.lengths.prompt + 2 * self._exchange),
            drawn_tokens=answers * policy.max_new_tokens,  # ended rows stay in the batch
            draw_steps=settings.num_steps * policy.max_new_tokens,
            trained_tokens=answers * self._exchange * _LORA_TRAINING,
            optimiser_steps=settings.num_steps,
            rows=at_once,
            trained_rows=min(at_once, settings.micro_batch),
        )

    def _rounds(self, num_targets: int) -> StageLoad:
        """One after the other; each member reads the bank once, and again when it was trained on."""
        num_rounds = self.recipe.train.num_rounds
        if not num_rounds:
            return StageLoad()
        answers = self.recipe.data.num_prompts * self.recipe.bank.num_samples
        read = StageLoad(read_tokens=answers * self._exchange)
        return self._on_policy().times(num_rounds) + read.times(num_targets + num_rounds)

    def _measured(self, num_targets: int) -> StageLoad:
        """Draws at every point, read by the reference and scored."""
        dial = self.recipe.dial
        num_prompts = self.inventory.num_prompts["calibrate"]
        answers = num_prompts * dial.num_draws
        drawn = self._drawn(num_prompts, dial.num_draws) + self._scored(answers)
        each = drawn + StageLoad(read_tokens=answers * self._exchange)
        points = len(measured_points(num_targets, dial.shares, dial.scales))
        measured = each.times(points, side_by_side=True)
        taught = min(self.inventory.num_prompts["train"], MOST_PROMPTS)
        if not dial.heads or taught < FEWEST_PROMPTS:
            return measured
        answers = taught * NUM_DRAWS
        seen = self._drawn(taught, NUM_DRAWS) + self._scored(answers)
        return measured + seen.times(NUM_POINTS)

    def _dial(self, num_targets: int) -> dict[str, StageLoad]:
        """Certificates along the dial, and what the report compares."""
        counts, limits = self.inventory.num_prompts, self.recipe.dial.num_certified
        evaluated = self._num_evaluated
        plain = (self._drawn(evaluated, 1) + self._scored(evaluated)).times(1 + num_targets)
        served = self._drawn(evaluated, _USUAL_DRAWS) + self._scored(evaluated * _USUAL_DRAWS)
        held = counts["certify"]
        certified = self._drawn(held, _USUAL_DRAWS) + self._scored(held * _USUAL_DRAWS)
        parts = 1 + num_targets + 1 + limits
        return {
            "calibrate": certified.times(limits + 1 if limits else 0),  # and the default
            "evaluate": replace(plain + served.times(1 + limits), num_parts=parts, num_models=3),
        }

    @property
    def _num_evaluated(self) -> int:
        counts, recipe = self.inventory.num_prompts, self.recipe
        evaluated = min(counts["evaluate"], recipe.evaluate.num_prompts or counts["evaluate"])
        return evaluated + (counts["benign"] if recipe.data.source == "files" else 0)
