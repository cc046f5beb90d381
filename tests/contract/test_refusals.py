"""A wrong recipe is refused before anything heavy is imported and before any worker starts.

Which modules are loaded is asserted, not a time: `benchmarks/refusal_times.py` measures that.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = {"torch", "transformers", "datasets", "peft", "trl", "matplotlib", "accelerate"}
PROGRAM = """
import atexit, json, sys
from multiprocessing import forkserver

def tell():
    started = getattr(forkserver._forkserver, "_forkserver_pid", None) is not None
    print(json.dumps({"loaded": sorted(sys.modules), "workers": started}))

atexit.register(tell)
from tailguard.cli import main
main(sys.argv[1:])
"""


def lines(rows) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


PAIRS = lines({"prompt": f"pair {k}", "chosen": "so", "rejected": "no"} for k in range(40))
FUNCTION = ["scorers.cost_model={python: 'mine:harm', upper: 1.0}"]
RECIPE = {
    "policy": {"model": "./model"},
    "data": {
        "source": "files",
        "reward_pairs": ["reward.jsonl"],
        "cost_pairs": ["cost.jsonl"],
        "prompts": ["prompts.jsonl"],
        "num_prompts": 10,
        "num_calibration": 10,
        "num_certification": 10,
    },
}


@pytest.fixture
def refuse(tmp_path):
    """Write the recipe and its data, run a command in a process of its own: what it said and loaded."""
    (tmp_path / "recipe.yaml").write_text(json.dumps(RECIPE))
    (tmp_path / "model").mkdir()
    for name in ("config.json", "model.safetensors"):  # never opened
        (tmp_path / "model" / name).touch()
    for name, content in (
        ("reward", PAIRS),
        ("cost", PAIRS),
        ("prompts", lines({"prompt": f"prompt {k}"} for k in range(30))),
    ):
        (tmp_path / f"{name}.jsonl").write_text(content)

    def run(command: str, *overrides: str):
        sets = [part for item in overrides for part in ("--set", item)]
        arguments = [command, str(tmp_path / "recipe.yaml"), *sets, "--out", str(tmp_path / "out")]
        # Two threads: with one there would be no workers to start.
        environment = os.environ | {"OMP_NUM_THREADS": "2"}
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, *arguments],
            capture_output=True,
            text=True,
            check=False,
            env=environment,
        )
        told = json.loads(done.stdout.splitlines()[-1])
        heavy = HEAVY & set(told["loaded"])
        assert not (tmp_path / "out").exists()
        assert len(done.stderr.splitlines()) == 1, done.stderr
        return done.returncode, done.stderr, heavy, told["workers"]

    return run


def missing_file(folder: Path) -> None:
    (folder / "cost.jsonl").unlink()


def malformed_line(folder: Path) -> None:
    (folder / "prompts.jsonl").write_text('{"prompt": "a"}\n{"prompt": \n')


def no_weights(folder: Path) -> None:
    (folder / "model" / "model.safetensors").unlink()


def three_outputs(folder: Path) -> None:
    names = {"id2label": {"0": "fine", "1": "odd", "2": "bad"}}
    (folder / "model" / "config.json").write_text(json.dumps(names))


def function_elsewhere(folder: Path) -> None:
    (folder / "mine.py").write_text("import torch\n\ndef other(prompts, answers): ...\n")


def broken_module(folder: Path) -> None:
    (folder / "mine.py").write_text("def harm(prompts, answers)\n")


def unchanged(folder: Path) -> None:
    pass


@pytest.mark.parametrize(
    ("change", "overrides", "said"),
    [
        (unchanged, ["bank.num_sample=3"], "unknown key 'bank.num_sample'"),
        (unchanged, ["bank.num_samples=x"], "bank.num_samples: input should be"),
        (missing_file, [], "cost.jsonl: no such file"),
        (malformed_line, [], "prompts.jsonl, line 2: malformed JSON"),
        (unchanged, ["policy.model=./nowhere"], "nowhere: no such folder"),
        (unchanged, ["scorers.backbone=./nowhere"], "nowhere: no such folder"),
        (no_weights, [], "holds no weights"),
        (unchanged, ["data.num_certification=11"], "only 30 distinct ones are available"),
        (unchanged, ["scorers.cost_model=./model", "scorers.pessimism=0.5"], "scorers.pessimism"),
        (unchanged, FUNCTION, "python: mine:harm: no module mine in "),
        (function_elsewhere, FUNCTION, "mine.py has no 'harm'"),
        (
            three_outputs,
            ["scorers.cost_model=./model"],
            "scorers.cost_model: label: none given for 3",
        ),
        (broken_module, FUNCTION, "mine.py, line 1: expected ':'"),
    ],
    ids=lambda value: getattr(value, "__name__", " ".join(value) if type(value) is list else ""),
)
def test_a_wrong_recipe(refuse, tmp_path, change, overrides, said):
    change(tmp_path)
    status, error, heavy, workers = refuse("plan", *overrides)
    assert (status, heavy, workers) == (2, set(), False)
    assert error.startswith("tailguard: ")
    assert said in error


@pytest.mark.parametrize("command", ["run", "train", "report"])
def test_what_only_a_late_stage_needs(refuse, command):
    status, error, heavy, workers = refuse(command)
    assert (status, heavy, workers) == (2, set(), False)
    assert "plan.targets: none" in error
