"""Mutated recipes and data files through the real commands: each is read, or ends in status 2.

    python benchmarks/fuzz_inputs.py --recipes 3000 --data 2500

Texts are mutated by bytes, by lines and by structure. A recipe goes as far as what is checked before
the first stage; a data file through the whole of ``prepare``. Any other status than 0, 2 and 3, a
traceback, or no answer in time is a failure: its input is saved and the script ends in status 1.
"""

from __future__ import annotations

import argparse
import contextlib
import gzip
import io
import json
import random
import shutil
import signal
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import yaml
from mutations import WORDS, mutated_text, mutated_value, write_columns

from tailguard.artifacts import write_json

HERE = Path(__file__).parent
RESULT = HERE / "results" / "fuzz_inputs.json"
RECIPES = sorted((HERE.parent / "recipes").glob("*.yaml"))
ALLOWED = (0, 2, 3)
_SECONDS = 60  # a hang, not a slow machine

PAIRS: list[dict[str, Any]] = [
    {
        "prompt": f"what is {k}",
        "chosen": f"it is {k}",
        "rejected": "no",
        "chosen_safe": True,
        "rejected_safe": k % 2 == 0,
    }
    for k in range(12)
]
CHATS: list[dict[str, Any]] = [
    {
        "chosen": [
            {"role": "user", "content": row["prompt"]},
            {"role": "assistant", "content": "so"},
        ],
        "rejected": [
            {"role": "user", "content": row["prompt"]},
            {"role": "assistant", "content": "no"},
        ],
    }
    for row in PAIRS
]
TEXTS: list[dict[str, Any]] = [
    {
        side: f"\n\nHuman: {row['prompt']}\n\nAssistant: {row[side]}"
        for side in ("chosen", "rejected")
    }
    for row in PAIRS
]
NATIVE: list[dict[str, Any]] = [
    {
        "prompt": row["prompt"],
        "response_0": row["chosen"],
        "response_1": row["rejected"],
        "better_response_id": 0,
        "safer_response_id": 0,
        "is_response_0_safe": True,
        "is_response_1_safe": row["rejected_safe"],
    }
    for row in PAIRS
]
PROMPTS: list[dict[str, Any]] = [{"prompt": f"prompt {k}"} for k in range(12)]
DATA_RECIPE = {
    "data": {
        "source": "files",
        "reward_pairs": ["pairs.jsonl"],
        "cost_pairs": ["pairs.jsonl"],
        "prompts": ["prompts.jsonl"],
        **dict.fromkeys(("num_calibration", "num_certification"), 2),
        "num_prompts": 4,
    }
}


def recipe_case(folder: Path, generator: random.Random) -> tuple[list[str], list[Path]]:
    """A command with a mutated recipe or override, and the files that it reads."""
    path = folder / "recipe.yaml"
    base = generator.choice(RECIPES).read_bytes()
    arguments = ["prepare", str(path), "--out", str(folder / "out")]
    kind = generator.randrange(4)
    if kind == 0:
        value = mutated_value(yaml.safe_load(base), generator)
        path.write_text(_json(value), encoding="utf-8", errors="surrogatepass")
    elif kind == 1:
        path.write_bytes(base)
        keys = [
            line.partition(b":")[0].strip().decode() for line in base.split(b"\n") if b":" in line
        ]
        key = ".".join(
            generator.choices([*keys, "plan.targets.0", "bank", "seed"], k=generator.randint(1, 2))
        )
        arguments += ["--set", f"{key}={generator.choice(WORDS)}"]
    else:
        path.write_bytes(mutated_text(base, generator))
    return arguments, [path]


