"""``prepare``: raw preferences and prompts → PreferenceSet; every split is by prompt."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tailguard.config import FileData, Recipe, SandboxData
from tailguard.data import (
    Overlap,
    Preference,
    Prompt,
    PromptSplits,
    describe_near_duplicates,
    find_near_duplicates,
    find_pair_faults,
    prompt_id,
    read_placed_preferences,
    read_prompts,
    split_prompts,
    with_prompts,
)
from tailguard.data.table import read_table, write_table
from tailguard.errors import InputError
from tailguard.pipeline.sources import data_path, file_hashes
from tailguard.pipeline.stage import Stage, Work, numpy_generator

_VALIDATION_SHARE = 0.1  # of the prompts: their pairs check the scorers and fix their units


def _config(recipe: Recipe) -> dict[str, object]:
    # The root is left out: files count by name and content, so that a moved folder changes nothing.
    return {"data": recipe.data.model_dump(mode="json", exclude={"root"})}


def _build(work: Work) -> dict[str, object]:
    data = work.recipe.data
    raw = read_data(work.recipe)
    splits = raw.splits
    overlaps = near_duplicates(raw) if isinstance(data, FileData) else []
    metrics: dict[str, object] = {
        "near_duplicates": {f"{o.first}, {o.second}": o.count for o in overlaps},
        "notes": [*raw.notes, *filter(None, [describe_near_duplicates(overlaps)])],
    }
    for kind, rows in raw.pairs.items():
        roles = pair_roles(rows, data)
        _write_pairs(work.directory / f"{kind}_pairs.parquet", rows, roles)
        metrics |= {f"num_{kind}_{role}": roles.count(role) for role in sorted(set(roles))}
    rows = [(name, prompt) for name in splits.names() for prompt in getattr(splits, name)]
    write_table(
        work.directory / "prompts.parquet",
        {
            "split": [name for name, _ in rows],
            "prompt_id": [prompt_id(prompt) for _, prompt in rows],
            "prompt": [json.dumps(prompt) for _, prompt in rows],
        },
    )
    return metrics | {f"num_{name}": len(getattr(splits, name)) for name in splits.names()}


STAGE = Stage("prepare", "PreferenceSet", 4, (), _config, file_hashes, _build)


def read_pairs(directory: Path, kind: str, role: str) -> list[Preference]:
    """Pairs of a PreferenceSet; an empty list if it has none.

    Args:
        directory: of the PreferenceSet.
        kind: ``reward`` or ``cost``.
        role: ``train`` or ``validate``; ``judge-train`` or ``judge-validate`` for the judge's.
    """
    path = directory / f"{kind}_pairs.parquet"
    if not path.is_file():
        return []
    columns = read_table(path)
    rows = zip(columns["role"], *(columns[name] for name in ("prompt", *_OF_PAIR)), strict=True)
    return [
        Preference(json.loads(prompt), **dict(zip(_OF_PAIR, rest, strict=True)))
        for found, prompt, *rest in rows
        if found == role
    ]


_OF_PAIR = ("chosen", "rejected", "chosen_safe", "rejected_safe", "annotator", "category")


def read_split(directory: Path, split: str) -> list[Prompt]:
    """Prompts of one split of a PreferenceSet."""
    columns = read_table(directory / "prompts.parquet")
    return [
        json.loads(prompt)
        for name, prompt in zip(columns["split"], columns["prompt"], strict=True)
        if name == split
    ]


def taught_prompt_ids(directory: Path) -> set[str]:
    """Ids of the prompts that scorers, policies, heads or acceptance levels were fitted on."""
    prompts = [*read_split(directory, "train"), *read_split(directory, "calibrate")]
    for kind in ("reward", "cost"):
        for role in ("train", "validate"):
            prompts += [pair.prompt for pair in read_pairs(directory, kind, role)]
    return {prompt_id(prompt) for prompt in prompts}


@dataclass(frozen=True)
class RawData:
    """All that the artifact will hold.

    Attributes:
        pairs: kind of score → pairs.
        splits: prompts by what they are for.
        notes: what a user should know of the files, one line each.
    """

    pairs: dict[str, list[Preference]]
    splits: PromptSplits
    notes: tuple[str, ...] = ()


def read_data(recipe: Recipe) -> RawData:
    """Read, or draw, the pairs and prompts of a recipe.

    Raises:
        InputError: a file is missing or wrong, with its line; too few prompts.
    """
    data = recipe.data
    return _files(recipe, data) if isinstance(data, FileData) else _sandbox(recipe, data)


def near_duplicates(raw: RawData) -> list[Overlap]:
    """Prompts that are close to one of another split; the pairs' are a split too.

    In the sandbox all requests are made from templates, so only files are worth asking about.
    """
    splits = {name: getattr(raw.splits, name) for name in raw.splits.names()}
    pairs = _distinct([pair.prompt for rows in raw.pairs.values() for pair in rows])
    # Benign prompts may well be among those that are evaluated on.
    found = find_near_duplicates({"pairs": pairs} | splits)
    return [o for o in found if (o.first, o.second) != ("evaluate", "benign")]


def pair_roles(pairs: Sequence[Preference], data: FileData | SandboxData) -> list[str]:
    """What each pair is for: ``train`` or ``validate``, with ``judge-`` before it the judge's."""
    judge_fraction = data.judge_fraction if isinstance(data, FileData) else 0.0
    # By a hash of the prompt, not by draws: all pairs of a prompt have one role, and a pair keeps its
    # role when others are added. Two salts make the two shares independent of each other.
    judge = {prompt_id(p.prompt) for p in with_prompts(pairs, judge_fraction, salt="judge")[0]}
    held = {prompt_id(p.prompt) for p in with_prompts(pairs, _VALIDATION_SHARE, salt="held")[0]}
    return [
        ("judge-" if key in judge else "") + ("validate" if key in held else "train")
        for key in (prompt_id(pair.prompt) for pair in pairs)
    ]


