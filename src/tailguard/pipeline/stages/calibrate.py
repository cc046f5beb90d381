"""``calibrate``: Portfolio → Decoder: soup, level and price chosen together, and certificates."""

from __future__ import annotations

import shutil

from tailguard.config import Recipe
from tailguard.pipeline.decoder_artifact import DECODER_NAME, DecoderFile
from tailguard.pipeline.scorer_artifact import given_sources, source_hashes
from tailguard.pipeline.seen_prompts import write_seen_prompts
from tailguard.pipeline.sources import policy_input
from tailguard.pipeline.stage import Stage, Work
from tailguard.pipeline.stages.calibrate_dial import build_dial
from tailguard.pipeline.stages.prepare import taught_prompt_ids


def _config(recipe: Recipe) -> dict[str, object]:
    return {
        # The policy's name too: `decoder.json` holds it, so that a decoder finds its model.
        "decoding": recipe.decoding.model_dump(),
        "policy": recipe.policy.model_dump(),
        "scorers": recipe.scorers.model_dump(include={"cost_bound", "max_tokens"}),
        "dial": recipe.dial.model_dump(),
        "kl_coef": recipe.plan.kl_coef,
    }


def _build(work: Work) -> dict[str, object]:
    _write(work)
    return build_dial(work)


STAGE = Stage(
    "calibrate",
    "Decoder",
    15,
    ("prepare", "fit-scorers", "plan", "train", "portfolio"),
    _config,
    policy_input,
    _build,
)


def _write(work: Work) -> None:
    """Copy everything that answering needs; models from elsewhere are named with their hashes."""
    directory, recipe = work.directory, work.recipe
    scorers = work.parents["fit-scorers"]
    shutil.copytree(scorers, directory / "scorers", ignore=shutil.ignore_patterns("manifest.json"))
    content = DecoderFile(
        model=recipe.policy.model,
        model_hash=policy_input(recipe)["policy"],
        trust_remote_code=recipe.policy.trust_remote_code,
        cost_bound=recipe.scorers.cost_bound,
        max_scorer_tokens=recipe.scorers.max_tokens,
        dtype=recipe.policy.dtype,
        given=given_sources(recipe.scorers),
        scorer_hashes=source_hashes(given_sources(recipe.scorers)),
    )
    content.write(directory / DECODER_NAME)
    # `tailguard certify` refuses these: a bound on prompts that took part would not hold.
    write_seen_prompts(directory, taught_prompt_ids(work.parents["prepare"]))
