"""The dial of ``calibrate``: soup, level and price chosen together, and certificates along it."""

from __future__ import annotations

import math
import shutil
from collections.abc import Sequence
from dataclasses import asdict, replace

import numpy as np

from tailguard.artifacts import write_json
from tailguard.decoding.admission import admission_bound
from tailguard.decoding.decoder import Decoder, DrawSetting
from tailguard.decoding.dial import Dial, DialCertificate, describe_raters_limit
from tailguard.decoding.drawing import Scorers
from tailguard.decoding.joint import MeasuredPoint, RuleGrid, joint_table
from tailguard.decoding.outlook import Outlook
from tailguard.decoding.pool import Pool
from tailguard.decoding.rule import simulate
from tailguard.decoding.worth import AnswerScores, AnswerWorth
from tailguard.errors import InfeasibleError
from tailguard.pipeline.dial_artifact import MEMBERS_NAME, DialFile
from tailguard.pipeline.dial_bounds import draw_entry, entry_bounds
from tailguard.pipeline.plan_artifact import read_plan
from tailguard.pipeline.process_heads import HEADS_NAME, read_heads
from tailguard.pipeline.scorer_artifact import load_scorer_pair
from tailguard.pipeline.stage import Work
from tailguard.pipeline.stages.portfolio import (
    find_judge,
    load_soup,
    made_on,
    read_known_raters,
    read_portfolio,
)
from tailguard.pipeline.stages.prepare import read_split
from tailguard.pipeline.stages.train import trained_adapter
from tailguard.portfolio.dial import DialTable
from tailguard.portfolio.rater_tails import WORST, RatersAsked, RatersLimit
from tailguard.risk import CVaR, RiskLimit
from tailguard.risk.spelling import limit_to_json
from tailguard.scorers.shift import shift_limit

CERTIFICATES_NAME = "certificates.json"
DOUBT_NAME = "doubt.json"


def build_dial(work: Work) -> dict[str, object]:
    """Measure, choose, certify and write; the figures of the certificates."""
    recipe = work.recipe
    members, draws = read_portfolio(work.parents["portfolio"])
    judged = draws[0].pool.judged_cost is not None
    # Of every point, so that whichever a request gets keeps the rate.
    largest_shift = max(_shift_limit(each.pool, recipe.dial.shift_rate) for each in draws)
    points = [MeasuredPoint(each.point, each.pool.within(largest_shift), each.kl) for each in draws]
    worth = AnswerWorth.fit([each.pool for each in points])
    outlook = _outlook(work, members, points, worth)
    raters = read_known_raters(work.parents["portfolio"])
    entries, table = joint_table(
        points,
        worth,
        RuleGrid(
            recipe.dial.levels,
            recipe.dial.token_prices,
            recipe.dial.penalties,
            recipe.dial.num_draws,
            raters.admissions(),
        ),
        largest_cost=recipe.scorers.cost_bound,
        # A judge's reward shows where scorers were over-optimised; without one, distance from the
        # reference is what guards against it.
        kl_coef=0.0 if judged else recipe.plan.kl_coef,
        largest_withheld=recipe.dial.largest_withheld,
        outlook=outlook,
        raters=raters,
        on_progress=work.steps("calibrate: trying rules at points"),
    )
    floors = _floors(work, table)
    dial = Dial(
        entries,
        table,
        _default(work, table, draws[0].pool, floors),
        recipe.dial.token_price,
        margin=recipe.dial.margin,
        largest_kl=recipe.dial.largest_kl,
        measured_by="judge" if judged else "scorer",
        worth=worth,
        outlook=outlook,
        floors=floors,
        scored_raters=raters.scored,
        raters_measured_by=raters.measured_by,
    )
    setting = DrawSetting(
        max_new_tokens=recipe.policy.max_new_tokens,
        fallback=recipe.decoding.fallback,
        temperature=recipe.policy.temperature,
        max_draws=recipe.dial.num_draws,
    )
    certifiable = replace(dial, margin=recipe.dial.certified_margin)
    path = _path(certifiable, recipe.dial.num_certified)
    if dial.raters:
        path += _path(certifiable, min(recipe.dial.num_certified, _FOR_EACH), WORST)
    file = DialFile(
        dial, tuple(members), setting, recipe.decoding.pessimism, tuple(path), largest_shift
    )
    certificates = _certify(work, file, certifiable)
    file = replace(file, dial=replace(dial, certificates=tuple(certificates)))
    file.write(work.directory)
    for name in members:
        adapter = trained_adapter(work.parents["train"], name)
        assert adapter is not None  # only `base` has none, and it is no member
        shutil.copytree(adapter, work.directory / MEMBERS_NAME / name)
    described = [_described(file.dial, found) for found in certificates]
    write_json(work.directory / CERTIFICATES_NAME, described)
    write_json(work.directory / DOUBT_NAME, _effort(file.dial, points))
    shown = largest_shift if math.isfinite(largest_shift) else None
    return {"entries": len(entries), "largest_shift": shown, "certificates": described}


