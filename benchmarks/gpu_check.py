"""What a GPU computes beside the same on the CPU: sampling, scoring and training.

    python benchmarks/gpu_check.py

Reads nothing but the sandbox's policy, which ships with the package; takes less than a minute.
Prints a table, writes ``benchmarks/results/gpu_check.json`` and ends with status 1 where something
is beyond its tolerance. Without a GPU, ``--device cpu`` tries the script itself;
without TRL what trains is left out.
"""

import argparse
import contextlib
import importlib.metadata
import importlib.util
import json
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from transformers import LlamaConfig, LlamaForSequenceClassification

from tailguard.engines import (
    Responses,
    response_hidden_states,
    response_log_probs,
    sample_responses,
)
from tailguard.lab.sandbox import base_policy_path
from tailguard.lab.sandbox.requests import sample_requests
from tailguard.models.policy import Policy, load_policy
from tailguard.models.quiet import quiet_libraries
from tailguard.scorers import fit_ensemble, load_scorer
from tailguard.scorers.pairs import ResponsePairs

PROMPTS = [request.text for request in sample_requests(np.random.default_rng(0), 12, "demo")]
NUM_TOKENS = 24
# Machines with a GPU may lack it; what needs it is then left out, and the table says so.
TRAINS = importlib.util.find_spec("trl") is not None
# Float32 differs by the order of sums; bfloat16 keeps 8 bits of each weight and state.
TOLERANCES = {"float32": 2e-3, "bfloat16": 0.25}


@dataclass(frozen=True)
class Check:
    """One line: a largest difference, or a share of unequal answers, and what it may be."""

    what: str
    dtype: str
    found: float
    allowed: float
    seconds: float

    @property
    def passed(self) -> bool:
        """A NaN does not pass."""
        return self.found <= self.allowed


class _Words:
    """A scorer for training: counts words, on no device at all."""

    def score(self, prompts: Any, responses: Any) -> np.ndarray:
        """The share of short words, the same for two members."""
        shares = [np.mean([len(w) < 4 for w in text.split()] or [0.0]) for text in responses]
        return np.array([shares, shares], dtype=np.float64).T


@dataclass(frozen=True)
class _Scorers:
    reward: Any
    cost: Any


def drawn(policy: Policy, temperature: float) -> Responses:
    """Two answers to each prompt."""
    return sample_responses(
        policy,
        PROMPTS,
        num_samples=2,
        max_new_tokens=NUM_TOKENS,
        temperature=temperature,
        generator=torch.Generator().manual_seed(0),
    )


def unequal(first: list[str], second: list[str]) -> float:
    """The share of answers that differ."""
    return float(np.mean([a != b for a, b in zip(first, second, strict=True)]))


def largest(first: Any, second: Any) -> float:
    """The largest difference, relative where numbers are larger than 1."""
    a, b = (
        np.asarray(torch.as_tensor(each).float().cpu(), dtype=np.float64)
        for each in (first, second)
    )
    return float(np.max(np.abs(a - b) / np.maximum(1.0, np.abs(b))))


def policy_checks(device: str, dtype: str) -> Iterator[tuple[str, Callable[[], float], float]]:
    """Names, what to compute and what is allowed."""
    allowed = TOLERANCES[dtype]
    base = load_policy(base_policy_path(), device="cpu")
    tested = load_policy(base_policy_path(), device=device, dtype=dtype)
    answers = drawn(base, 1.0)
    asked = [PROMPTS[i] for i in answers.prompt_index.tolist()]
    rows = answers.token_rows
    positions = [[0, len(row)] for row in rows]

    def states(policy: Policy) -> torch.Tensor:
        return torch.cat(response_hidden_states(policy, asked, rows, positions))

    def own_log_probs() -> float:
        own = drawn(tested, 1.0)
        prompts = [PROMPTS[i] for i in own.prompt_index.tolist()]
        forced = response_log_probs(tested, prompts, own.token_rows)
        return largest(forced, own.log_probs)

    yield (
        "log-probabilities of given answers",
        lambda: largest(
            response_log_probs(tested, asked, rows), response_log_probs(base, asked, rows)
        ),
        allowed,
    )
    yield "hidden states", lambda: largest(states(tested), states(base)), 4 * allowed
    yield "sampled against teacher-forced", own_log_probs, allowed
    near = 0.1 if dtype == "float32" else 1.0  # a near tie may fall otherwise
    yield (
        "greedy answers that differ",
        lambda: unequal(drawn(tested, 0.0).texts, drawn(base, 0.0).texts),
        near,
    )


