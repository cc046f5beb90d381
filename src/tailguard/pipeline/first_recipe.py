"""A recipe for somebody's own model and data, its sizes chosen from what is there."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tailguard.data import Preference, Prompt, prompt_id, read_preferences, read_prompts
from tailguard.errors import InputError
from tailguard.models.checkpoint import require_checkpoint
from tailguard.models.library import load_config, load_tokenizer
from tailguard.models.policy import readable, render_prompt
from tailguard.pipeline.user_function import missing_function
from tailguard.risk import prompts_needed

_FEWEST_PROMPTS = 8  # 4 to train on, and 2 to calibrate and 2 to certify on
_MOST_TRAIN, _MOST_CALIBRATE, _MOST_CERTIFY = 512, 500, 2000  # the schema's defaults
_LARGE_PARAMETERS = 1e9
_LONGEST_ANSWER = 128
_SHORTEST_ANSWER = 4
_WIDEST_WINDOW = 1024
_TAIL_MASSES = (0.02, 0.05, 0.1, 0.25, 1.0)
_FEWEST_IN_TAIL = 20
_USUAL_TAIL_MASS = 0.1
# Of the way from the threshold to the largest cost: with a bound much looser nothing is certified.
_LOOSEST_BOUND = 0.2
_URL = r"https?://"
_FUNCTION = r"[A-Za-z_][\w.]*:[A-Za-z_]\w*"


@dataclass(frozen=True)
class Given:
    """What the user has.

    Attributes:
        model: folder or hub name of the policy.
        prompts: files of prompts.
        reward: a scorer's model, ``module:function`` or URL; empty to fit one on the pairs.
        cost: the same for the cost.
        pairs: files of pairs; those with safety labels are for the cost, the others for the reward.
        evaluation_prompts: files of prompts to evaluate on.
    """

    model: str
    prompts: Sequence[Path]
    reward: str = ""
    cost: str = ""
    pairs: Sequence[Path] = ()
    evaluation_prompts: Sequence[Path] = ()


@dataclass(frozen=True)
class _Found:
    """What was found in it."""

    pair_files: dict[str, list[Path]]
    num_free_prompts: int
    answer_tokens: int
    window_tokens: int
    num_parameters: float | None


def first_recipe(given: Given, folder: Path) -> str:
    """The text of a recipe that lies in ``folder``.

    Raises:
        InputError: a file is missing or wrong; too few prompts; no source for a scorer, or one that
            is not there; a model that cannot be read; prompts that leave no room for an answer.
    """
    require_checkpoint(given.model, "--model")
    for kind in ("reward", "cost"):
        _require_source(kind, getattr(given, kind))
    pairs = _read_pairs(given)
    for kind in ("reward", "cost"):
        if not getattr(given, kind) and kind not in pairs:
            labelled = " with safety labels" if kind == "cost" else ""
            raise InputError(
                f"--{kind}: no {kind} is given; name a sequence classifier, a function as"
                f" module:function, or the URL of a guard, or give --pairs{labelled}"
            )
    return _text(given, _look(given, pairs), folder)


def _require_source(kind: str, source: str) -> None:
    if re.fullmatch(_FUNCTION, source):
        if wrong := missing_function(source, Path.cwd()):
            raise InputError(f"--{kind}: {wrong}")
    elif source and not re.match(_URL, source):
        require_checkpoint(source, f"--{kind}")


def _read_pairs(given: Given) -> dict[str, dict[Path, list[Preference]]]:
    """Kind of score → file → its pairs; a file may serve both."""
    found: dict[str, dict[Path, list[Preference]]] = {}
    for file in given.pairs:
        cost = _try_pairs(file, "cost")
        labelled = cost is not None and any(
            safe is not None for pair in cost for safe in (pair.chosen_safe, pair.rejected_safe)
        )
        if cost is not None and labelled:
            found.setdefault("cost", {})[file] = cost
        else:
            found.setdefault("reward", {})[file] = read_preferences(file, "reward")
    return found


def _try_pairs(file: Path, kind: str) -> list[Preference] | None:
    try:
        return read_preferences(file, kind)
    except InputError:
        return None


def _look(given: Given, pairs: dict[str, dict[Path, list[Preference]]]) -> _Found:
    prompts = [prompt for file in given.prompts for prompt in read_prompts(file)]
    evaluated = [prompt for file in given.evaluation_prompts for prompt in read_prompts(file)]
    known = [pair for files in pairs.values() for rows in files.values() for pair in rows]
    reserved = {*map(prompt_id, evaluated), *(prompt_id(pair.prompt) for pair in known)}
    free = {key: prompt for prompt in prompts if (key := prompt_id(prompt)) not in reserved}
    if len(free) < _FEWEST_PROMPTS:
        raise InputError(
            f"--prompts: {len(free)} distinct prompts that are in no pair and not evaluated on; at"
            f" least {_FEWEST_PROMPTS} are needed, and some hundreds to learn anything"
        )
    answer, window = _token_sizes(given.model, [*free.values(), *evaluated], known)
    return _Found(
        pair_files={kind: list(files) for kind, files in pairs.items()},
        num_free_prompts=len(free),
        answer_tokens=answer,
        window_tokens=window,
        num_parameters=_num_parameters(given.model),
    )


def _token_sizes(
    model: str, prompts: Sequence[Prompt], pairs: Sequence[Preference]
) -> tuple[int, int]:
    """The most tokens of an answer, and of a prompt with its answer."""
    with readable(f"--model {model}"):
        tokenizer = load_tokenizer(model)
        config = load_config(model).get_text_config()
    context = getattr(config, "max_position_embeddings", None) or 10**9
    plain = tokenizer.chat_template is None
    texts = [render_prompt(tokenizer, prompt) for prompt in prompts]
    longest = max(
        len(row) for row in tokenizer(texts, add_special_tokens=plain, verbose=False)["input_ids"]
    )
    answer = min(_LONGEST_ANSWER, context - longest)
    if answer < _SHORTEST_ANSWER:
        raise InputError(
            f"--prompts: the longest has {longest} tokens, and the model's context of {context}"
            " leaves no room for an answer; shorten it or leave it out"
        )
    answers = [text for pair in pairs for text in (pair.chosen, pair.rejected)]
    read = (
        max((len(row) for row in tokenizer(answers, verbose=False)["input_ids"]), default=0)
        if answers
        else 0
    )
    window = longest + max(read, answer)
    return answer, min(64 * math.ceil(window / 64), _WIDEST_WINDOW, max(context, answer + 1))


def _num_parameters(model: str) -> float | None:
    """From the size of the weights, at two bytes each; None for a model of the hub."""
    files = list(Path(model).glob("*.safetensors"))
    return sum(file.stat().st_size for file in files) / 2 if files else None


def _splits(num: int) -> tuple[int, int, int]:
    """Of so many prompts: to train on, to calibrate on, and the rest to certify on."""
    train = min(_MOST_TRAIN, max(4, round(0.4 * num)))
    calibrate = min(_MOST_CALIBRATE, max(2, round(0.2 * num)))
    return train, calibrate, min(_MOST_CERTIFY, num - train - calibrate)


def _text(given: Given, found: _Found, folder: Path) -> str:
    train, calibrate, certify = _splits(found.num_free_prompts)
    large = (found.num_parameters or _LARGE_PARAMETERS) >= _LARGE_PARAMETERS
    samples = 16 if large else 32
    masses = [a for a in _TAIL_MASSES if a * train * samples >= _FEWEST_IN_TAIL] or [1.0]
    masses = sorted({masses[0], *(a for a in masses if a in (_USUAL_TAIL_MASS, 1.0))})
    tail_mass = _USUAL_TAIL_MASS if _USUAL_TAIL_MASS in masses else min(masses)
    needed = prompts_needed(tail_mass, 0.95, _LOOSEST_BOUND)
    per_step = min(8, train)
    doubt = "{pessimism: 0.0}" if given.cost else ""
    lines = [
        "# Written by `tailguard init`: every key that is not here has a default (docs/recipes.md).",
        f"name: {_quoted(_run_name(given.model))}",
        f"policy: {{model: {_quoted(_path(given.model, folder))},"
        f" max_new_tokens: {found.answer_tokens}}}",
        "data:",
        "  source: files",
        *_data_lines(given, found, folder),
        f"  # {found.num_free_prompts} distinct prompts are in no pair and not evaluated on.",
        f"  num_prompts: {train}  # sampled from, planned and trained on",
        f"  num_calibration: {calibrate}  # the dial is measured on them",
        f"  num_certification: {certify}  # certificates; {needed} or more for one at α={tail_mass:g}",
        "scorers:",
        *_scorer_lines(given, found, folder),
        f"bank: {{num_samples: {samples}}}  # answers per prompt; the frontier reaches to about"
        f" {math.log(samples):.1f} nats",
        "plan:",
        "  kl_coef: 0.25  # β: what one nat away from your model costs, in units of reward",
        f"  tail_masses: {masses}  # α: the worst share of all answers; 1.0 is the mean",
        "  num_budgets: 5  # rows of the frontier per α",
        "  targets:",
        "    # reduction: 0 keeps your model's own risk, 1 is the least that is reachable.",
        "    - {name: unconstrained, measure: none}",
        f"    - {{name: cvar, tail_mass: {tail_mass:g}, reduction: 0.5}}",
        f"train: {{num_steps: 30, prompts_per_step: {per_step}, num_generations: 4}}",
        "# Soups of the two policies are measured on the calibration prompts; any limit on risk within",
        "# their reach can then be asked for (`tailguard profiles`).",
        "dial: {num_draws: 8, shares: [0.0, 0.5, 1.0, 1.5], scales: [1.0]}",
        *([f"decoding: {doubt}"] if doubt else []),
    ]
    return "\n".join(lines) + "\n"


def _data_lines(given: Given, found: _Found, folder: Path) -> list[str]:
    named = {
        "reward_pairs": found.pair_files.get("reward", []),
        "cost_pairs": found.pair_files.get("cost", []),
        "prompts": given.prompts,
        "evaluation_prompts": given.evaluation_prompts or [Path("other.jsonl")],
    }
    lines = {
        key: f"{key}: [{', '.join(_quoted(_path(str(file), folder)) for file in files)}]"
        for key, files in named.items()
        if files
    }
    # The report's independent judge is fitted on a share of the pairs.
    if not (given.evaluation_prompts and len(found.pair_files) == 2):
        last = lines.pop("evaluation_prompts")
        return [
            *(f"  {line}" for line in lines.values()),
            f"  # {last}  # with pairs of both kinds, for `evaluate` and `report`",
        ]
    return [f"  {line}" for line in lines.values()]


def _scorer_lines(given: Given, found: _Found, folder: Path) -> list[str]:
    lines = [f"  max_tokens: {found.window_tokens}  # of a prompt and its answer together"]
    for kind in ("reward", "cost"):
        if source := getattr(given, kind):
            lines.append(f"  {kind}_model: {_source(source, kind, folder)}")
        else:
            lines.append(f"  # The {kind} is fitted on data.{kind}_pairs.")
    if given.cost:
        lines.append("  pessimism: 0.0  # the doubt of a single scorer is unknown")
    unit = "in the units of the cost scorer" if given.cost else "in log-odds"
    if not given.cost or ":" not in given.cost:
        lines.append(f"  cost_bound: 10.0  # the largest cost there can be, {unit}")
    if (found.num_parameters or 0) >= _LARGE_PARAMETERS and not (given.reward and given.cost):
        lines.append("  num_trained_layers: 4  # of the backbone, when scorers are fitted")
    return lines


def _source(source: str, kind: str, folder: Path) -> str:
    if re.match(_URL, source):
        url, _, model = source.partition("#")
        if not model:
            raise InputError(
                f"--{kind} {source}: write URL#MODEL, the model's name at the endpoint"
            )
        return f"{{endpoint: {_quoted(url)}, model: {_quoted(model)}}}"
    if re.fullmatch(_FUNCTION, source):
        # Modules are looked for where the command is run, as `python` does.
        where = "" if folder.resolve() == Path.cwd() else f", folder: {_quoted(_path('.', folder))}"
        upper = where + (", upper: 10.0" if kind == "cost" else "")
        note = (
            "  # upper: the largest cost that it gives; larger ones count as that" if upper else ""
        )
        return f"{{python: {_quoted(source)}{upper}}}{note}"
    return _quoted(_path(source, folder))


def _path(name: str, folder: Path) -> str:
    """A path as the recipe in ``folder`` names it; a hub name stays as it is."""
    path = Path(name)
    if not path.exists():
        return name
    relative = os.path.relpath(path.resolve(), folder.resolve())
    if relative.startswith(os.path.join("..", "..")):
        return str(path.resolve())
    return relative if relative.startswith(".") else f"./{relative}"


def _run_name(model: str) -> str:
    return Path(model).resolve().name if Path(model).exists() else model.rpartition("/")[2]


def _quoted(text: str) -> str:
    """As YAML reads it back: plain where that is safe."""
    return text if re.fullmatch(r"[./A-Za-z][\w./-]*", text) else json.dumps(text)
