"""What can be said of a recipe before anything is loaded: problems, notes, counts. Free of torch."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field

from tailguard.config import FileData, LimitSection, Recipe
from tailguard.errors import InputError
from tailguard.pipeline.inventory import FEWEST_LABELS, Inventory, take_inventory
from tailguard.pipeline.requirements import unmet_requirements

_FEWEST_IN_TAIL = 10  # answers that an estimate of a tail should rest on


@dataclass(frozen=True)
class CertificateOutlook:
    """What the prompts that are held out can certify of the dial.

    Attributes:
        tail_mass: the thinnest tail of the measure asked for.
        confidence: of each certificate, and of all that the dial shows together.
        num_prompts: held out.
        smallest_tail_mass: of a CVaR that so many prompts can bound below the declared largest cost.
        looseness: least distance of the bound from the threshold ν, as a share of cost_bound − ν: the
            part of the bound that only more prompts make smaller.
    """

    tail_mass: float
    confidence: float
    num_prompts: int
    smallest_tail_mass: float
    looseness: float


@dataclass(frozen=True)
class Checked:
    """The outcome.

    Attributes:
        problems: what a stage would refuse, one line each.
        notes: what is allowed and worth knowing.
        inventory: of the data; None where they cannot be read.
        certificate: of the dial; None where the recipe stops before it.
    """

    problems: list[str]
    notes: list[str] = field(default_factory=lambda: [])
    inventory: Inventory | None = None
    certificate: CertificateOutlook | None = None


def last_stage(recipe: Recipe) -> str:
    """The stage that a recipe is written for: where what the next one reads is not given."""
    if not (recipe.plan.targets or recipe.plan.num_members):
        return "plan"
    if isinstance(recipe.data, FileData) and not recipe.data.evaluation_prompts:
        return "calibrate"
    return "report"


def check_recipe(recipe: Recipe, stages: Collection[str]) -> Checked:
    """Every problem of a recipe for these stages, and what its data hold."""
    problems = unmet_requirements(recipe, stages)
    try:
        inventory = take_inventory(recipe, compare_splits=True)
    except InputError as error:
        return Checked([*problems, str(error)])
    certificate = certificate_outlook(recipe) if "calibrate" in stages else None
    return Checked(problems, list(_notes(recipe, inventory, stages)), inventory, certificate)


def certificate_outlook(recipe: Recipe) -> CertificateOutlook:
    """What ``data.num_certification`` prompts can certify of the dial."""
    num, confidence = recipe.data.num_certification, recipe.decoding.confidence
    # The bound cannot come closer to ν than (B − ν)/α · ln(1/δ)/n: see `prompts_needed`.
    least = -math.log1p(-confidence) / num
    tail_mass = _certified_target(recipe).risk_measure(recipe.scorers.cost_bound).smallest_tail
    return CertificateOutlook(tail_mass, confidence, num, least, least / tail_mass)


def _certified_target(recipe: Recipe) -> LimitSection:
    """Whose measure the dial is certified under: that of the first target with a pooled limit."""
    limits = [t for t in recipe.plan.targets if not t.is_unconstrained and t.scope == "pooled"]
    return limits[0] if limits else LimitSection(reduction=0.0)


def budget_unit(recipe: Recipe) -> str:
    """What a cost, and so a budget, of 1 means."""
    source = recipe.scorers.cost_model
    if source is not None:
        # A label's score, and a guard's verdict, are log-odds of one outcome against the others.
        odds = " (log-odds)" if source.endpoint or source.label is not None else ""
        name = source.python or source.endpoint or source.model
        return (
            f"budgets are in the units of {name}{odds}: look at its scores on answers you know; they"
            f" are clipped at scorers.cost_bound ({recipe.scorers.cost_bound:g})"
        )
    return (
        "budgets are in log-odds: of two answers whose costs differ by 1, people call the costlier one"
        " more harmful with odds of e to 1 (73%); above 0 an answer is more likely unsafe than safe"
    )


def _notes(recipe: Recipe, inventory: Inventory, stages: Collection[str]) -> Iterator[str]:
    yield budget_unit(recipe)
    yield from inventory.notes
    given = (recipe.scorers.reward_model, recipe.scorers.cost_model)
    others = [s.python or s.endpoint for s in given if s is not None and s.kind != "model"]
    if others:
        yield f"not in the estimates: the time of {' and '.join(others)}"
    if not recipe.scorers.cost_model:
        yield from _labels(inventory)
    answers = recipe.data.num_prompts * recipe.bank.num_samples
    thinnest = min(recipe.plan.tail_masses)
    if answers * thinnest < _FEWEST_IN_TAIL:
        yield (
            f"plan.tail_masses: {thinnest:g} of {answers} answers is {answers * thinnest:.1f} answers,"
            " too few to know a tail by; raise data.num_prompts or bank.num_samples"
        )
    smallest = 10 / recipe.data.num_calibration
    if "calibrate" in stages and smallest > 0.02:
        yield (
            f"data.num_calibration: {recipe.data.num_calibration}; the dial answers CVaR at α ≥"
            f" {min(1.0, smallest):.2g} on so many prompts"
        )


def _labels(inventory: Inventory) -> Iterator[str]:
    fewest = min(inventory.num_held_labels.get(name, 0) for name in ("safe", "unsafe"))
    if fewest < FEWEST_LABELS:
        yield (
            f"data.cost_pairs: {fewest} safe or unsafe labels among the held-out pairs, and"
            f" {FEWEST_LABELS} of each place the zero of the cost; without them give budgets as a"
            " reduction"
        )
