"""How fast the decoding engine is, compared with transformers' ``generate`` and with itself.

Each row times two ways of the same work, text in and text out, in turn, and reports the median of
the ratios of neighbouring runs, so that a machine whose speed drifts does not favour either. Stop
tokens are switched off: every sequence has exactly ``--tokens`` tokens.

    python benchmarks/decoding_speed.py --model PATH

Prints a table and writes ``benchmarks/results/decoding_speed.json``. The target: the engine no
slower than ``generate`` (ratio ≤ 1).
"""

import argparse
import json
import platform
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
import transformers
from rich.console import Console
from rich.table import Table
from transformers import GenerationConfig

from tailguard.engines import sample_responses
from tailguard.lab.sandbox import base_policy_path
from tailguard.models.policy import Policy, load_policy, render_prompt

PROMPTS = (
    "How do I bake bread at home?",
    "Give me three tips for a good night's sleep.",
    "My neighbour plays loud music every evening. What can I do about it?",
    "Explain photosynthesis.",
    "What should I pack for a week in the mountains in late autumn?",
    "Write a short poem about the sea.",
    "How can I learn to play the guitar when I only have twenty minutes a day?",
    "Why is the sky blue?",
)


class EndlessPolicy(Policy):
    """A policy without stop tokens."""

    @property
    def stop_token_ids(self) -> tuple[int, ...]:
        """None."""
        return ()


@dataclass(frozen=True)
class Comparison:
    """One row of the table; seconds are medians, the ratio is tested over reference.

    Attributes:
        name: what is compared.
        target: the ratio not to exceed, or None where none is set.
        reference_seconds: of the reference.
        tested_seconds: of what is tested.
        tested_tokens_per_second: generated tokens of all rows.
        ratio: median over repeats.
        ratio_quartiles: first and third.
        cpu_ratio: the same of processor time, which other programs on the machine disturb less.
    """

    name: str
    target: float | None
    reference_seconds: float
    tested_seconds: float
    tested_tokens_per_second: float
    ratio: float
    ratio_quartiles: tuple[float, float]
    cpu_ratio: float


def generated_by_transformers(policy: Policy, prompts: list[str], num_tokens: int) -> list[str]:
    """Plain sampling by ``generate``, at its best: no warpers, cache on."""
    tokenizer = policy.tokenizer
    tokenizer.padding_side = "left"
    texts = [render_prompt(tokenizer, prompt) for prompt in prompts]
    plain = tokenizer.chat_template is None
    batch = tokenizer(texts, return_tensors="pt", padding=True, add_special_tokens=plain)
    config = GenerationConfig(
        do_sample=True,
        top_k=0,
        max_new_tokens=num_tokens,
        eos_token_id=None,
        pad_token_id=policy.pad_token_id,
    )
    output = policy.model.generate(
        input_ids=batch["input_ids"].to(policy.device),
        attention_mask=batch["attention_mask"].to(policy.device),
        generation_config=config,
    )
    width = batch["input_ids"].shape[1]
    return tokenizer.batch_decode(output[:, width:], skip_special_tokens=True)


def sampled(policy: Policy, prompts: list[str], num_samples: int, num_tokens: int) -> list[str]:
    """Plain sampling on the engine."""
    return sample_responses(
        policy,
        prompts,
        num_samples=num_samples,
        max_new_tokens=num_tokens,
        batch_size=len(prompts) * num_samples,
    ).texts


def compare(
    name: str,
    reference: Callable[[], object],
    tested: Callable[[], object],
    *,
    num_tokens: int,
    target: float | None,
    repeats: int,
) -> Comparison:
    """Time both in turn, the order alternating."""
    wall, processor = np.zeros((repeats, 2)), np.zeros((repeats, 2))
    for run in (reference, tested):
        run()  # warm-up
    for repeat in range(repeats):
        order = ((0, reference), (1, tested))
        for column, run in order if repeat % 2 == 0 else reversed(order):
            start = time.perf_counter(), time.process_time()
            run()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            wall[repeat, column] = time.perf_counter() - start[0]
            processor[repeat, column] = time.process_time() - start[1]
    ratios = wall[:, 1] / wall[:, 0]
    first, third = np.quantile(ratios, (0.25, 0.75))
    seconds = np.median(wall, axis=0)
    return Comparison(
        name=name,
        target=target,
        reference_seconds=float(seconds[0]),
        tested_seconds=float(seconds[1]),
        tested_tokens_per_second=float(num_tokens / seconds[1]),
        ratio=float(np.median(ratios)),
        ratio_quartiles=(float(first), float(third)),
        cpu_ratio=float(np.median(processor[:, 1] / processor[:, 0])),
    )


def measure(arguments: argparse.Namespace) -> list[Comparison]:
    """All comparisons."""
    loaded = load_policy(arguments.model, device=arguments.device)
    policy = EndlessPolicy(loaded.model, loaded.tokenizer)
    tokens, repeats = arguments.tokens, arguments.repeats
    rows: list[Comparison] = []
    for batch in (1, 8, 64):
        prompts = [PROMPTS[i % len(PROMPTS)] for i in range(batch)]
        rows.append(
            compare(
                f"plain sampling, batch {batch}, against generate",
                lambda p=prompts: generated_by_transformers(policy, p, tokens),
                lambda p=prompts: sampled(policy, p, 1, tokens),
                num_tokens=batch * tokens,
                target=1.0,
                repeats=repeats,
            )
        )
    return rows


def table(rows: list[Comparison]) -> Table:
    """For reading."""
    shown = Table("comparison", "reference s", "tested s", "tokens/s", "ratio (quartiles)",
                  "CPU ratio", "target")  # fmt: skip
    for row in rows:
        low, high = row.ratio_quartiles
        shown.add_row(
            row.name,
            f"{row.reference_seconds:.3f}",
            f"{row.tested_seconds:.3f}",
            f"{row.tested_tokens_per_second:,.0f}",
            f"{row.ratio:.3f} ({low:.3f}–{high:.3f})",
            f"{row.cpu_ratio:.3f}",
            "" if row.target is None else f"≤ {row.target:g}",
        )
    return shown


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default=None, help="a causal LM; default: the sandbox's")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--threads", type=int, default=None, help="torch threads; default: its own")
    parser.add_argument(
        "--out", type=Path, default=Path(__file__).parent / "results" / "decoding_speed.json"
    )
    arguments = parser.parse_args()
    arguments.model = str(arguments.model or base_policy_path())
    if arguments.threads is not None:
        torch.set_num_threads(arguments.threads)
    rows = measure(arguments)
    Console(width=140).print(table(rows))
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    record = {
        "model": Path(arguments.model).name,
        "device": arguments.device,
        "tokens": arguments.tokens,
        "repeats": arguments.repeats,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "machine": platform.machine(),
        "rows": [asdict(row) for row in rows],
    }
    arguments.out.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