def _outlook(
    work: Work, members: list[str], points: Sequence[MeasuredPoint], worth: AnswerWorth
) -> Outlook | None:
    """The portfolio's heads in units of worth; None where there are none."""
    source = work.parents["portfolio"] / HEADS_NAME
    heads = read_heads(source, made_on(work, members))
    if heads is None or not work.recipe.dial.heads:
        return None
    shutil.copy(source, work.directory / HEADS_NAME)
    pools = [each.pool for each in points]
    scores = [AnswerScores.of_pool(pool) for pool in pools]
    utilities = {
        penalty: [worth.utility(each, penalty) for each in scores]
        for penalty in work.recipe.dial.penalties
    }
    return Outlook.fit(heads, worth.threshold, pools, utilities)


def _effort(dial: Dial, points: Sequence[MeasuredPoint]) -> list[dict[str, float]]:
    """What the default spends on prompts from the least to the most doubtful, in groups of equal size."""
    entry = dial.answer().entry
    pool = next(each.pool for each in points if each.point == entry.point)
    if pool.doubt is None:
        return []
    utility = dial.worth.utility(AnswerScores.of_pool(pool), entry.penalty)
    outlook = dial.outlook
    prospects = None if outlook is None else outlook.of_pool(pool, entry.penalty)
    bound = admission_bound(entry.admission, pool.cost_bound, pool.rater_bound, dial.scored_raters)
    outcome = simulate(pool, entry.rule, utility, prospects, bound)
    # Of the verdicts on a prompt's answers, whether they were drawn for it or not.
    doubt = pool.doubt.mean(axis=1)
    groups = np.array_split(np.argsort(doubt, kind="stable"), min(_GROUPS, pool.num_prompts))
    return [
        {
            "doubt": float(doubt[rows].mean()),
            "tokens": float(outcome.num_tokens[rows].mean()),
            "draws": float(outcome.num_draws[rows].mean()),
            "withheld": float((outcome.served[rows] < 0).mean()),
            "prompts": float(len(rows)),
        }
        for rows in groups
    ]


_GROUPS = 8


def _shift_limit(pool: Pool, rate: float) -> float:
    return math.inf if pool.shift is None else shift_limit(pool.shift, rate)


def _default(
    work: Work, table: DialTable, reference: Pool, floors: Sequence[RatersLimit]
) -> RiskLimit:
    """A budget between the strictest within reach and the risk of the reference's plain answers.

    On the measure of the strictest target, or where none has a limit, the tail that can be measured.
    """
    # What was planned for, not what a round trained a member towards: that may be a mean.
    targets = read_plan(work.parents["plan"]).targets
    limits = [target.limit for target in targets if target.limit is not None]
    pooled = [limit for limit in limits if limit.scope == "pooled"]
    measurable = [
        limit for limit in pooled if limit.measure.smallest_tail >= table.smallest_tail_mass
    ]
    if measurable:
        measure = min(measurable, key=lambda limit: limit.budget).measure
    else:
        measure = CVaR(min(1.0, max(0.1, table.smallest_tail_mass)))
    # Budgets of the plan are in pessimistic cost; the dial's are in the cost that it is measured by.
    risk, error = table.risks(measure)
    settings = work.recipe.dial
    # Within the reach of what can be certified.
    margin = max(settings.margin, settings.certified_margin)
    near = (table.kl <= settings.largest_kl) & table.keeps(floors, margin)
    strictest = float((risk + margin * error)[near].min())
    judged = reference.judged_cost
    cost = reference.cost_bound if judged is None else judged
    plain = measure.value(np.minimum(cost, work.recipe.scorers.cost_bound).ravel())
    return RiskLimit(measure, strictest + _DEFAULT_SHARE * max(plain - strictest, 0.0))


