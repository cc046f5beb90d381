"""Write recipes.md from the recipe's schema: every key, what it may be, its default, its meaning.

Run it after every change of ``tailguard.config.recipe``; a test compares.
"""

from __future__ import annotations

import inspect
import json
import re
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from tailguard.config.recipe import (
    BankSection,
    DecodingSection,
    EvaluateSection,
    FileData,
    Guided,
    PlanSection,
    PolicySection,
    Recipe,
    SandboxData,
    ScorerSection,
    Section,
    Target,
    TrainSection,
    ValuesSection,
)

PAGE = Path(__file__).with_name("recipes.md")

HEAD = """\
<!-- Written by docs/generate_recipe_reference.py; change the schema, not this page. -->
# Recipes

A recipe is a YAML file that says everything a run is made from. Every key has a default, so the
empty file is a recipe: the sandbox assistant at its default sizes, as far as `plan`. `train` needs
something to train (`plan.targets` or `plan.num_members`), and what comes after it decoders to build
(`values.guided`); what a stage needs is asked for before the first one runs.

```yaml
name: first
policy: {model: sandbox, max_new_tokens: 32}
bank: {num_samples: 32}
plan:
  targets:
    - {name: cvar-10, tail_mass: 0.1, reduction: 0.6}
values:
  guided:
    - {policy: cvar-10, tail_mass: 0.1, reduction: 0.6}
```

`--set bank.num_samples=64` overrides a key on the command line, `--set
plan.targets.0.reduction=0.3` one inside a list; the last one counts. A path that starts with
`.` or `~`, or that holds a `/` and is there, is relative to the recipe's folder; other model names
are looked up on the hub.

Values are checked strictly: `'64'` is no number, `yes` is no count, infinity is no budget, and a
key may stand only once. What is wrong is named with its line:

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

SECTIONS: tuple[tuple[str, type[BaseModel]], ...] = (
    ("Top level", Recipe),
    ("`policy`", PolicySection),
    ("`data` with `source: sandbox`", SandboxData),
    ("`data` with `source: files`", FileData),
    ("`scorers`", ScorerSection),
    ("`bank`", BankSection),
    ("`plan`", PlanSection),
    ("`plan.targets`, a list of", Target),
    ("`train`", TrainSection),
    ("`values`", ValuesSection),
    ("`values.guided`, a list of", Guided),
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
    bounds = [
        f"{sign} `{schema[key]}`" if key == "pattern" else f"{sign} {schema[key]:g}"
        for key, sign in limits.items()
        if key in schema
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
