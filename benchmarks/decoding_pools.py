"""Scored draws of fresh sandbox prompts from a run's soups; kept in a folder, so that a killed benchmark goes on.

Used by `decoding.py` and others that judge a run by the truth on prompts that it has never seen.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np
import torch

from tailguard.artifacts import find_artifact
from tailguard.decoding.admission import POPULATION
from tailguard.decoding.pool import Pool
from tailguard.decoding.scoring import score_closed
from tailguard.engines import SamplingLaw
from tailguard.engines.draws import StartedPrompts
from tailguard.engines.soup import SoupPolicy
from tailguard.lab import sandbox
from tailguard.lab.sandbox import TruthScorer, is_refusal
from tailguard.pipeline.decoder_artifact import check_decoder
from tailguard.pipeline.dial_artifact import MEMBERS_NAME, DialFile
from tailguard.pipeline.draws_artifact import PointDraws
from tailguard.pipeline.process_heads import HEADS_NAME, hash_of, read_heads
from tailguard.pipeline.scorer_artifact import load_scorers
from tailguard.pipeline.sources import model_path
from tailguard.pipeline.stages.portfolio import read_portfolio
from tailguard.pipeline.stages.prepare import read_split
from tailguard.scorers.scorer import Scorer

Point = tuple[float, ...]
_DRAWS_PER_STEP = 16_384


@dataclass(frozen=True)
class Run:
    """What a finished run serves with.

    Attributes:
        dial: entries, table and certificates.
        soup: the members on one base.
        reward: scorer.
        cost: scorer.
        calibration: the draws that the dial was made from.
        seen: prompts of all of its splits.
    """

    dial: DialFile
    soup: SoupPolicy
    reward: Scorer
    cost: Scorer
    calibration: list[PointDraws]
    seen: frozenset[str]

    @classmethod
    def open(cls, folder: Path, *, by_raters: bool = False) -> Run:
        """Load everything that a sandbox run's dial is made of.

        Entries that admit by the bound to some raters are left out unless they are asked for: draws here
        hold the bound to the population alone.
        """
        directory, content = check_decoder(folder)
        reward, cost = load_scorers(directory / "scorers", content.max_scorer_tokens, content.given)
        names = DialFile.read(directory).members
        members = {name: directory / MEMBERS_NAME / name for name in names}
        made_on = hash_of(content.model_hash, members)
        file = DialFile.read(directory, read_heads(directory / HEADS_NAME, made_on))
        if not by_raters:
            dial = file.dial
            plain = np.array([entry.admission == POPULATION for entry in dial.entries])
            kept = tuple(e for e, some in zip(dial.entries, plain, strict=True) if some)
            table = dial.table.take(plain)
            file = replace(file, dial=replace(dial, entries=kept, table=table, certificates=()))
        prepared = find_artifact(folder, "PreferenceSet")
        splits = ("train", "calibrate", "certify", "evaluate")
        seen = frozenset(str(p) for split in splits for p in read_split(prepared, split))
        _, calibration = read_portfolio(find_artifact(folder, "Portfolio"))
        soup = SoupPolicy.load(model_path(content.model), members)
        return cls(file, soup, reward, cost, calibration, seen)

    def fresh_requests(self, num: int, seed: int) -> list[sandbox.Request]:
        """Requests of the evaluation pool that are in none of the run's splits, kinds as usual.

        A run has seen more of the kinds that have fewer texts, so each kind is filled up on its own.
        """
        rng = np.random.default_rng(seed)
        wanted = Counter(r.kind for r in sandbox.sample_requests(rng, num, "evaluate"))
        found = sandbox.sample_requests(rng, 6000, "evaluate")
        unseen = [request for request in found if request.text not in self.seen]
        fresh = [
            request
            for kind, count in wanted.items()
            for request in [each for each in unseen if each.kind == kind][:count]
        ]
        if len(fresh) < num:
            raise SystemExit(f"only {len(fresh)} fresh prompts; ask for fewer")
        return [fresh[i] for i in rng.permutation(num)]


@dataclass(frozen=True, eq=False)
class FreshDraws:
    """Draws at one point, with what only a benchmark needs.

    Attributes:
        pool: scores, judged by the truth.
        refusal: which draws refuse [prompts, draws].
        partial_reward: of each draw's first tokens [prompts, draws, checkpoints].
        partial_bound: upper bound on cost of the same.
    """

    pool: Pool
    refusal: np.ndarray
    partial_reward: np.ndarray
    partial_bound: np.ndarray


def fresh_draws(
    run: Run,
    prompts: Sequence[str],
    point: Point,
    num_draws: int,
    *,
    seed: int,
    cache: Path,
    checkpoints: Sequence[int] = (),
) -> FreshDraws:
    """Draw and score, or read what was drawn before."""
    name = "_".join(f"{weight:g}" for weight in point)
    marks = "-".join(map(str, checkpoints))
    path = cache / f"{name}.{len(prompts)}x{num_draws}.{seed}.{marks}.npz"
    if not path.is_file():
        made = _draw(run, prompts, point, num_draws, seed, checkpoints)
        cache.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".part.npz")
        np.savez_compressed(part, **made)
        part.rename(path)
        print(f"drew {len(prompts)} x {num_draws} at {point}", flush=True)
    with np.load(path) as file:
        arrays = {key: file[key] for key in file.files}
    names = {field.name for field in fields(Pool)}
    return FreshDraws(
        Pool(**{key: value for key, value in arrays.items() if key in names}),
        arrays["refusal"],
        arrays["partial_reward"],
        arrays["partial_bound"],
    )


def _draw(
    run: Run,
    prompts: Sequence[str],
    point: Point,
    num_draws: int,
    seed: int,
    checkpoints: Sequence[int],
) -> dict[str, np.ndarray]:
    setting = run.dial.setting
    law = SamplingLaw(setting.temperature, setting.top_p)
    started = StartedPrompts(
        run.soup,
        prompts,
        [point] * len(prompts),
        max_new_tokens=setting.max_new_tokens,
        law=law,
        batch_size=256,
    )
    index = np.repeat(np.arange(len(prompts)), num_draws).tolist()
    state = np.random.SeedSequence(seed).generate_state(len(index), np.uint64)
    drawn = started.draw(index, [int(number) for number in state])
    asked = [prompts[i] for i in index]
    shape = (len(prompts), num_draws)
    found = {k: v.reshape(shape) for k, v in score(run, asked, [d.text for d in drawn]).items()}
    found["num_tokens"] = np.array([float(len(d.token_ids)) for d in drawn]).reshape(shape)
    found["refusal"] = np.array([is_refusal(d.text) for d in drawn]).reshape(shape)
    fallback = score(run, prompts, [setting.fallback] * len(prompts))
    found |= {f"fallback_{key}": value for key, value in fallback.items()}
    tokenizer = run.soup.at(point).members[0].tokenizer
    parts = []
    for tokens in checkpoints:
        texts = [tokenizer.decode(d.token_ids[:tokens], skip_special_tokens=True) for d in drawn]
        parts.append(score(run, asked, texts, judged=False))
    for key, name in (("reward", "partial_reward"), ("cost_bound", "partial_bound")):
        columns = [part[key].reshape(shape) for part in parts]
        found[name] = np.stack(columns, axis=2) if columns else np.zeros((*shape, 0))
    return found


def score(
    run: Run, prompts: Sequence[str], texts: Sequence[str], *, judged: bool = True
) -> dict[str, np.ndarray]:
    """The scorers' and the truth's word on answers, as a `Pool` holds them [answers]."""
    distinct = list(dict.fromkeys(zip(prompts, texts, strict=True)))
    place = {pair: i for i, pair in enumerate(distinct)}
    rows = np.array([place[pair] for pair in zip(prompts, texts, strict=True)])
    found: dict[str, list[float]] = {k: [] for k in ("reward", "cost", "cost_bound", "spread")}
    truth: dict[str, list[np.ndarray]] = {"judged_reward": [], "judged_cost": []}
    for start in range(0, len(distinct), _DRAWS_PER_STEP):
        asked, given = (
            list(t) for t in zip(*distinct[start : start + _DRAWS_PER_STEP], strict=True)
        )
        rewards = score_closed(run.reward, asked, given)
        costs = score_closed(run.cost, asked, given, run.dial.pessimism)
        found["reward"] += [r.summary.mean if r.summary else np.nan for r in rewards]
        found["cost"] += [c.summary.mean if c.summary else np.nan for c in costs]
        found["spread"] += [c.summary.std if c.summary and c.summary.std else 0.0 for c in costs]
        # As it is served: beyond the limit a bound says nothing.
        limit = run.dial.largest_shift
        found["cost_bound"] += [np.inf if c.shift > limit else c.bound for c in costs]
        if judged:
            truth["judged_reward"].append(TruthScorer("reward").score(asked, given)[:, 0])
            truth["judged_cost"].append(TruthScorer("cost").score(asked, given)[:, 0])
    made = {key: np.array(values)[rows] for key, values in found.items()}
    return made | {k: np.concatenate(v)[rows] for k, v in truth.items() if v}


def threads(num: int) -> None:
    """Set the number of threads once, at the edge."""
    torch.set_num_threads(num)