def data_case(folder: Path, generator: random.Random) -> tuple[list[str], list[Path]]:
    """A command that reads a mutated file of pairs or prompts, and that file."""
    role = generator.choice(("reward_pairs", "cost_pairs", "prompts"))
    rows = PROMPTS if role == "prompts" else generator.choice((PAIRS, CHATS, TEXTS, NATIVE))
    name = f"mutated{generator.choice(('.jsonl', '.jsonl.gz', '.parquet'))}"
    for base, content in (("pairs", PAIRS), ("prompts", PROMPTS)):
        (folder / f"{base}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in content))
    (folder / "recipe.yaml").write_text(json.dumps(DATA_RECIPE))
    path = folder / name
    by_structure = generator.random() < 0.6
    if by_structure and not name.endswith(".parquet"):
        rows = mutated_value(rows, generator)
    if name.endswith(".parquet"):
        write_columns(path, rows, generator if by_structure else None)
    else:
        text = "".join(_json(row) + "\n" for row in rows).encode("utf-8", "surrogatepass")
        path.write_bytes(gzip.compress(text) if name.endswith(".gz") else text)
    if not by_structure or generator.random() < 0.2:
        content = path.read_bytes()
        inside = name.endswith(".gz") and generator.random() < 0.6
        text = mutated_text(gzip.decompress(content) if inside else content, generator)
        path.write_bytes(gzip.compress(text) if inside else text)
    arguments = ["prepare", str(folder / "recipe.yaml"), "--out", str(folder / "out")]
    return [*arguments, "--set", f"data.{role}=[{name}]"], [path]


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, default=lambda odd: odd.decode("latin-1"))


def statuses(
    case: Callable[[Path, random.Random], tuple[list[str], list[Path]]],
    num: int,
    generator: random.Random,
    saved: Path,
) -> dict[str, Any]:
    """How often each status was met, and what failed."""
    counts: Counter[str] = Counter()
    failures: list[str] = []
    for number in range(num):
        with tempfile.TemporaryDirectory() as folder:
            arguments, files = case(Path(folder), generator)
            status, said = _outcome(arguments)
            counts[status] += 1
            if status not in map(str, ALLOWED) or "Traceback" in said:
                place = saved / f"{case.__name__}-{number}"
                place.mkdir(parents=True, exist_ok=True)
                for file in files:
                    shutil.copy(file, place)
                (place / "said.txt").write_text(f"{arguments}\n{said}", errors="backslashreplace")
                last = said.strip().splitlines()[-1:] or [""]
                failures.append(f"{place.name}: {last[0][:300]}")
    return {"inputs": num, "statuses": dict(sorted(counts.items())), "failures": failures}


def _outcome(arguments: list[str]) -> tuple[str, str]:
    """The status of a command and what it said."""
    from tailguard.cli import main

    said = io.StringIO()

    def too_long(number: int, frame: object) -> None:
        raise TimeoutError

    previous = signal.signal(signal.SIGALRM, too_long)
    signal.alarm(_SECONDS)
    try:
        with (
            contextlib.redirect_stdout(said),
            contextlib.redirect_stderr(said),
            warnings.catch_warnings(),
        ):
            warnings.simplefilter("default")  # shown, as to a user
            main(arguments)
    except SystemExit as ended:
        return str(ended.code), said.getvalue()
    except BaseException as error:  # noqa: BLE001 - whatever escapes `main` is what we look for
        return type(error).__name__, f"{said.getvalue()}{error!r}"
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, previous)
    return "none", said.getvalue()


def without_stages() -> contextlib.AbstractContextManager[object]:
    """In here, a recipe is checked as before a run, and nothing is run."""
    from unittest import mock

    from tailguard.pipeline import chain
    from tailguard.pipeline.requirements import check_requirements

    def check(recipe: Any, root: Path, *, until: str, **options: object) -> dict[str, Path]:
        check_requirements(recipe, chain.STAGES)
        return {until: root}

    return mock.patch.object(chain, "run_chain", check)


def main(arguments: Sequence[str] | None = None) -> int:
    """Fuzz, print the counts and write the JSON; status 1 where something failed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--recipes", type=int, default=3000)
    parser.add_argument("--data", type=int, default=2500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--saved", type=Path, default=Path("out/fuzz"), help="where failures go")
    parser.add_argument("--result", type=Path, default=RESULT)
    options = parser.parse_args(arguments)
    result: dict[str, Any] = {"seed": options.seed}
    with without_stages():
        generator = random.Random(f"recipes {options.seed}")
        result["recipes"] = statuses(recipe_case, options.recipes, generator, options.saved)
    generator = random.Random(f"data {options.seed}")
    result["data"] = statuses(data_case, options.data, generator, options.saved)
    write_json(options.result, result)
    failures = [*result["recipes"]["failures"], *result["data"]["failures"]]
    for kind in ("recipes", "data"):
        print(f"{kind}: {result[kind]['inputs']} inputs, statuses {result[kind]['statuses']}")
    print(*failures, sep="\n")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