def scorer_checks(device: str, folder: Path) -> Iterator[tuple[str, Callable[[], float], float]]:
    """A classifier of random weights, and one step of fitting."""
    tokenizer = load_policy(base_policy_path(), device="cpu").tokenizer
    config = LlamaConfig(
        vocab_size=len(tokenizer.get_vocab()),
        hidden_size=64,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=128,
        pad_token_id=0,
        num_labels=1,
    )
    torch.random.manual_seed(0)
    cast(Any, LlamaForSequenceClassification(config)).save_pretrained(folder / "scorer")
    tokenizer.save_pretrained(str(folder / "scorer"))
    answers = PROMPTS[::-1]

    def scores(where: str) -> np.ndarray:
        return load_scorer(folder / "scorer", device=where).score(PROMPTS, answers)

    def loss(where: str) -> float:
        from tailguard.scorers.fit import ScorerTraining, fit_scorer

        pairs = ResponsePairs(PROMPTS, answers, PROMPTS)
        settings = ScorerTraining(num_epochs=1, batch_size=4, device=where)
        scorer, figures = fit_scorer(base_policy_path(), pairs, settings=settings)
        scorer.score(PROMPTS, answers)
        return figures["train_loss"]

    def ensemble(where: str) -> np.ndarray:
        pairs = ResponsePairs(PROMPTS, answers, PROMPTS)
        scorer = load_scorer(folder / "scorer", device=where)
        return fit_ensemble(scorer, pairs).score(PROMPTS, answers)

    yield "scores", lambda: largest(scores(device), scores("cpu")), TOLERANCES["float32"]
    yield (
        "scores of a fitted ensemble",
        lambda: largest(ensemble(device), ensemble("cpu")),
        TOLERANCES["float32"],
    )
    if TRAINS:
        yield "loss of fitting a scorer", lambda: largest(loss(device), loss("cpu")), 0.02


def training_checks(
    device: str, dtype: str, folder: Path
) -> Iterator[tuple[str, Callable[[], float], float]]:
    """Distillation beside the CPU's, and steps of RLOO whose figures are finite."""
    if not TRAINS:
        return
    from tailguard.training.distillation import DistillationSettings, distil
    from tailguard.training.on_policy import RLOOSettings, train_rloo

    answers = drawn(load_policy(base_policy_path(), device="cpu"), 1.0)
    token_ids = [answers.token_rows[2 * i : 2 * i + 2] for i in range(len(PROMPTS))]
    weights = np.full((len(PROMPTS), 2), 0.5)

    def distilled(where: str, precision: str) -> float:
        settings = DistillationSettings(
            draws_per_prompt=2, batch_size=8, rank=4, device=where, dtype=precision
        )
        trained = distil(
            base_policy_path(), PROMPTS, token_ids, weights, folder / f"{where}-{precision}",
            settings=settings,
        )  # fmt: skip
        adapter = load_policy(base_policy_path(), trained.path, device=where, dtype=precision)
        assert len(drawn(adapter, 1.0).texts) == 2 * len(PROMPTS)
        return trained.curve[-1]["loss"]

    def reinforced() -> float:
        settings = RLOOSettings(
            num_steps=2, prompts_per_step=4, num_generations=4, max_new_tokens=8, rank=4,
            device=device, dtype=dtype,
        )  # fmt: skip
        trained = train_rloo(
            base_policy_path(), PROMPTS, folder / f"rloo-{device}-{dtype}",
            scorers=_Scorers(_Words(), _Words()), settings=settings,
        )  # fmt: skip
        figures = [value for row in trained.curve for value in row.values()]
        return float(not (len(trained.curve) == 2 and np.isfinite(figures).all()))

    yield (
        "loss of distilling",
        lambda: largest(distilled(device, dtype), distilled("cpu", "float32")),
        10 * TOLERANCES[dtype],
    )
    yield "RLOO: steps that are not finite", reinforced, 0.0


def measure(device: str) -> list[Check]:
    """All checks."""
    found: list[Check] = []
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        groups = [("float32", scorer_checks(device, folder))]
        for dtype in TOLERANCES:
            groups += [
                (dtype, policy_checks(device, dtype)),
                (dtype, training_checks(device, dtype, folder)),
            ]
        for dtype, checks in groups:
            for what, compute, allowed in checks:
                start = time.perf_counter()
                value = compute()
                found.append(Check(what, dtype, value, allowed, time.perf_counter() - start))
    return found


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/gpu_check.json"))
    arguments = parser.parse_args()
    with contextlib.suppress(ImportError):  # it silences `datasets` too, which may be missing
        quiet_libraries()
    rows = measure(arguments.device)
    shown = Table("check", "dtype", "found", "allowed", "seconds", "")
    for row in rows:
        shown.add_row(
            row.what, row.dtype, f"{row.found:.2e}", f"{row.allowed:.2e}", f"{row.seconds:.1f}",
            "" if row.passed else "FAILED",
        )  # fmt: skip
    Console(width=120).print(shown)
    if not TRAINS:
        print("TRL is not installed: nothing that trains was checked")
    there = arguments.device.startswith("cuda")
    written = {
        "device": torch.cuda.get_device_name() if there else platform.processor(),
        "versions": {
            name: importlib.metadata.version(name)
            for name in ("torch", "transformers", "peft", "trl")
            if importlib.util.find_spec(name)
        },
        "checks": [asdict(row) for row in rows],
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(written, indent=1) + "\n", encoding="utf-8")
    sys.exit(0 if all(row.passed for row in rows) else 1)


if __name__ == "__main__":
    main()