def _files(recipe: Recipe, data: FileData) -> RawData:
    pairs: dict[str, list[Preference]] = {}
    notes: list[str] = []
    for kind, names in (("reward", data.reward_pairs), ("cost", data.cost_pairs)):
        for name in names:
            found, note = _read_pairs(data, name, kind)
            pairs[kind] = [*pairs.get(kind, []), *found]
            notes += [note] if note else []
    evaluate = _distinct(_read(data, data.evaluation_prompts))
    benign = _distinct(_read(data, data.benign_prompts))
    asked = {*map(prompt_id, (*evaluate, *benign))}
    # Nothing is fitted on a prompt that is evaluated on, not even the judge.
    pairs = {
        kind: [pair for pair in rows if prompt_id(pair.prompt) not in asked]
        for kind, rows in pairs.items()
    }
    train, calibrate, certify = split_prompts(
        _read(data, data.prompts),
        (data.num_prompts, data.num_calibration, data.num_certification),
        reserved={
            *asked,
            *(prompt_id(pair.prompt) for rows in pairs.values() for pair in rows),
        },
        generator=numpy_generator(recipe, "prompts"),
    )
    return RawData(pairs, PromptSplits(train, calibrate, certify, evaluate, benign), tuple(notes))


def _read_pairs(data: FileData, name: str, kind: str) -> tuple[list[Preference], str]:
    """The pairs of one file, and what is odd in them."""
    if "?" in name:
        raise InputError(
            f"data: '{name}': only prompts can be selected by ?field=value; give a file with"
            " just these pairs"
        )
    source = data_path(data, name)
    placed = read_placed_preferences(source, kind)
    faults = find_pair_faults(placed, kind)
    faults.require_order(str(source))
    return [pair for _, pair in placed], faults.describe(str(source))


def _sandbox(recipe: Recipe, data: SandboxData) -> RawData:
    from tailguard.lab import sandbox

    def draw(num: int, split: str) -> list[Prompt]:
        generator = numpy_generator(recipe, split)
        return [request.text for request in sandbox.sample_requests(generator, num, split)]

    pairs = {
        "reward": sandbox.sample_preferences(
            numpy_generator(recipe, "reward"), data.num_reward_pairs, "reward"
        ),
        "cost": sandbox.sample_preferences(
            numpy_generator(recipe, "cost"), data.num_cost_pairs, "cost"
        ),
    }
    # One draw of distinct requests, cut in two: no request is in both.
    held = draw(data.num_calibration + data.num_certification, "calibrate")
    evaluate = draw(data.num_evaluation, "evaluate")
    splits = PromptSplits(
        train=draw(data.num_prompts, "train"),
        calibrate=held[: data.num_calibration],
        certify=held[data.num_calibration :],
        evaluate=evaluate,
        benign=[prompt for prompt in evaluate if _deserves_help(str(prompt))],
    )
    return RawData(
        {kind: [Preference(**row) for row in rows] for kind, rows in pairs.items()}, splits
    )


def _deserves_help(prompt: str) -> bool:
    """Whether a request is benign, or only looks unsafe."""
    from tailguard.lab.sandbox import parse_request

    request = parse_request(prompt)
    return request is not None and request.kind in ("benign", "borderline")


def _read(data: FileData, names: Sequence[str]) -> list[Prompt]:
    prompts: list[Prompt] = []
    for name in names:  # it may end in ?field=value, to keep only the rows with that value
        _, asked, conditions = name.partition("?")
        only = dict(i.split("=", 1) for i in conditions.split("&") if "=" in i)
        if asked and len(only) != conditions.count("&") + 1:
            raise InputError(f"data: '{name}': write conditions as ?field=value, joined by &")
        prompts += read_prompts(data_path(data, name), only)
    return prompts


def _distinct(prompts: Sequence[Prompt]) -> list[Prompt]:
    return list({prompt_id(prompt): prompt for prompt in prompts}.values())


def _write_pairs(path: Path, pairs: Sequence[Preference], roles: Sequence[str]) -> None:
    # Parquet has one type per column, and a prompt is a text or a list of messages: JSON.
    prompts = [json.dumps(pair.prompt) for pair in pairs]
    columns = {name: [getattr(pair, name) for pair in pairs] for name in _OF_PAIR}
    write_table(path, columns | {"prompt": prompts, "role": list(roles)})
