"""Whether ids follow the bytes of raw data and models, and nothing else."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from chain_runs import Chain, ChainError

from tailguard.artifacts import read_json, read_manifest
from tailguard.config import load_recipe
from tailguard.data.table import read_table


def check_edits(run: Chain, source: Path, folder: Path) -> dict[str, bool]:
    """Edit raw data and the model of a small run, and see which ids follow.

    Args:
        run: a run on the sandbox.
        source: its folder, whose pairs and prompts are used.
        folder: empty, to work in.

    Raises:
        ChainError: an id that should have changed did not, or the other way round.
    """
    chain = _write_file_recipe(run, source, folder)

    def ids() -> tuple[str, str]:
        fitted = Path(chain.finish(folder / "out", "fit-scorers").strip())
        parents = read_manifest(fitted).parents
        return parents["prepare"]["id"], read_manifest(fitted).id

    first = ids()
    data, model = folder / "cost.jsonl", folder / "model" / "config.json"
    data.touch()
    model.touch()
    touched = ids()
    content = data.read_bytes()
    data.write_bytes(b"".join(content.splitlines(keepends=True)[:-1]))
    edited_data = ids()
    data.write_bytes(content)
    restored = ids()
    model.write_text(model.read_text() + "\n")
    edited_model = ids()
    checks = {
        "touched files keep the ids": touched == first,
        "edited data changes prepare": edited_data[0] != first[0],
        "edited data changes what follows": edited_data[1] != first[1],
        "restored data has the first ids": restored == first,
        "an edited model keeps prepare": edited_model[0] == first[0],
        "an edited model changes fit-scorers": edited_model[1] != first[1],
    }
    for what, holds in checks.items():
        if not holds:
            raise ChainError(f"not so: {what}")
    return checks


def _write_file_recipe(run: Chain, source: Path, folder: Path) -> Chain:
    """The pairs and prompts of a sandbox run as files, its model as a folder."""
    from tailguard.lab.sandbox import base_policy_path

    prepared = source / read_json(source / "run.json")["PreferenceSet"]
    model = load_recipe(run.recipe, run.overrides).policy.model
    shutil.copytree(base_policy_path() if model == "sandbox" else model, folder / "model")
    for kind in ("reward", "cost"):
        columns = read_table(prepared / f"{kind}_pairs.parquet")
        fields = ("prompt", "chosen", "rejected", "chosen_safe", "rejected_safe")
        rows = zip(*(columns[name] for name in fields), strict=True)
        lines = [
            json.dumps({"prompt": json.loads(p)} | dict(zip(fields[1:], rest, strict=True)))
            for p, *rest in rows
        ]
        (folder / f"{kind}.jsonl").write_text("\n".join(lines) + "\n")
    prompts = [f'{{"prompt": "request {number}"}}' for number in range(12)]
    (folder / "prompts.jsonl").write_text("\n".join(prompts) + "\n")
    fitted = read_manifest(source / read_json(source / "run.json")["ScorerPair"])
    recipe = {
        "policy": {"model": "./model"},
        "data": {
            "source": "files",
            "reward_pairs": ["reward.jsonl"],
            "cost_pairs": ["cost.jsonl"],
            "judge_fraction": 0.01,
            "prompts": ["prompts.jsonl"],
            **dict.fromkeys(("num_prompts", "num_calibration", "num_certification"), 4),
        },
        "scorers": {key: fitted.config["scorers"][key] for key in ("max_tokens", "num_epochs")},
    }
    (folder / "recipe.yaml").write_text(json.dumps(recipe))  # JSON is YAML
    return Chain(run.program, folder / "recipe.yaml")
