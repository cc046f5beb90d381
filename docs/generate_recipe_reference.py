"""Write recipes.md from the recipe's schema: every key, what it may be, its default, its meaning.

Run it after every change of the schema in ``tailguard.config``; a test compares.
"""

from __future__ import annotations

import inspect
import json
import re
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from tailguard.config import (
    BankSection,
    DecodingSection,
    DialSection,
    EvaluateSection,
    FileData,
    PlanSection,
    PolicySection,
    Recipe,
    SandboxData,
    ScorerSection,
    ScorerSource,
    Section,
    Target,
    TrainSection,
)
from tailguard.config.section import LARGEST, MOST, MOST_EACH, MOST_LISTED, MOST_SEED

PAGE = Path(__file__).with_name("recipes.md")

HEAD = """\
<!-- Written by docs/generate_recipe_reference.py; change the schema, not this page. -->
# Recipes

A recipe is a YAML file with all the settings of a run. Every key has a default, so an empty file is a
recipe: the sandbox assistant at its default sizes, up to `plan`. `train` and the stages after it need
something to train (`plan.targets` or `plan.num_members`). What is trained is measured and served as one dial
(`dial`).
Whatever a stage needs is checked before the first stage runs.

```yaml
name: first
policy: {model: sandbox, max_new_tokens: 32}
bank: {num_samples: 32}
plan:
  targets:
    - {name: unconstrained, measure: none}
    - {name: strict, tail_mass: 0.1, reduction: 0.6}
dial: {num_draws: 8}
```

On the command line, `--set bank.num_samples=64` overrides a key and `--set
plan.targets.0.reduction=0.3` a key inside a list; of several for the same key, the last one counts. The
name of a model is a path relative to the recipe's folder if it starts with `.` or `~`, or if it contains
a `/` and exists there; any other name is looked up on the hub.

Values are checked strictly: `'64'` is not a number, `yes` is not a count, infinity is not a budget, and
no key may appear twice. A count above ten million (100,000 for what is held many times or at once, as
samples of a prompt and rows of a batch) and a number above 10⁹ or below 10⁻⁹ are slips of the hand and are
refused. YAML is read plainly: tags are refused, and a date, `010` and `1:30` are text. An error gives the
line:

```pycon
>>> from pathlib import Path
>>> from tailguard.config import load_recipe
>>> _ = Path("typo.yaml").write_text("bank:\\n  num_sample: 32\\n")
>>> load_recipe(Path("typo.yaml"))
Traceback (most recent call last):
tailguard.errors.InputError: typo.yaml, line 2: unknown key 'bank.num_sample'; the nearest valid key is 'num_samples'
>>> Path("typo.yaml").unlink()

```
"""
SLIPS = (MOST, MOST_EACH, MOST_LISTED, MOST_SEED, LARGEST, -LARGEST)
"""Limits that every key of a kind has, and that the tables leave out."""

SECTIONS: tuple[tuple[str, type[BaseModel]], ...] = (
    ("Top level", Recipe),
    ("`policy`", PolicySection),
    ("`data` with `source: sandbox`", SandboxData),
    ("`data` with `source: files`", FileData),
    ("`scorers`", ScorerSection),
    ("`scorers.reward_model` and `scorers.cost_model`", ScorerSource),
    ("`bank`", BankSection),
    ("`plan`", PlanSection),
    ("`plan.targets`, a list of", Target),
    ("`train`", TrainSection),
    ("`dial`", DialSection),
    ("`decoding`", DecodingSection),
    ("`evaluate`", EvaluateSection),
)


def render() -> str:
    """The page."""
    return "\n".join([HEAD, *(_section(title, model) for title, model in SECTIONS)])


def _section(title: str, model: type[BaseModel]) -> str:
    meanings = read_attributes(model)
    properties: dict[str, Any] = model.model_json_schema(ref_template="{model}")["properties"]
    rows = [
        f"| `{name}` | {_kind(schema)} | {_default(model, name)} | {meanings[name]} |"
        for name, schema in properties.items()
    ]
    summary = inspect.getdoc(model) or ""
    head = ["| key | value | default | meaning |", "|---|---|---|---|"]
    return "\n".join([f"## {title}", "", summary.splitlines()[0], "", *head, *rows, ""])


def read_attributes(model: type[BaseModel]) -> dict[str, str]:
    """Field → meaning, from the ``Attributes`` of the docstrings of a section and its parents."""
    found: list[tuple[str, str]] = []
    for kind in reversed([kind for kind in model.__mro__ if issubclass(kind, Section)]):
        text = inspect.cleandoc(kind.__dict__.get("__doc__") or "")
        rest = text.partition("Attributes:\n")[2]
        found += re.findall(r"^    (\w+): ((?:.|\n {8})+)", rest, re.M)
    return {
        name: " ".join(meaning.replace("``", "`").replace("|", "\\|").split())
        for name, meaning in found
    }


def _kind(schema: dict[str, Any]) -> str:
    """What a value may be, in words."""
    if "const" in schema:
        return f"`{schema['const']}`"
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    if "anyOf" in schema:
        return " or ".join(_kind(part) for part in schema["anyOf"] if part.get("type") != "null")
    if "oneOf" in schema or "$ref" in schema:
        return "section"
    if schema["type"] == "array":
        return f"list: {_kind(schema['items'])}"
    words = {"string": "text", "boolean": "true or false", "integer": "whole number"}
    limits = {
        "exclusiveMinimum": ">",
        "minimum": "≥",
        "exclusiveMaximum": "<",
        "maximum": "≤",
        "pattern": "like",
    }
    bounds = [  # those against slips of the hand are told once, at the top
        f"{sign} `{schema[key]}`" if key == "pattern" else f"{sign} {schema[key]:g}"
        for key, sign in limits.items()
        if key in schema and schema[key] not in SLIPS
    ]
    return " ".join([words.get(schema["type"], schema["type"]), ", ".join(bounds)]).strip()


def _default(model: type[BaseModel], name: str) -> str:
    field = model.model_fields[name]
    if field.is_required():
        return "*required*"
    if isinstance(field.default, Section):
        return "see below"
    return "none" if field.default is None else f"`{json.dumps(field.default, ensure_ascii=False)}`"


if __name__ == "__main__":
    PAGE.write_text(render(), encoding="utf-8")