_DEFAULT_SHARE = 0.4  # of the way from the strictest to the reference


_FOR_EACH = 3  # limits for each rater that are certified


def _floors(work: Work, table: DialTable) -> tuple[RatersLimit, ...]:
    """The recipe's limit for all, if it has one.

    Raises:
        InfeasibleError: no entry keeps it.
    """
    floor = work.recipe.dial.floor
    if floor is None:
        return ()
    assert isinstance(floor.budget, int | float)  # the recipe takes no other
    limit = RiskLimit(floor.risk_measure(work.recipe.scorers.cost_bound), floor.budget)
    # As far below it as what is certified must be, so that there is something to certify.
    margin = max(work.recipe.dial.margin, work.recipe.dial.certified_margin)
    found = table.look_up(
        limit, margin=margin, raters=floor.raters, largest_kl=work.recipe.dial.largest_kl
    )
    asked = RatersLimit(limit, floor.raters)
    if not found.feasible:
        least = found.risk + margin * found.error
        raise InfeasibleError(
            f"dial.floor: {describe_raters_limit(asked)} is out of reach: the smallest risk that was"
            f" measured, with {margin:g} standard errors, is {least:.4g}; raise the budget",
            least,
        )
    return (asked,)


def _path(dial: Dial, num: int, raters: RatersAsked = None) -> list[RatersLimit]:
    """Budgets of the default's measure, from the strictest that is reachable to the loosest, and its own."""
    measure, table = dial.default.measure, dial.table
    risk, error = table.rater_risks(measure, raters)
    high = (risk + dial.margin * error).max(axis=1)
    near = (table.kl <= dial.largest_kl) & table.keeps(dial.floors, dial.margin)
    strictest = float(high[near].min())
    loosest = float(high[near][table.reward[near].argmax()])
    # A little above the strictest, so that rounding does not put it out of reach.
    budgets = np.linspace(strictest + 1e-6 + 1e-6 * abs(strictest), loosest, max(num, 1) + 1)[:num]
    if num:
        budgets = np.unique(np.append(budgets, max(dial.default.budget, budgets[0])))
    return [RatersLimit(RiskLimit(measure, float(budget)), raters) for budget in budgets]


def _certify(work: Work, file: DialFile, certifiable: Dial) -> list[DialCertificate]:
    """Bounds along the path, from strict to loose; `Dial.covered` says what they show together."""
    recipe, dial, path = work.recipe, file.dial, file.profiles
    prompts = read_split(work.parents["prepare"], "certify")
    if not path or not prompts:
        return []
    pair = load_scorer_pair(work.parents["fit-scorers"], recipe.scorers)
    decoder = Decoder(
        load_soup(work, list(file.members)),
        dial,
        Scorers(pair.reward, pair.cost.scorer, file.pessimism, file.largest_shift),
        file.setting,
        batch_size=recipe.bank.batch_size,
    )
    judge = find_judge(work)
    found: list[DialCertificate] = []
    for number, asked in enumerate(path):
        answer = certifiable.answer(asked.limit, raters=asked.raters)
        served = draw_entry(
            decoder,
            prompts,
            answer.number,
            seed=work.seed("certify"),
            on_progress=work.steps(f"certify: limit {number + 1} of {len(path)}"),
        )
        made = entry_bounds(
            dial,
            answer.number,
            asked,
            prompts,
            served,
            judge=judge,
            largest_cost=recipe.scorers.cost_bound,
            confidence=recipe.decoding.confidence,
        )
        found.append(made)
    return found


def _described(dial: Dial, found: DialCertificate) -> dict[str, object]:
    limit: dict[str, object] = dict(limit_to_json(found.limit) or {})
    content: dict[str, object] = asdict(found) | {"limit": limit} | limit
    asked = RatersLimit(found.limit, found.raters)
    content["asked"] = describe_raters_limit(asked)
    judged, scored = (found.bound(found.raters, by, dial.raters) for by in ("judge", "scorer"))
    return content | {
        # As asked: where that is for each group, of whoever bears the most.
        "scorer_bound": scored,
        "judge_bound": judged,
        "bounded": found.entry in dial.covered(asked, "scorer"),
        "certified": found.entry in dial.covered(asked, "judge"),
        "risk_upper_bound": judged if np.isfinite(judged) else scored,
    }
