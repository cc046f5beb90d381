"""How long a wrong recipe takes to be refused, in processor time.

    python benchmarks/refusal_times.py

One kind of mistake per row: a key, a file, a line, a model, a size, a function, keys that contradict each
other. Prints the median of some runs of each and writes ``benchmarks/results/refusal_times.json``. Target:
at most 2 s each. Processor time, not wall time, so that a busy machine counts less; what is not loaded by
then is asserted by ``tests/contract/test_refusals.py``.
"""

import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

REPEATS = 5
TARGET_SECONDS = 2.0
RESULT = Path(__file__).parent / "results" / "refusal_times.json"
RECIPE = {
    "policy": {"model": "./model"},
    "data": {
        "source": "files",
        "reward_pairs": ["pairs.jsonl"],
        "cost_pairs": ["pairs.jsonl"],
        "prompts": ["prompts.jsonl"],
        "num_prompts": 1000,
        "num_calibration": 1000,
        "num_certification": 2000,
    },
}
MISTAKES = {
    "an unknown key": "bank.num_sample=3",
    "a missing file": "data.cost_pairs=[nowhere.jsonl]",
    "a malformed line": "data.prompts=[malformed.jsonl]",
    "a missing model": "policy.model=./nowhere",
    "too few prompts": "data.num_certification=2001",
    "an unknown function": "scorers.cost_model={python: 'mine:harm'}",
    "doubt of a single scorer": "scorers={cost_model: ./model, pessimism: 0.5}",
}


def write_inputs(folder: Path) -> None:
    """A recipe whose only fault is the override, on files of some thousand rows."""
    (folder / "recipe.yaml").write_text(json.dumps(RECIPE))
    (folder / "model").mkdir()
    for name in ("config.json", "model.safetensors"):
        (folder / "model" / name).touch()
    pair = {"chosen": "so " * 20, "rejected": "no " * 20}
    pairs = [json.dumps({"prompt": f"pair {k}"} | pair) for k in range(4000)]
    prompts = [json.dumps({"prompt": f"prompt {k}"}) for k in range(4000)]
    (folder / "pairs.jsonl").write_text("\n".join(pairs))
    (folder / "prompts.jsonl").write_text("\n".join(prompts))
    (folder / "malformed.jsonl").write_text("\n".join([*prompts, '{"prompt": ']))


def seconds_to_refuse(folder: Path, override: str) -> float:
    """User and system time of one command that must end with status 2."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, "-m", "tailguard", "plan", str(folder / "recipe.yaml")]
    done = subprocess.run(
        [*command, "--set", override, "--out", str(folder / "out")],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"OMP_NUM_THREADS": "2"},  # with one there are no workers to start
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode != 2:
        raise RuntimeError(f"{override}: status {done.returncode}: {done.stderr}")
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    """Run every mistake a few times."""
    medians: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as name:
        write_inputs(Path(name))
        for mistake, override in MISTAKES.items():
            runs = [seconds_to_refuse(Path(name), override) for _ in range(REPEATS)]
            medians[mistake] = statistics.median(runs)
            print(f"{mistake:<26} {medians[mistake]:.2f} s")
    content = {"repeats": REPEATS, "seconds": medians, "target": TARGET_SECONDS}
    RESULT.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
